/* Pair counts are updated word by word, so that the cost of a merge is proportional to the words
 * that it changes. Source: Sennrich et al. 2016, section 3.2. */
#include "data/text/bpe_train.h"

#include "data/io/file.h"
#include "data/io/lines.h"
#include "data/text/codepoints.h"
#include "data/text/text.h"
#include "kernels/hash.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

enum { MAX_WORD = 255 }; /* bytes; longer words are skipped */

typedef struct Word {
    size_t first; /* its symbols in Trainer.symbols */
    uint32_t length;
    uint64_t count;
} Word;

typedef struct Pair {
    uint32_t key;           /* left << 16 | right */
    uint64_t count, queued; /* queued: the largest count the heap holds for it */
    uint32_t *words;        /* words in which it occurs or occurred */
    uint32_t word_count, word_room;
} Pair;

typedef struct Candidate {
    uint64_t count;
    uint32_t key;
} Candidate;

typedef struct Trainer {
    char *letters; /* the words' bytes */
    uint16_t *symbols;
    size_t used, room;
    Word *words;
    uint32_t *word_slots; /* word number + 1 */
    size_t word_count, word_room, word_slot_count;
    Pair *pairs;
    uint32_t *pair_slots; /* pair number + 1 */
    size_t pair_count, pair_room, pair_slot_count;
    Candidate *heap;
    size_t heap_count, heap_room;
    char *strings[BPE_MAX_VOCAB]; /* each symbol in the file's alphabet */
    uint32_t keys[BPE_MAX_MERGES];
    size_t merges;
} Trainer;

/* ---- words ---- */

static uint32_t *word_slot(const Trainer *t, const char *s, size_t n) {
    uint64_t hash = fnv_hash(FNV_START, s, n);
    for (uint64_t h = hash ^ hash >> 29;; h++) {
        uint32_t *slot = &t->word_slots[h & (t->word_slot_count - 1)];
        if (*slot == 0) return slot;
        const Word *w = &t->words[*slot - 1];
        if (w->length == n && memcmp(t->letters + w->first, s, n) == 0) return slot;
    }
}

static void grow_words(Trainer *t) {
    t->word_room = t->word_room ? t->word_room * 2 : 1024;
    assert(t->word_room < UINT32_MAX);
    t->words = xrealloc(t->words, size_mul(t->word_room, sizeof *t->words));
    free(t->word_slots);
    t->word_slot_count = t->word_room * 2;
    t->word_slots = xcalloc(t->word_slot_count, sizeof *t->word_slots);
    for (size_t i = 0; i < t->word_count; i++)
        *word_slot(t, t->letters + t->words[i].first, t->words[i].length) = (uint32_t)(i + 1);
}

static void count_word(Trainer *t, const char *s, size_t n) {
    if (t->word_count == t->word_room) grow_words(t);
    uint32_t *slot = word_slot(t, s, n);
    if (*slot != 0) {
        t->words[*slot - 1].count++;
        return;
    }
    if (t->used + n > t->room) {
        t->room = size_mul(t->used + n, 2);
        t->letters = xrealloc(t->letters, t->room);
    }
    memcpy(t->letters + t->used, s, n);
    t->words[t->word_count++] = (Word){t->used, (uint32_t)n, 1};
    *slot = (uint32_t)t->word_count;
    t->used += n;
}

static bool count_words(Trainer *t, const char *path, Error *err) {
    FILE *f = fopen(path, "rb");
    if (f == NULL) return error_set(err, "cannot open captions %s: %s", path, strerror(errno));
    Lines lines;
    lines_open(&lines, f);
    TextCleaner *text = text_cleaner_new();
    const char *block, *line, *word;
    size_t block_n, line_n, left, n;
    while (lines_next_block(&lines, &block, &block_n)) {
        while (lines_take(&block, &block_n, &line, &line_n)) {
            const char *p = text_clean(text, TEXT_CLEAN_LOWER, line, line_n, &left);
            while (text_next_word(&p, &left, &word, &n))
                if (n <= MAX_WORD && !text_is(word, n, TEXT_START) && !text_is(word, n, TEXT_END))
                    count_word(t, word, n);
        }
    }
    if (lines.cut > 0) log_warn("%s: %zu lines cut to %d bytes", path, lines.cut, (int)LINES_BLOCK);
    bool failed = ferror(f);
    lines_close(&lines);
    text_cleaner_free(text);
    fclose(f);
    if (failed) return error_set(err, "cannot read captions %s", path);
    if (t->word_count == 0) return error_set(err, "captions %s hold no words", path);
    return true;
}

