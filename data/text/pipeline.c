#include "data/text/pipeline.h"

#include "data/io/crc32c.h"
#include "data/text/codepoints.h"
#include "data/text/word_cache.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { CACHE_BYTES = 1 << 23 };
#define SPACE_MARK "\xE2\x96\x81" /* U+2581 */

/* ---- building ---- */

Pipeline *pipeline_new(const TokenizerKind *kind) {
    Pipeline *p = xcalloc(1, sizeof *p);
    p->base.kind = kind;
    p->form.unk = p->form.pad = p->form.zeroed = -1;
    memset(p->form.byte_ids, 0xFF, sizeof p->form.byte_ids);
    pipeline_add_string(p, "", 1); /* the block is never NULL */
    return p;
}

Str pipeline_add_string(Pipeline *p, const char *s, size_t n) {
    size_t at = p->size[BLOCK_STRINGS];
    Chars c = {p->block[BLOCK_STRINGS], at, p->strings_room};
    chars_add(&c, s, n);
    p->block[BLOCK_STRINGS] = c.at;
    p->strings = c.at;
    p->size[BLOCK_STRINGS] = c.n;
    p->strings_room = c.room;
    return (Str){(uint32_t)at, (uint32_t)n};
}

bool pipeline_add_step(TextStep *steps, uint32_t *count, TextStep step, Error *err) {
    if (*count == STEPS_MAX) return error_set(err, "it has more than %d steps", STEPS_MAX);
    steps[(*count)++] = step;
    return true;
}

bool pipeline_add_trie(Pipeline *p, size_t i, TrieKey *keys, size_t n, Error *err) {
    Trie t;
    TrieKey twice;
    if (!trie_build(&t, keys, n, &twice))
        return error_set(err, "it has '%.*s' twice", (int)size_min(twice.length, 40), twice.text);
    size_t b = BLOCK_TRIES + 3 * i;
    const void *parts[] = {t.label, t.first, t.value};
    size_t sizes[] = {t.nodes, (t.nodes + 1) * sizeof *t.first, t.nodes * sizeof *t.value};
    for (size_t k = 0; k < 3; k++) {
        free(p->block[b + k]);
        p->block[b + k] = (void *)(uintptr_t)parts[k];
        p->size[b + k] = sizes[k];
    }
    return true;
}

static bool is_space(const char *s, size_t n) {
    return n >= strlen(SPACE_MARK) && memcmp(s, SPACE_MARK, strlen(SPACE_MARK)) == 0;
}

void pipeline_cuts(const char *piece, size_t n, bool *before, bool *after) {
    bool any = false, other = false, space;
    for (size_t i = 0; i < n; i += space ? strlen(SPACE_MARK) : 1) {
        space = is_space(piece + i, n - i);
        if (space && other) *before = false;
        if (!space && any) *after = false;
        any = any || space;
        other = other || !space;
    }
}

void pipeline_finish(Pipeline *p) {
    PipelineForm *f = &p->form;
    p->strings = p->block[BLOCK_STRINGS];
    p->starts = p->block[BLOCK_STARTS];
    p->scores = p->block[BLOCK_SCORES];
    p->pairs = p->block[BLOCK_PAIRS];
    p->pair_mask = p->size[BLOCK_PAIRS] / sizeof *p->pairs - 1;
    p->added = p->block[BLOCK_ADDED];
    p->added_count = p->size[BLOCK_ADDED] / sizeof *p->added;
    for (size_t i = 0; i < TRIES; i++) {
        if (p->block[BLOCK_TRIES + 3 * i] == NULL) {
            Error err;
            pipeline_add_trie(p, i, NULL, 0, &err);
        }
        void **parts = &p->block[BLOCK_TRIES + 3 * i];
        p->trie[i] = (Trie){parts[0], parts[1], parts[2], p->size[BLOCK_TRIES + 3 * i]};
        for (int b = 0; b < 256; b++) p->begins[i][b] = trie_step(&p->trie[i], 0, (uint8_t)b) != 0;
    }
    p->base.vocab_size = f->pieces;
    p->base.start = f->befores ? f->before[0] : -1;
    p->base.end = f->afters ? f->after[f->afters - 1] : -1;
    p->base.added = f->befores + f->afters;
    p->base.pad = f->pad < 0 ? 0 : f->pad;
    normalize_prepare(p);
}

