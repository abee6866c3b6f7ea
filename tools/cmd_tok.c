/* clipc tok: captions ↔ token ids, one a line, and `clipc tok train`, which learns a vocabulary. */
#include "data/io/lines.h"
#include "data/io/progress.h"
#include "data/text/bpe_train.h"
#include "tools/commands.h"
#include "tools/common.h"
#include "train/model/pretrained.h"
#include "train/options.h"

#include <errno.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

/* A block of lines is cut into chunks that threads process; the output keeps the lines' order. */
enum { CHUNK = 1 << 15, MAX_CHUNKS = LINES_BLOCK / CHUNK + 1, MAX_CONTEXT = 1 << 20 };

static const char *vocab, *checkpoint;
static int64_t context_length, threads;
static bool decode;

static Option options[] = {
    FLAG("decode", &decode, "ids to text"),
    INT("context-length", &context_length, 0, MAX_CONTEXT,
        "ids a caption at most; 0: the checkpoint's, or 77"),
    STRING("checkpoint", &checkpoint, "DIR",
           "its tokenizer, with the cleaning and the context that its configuration says"),
    STRING(
        "vocab", &vocab, "FILE",
        "CLIP's merges, a tokenizer.json, a sentencepiece model or a vocab.txt; default: CLIP's"),
    INT("threads", &threads, 0, 1024, "0: one a core"),
};

static const Command command = {
    "tok",
    "Captions to token ids, one caption a line, or back.",
    "clipc tok [--decode] [--context-length N] [--checkpoint DIR] [--vocab FILE] [--threads N] "
    "< LINES\n"
    "  clipc tok train (--captions FILE | --data SPEC) --merges N --out FILE",
    "  echo 'a photo of a cat' | clipc tok\n"
    "  clipc tok < captions.txt > ids.txt\n"
    "  clipc tok train --captions captions.txt --merges 8192 --out vocab.txt.gz\n",
    options,
    COUNT(options),
};

static const char *captions, *data, *out_path;
static DatasetOptions dataset;
static int64_t merges = BPE_MAX_MERGES;

static Option train_options[] = {
    STRING("captions", &captions, "FILE", "one caption a line"),
    STRING("data", &data, "SPEC", "instead: the captions of what `clipc train --train-data` takes"),
    INT("merges", &merges, 1, BPE_MAX_MERGES, "ids besides the bytes' 512"),
    STRING("out", &out_path, "FILE", "vocabulary; gzipped if it ends in .gz"),
    DATASET_OPTIONS(dataset),
};

static const Command train_command = {
    "tok train",
    "Learn a vocabulary of byte pairs from captions.",
    "clipc tok train (--captions FILE | --data SPEC) --merges N --out FILE",
    "  clipc tok train --captions captions.txt --merges 8192 --out vocab.txt.gz\n"
    "  clipc tok train --data 'shards/{000..127}.tar' --merges 16384 --out vocab.txt.gz\n",
    train_options,
    COUNT(train_options),
};

typedef struct Output {
    char *bytes;
    size_t count, room;
    size_t lines;
    Error bad; /* empty: none */
} Output;

static void output_reserve(Output *o, size_t more) {
    size_t need = size_add(o->count, more);
    if (need <= o->room) return;
    o->room = need + need / 2;
    o->bytes = xrealloc(o->bytes, o->room);
}

enum { ID_DIGITS = 10 };

static char *put_id(char *out, uint32_t id) {
    char digits[ID_DIGITS];
    size_t n = 0;
    do digits[n++] = (char)('0' + id % 10);
    while ((id /= 10) != 0);
    while (n > 0) *out++ = digits[--n];
    return out;
}

static void encode_line(TokenizerCache *cache, const char *line, size_t n, int32_t *ids,
                        Output *o) {
    size_t count = tokenizer_encode(cache, line, n, (size_t)context_length, ids);
    output_reserve(o, count * (ID_DIGITS + 1) + 1);
    char *out = o->bytes + o->count;
    for (size_t i = 0; i < count; i++) {
        if (i > 0) *out++ = ' ';
        out = put_id(out, (uint32_t)ids[i]);
    }
    *out++ = '\n';
    o->count = (size_t)(out - o->bytes);
}

