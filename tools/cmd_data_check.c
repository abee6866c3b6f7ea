/* clipc data check: reads every sample, decodes its picture, tokenises its caption; lists bad
 * samples and duplicate pictures. */
#include "data/io/progress.h"
#include "data/text/tokenizer.h"
#include "data/content.h"
#include "data/image/image.h"
#include "data/io/parallel.h"
#include "tools/commands.h"
#include "tools/common.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

enum { CHUNK = 512, CONTEXT_MAX = 4096, LISTED = 1000 };

static DatasetOptions dataset;
static int64_t workers, context = 77;
static const char *vocab;
static bool json, unique;

static Option options[] = {
    STRING("vocab", &vocab, "FILE", "of the captions' tokens; default: CLIP's"),
    INT("context-length", &context, 3, CONTEXT_MAX - 1,
        "longer captions are cut in training: they are counted"),
    FLAG("unique", &unique, "a picture that is there twice is a problem too"),
    INT("workers", &workers, 1, 1024, "threads"),
    FLAG("json", &json, "the result as JSON on stdout"),
    DATASET_OPTIONS(dataset),
};

static const Command command = {
    "data check",
    "Decodes every image and tokenises every caption; exit code 1 if something is wrong.",
    "clipc data check SPEC...",
    "  clipc data check 'shards/train-{000000..000099}.tar'\n"
    "  clipc data check photos.tsv --unique --json\n"
    "Bad samples are listed on stdout, one a line: shard, key and reason; so are pictures that "
    "are\n"
    "the same byte for byte as an earlier one (the first 1000). Damaged shards are a problem, "
    "too;\n"
    "samples that are skipped (no image, no caption) and long captions are only counted.\n",
    options,
    COUNT(options),
};

typedef struct Thread {
    Sample sample;
    Image image;
    TokenizerCache *cache;
    size_t cut; /* captions longer than the context */
} Thread;

typedef struct Result {
    char *reason; /* NULL: good */
    bool read;    /* hash is set */
    Hash128 hash;
} Result;

typedef struct Check {
    Dataset *d;
    Tokenizer *tokenizer; /* NULL: there is no vocabulary */
    bool captions;        /* samples have some */
    Thread *threads;
    size_t first;
    Result results[CHUNK];
    /* so far */
    size_t bad, duplicates;
    ContentSet seen;
    json_t *reasons, *same;
} Check;

static bool valid_utf8(const char *text, size_t n) {
    utf8proc_int32_t point;
    for (size_t at = 0; at < n;) {
        utf8proc_ssize_t used = utf8proc_iterate((const utf8proc_uint8_t *)text + at,
                                                 (utf8proc_ssize_t)(n - at), &point);
        if (used <= 0) return false;
        at += (size_t)used;
    }
    return true;
}

/* The fault of a caption, or NULL. */
static const char *judge_caption(const Check *c, Thread *t) {
    int32_t ids[CONTEXT_MAX];
    const Sample *s = &t->sample;
    if (!valid_utf8(s->text, s->text_size)) return "its caption is not UTF-8";
    if (!c->tokenizer || !c->captions) return NULL;
    if (!t->cache) t->cache = tokenizer_cache_new(c->tokenizer);
    size_t n = tokenizer_encode(t->cache, s->text, s->text_size, (size_t)context + 1, ids);
    t->cut += n > (size_t)context;
    return n <= c->tokenizer->added ? "its caption has no tokens" : NULL;
}

static void check_one(void *argument, size_t i, size_t thread) {
    Check *c = argument;
    Thread *t = &c->threads[thread];
    Sample *s = &t->sample;
    Result *r = &c->results[i];
    Error err;
    *r = (Result){.reason = NULL};
    if (!dataset_read(c->d, c->first + i, s, &err)) {
        r->reason = xstrdup(err.text);
        return;
    }
    r->read = true;
    r->hash = fnv_hash128(s->image, s->image_size);
    const char *why = judge_caption(c, t);
    if (!image_decode(&t->image, s->image, s->image_size, (size_t)image_max_pixels, &err))
        why = err.text;
    if (why) r->reason = xasprintf("%s: %s", s->key, why);
}