void pipeline_free(Tokenizer *t) {
    Pipeline *p = (Pipeline *)t;
    if (p->map != NULL)
        munmap(p->map, p->map_size);
    else
        for (size_t i = 0; i < BLOCKS; i++) free(p->block[i]);
    free(p);
}

Tokenizer *pipeline_loaded(Pipeline *p, bool ok, const char *text, size_t n) {
    if (!ok) {
        pipeline_free(&p->base);
        return NULL;
    }
    p->form.identity = (uint64_t)crc32c(0, text, n) << 32;
    pipeline_finish(p);
    return &p->base;
}

uint64_t pipeline_identity(const Tokenizer *t) { return ((const Pipeline *)t)->form.identity; }

/* ---- a thread's memory ---- */

typedef struct PipelineCache {
    TokenizerCache base;
    TextCleaner *cleaner;
    Chars text, spare;
    TextSpans words, spare_words;
    TokenWork *work;
    WordCache known;
} PipelineCache;

TokenizerCache *pipeline_cache_new(const Tokenizer *t) {
    PipelineCache *c = xcalloc(1, sizeof *c);
    c->base.tokenizer = t;
    c->cleaner = text_cleaner_new();
    c->work = token_work_new();
    word_cache_init(&c->known, sizeof(int32_t), CACHE_BYTES);
    return &c->base;
}

void pipeline_cache_free(TokenizerCache *cache) {
    PipelineCache *c = (PipelineCache *)cache;
    text_cleaner_free(c->cleaner);
    token_work_free(c->work);
    word_cache_free(&c->known);
    FREE_ALL(c->text.at, c->spare.at, c->words.at, c->spare_words.at, c);
}

/* ---- encode ---- */

typedef struct Output {
    int32_t *ids;
    size_t n, room;
    double sum;   /* of the word's scores so far */
    bool unknown; /* the word's last id is the unknown one */
} Output;

/* The ids of a word, or of a part of one, as model_word's. */
static const int32_t *word_ids(const Pipeline *p, PipelineCache *c, const char *word, size_t n,
                               double *sum, size_t *count) {
    bool sums = p->form.model == MODEL_UNIGRAM && p->form.cut != CUT_NONE, steady;
    bool cached = n <= WORD_CACHE_LONGEST && (!sums || *sum > -STEADY_SUM);
    uint64_t hash = cached ? word_hash(word, n) : 0;
    const int32_t *ids = cached ? word_cache_find(&c->known, hash, word, n, count) : NULL;
    if (ids) {
        for (size_t k = 0; sums && k < *count; k++)
            *sum = score_add(&p->form, *sum, p->scores[ids[k]]);
        return ids;
    }
    ids = model_word(p, c->work, word, n, sum, &steady, count);
    if (cached && (!sums || steady)) word_cache_add(&c->known, hash, word, n, ids, *count);
    return ids;
}

static void put_part(const Pipeline *p, PipelineCache *c, const char *part, size_t n, Output *o) {
    size_t count;
    const int32_t *ids = word_ids(p, c, part, n, &o->sum, &count);
    if (count > 0 && o->unknown && p->form.fuse_unk && ids[0] == p->form.unk) ids++, count--;
    if (count == 0) return;
    o->unknown = ids[count - 1] == p->form.unk;
    count = size_min(count, o->room - o->n);
    memcpy(o->ids + o->n, ids, count * sizeof *ids);
    o->n += count;
}

/* Cuts a word where no piece can reach across. */
static void put_word(const Pipeline *p, PipelineCache *c, const char *s, size_t n, Output *o) {
    size_t k = strlen(SPACE_MARK), from = 0;
    o->sum = 0;
    o->unknown = false;
    for (size_t i = 0; p->form.cut != CUT_NONE && i < n && o->n < o->room;) {
        const char *mark = memchr(s + i, (unsigned char)SPACE_MARK[0], n - i);
        if (mark == NULL) break;
        i = (size_t)(mark - s);
        if (!is_space(s + i, n - i)) {
            i++;
            continue;
        }
        size_t end = i;
        while (is_space(s + end, n - end)) end += k;
        size_t cut = p->form.cut == CUT_BEFORE_SPACE ? i : end;
        if (cut > from) put_part(p, c, s + from, cut - from, o);
        from = cut;
        i = end;
    }
    if (from < n && o->n < o->room) put_part(p, c, s + from, n - from, o);
}