/* Ids of one line into *ids, which grows. */
static bool read_ids(const Tokenizer *tokenizer, const char *line, size_t n, int32_t **ids,
                     size_t *room, size_t *count, Error *bad) {
    *count = 0;
    for (size_t i = 0; i < n;) {
        if (line[i] == ' ' || line[i] == '\t' || line[i] == '\r') {
            i++;
            continue;
        }
        size_t value = 0, first = i;
        for (; i < n && line[i] >= '0' && line[i] <= '9' && i - first < 9; i++)
            value = value * 10 + (size_t)(line[i] - '0');
        bool ended = i == n || line[i] == ' ' || line[i] == '\t' || line[i] == '\r';
        if (i == first || !ended || value >= tokenizer->vocab_size)
            return error_set(bad, "'%.*s' is no id below %zu", (int)size_min(n - first, 20),
                             line + first, tokenizer->vocab_size);
        if (*count == *room) {
            *room = *room * 2 + 128;
            *ids = xrealloc(*ids, size_mul(*room, sizeof **ids));
        }
        (*ids)[(*count)++] = (int32_t)value;
    }
    return true;
}

/* The caption alone: without the start and end tokens around it and the last word's blank. */
static void decode_ids(const Tokenizer *tokenizer, const int32_t *ids, size_t n, Output *o) {
    if (n > 0 && ids[0] == tokenizer->start) ids++, n--;
    if (n > 0 && ids[n - 1] == tokenizer->end) n--;
    char *text = tokenizer_decode(tokenizer, ids, n);
    size_t length = strlen(text);
    if (length > 0 && text[length - 1] == ' ') length--;
    output_reserve(o, length + 1);
    memcpy(o->bytes + o->count, text, length);
    o->bytes[o->count + length] = '\n';
    o->count += length + 1;
    free(text);
}

static void work_on_chunk(TokenizerCache *cache, const char *chunk, size_t n, Output *o) {
    size_t room = decode ? 128 : (size_t)context_length, count, line_n;
    int32_t *ids = xmalloc(room * sizeof *ids);
    const char *line;
    while (o->bad.text[0] == 0 && lines_take(&chunk, &n, &line, &line_n)) {
        o->lines++;
        if (!decode)
            encode_line(cache, line, line_n, ids, o);
        else if (read_ids(cache->tokenizer, line, line_n, &ids, &room, &count, &o->bad))
            decode_ids(cache->tokenizer, ids, count, o);
    }
    free(ids);
}

/* Ends of chunks of about CHUNK bytes, at line ends. */
static size_t split(const char *block, size_t n, size_t *ends) {
    size_t count = 0, at = 0;
    while (at < n) {
        const char *end = n - at > CHUNK ? memchr(block + at + CHUNK, '\n', n - at - CHUNK) : NULL;
        at = end ? (size_t)(end - block) + 1 : n;
        assert(count < MAX_CHUNKS);
        ends[count++] = at;
    }
    return count;
}

static void write_out(Output *o, size_t *line) {
    if (o->count > 0 && fwrite(o->bytes, 1, o->count, stdout) != o->count)
        die("cannot write to standard output: %s", strerror(errno));
    *line += o->lines;
    if (o->bad.text[0] != 0) {
        fflush(stdout);
        die("standard input, line %zu: %s", *line, o->bad.text);
    }
    o->count = o->lines = 0;
}