/* ---- pairs ---- */

static uint32_t *pair_slot(const Trainer *t, uint32_t key) {
    for (uint32_t h = (key * 0x9E3779B1u) ^ key >> 15;; h++) {
        uint32_t *slot = &t->pair_slots[h & (t->pair_slot_count - 1)];
        if (*slot == 0 || t->pairs[*slot - 1].key == key) return slot;
    }
}

static Pair *find_pair(Trainer *t, uint32_t key) {
    if (t->pair_count == t->pair_room) {
        t->pair_room = t->pair_room ? t->pair_room * 2 : 1024;
        t->pairs = xrealloc(t->pairs, size_mul(t->pair_room, sizeof *t->pairs));
        free(t->pair_slots);
        t->pair_slot_count = t->pair_room * 2;
        t->pair_slots = xcalloc(t->pair_slot_count, sizeof *t->pair_slots);
        for (size_t i = 0; i < t->pair_count; i++)
            *pair_slot(t, t->pairs[i].key) = (uint32_t)(i + 1);
    }
    uint32_t *slot = pair_slot(t, key);
    if (*slot == 0) {
        t->pairs[t->pair_count++] = (Pair){.key = key};
        *slot = (uint32_t)t->pair_count;
    }
    return &t->pairs[*slot - 1];
}

/* More frequent pairs first, then lower ids. */
static bool goes_before(Candidate a, Candidate b) {
    return a.count != b.count ? a.count > b.count : a.key < b.key;
}

static void heap_push(Trainer *t, Candidate c) {
    if (t->heap_count == t->heap_room) {
        t->heap_room = t->heap_room ? t->heap_room * 2 : 1024;
        t->heap = xrealloc(t->heap, size_mul(t->heap_room, sizeof *t->heap));
    }
    size_t i = t->heap_count++;
    for (; i > 0 && goes_before(c, t->heap[(i - 1) / 2]); i = (i - 1) / 2)
        t->heap[i] = t->heap[(i - 1) / 2];
    t->heap[i] = c;
}

static Candidate heap_pop(Trainer *t) {
    Candidate top = t->heap[0], c = t->heap[--t->heap_count];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < t->heap_count; i = child) {
        if (child + 1 < t->heap_count && goes_before(t->heap[child + 1], t->heap[child])) child++;
        if (!goes_before(t->heap[child], c)) break;
        t->heap[i] = t->heap[child];
    }
    t->heap[i] = c;
    return top;
}

static uint32_t key_at(const uint16_t *symbols) { return (uint32_t)symbols[0] << 16 | symbols[1]; }

/* Subtracts a word's pairs from the counts. */
static void remove_word(Trainer *t, uint32_t number) {
    const Word *w = &t->words[number];
    for (uint32_t i = 0; i + 1 < w->length; i++)
        find_pair(t, key_at(t->symbols + w->first + i))->count -= w->count;
}

/* Adds them; a pair whose count exceeds its largest queued count is queued again. */
static void add_word(Trainer *t, uint32_t number) {
    const Word *w = &t->words[number];
    for (uint32_t i = 0; i + 1 < w->length; i++) {
        Pair *p = find_pair(t, key_at(t->symbols + w->first + i));
        p->count += w->count;
        if (p->word_count == 0 || p->words[p->word_count - 1] != number) {
            if (p->word_count == p->word_room) {
                p->word_room = p->word_room ? p->word_room * 2 : 4;
                p->words = xrealloc(p->words, size_mul(p->word_room, sizeof *p->words));
            }
            p->words[p->word_count++] = number;
        }
        if (p->count > p->queued && p->count > 1) {
            p->queued = p->count;
            heap_push(t, (Candidate){p->count, p->key});
        }
    }
}

static void merge_in_word(Trainer *t, uint32_t number, uint32_t key, uint16_t id) {
    Word *w = &t->words[number];
    uint16_t *s = t->symbols + w->first;
    uint32_t i = 0, out = 0;
    while (i + 1 < w->length && key_at(s + i) != key) i++;
    if (i + 1 >= w->length) return;
    remove_word(t, number);
    for (i = 0; i < w->length;) {
        bool here = i + 1 < w->length && key_at(s + i) == key;
        s[out++] = here ? id : s[i];
        i += here ? 2 : 1;
    }
    w->length = out;
    add_word(t, number);
}

/* ---- training ---- */