static void put_words(const Pipeline *p, PipelineCache *c, bool first, Output *o) {
    split_words(p, &c->text, &c->spare, &c->words, &c->spare_words, first);
    for (size_t i = 0; i < c->words.n && o->n < o->room; i++)
        put_word(p, c, c->text.at + c->words.at[i].at, c->words.at[i].n, o);
}

/* Bytes of the character of white space that ends at `end`, or begins at `at`; 0: none does. */
static size_t white_before(const char *s, size_t from, size_t end) {
    size_t at = end;
    uint32_t cp;
    while (at > from && ((unsigned char)s[--at] & 0xC0) == 0x80) {
    }
    if (at == end) return 0;
    utf8_decode((const unsigned char *)s + at, end - at, &cp);
    return text_is_white(cp) ? end - at : 0;
}
static size_t white_after(const char *s, size_t at, size_t n) {
    uint32_t cp;
    if (at == n) return 0;
    size_t length = utf8_decode((const unsigned char *)s + at, n - at, &cp);
    return text_is_white(cp) ? length : 0;
}

/* The first token of a trie in the text from *from on: leftmost, then longest. Moves *from and *to
 * to its ends, with the white space that it takes. NULL: none. */
static const AddedToken *next_added(const Pipeline *p, size_t which, const char *s, size_t n,
                                    size_t *from, size_t *to) {
    const Trie *t = &p->trie[which];
    if (t->nodes <= 1) return NULL;
    for (size_t i = *from, length; i < n; i++) {
        if (!p->begins[which][(unsigned char)s[i]]) continue;
        int32_t found = trie_longest(t, s + i, n - i, &length);
        if (found < 0) continue;
        const AddedToken *a = &p->added[found];
        size_t start = i, end = i + length, white;
        while (a->flags & ADDED_LEFT && (white = white_before(s, *from, start))) start -= white;
        while (a->flags & ADDED_RIGHT && (white = white_after(s, end, n))) end += white;
        *from = start, *to = end;
        return a;
    }
    return NULL;
}

/* Tokens of a trie and the texts between them; `then` takes those. */
typedef void Between(const Pipeline *p, PipelineCache *c, const char *s, size_t n, bool first,
                     Output *o);
static void put_between(const Pipeline *p, PipelineCache *c, size_t which, const char *s, size_t n,
                        bool first, Between *then, Output *o) {
    size_t at = 0;
    while (at < n && o->n < o->room) {
        size_t from = at, to = n;
        const AddedToken *a = next_added(p, which, s, n, &from, &to);
        if (a == NULL) from = n;
        if (from > at) then(p, c, s + at, from - at, first && at == 0, o);
        if (a != NULL && o->n < o->room) o->ids[o->n++] = a->id;
        at = to;
    }
}

static void put_normalized(const Pipeline *p, PipelineCache *c, const char *s, size_t n, bool first,
                           Output *o) {
    c->text.n = 0;
    chars_add(&c->text, s, n);
    put_words(p, c, first, o);
}

static void put_raw(const Pipeline *p, PipelineCache *c, const char *s, size_t n, bool first,
                    Output *o) {
    c->text.n = 0;
    chars_add(&c->text, s, n);
    normalize(p, &c->text, &c->spare);
    if (p->trie[TRIE_NORMALIZED].nodes <= 1) {
        put_words(p, c, first, o);
        return;
    }
    Chars whole = c->text;
    c->text = (Chars){0};
    put_between(p, c, TRIE_NORMALIZED, whole.at, whole.n, first, put_normalized, o);
    free(whole.at);
}

/* Valid UTF-8 of any bytes, in a new buffer, or NULL if they are valid. */
static char *made_valid(const char *s, size_t n, size_t *valid_n) {
    bool valid = true;
    uint32_t cp;
    for (size_t i = 0; i < n && valid;) {
        i += utf8_decode((const unsigned char *)s + i, n - i, &cp);
        valid = cp != UTF8_INVALID;
    }
    if (valid) return NULL;
    char *out = xmalloc(size_mul(n, 3));
    *valid_n = 0;
    for (size_t i = 0; i < n;) {
        i += utf8_decode((const unsigned char *)s + i, n - i, &cp);
        *valid_n += utf8_encode(cp == UTF8_INVALID ? CODEPOINT_REPLACEMENT : cp, out + *valid_n);
    }
    return out;
}

