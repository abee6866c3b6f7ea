/* Vocabulary files and the encoder. Source: open_clip 3.3.0, open_clip/tokenizer.py; Sennrich et
 * al. 2016, algorithm 1. */
#include "data/text/bpe.h"
#include "data/text/codepoints.h"
#include "data/text/merge_queue.h"
#include "data/text/text.h"
#include "data/text/word_cache.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NO_ID = 0xFFFF, PAIR_SLOTS = 1 << 17, CACHE_BYTES = 1 << 22 };
#define WORD_END "</w>"

typedef struct Pair {
    uint32_t key; /* left << 16 | right; all ones: free */
    uint32_t id;  /* their merge; lower ids were merged earlier */
} Pair;

typedef struct Bpe {
    Tokenizer base;
    size_t merges;
    uint16_t byte_ids[256];
    Pair *pairs;
    char *strings; /* the symbols' bytes, concatenated; WORD_END as in the file */
    uint32_t *starts;
} Bpe;

/* ---- vocabulary ---- */

uint32_t bpe_byte_symbol(int byte) {
    if ((byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174)
        return (uint32_t)byte;
    uint32_t n = byte <= 32 ? (uint32_t)byte : byte <= 160 ? (uint32_t)byte - 127 + 33 : 67;
    return 256 + n;
}

/* Symbols by their bytes, while a file is read. */
typedef struct Symbols {
    Bpe *bpe;
    uint16_t *slots;
    size_t count;
    uint16_t byte_of[512]; /* the file's alphabet; NO_ID for other code points */
} Symbols;

/* The slot of the symbol with these bytes, or the free slot where it would be inserted. */
static uint16_t *find_symbol(const Symbols *s, const char *bytes, size_t n) {
    const Bpe *b = s->bpe;
    for (uint64_t h = word_hash(bytes, n);; h++) {
        uint16_t *slot = &s->slots[h & (PAIR_SLOTS - 1)];
        if (*slot == NO_ID) return slot;
        size_t start = b->starts[*slot], length = b->starts[*slot + 1] - start;
        if (length == n && memcmp(b->strings + start, bytes, n) == 0) return slot;
    }
}

static void add_symbol(Symbols *s, const char *bytes, size_t n) {
    Bpe *b = s->bpe;
    uint32_t start = b->starts[s->count];
    memcpy(b->strings + start, bytes, n);
    b->starts[s->count + 1] = start + (uint32_t)n;
    if (n != 0) *find_symbol(s, bytes, n) = (uint16_t)s->count;
    s->count++;
}

/* Converts one part of a merge in place from the file's alphabet to bytes. False: not of the
 * alphabet. */
static bool to_bytes(const Symbols *s, char *part, size_t *n) {
    size_t out = 0;
    for (size_t i = 0; i < *n;) {
        uint32_t cp;
        i += utf8_decode((const unsigned char *)part + i, *n - i, &cp);
        if (cp >= COUNT(s->byte_of) || s->byte_of[cp] == NO_ID) return false;
        part[out++] = (char)s->byte_of[cp];
    }
    *n = out;
    return out > 0;
}

static Pair *find_pair(const Bpe *b, uint32_t left, uint32_t right) {
    uint32_t key = left << 16 | right;
    for (uint32_t h = key * 0x9E3779B1u >> 15;; h++) {
        Pair *p = &b->pairs[h & (PAIR_SLOTS - 1)];
        if (p->key == key || p->key == UINT32_MAX) return p;
    }
}

/* Adds "left right", the merge of line `line` of the file; changes the bytes of `text`. */
static bool add_merge(Symbols *s, char *text, size_t n, size_t line, Error *err) {
    char *blank = memchr(text, ' ', n);
    if (blank == NULL || memchr(blank + 1, ' ', (size_t)(text + n - blank - 1)) != NULL)
        return error_set(err, "line %zu is not two symbols with a blank between", line);
    char *right = blank + 1;
    size_t left_n = (size_t)(blank - text), right_n = (size_t)(text + n - right);
    if (!to_bytes(s, text, &left_n) || !to_bytes(s, right, &right_n))
        return error_set(err, "line %zu holds a character outside the alphabet of merges", line);
    uint16_t left_id = *find_symbol(s, text, left_n), right_id = *find_symbol(s, right, right_n);
    if (left_id == NO_ID || right_id == NO_ID)
        return error_set(err, "line %zu merges a symbol that no line before it made", line);
    memmove(text + left_n, right, right_n);
    if (*find_symbol(s, text, left_n + right_n) != NO_ID)
        return error_set(err, "line %zu makes a symbol that already exists", line);
    *find_pair(s->bpe, left_id, right_id) =
        (Pair){(uint32_t)left_id << 16 | right_id, (uint32_t)s->count};
    add_symbol(s, text, left_n + right_n);
    return true;
}

/* The first 512 symbols: the bytes in the order of their code points in the file, then the same at
 * the end of a word. */
static void add_bytes(Symbols *s) {
    memset(s->byte_of, 0xFF, sizeof s->byte_of);
    for (int byte = 0; byte < 256; byte++) s->byte_of[bpe_byte_symbol(byte)] = (uint16_t)byte;
    for (size_t end = 0; end < 2; end++) {
        for (size_t cp = 0; cp < COUNT(s->byte_of); cp++) {
            if (s->byte_of[cp] == NO_ID) continue;
            char text[1 + sizeof WORD_END] = {(char)s->byte_of[cp]};
            memcpy(text + 1, WORD_END, sizeof WORD_END);
            if (end == 0) s->bpe->byte_ids[s->byte_of[cp]] = (uint16_t)s->count;
            add_symbol(s, text, end == 0 ? 1 : 1 + strlen(WORD_END));
        }
    }
}

/* Reads every line after the first. An empty line, also the one after the last line feed, uses an
 * id, as in open_clip's loader. */
static bool read_merges(Symbols *s, char *text, size_t n, Error *err) {
    char *end = text + n, *p = memchr(text, '\n', n);
    bool any = false;
    for (size_t line = 2; p != NULL && s->bpe->merges < BPE_MAX_MERGES; line++) {
        char *first = p + 1;
        p = memchr(first, '\n', (size_t)(end - first));
        size_t length = (size_t)((p ? p : end) - first);
        if (length > 0 && first[length - 1] == '\r') length--;
        if (length == 0)
            add_symbol(s, first, 0);
        else if (!add_merge(s, first, length, line, err))
            return false;
        else
            any = true;
        s->bpe->merges++;
    }
    return any || error_set(err, "it holds no merges");
}

static void bpe_free(Tokenizer *t) {
    Bpe *b = (Bpe *)t;
    FREE_ALL(b->pairs, b->strings, b->starts, b);
}

static Tokenizer *bpe_load(char *text, size_t n, Error *err) {
    Bpe *b = xcalloc(1, sizeof *b);
    b->pairs = xmalloc(PAIR_SLOTS * sizeof *b->pairs);
    memset(b->pairs, 0xFF, PAIR_SLOTS * sizeof *b->pairs);
    b->strings = xmalloc(n + 512 * (1 + strlen(WORD_END)) + 64);
    b->starts = xcalloc(BPE_MAX_VOCAB + 1, sizeof *b->starts);
    Symbols s = {.bpe = b, .slots = xmalloc(PAIR_SLOTS * sizeof *s.slots)};
    memset(s.slots, 0xFF, PAIR_SLOTS * sizeof *s.slots);
    add_bytes(&s);
    bool ok = read_merges(&s, text, n, err);
    if (ok) {
        int32_t start = (int32_t)s.count, end = start + 1;
        add_symbol(&s, TEXT_START, strlen(TEXT_START));
        add_symbol(&s, TEXT_END, strlen(TEXT_END));
        b->base = (Tokenizer){&bpe_kind, s.count, start, end, 0, 2};
    }
    free(s.slots);
    if (ok) return &b->base;
    bpe_free(&b->base);
    return NULL;
}

/* ---- back to a file ---- */

/* Appends the symbol in the file's alphabet: at most two bytes for each of its bytes. */
static char *put_symbol(char *to, const Bpe *b, uint32_t id) {
    for (uint32_t i = b->starts[id]; i < b->starts[id + 1]; i++)
        to += utf8_encode(bpe_byte_symbol((unsigned char)b->strings[i]), to);
    return to;
}

static char *bpe_symbol_text(const Tokenizer *t, int32_t id) {
    const Bpe *b = (const Bpe *)t;
    char *text = xmalloc(2 * (b->starts[id + 1] - b->starts[id]) + 1);
    *put_symbol(text, b, (uint32_t)id) = 0;
    return text;
}

static char *bpe_file_text(const Tokenizer *t, const char *header) {
    const Bpe *b = (const Bpe *)t;
    uint32_t *made_of = xmalloc((b->merges + 1) * sizeof *made_of); /* left << 16 | right */
    memset(made_of, 0xFF, (b->merges + 1) * sizeof *made_of);
    for (size_t i = 0; i < PAIR_SLOTS; i++)
        if (b->pairs[i].key != UINT32_MAX) made_of[b->pairs[i].id - 512] = b->pairs[i].key;
    size_t room = strlen(header) + 2 * b->starts[512 + b->merges] + 2 * b->merges + 1;
    char *text = xmalloc(room), *p = text + sprintf(text, "%s", header);
    for (size_t i = 0; i < b->merges; i++) {
        *p++ = '\n';
        if (made_of[i] == UINT32_MAX) continue; /* an empty line */
        p = put_symbol(p, b, made_of[i] >> 16);
        *p++ = ' ';
        p = put_symbol(p, b, made_of[i] & 0xFFFF);
    }
    *p = 0;
    free(made_of);
    return text;
}

/* ---- encode ---- */

/* Arrays for merging one word, indexed by byte position; they grow to the longest word. */
typedef struct Work {
    size_t room;
    uint16_t *ids;    /* the symbol that begins here; NO_ID: part of an earlier symbol */
    uint16_t *merged; /* the merge of it and the next symbol, or NO_ID */
    uint32_t *next, *previous;
    MergeQueue queue; /* the merged symbol is the rank */
} Work;

typedef struct BpeCache {
    TokenizerCache base;
    TextCleaner *text;
    WordCache words;
    Work work;
} BpeCache;

static TokenizerCache *bpe_cache_new(const Tokenizer *t) {
    BpeCache *c = xcalloc(1, sizeof *c);
    c->base.tokenizer = t;
    c->text = text_cleaner_new();
    word_cache_init(&c->words, sizeof *c->work.ids, CACHE_BYTES);
    return &c->base;
}

static void bpe_cache_free(TokenizerCache *cache) {
    BpeCache *c = (BpeCache *)cache;
    text_cleaner_free(c->text);
    word_cache_free(&c->words);
    FREE_ALL(c->work.ids, c->work.merged, c->work.next, c->work.previous, c->work.queue.at, c);
}

static void work_reserve(Work *w, size_t n) {
    if (n <= w->room) return;
    w->room = size_max(256, size_mul(n, 2));
    w->ids = xrealloc(w->ids, w->room * sizeof *w->ids);
    w->merged = xrealloc(w->merged, w->room * sizeof *w->merged);
    w->next = xrealloc(w->next, size_mul(w->room, sizeof *w->next));
    w->previous = xrealloc(w->previous, size_mul(w->room, sizeof *w->previous));
    w->queue.at = xrealloc(w->queue.at, size_mul(w->room, 3 * sizeof *w->queue.at));
}

/* Looks up the merge of the symbol at `place` and the next one. */
static void queue_pair(const Bpe *b, Work *w, size_t place, size_t n) {
    w->merged[place] = NO_ID;
    if (w->next[place] >= n) return;
    const Pair *pair = find_pair(b, w->ids[place], w->ids[w->next[place]]);
    if (pair->key == UINT32_MAX) return;
    w->merged[place] = (uint16_t)pair->id;
    merge_queue_put(&w->queue, (uint64_t)pair->id << 32 | place);
}

/* Merges the pair of lowest rank, leftmost first, until there is none; the ids end up at the front
 * of w->ids. Pairs that contain a merge always rank after it (bpe_load checks this), so merging one
 * pair at a time equals a pass over all equal pairs. */
static size_t merge_word(const Bpe *b, Work *w, const char *word, size_t n) {
    work_reserve(w, n);
    w->queue.count = 0;
    for (size_t i = 0; i < n; i++) {
        w->ids[i] = b->byte_ids[(unsigned char)word[i]];
        w->next[i] = (uint32_t)(i + 1);
        w->previous[i] = (uint32_t)(i - 1);
    }
    w->ids[n - 1] = (uint16_t)(w->ids[n - 1] + 256);
    for (size_t i = 0; i < n; i++) queue_pair(b, w, i, n);
    while (w->queue.count > 0) {
        uint64_t top = merge_queue_take(&w->queue);
        size_t place = (uint32_t)top;
        if (w->merged[place] != top >> 32) continue;
        size_t after = w->next[place];
        w->ids[place] = w->merged[place];
        w->ids[after] = w->merged[after] = NO_ID;
        w->next[place] = w->next[after];
        if (w->next[place] < n) w->previous[w->next[place]] = (uint32_t)place;
        queue_pair(b, w, place, n);
        if (place > 0) queue_pair(b, w, w->previous[place], n);
    }
    size_t count = 0;
    for (size_t i = 0; i < n; i = w->next[i]) w->ids[count++] = w->ids[i];
    return count;
}

/* The ids of one word, valid until the next call. */
static const uint16_t *word_ids(const Bpe *b, BpeCache *c, const char *word, size_t n,
                                size_t *count) {
    bool cached = n <= WORD_CACHE_LONGEST;
    uint64_t hash = cached ? word_hash(word, n) : 0;
    const uint16_t *known = cached ? word_cache_find(&c->words, hash, word, n, count) : NULL;
    if (known) return known;
    *count = merge_word(b, &c->work, word, n);
    if (cached) word_cache_add(&c->words, hash, word, n, c->work.ids, *count);
    return c->work.ids;
}

/* Start token, the caption's ids, end token. If a caption is too long, it is cut and the end token
 * replaces its last id, as in open_clip. */
static size_t bpe_encode(TokenizerCache *cache, const char *text, size_t bytes, size_t context,
                         int32_t *ids) {
    BpeCache *c = (BpeCache *)cache;
    const Bpe *b = (const Bpe *)cache->tokenizer;
    size_t left, length, count, n = 0;
    const char *word, *p = text_clean(c->text, TEXT_CLEAN_LOWER, text, bytes, &left);
    ids[n++] = b->base.start;
    while (n < context && text_next_word(&p, &left, &word, &length)) {
        if (*word == '<' && text_is(word, length, TEXT_START)) {
            ids[n++] = b->base.start;
        } else if (*word == '<' && text_is(word, length, TEXT_END)) {
            ids[n++] = b->base.end;
        } else {
            const uint16_t *found = word_ids(b, c, word, length, &count);
            count = size_min(count, context - n);
            for (size_t i = 0; i < count; i++) ids[n++] = found[i];
        }
    }
    n = size_min(n, context - 1);
    ids[n++] = b->base.end;
    return n;
}

/* ---- decode ---- */

/* A blank after each word; U+FFFD for invalid UTF-8 and for U+0000. */
static char *bpe_decode(const Tokenizer *t, const int32_t *ids, size_t n) {
    const Bpe *b = (const Bpe *)t;
    size_t total = 0;
    for (size_t i = 0; i < n; i++)
        total = size_add(total, b->starts[ids[i] + 1] - b->starts[ids[i]]);
    char *joined = xmalloc(total + 1), *out = xmalloc(size_add(size_mul(total, 3), 1)), *o = out;
    total = 0;
    for (size_t i = 0; i < n; i++) {
        size_t length = b->starts[ids[i] + 1] - b->starts[ids[i]];
        memcpy(joined + total, b->strings + b->starts[ids[i]], length);
        total += length;
    }
    for (size_t i = 0; i < total;) {
        const char *p = joined + i;
        uint32_t cp;
        if (total - i >= strlen(WORD_END) && memcmp(p, WORD_END, strlen(WORD_END)) == 0) {
            *o++ = ' ';
            i += strlen(WORD_END);
            continue;
        }
        i += utf8_decode((const unsigned char *)p, total - i, &cp);
        o += utf8_encode(cp == UTF8_INVALID || cp == 0 ? CODEPOINT_REPLACEMENT : cp, o);
    }
    *o = 0;
    free(joined);
    return out;
}

const TokenizerKind bpe_kind = {
    .name = "bpe",
    .file = "vocab.bpe",
    .load = bpe_load,
    .free = bpe_free,
    .cache_new = bpe_cache_new,
    .cache_free = bpe_cache_free,
    .encode = bpe_encode,
    .decode = bpe_decode,
    .symbol_text = bpe_symbol_text,
    .file_text = bpe_file_text,
};