/* Keeps or prints a line of the result. */
static void tell(json_t *list, const char *line) {
    if (json)
        json_array_append_new(list, json_text(line));
    else
        puts(line);
}

static void count_duplicate(Check *c, size_t sample, size_t earlier) {
    Error err;
    if (c->duplicates++ >= LISTED) return;
    char *key = dataset_key(c->d, sample, &err), *first = dataset_key(c->d, earlier, &err);
    char *line =
        xasprintf("%s: the same picture as %s", key ? key : err.text, first ? first : err.text);
    tell(c->same, line);
    FREE_ALL(line, key, first);
}

static void check_all(Check *c) {
    Progress progress = progress_start("checking");
    size_t n = dataset_count(c->d);
    for (c->first = 0; c->first < n; c->first += CHUNK) {
        size_t count = size_min(CHUNK, n - c->first);
        parallel_for(count, (size_t)workers, check_one, c);
        for (size_t i = 0; i < count; i++) {
            Result *r = &c->results[i];
            uint64_t earlier;
            if (r->reason) {
                c->bad++;
                tell(c->reasons, r->reason);
                free(r->reason);
            }
            if (r->read && !content_set_add(&c->seen, r->hash, c->first + i, &earlier))
                count_duplicate(c, c->first + i, (size_t)earlier);
        }
        char words[64];
        snprintf(words, sizeof words, "%zu bad, %zu twice", c->bad, c->duplicates);
        progress_show(&progress, c->first + count, n, words);
    }
    progress_end(&progress);
}

/* The default vocabulary may be missing: a data set can be checked without. */
static Tokenizer *find_vocab(void) {
    char *path = vocab ? xstrdup(vocab) : tokenizer_find_path();
    Tokenizer *tokenizer = path ? open_tokenizer(path) : NULL;
    if (!path)
        log_warn(
            "no vocabulary here (make setup, --vocab): captions are looked at for UTF-8 alone");
    free(path);
    return tokenizer;
}

static void say_result(const Check *c, size_t cut) {
    Dataset *d = c->d;
    size_t damaged = dataset_damaged(d);
    fflush(stdout);
    log_info("%zu samples in %zu shards: %zu bad; %zu left out (no image or caption); %zu shards "
             "damaged, %zu pictures there twice, %zu captions of more than %lld tokens",
             dataset_count(d), dataset_shards(d), c->bad, dataset_dropped(d), damaged,
             c->duplicates, cut, (long long)context);
    if (!json) return;
    print_json(json_pack("{sI sI sI sI sI sI sO sO}", "samples", (json_int_t)dataset_count(d),
                         "bad", (json_int_t)c->bad, "left_out", (json_int_t)dataset_dropped(d),
                         "damaged_shards", (json_int_t)damaged, "duplicates",
                         (json_int_t)c->duplicates, "cut_captions", (json_int_t)cut, "reasons",
                         c->reasons, "same", c->same));
}

int cmd_data_check(int argc, char **argv) {
    static StringList operands;
    dataset = dataset_options_default();
    workers = (int64_t)cpu_count();
    options_parse(&command, argc, argv, &operands);
    Check *c = xcalloc(1, sizeof *c);
    c->tokenizer = find_vocab();
    c->d = open_operands(&command, &operands, &dataset);
    c->captions = dataset.json_text_key || (dataset.text_keys && *dataset.text_keys);
    c->threads = xcalloc((size_t)workers, sizeof *c->threads);
    c->reasons = json_array();
    c->same = json_array();
    check_all(c);
    size_t cut = 0;
    for (int64_t i = 0; i < workers; i++) {
        cut += c->threads[i].cut;
        sample_free(&c->threads[i].sample);
        image_free(&c->threads[i].image);
        tokenizer_cache_free(c->threads[i].cache);
    }
    say_result(c, cut);
    bool clean = !c->bad && !dataset_damaged(c->d) && !(unique && c->duplicates);
    json_decref(c->reasons);
    json_decref(c->same);
    content_set_free(&c->seen);
    dataset_close(c->d);
    tokenizer_close(c->tokenizer);
    FREE_ALL(c->threads, c);
    return clean ? EXIT_OK : EXIT_ERROR;
}