/* The bytes' symbols, in the order of their ids; `ids` gets each byte's. */
static void add_bytes(Trainer *t, uint16_t *ids) {
    size_t id = 0;
    for (uint32_t cp = 0; cp < 512; cp++) {
        for (int byte = 0; byte < 256; byte++) {
            if (bpe_byte_symbol(byte) != cp) continue;
            char text[4] = {0};
            utf8_encode(cp, text);
            t->strings[id] = xstrdup(text);
            t->strings[id + 256] = xasprintf("%s</w>", text);
            ids[byte] = (uint16_t)id++;
        }
    }
}

/* Merges the pair everywhere. Its symbol is new: a byte string that becomes one symbol goes through
 * the same merges wherever it occurs. */
static void merge(Trainer *t, Pair *p) {
    uint32_t key = p->key;
    size_t id = 512 + t->merges;
    t->strings[id] = xasprintf("%s%s", t->strings[key >> 16], t->strings[key & 0xFFFF]);
    t->keys[t->merges++] = key;
    uint32_t *words = p->words, count = p->word_count;
    p->words = NULL;
    p->word_count = p->word_room = 0;
    p->queued = 0;
    for (uint32_t i = 0; i < count; i++) merge_in_word(t, words[i], key, (uint16_t)id);
    free(words);
}

static void learn(Trainer *t, size_t merges) {
    uint16_t ids[256];
    add_bytes(t, ids);
    t->symbols = xmalloc(size_mul(t->used, sizeof *t->symbols));
    for (size_t i = 0; i < t->used; i++) t->symbols[i] = ids[(unsigned char)t->letters[i]];
    for (size_t i = 0; i < t->word_count; i++) {
        uint16_t *last = t->symbols + t->words[i].first + t->words[i].length - 1;
        *last = (uint16_t)(*last + 256);
    }
    for (size_t i = 0; i < t->word_count; i++) add_word(t, (uint32_t)i);
    while (t->merges < merges && t->heap_count > 0) {
        Candidate c = heap_pop(t);
        Pair *p = find_pair(t, c.key);
        if (c.count != p->queued) continue;
        if (p->count == c.count) {
            merge(t, p);
        } else {
            p->queued = p->count > 1 ? p->count : 0;
            if (p->queued > 0) heap_push(t, (Candidate){p->count, p->key});
        }
    }
}

/* Atomic: written under a temporary name and renamed. No line feed follows the last merge, because
 * open_clip's loader would count one more. */
static bool write_merges(const Trainer *t, const char *path, Error *err) {
    size_t n = strlen(path);
    bool packed = n > 3 && strcmp(path + n - 3, ".gz") == 0;
    char *beside = file_temporary(path);
    int fd = file_create(beside);
    gzFile f = fd < 0 ? NULL : gzdopen(dup(fd), packed ? "wb9" : "wbT");
    bool ok = f != NULL && gzputs(f, "#version: 0.2") > 0;
    for (size_t i = 0; ok && i < t->merges; i++)
        ok = gzprintf(f, "\n%s %s", t->strings[t->keys[i] >> 16], t->strings[t->keys[i] & 0xFFFF]) >
             0;
    int saved = errno;
    if (f != NULL && gzclose(f) != Z_OK && ok) saved = errno, ok = false;
    if (ok && (fsync(fd) || rename(beside, path))) saved = errno, ok = false;
    if (fd >= 0) close(fd);
    if (!ok) {
        if (fd >= 0) remove(beside);
        error_set(err, "cannot write vocabulary %s: %s", path, strerror(saved));
    }
    free(beside);
    return ok;
}

static void trainer_free(Trainer *t) {
    for (size_t i = 0; i < t->pair_count; i++) free(t->pairs[i].words);
    for (size_t i = 0; i < COUNT(t->strings); i++) free(t->strings[i]);
    FREE_ALL(t->letters, t->symbols, t->words, t->word_slots, t->pairs, t->pair_slots, t->heap, t);
}

bool bpe_train(const char *captions_path, size_t merges, const char *out_path, Error *err) {
    if (merges == 0 || merges > BPE_MAX_MERGES)
        return error_set(err, "a vocabulary has 1 to %d merges, not %zu", BPE_MAX_MERGES, merges);
    Trainer *t = xcalloc(1, sizeof *t);
    bool ok = count_words(t, captions_path, err);
    if (ok) {
        learn(t, merges);
        ok = t->merges > 0 ? write_merges(t, out_path, err)
                           : error_set(err, "no pair occurs twice in captions %s", captions_path);
    }
    if (ok && t->merges < merges)
        log_warn("the captions give %zu merges only, not %zu", t->merges, merges);
    trainer_free(t);
    return ok;
}