static void run(const Tokenizer *tokenizer) {
    int workers = threads > 0 ? (int)threads : omp_get_max_threads();
    TokenizerCache **caches = xcalloc((size_t)workers, sizeof *caches);
    Output *outputs = xcalloc(MAX_CHUNKS, sizeof *outputs);
    for (int i = 0; i < workers; i++) caches[i] = tokenizer_cache_new(tokenizer);
    Lines lines;
    lines_open(&lines, stdin);
    const char *block;
    size_t n, line = 0, ends[MAX_CHUNKS];
    while (lines_next_block(&lines, &block, &n)) {
        size_t chunks = split(block, n, ends);
#pragma omp parallel for num_threads(workers) schedule(dynamic)
        for (size_t i = 0; i < chunks; i++) {
            size_t first = i ? ends[i - 1] : 0;
            work_on_chunk(caches[omp_get_thread_num()], block + first, ends[i] - first,
                          &outputs[i]);
        }
        for (size_t i = 0; i < chunks; i++) write_out(&outputs[i], &line);
    }
    if (ferror(stdin)) die("cannot read standard input: %s", strerror(errno));
    if (fflush(stdout) != 0) die("cannot write to standard output: %s", strerror(errno));
    if (lines.cut > 0)
        log_warn("standard input: %zu lines cut to %d bytes", lines.cut, (int)LINES_BLOCK);
    lines_close(&lines);
    for (int i = 0; i < workers; i++) tokenizer_cache_free(caches[i]);
    for (size_t i = 0; i < MAX_CHUNKS; i++) free(outputs[i].bytes);
    FREE_ALL(outputs, caches);
}

/* The captions of --data in a file without a name; returns a path to it, malloc'd. */
static char *collect_captions(void) {
    Dataset *d = open_dataset("data", data, &dataset);
    Error err;
    Sample s = {0};
    FILE *f = tmpfile();
    if (!f) die("no temporary file: %s", strerror(errno));
    Progress progress = progress_start("reading captions");
    size_t n = dataset_count(d), good = 0;
    for (size_t i = 0; i < n; i++) {
        if (!dataset_read(d, i, &s, &err))
            log_warn("%s", err.text);
        else if (s.text && fprintf(f, "%s\n", s.text) > 0)
            good++;
        progress_show(&progress, i + 1, n, "");
    }
    progress_end(&progress);
    if (!good) die("--data %s: no caption", data);
    if (fflush(f) || ferror(f)) die("temporary file: %s", strerror(errno));
    log_info("%zu captions", good);
    sample_free(&s);
    dataset_close(d);
    return xasprintf("/proc/self/fd/%d", fileno(f)); /* open until the program ends */
}

static int train(int argc, char **argv) {
    dataset = dataset_options_default();
    options_parse(&train_command, argc, argv, NULL);
    if ((captions == NULL) == (data == NULL) || out_path == NULL)
        die_usage("clipc tok train: --captions or --data, and --out are needed");
    Error err;
    char *from = data ? collect_captions() : xstrdup(captions);
    if (!bpe_train(from, (size_t)merges, out_path, &err)) die("%s", err.text);
    Tokenizer *t = open_tokenizer(out_path);
    log_info("%s: a model with it has \"vocab_size\": %zu in its text_cfg", out_path,
             t->vocab_size);
    tokenizer_close(t);
    free(from);
    return EXIT_OK;
}

/* The towers may be of a kind that is not supported. */
static Tokenizer *open_of_checkpoint(void) {
    ClipConfig c = {0};
    Error err;
    if (checkpoint) checkpoint = pretrained_find(checkpoint);
    if (checkpoint && !clip_config_read_tokenizer(&c, checkpoint, &err)) die("%s", err.text);
    if (context_length == 0) context_length = c.context_length ? (int64_t)c.context_length : 77;
    char *path = vocab ? xstrdup(vocab) : checkpoint ? pretrained_vocab(checkpoint) : NULL;
    if (!path && c.names_tokenizer)
        die("%s has no tokenizer.json, spiece.model or vocab.txt: give --vocab", checkpoint);
    if (!path) path = tokenizer_default_path();
    Tokenizer *tokenizer = tokenizer_open_rules(path, &c.tokenizer, &err);
    if (!tokenizer) die("%s", err.text);
    free(path);
    return tokenizer;
}

int cmd_tok(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "train") == 0) return train(argc - 1, argv + 1);
    options_parse(&command, argc, argv, NULL);
    Tokenizer *tokenizer = open_of_checkpoint();
    run(tokenizer);
    tokenizer_close(tokenizer);
    return EXIT_OK;
}
