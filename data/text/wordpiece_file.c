/* BERT's vocab.txt: one piece a line, its number is its id. Source: Devlin et al. 2019;
 * transformers, models/bert/tokenization_bert.py. */
#include "data/text/pipeline.h"
#include <stdlib.h>
#include <string.h>

static const char *const specials[] = {"[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"};

/* Has the line [UNK]. */
static bool wordpiece_matches(const char *text, size_t n) {
    static const char line[] = "\n[UNK]";
    const char *at = memmem(text, n, line, sizeof line - 1);
    size_t end = at ? (size_t)(at - text) + sizeof line - 1 : n;
    return at != NULL && (end == n || text[end] == '\n' || text[end] == '\r');
}

/* The lines as keys; values are ids. Returns their number. */
static size_t read_lines_as_keys(const char *text, size_t n, TrieKey *keys) {
    size_t count = 0;
    for (size_t i = 0; i < n;) {
        const char *end = memchr(text + i, '\n', n - i);
        size_t length = end ? (size_t)(end - text) - i : n - i;
        size_t kept = length > 0 && text[i + length - 1] == '\r' ? length - 1 : length;
        keys[count] = (TrieKey){text + i, (uint32_t)kept, (int32_t)count};
        count++;
        i += length + 1;
    }
    return count;
}

static size_t count_lines(const char *text, size_t n) {
    size_t count = 1;
    for (size_t i = 0; i < n; i++) count += text[i] == '\n';
    return count;
}

static bool put_specials(Pipeline *p, Error *err) {
    PipelineForm *f = &p->form;
    TrieKey keys[COUNT(specials)];
    AddedToken *added = xcalloc(COUNT(specials), sizeof *added);
    int32_t ids[COUNT(specials)];
    size_t n = 0;
    p->block[BLOCK_ADDED] = added;
    for (size_t i = 0; i < COUNT(specials); i++) {
        size_t length = strlen(specials[i]);
        ids[i] = trie_find(&p->trie[TRIE_PIECES], specials[i], length);
        if (ids[i] < 0) continue;
        added[n] = (AddedToken){pipeline_add_string(p, specials[i], length), ids[i], ADDED_SPECIAL};
        keys[n] = (TrieKey){specials[i], (uint32_t)length, (int32_t)n};
        n++;
    }
    p->size[BLOCK_ADDED] = n * sizeof *added;
    if (ids[0] < 0 || ids[1] < 0 || ids[2] < 0)
        return error_set(err, "it has no line [UNK], [CLS] or [SEP]");
    f->unk = ids[0];
    f->before[f->befores++] = ids[1];
    f->after[f->afters++] = ids[2];
    f->pad = ids[3];
    return pipeline_add_trie(p, TRIE_RAW, keys, n, err);
}

static bool put_file(Pipeline *p, const char *text, size_t n, Error *err) {
    size_t count = count_lines(text, n), used = 0;
    TrieKey *keys = xmalloc(size_mul(count, sizeof *keys));
    uint32_t *starts = xmalloc(size_mul(count + 1, sizeof *starts));
    p->block[BLOCK_STARTS] = starts;
    count = read_lines_as_keys(text, n, keys);
    p->size[BLOCK_STARTS] = (count + 1) * sizeof *starts;
    for (size_t i = 0; i < count; i++) {
        starts[i] = pipeline_add_string(p, keys[i].text, keys[i].length).at;
        if (keys[i].length > 0) keys[used++] = keys[i];
    }
    starts[count] = (uint32_t)p->size[BLOCK_STRINGS];
    bool ok = pipeline_add_trie(p, TRIE_PIECES, keys, used, err);
    free(keys);
    if (!ok) return false;
    PipelineForm *f = &p->form;
    f->model = MODEL_WORDPIECE;
    f->decoding = DECODE_WORDPIECE;
    f->pieces = (uint32_t)count;
    f->max_chars = 100;
    f->word_prefix = pipeline_add_string(p, "##", 2);
    pipeline_finish(p);
    TextStep bert = {.op = NORMAL_BERT,
                     .flags = BERT_CLEAN | BERT_CHINESE | BERT_ACCENTS | BERT_LOWER};
    return put_specials(p, err) && pipeline_add_step(f->normal, &f->normals, bert, err) &&
           pipeline_add_step(f->split, &f->splits, (TextStep){.op = SPLIT_BERT}, err);
}

static Tokenizer *wordpiece_load(char *text, size_t n, Error *err) {
    Pipeline *p = pipeline_new(&wordpiece_kind);
    return pipeline_loaded(p, put_file(p, text, n, err), text, n);
}

const TokenizerKind wordpiece_kind =
    PIPELINE_KIND("wordpiece", "vocab.txt", wordpiece_matches, wordpiece_load);