size_t pipeline_encode(TokenizerCache *cache, const char *text, size_t bytes, size_t context,
                       int32_t *ids) {
    PipelineCache *c = (PipelineCache *)cache;
    const Pipeline *p = (const Pipeline *)cache->tokenizer;
    const PipelineForm *f = &p->form;
    size_t before = size_min(f->befores, context), after = size_min(f->afters, context - before);
    Output o = {.ids = ids + before, .room = context - before - after};
    char *valid = NULL;
    if (f->clean != TEXT_CLEAN_NONE)
        text = text_clean(c->cleaner, f->clean, text, bytes, &bytes);
    else if (f->normals == 0 || f->normal[0].op != NORMAL_SENTENCEPIECE)
        valid = made_valid(text, bytes, &bytes);
    if (valid != NULL) text = valid;
    put_between(p, c, TRIE_RAW, text, bytes, true, put_raw, &o);
    free(valid);
    memcpy(ids, f->before, before * sizeof *ids);
    memcpy(ids + before + o.n, f->after, after * sizeof *ids);
    size_t n = before + o.n + after;
    for (size_t i = 0; f->zeroed >= 0 && i < n; i++)
        if (ids[i] == f->zeroed) ids[i] = 0;
    return n;
}

/* ---- decode ---- */

char *pipeline_symbol_text(const Tokenizer *t, int32_t id) {
    const Pipeline *p = (const Pipeline *)t;
    size_t n = p->starts[id + 1] - p->starts[id];
    char *text = xmalloc(n + 1);
    memcpy(text, p->strings + p->starts[id], n);
    text[n] = 0;
    return text;
}

/* Appends a piece as text. */
static void decode_piece(const Pipeline *p, int32_t id, Chars *out) {
    const PipelineForm *f = &p->form;
    const char *s = p->strings + p->starts[id];
    size_t n = p->starts[id + 1] - p->starts[id];
    Str later = f->word_prefix, last = f->word_suffix;
    if (f->decoding == DECODE_WORDPIECE) {
        bool glued = later.n > 0 && n > later.n && memcmp(s, p->strings + later.at, later.n) == 0;
        if (glued) s += later.n, n -= later.n;
        if (!glued && out->n > 0) chars_add(out, " ", 1);
        chars_add(out, s, n);
        return;
    }
    bool ends =
        last.n > 0 && n >= last.n && memcmp(s + n - last.n, p->strings + last.at, last.n) == 0;
    if (ends) n -= last.n;
    for (size_t i = 0; i < n;) {
        bool space = f->decoding == DECODE_SPACES && is_space(s + i, n - i);
        chars_add(out, space ? " " : s + i, 1);
        i += space ? strlen(SPACE_MARK) : 1;
    }
    if (ends) chars_add(out, " ", 1);
}

char *pipeline_decode(const Tokenizer *t, const int32_t *ids, size_t n) {
    const Pipeline *p = (const Pipeline *)t;
    Chars text = {0}, out = {0};
    for (size_t i = 0; i < n; i++) {
        int byte = 0;
        while (p->form.byte_fallback && byte < 256 && p->form.byte_ids[byte] != ids[i]) byte++;
        char c = (char)byte;
        if (p->form.byte_fallback && byte < 256)
            chars_add(&text, &c, 1);
        else
            decode_piece(p, ids[i], &text);
    }
    size_t first = p->form.decoding == DECODE_SPACES && text.n > 0 && text.at[0] == ' ';
    for (size_t i = first; i < text.n;) {
        uint32_t cp;
        i += utf8_decode((const unsigned char *)text.at + i, text.n - i, &cp);
        chars_reserve(&out, 4);
        out.n +=
            utf8_encode(cp == UTF8_INVALID || cp == 0 ? CODEPOINT_REPLACEMENT : cp, out.at + out.n);
    }
    chars_add(&out, "", 1);
    free(text.at);
    return out.at;
}
