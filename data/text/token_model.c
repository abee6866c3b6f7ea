/* Models: words to ids. */
#include "data/text/pipeline.h"
#include "data/text/codepoints.h"
#include "data/text/merge_queue.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The best path that ends at a byte. */
typedef struct Node {
    double score;
    uint32_t from; /* where its last piece begins; NOWHERE: no path yet */
    int32_t id;
} Node;
#define NOWHERE UINT32_MAX
#define NO_PIECE (-1)

/* Arrays indexed by byte, as long as the longest word. */
struct TokenWork {
    size_t room;
    Node *nodes;
    int32_t *ids;    /* the symbol that begins here; NO_PIECE: unknown */
    int32_t *merged; /* the merge of it and the next symbol, or NO_PIECE … */
    uint32_t *ranks; /* … and its rank */
    uint32_t *next, *previous;
    bool *frozen; /* a user-defined symbol, never merged */
    MergeQueue queue;
    int32_t *out;
    size_t count;
};

TokenWork *token_work_new(void) { return xcalloc(1, sizeof(TokenWork)); }

void token_work_free(TokenWork *w) {
    if (w == NULL) return;
    FREE_ALL(w->nodes, w->ids, w->merged, w->ranks, w->next, w->previous, w->frozen, w->queue.at,
             w->out, w);
}

static void reserve(TokenWork *w, size_t n) {
    if (n + 1 <= w->room) return;
    size_t room = w->room = size_max(256, size_mul(n, 2));
    w->nodes = xrealloc(w->nodes, size_mul(room, sizeof *w->nodes));
    w->ids = xrealloc(w->ids, size_mul(room, sizeof *w->ids));
    w->merged = xrealloc(w->merged, size_mul(room, sizeof *w->merged));
    w->ranks = xrealloc(w->ranks, size_mul(room, sizeof *w->ranks));
    w->next = xrealloc(w->next, size_mul(room, sizeof *w->next));
    w->previous = xrealloc(w->previous, size_mul(room, sizeof *w->previous));
    w->frozen = xrealloc(w->frozen, size_mul(room, sizeof *w->frozen));
    w->queue.at = xrealloc(w->queue.at, size_mul(room, 3 * sizeof *w->queue.at));
    w->out = xrealloc(w->out, size_mul(room, sizeof *w->out));
}

static size_t char_length(const char *s, size_t n) {
    unsigned char c = (unsigned char)*s;
    size_t length = c < 0xC0 ? 1 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
    return size_min(length, n);
}

static bool has_bytes(const PipelineForm *f, const char *s, size_t n) {
    bool all = f->byte_fallback;
    for (size_t i = 0; i < n; i++) all = all && f->byte_ids[(unsigned char)s[i]] >= 0;
    return all;
}

static void put_unknown(const PipelineForm *f, TokenWork *w, const char *s, size_t n) {
    if (has_bytes(f, s, n)) {
        for (size_t i = 0; i < n; i++) w->out[w->count++] = f->byte_ids[(unsigned char)s[i]];
    } else if (f->unk >= 0 && !(f->fuse_unk && w->count > 0 && w->out[w->count - 1] == f->unk)) {
        w->out[w->count++] = f->unk;
    }
}

/* ---- unigram: the path of the highest sum of scores (Kudo 2018, section 3.1) ---- */

typedef struct Path {
    Node *nodes;
    double closest; /* the smallest difference of two sums that were compared */
} Path;

static void consider(Path *path, size_t end, double score, size_t from, int32_t id) {
    Node *node = &path->nodes[end];
    if (node->from != NOWHERE) {
        path->closest = fmin(path->closest, fabs(score - node->score));
        if (!(score > node->score)) return;
    }
    *node = (Node){score, (uint32_t)from, id};
}

static void find_path(const Pipeline *p, Path *path, const char *s, size_t n, size_t *chars) {
    const PipelineForm *f = &p->form;
    const Trie *t = &p->trie[TRIE_PIECES];
    for (size_t i = 0, length; i < n; i += length) {
        double sum = path->nodes[i].score;
        uint32_t node = 0;
        bool alone = false;
        length = char_length(s + i, n - i);
        for (size_t k = i; k < n && (node = trie_step(t, node, (uint8_t)s[k])) != 0; k++) {
            int32_t id = t->value[node];
            if (id < 0) continue;
            alone = alone || k + 1 == i + length;
            consider(path, k + 1, score_add(f, sum, p->scores[id]), i, id);
        }
        if (!alone) consider(path, i + length, score_add(f, sum, f->unk_score), i, NO_PIECE);
        ++*chars;
    }
}

static void unigram_word(const Pipeline *p, TokenWork *w, const char *s, size_t n, double *sum,
                         bool *steady) {
    Path path = {w->nodes, INFINITY};
    size_t chars = 0, pieces = 0;
    w->nodes[0].score = *sum;
    for (size_t i = 1; i <= n; i++) w->nodes[i].from = NOWHERE;
    find_path(p, &path, s, n, &chars);
    /* each addition is off by at most half a unit in the last place of the largest sum */
    double unit = p->form.single ? 0x1p-11 : 0x1p-40;
    *steady = *sum > -STEADY_SUM && path.closest > 2 * (double)(chars + 1) * unit;
    *sum = w->nodes[n].score;
    for (size_t end = n; end > 0; end = w->nodes[end].from) w->next[pieces++] = (uint32_t)end;
    for (size_t from = 0; pieces-- > 0; from = w->next[pieces]) {
        size_t end = w->next[pieces];
        if (w->nodes[end].id != NO_PIECE) {
            w->out[w->count++] = w->nodes[end].id;
            continue;
        }
        put_unknown(&p->form, w, s + from, end - from);
        *steady = false;
    }
}

/* ---- byte pairs (Sennrich et al. 2016, algorithm 1) ---- */

/* Rank and id of the merge of two symbols; id NO_PIECE: they do not merge. */
static int32_t find_merge(const Pipeline *p, const TokenWork *w, const char *s, size_t n,
                          size_t place, uint32_t *rank) {
    size_t after = w->next[place];
    if (p->form.merge_text) {
        size_t end = w->next[after];
        if (w->frozen[place] || w->frozen[after]) return NO_PIECE;
        int32_t id = trie_find(&p->trie[TRIE_PIECES], s + place, size_min(end, n) - place);
        if (id >= 0) *rank = (uint32_t)p->scores[id];
        return id;
    }
    int32_t left = w->ids[place], right = w->ids[after];
    if (left < 0 || right < 0 || p->pairs == NULL) return NO_PIECE;
    for (size_t h = merge_hash((uint32_t)left, (uint32_t)right);; h++) {
        const MergePair *m = &p->pairs[h & p->pair_mask];
        if (m->left == UINT32_MAX) return NO_PIECE;
        if (m->left != (uint32_t)left || m->right != (uint32_t)right) continue;
        *rank = m->rank;
        return (int32_t)m->id;
    }
}

static void queue_pair(const Pipeline *p, TokenWork *w, const char *s, size_t n, size_t place) {
    w->merged[place] = NO_PIECE;
    if (w->next[place] >= n) return;
    w->merged[place] = find_merge(p, w, s, n, place, &w->ranks[place]);
    if (w->merged[place] != NO_PIECE)
        merge_queue_put(&w->queue, (uint64_t)w->ranks[place] << 32 | place);
}

/* The piece of one character, with the mark of a word's end if it is the last. */
static int32_t char_piece(const Pipeline *p, const char *s, size_t n, bool last) {
    const Trie *t = &p->trie[TRIE_PIECES];
    Str suffix = p->form.word_suffix;
    if (p->form.byte_level && suffix.n == 0) return p->form.byte_ids[(unsigned char)*s];
    if (!last || suffix.n == 0) return trie_find(t, s, n);
    char text[4 + 64];
    memcpy(text, s, n);
    memcpy(text + n, p->strings + suffix.at, suffix.n);
    return trie_find(t, text, n + suffix.n);
}

/* Links the symbol at `at`, which ends at `end`, to the one before. */
static void add_symbol(TokenWork *w, size_t *last, size_t at, size_t end, int32_t id, bool frozen) {
    w->ids[at] = id;
    w->frozen[at] = frozen;
    w->next[at] = (uint32_t)end;
    w->previous[at] = (uint32_t)*last;
    if (*last != NOWHERE) w->next[*last] = (uint32_t)at;
    *last = at;
}

/* Characters, bytes or user-defined symbols; returns the place of the first one. */
static size_t first_symbols(const Pipeline *p, TokenWork *w, const char *s, size_t n) {
    const PipelineForm *f = &p->form;
    size_t last = NOWHERE, first = n;
    for (size_t i = 0, length; i < n; i += length) {
        bool frozen = f->merge_text && p->trie[TRIE_USER].nodes > 1 &&
                      trie_longest(&p->trie[TRIE_USER], s + i, n - i, &length) >= 0;
        if (!frozen) length = f->byte_level ? 1 : char_length(s + i, n - i);
        int32_t id = frozen ? trie_find(&p->trie[TRIE_PIECES], s + i, length)
                            : char_piece(p, s + i, length, i + length == n);
        if (id < 0 && !f->merge_text) {
            if (has_bytes(f, s + i, length)) {
                for (size_t k = 0; k < length; k++)
                    add_symbol(w, &last, i + k, i + k + 1, f->byte_ids[(unsigned char)s[i + k]],
                               true);
                first = size_min(first, i);
                continue;
            }
            if (f->unk < 0) continue; /* dropped */
            if (f->fuse_unk && last != NOWHERE && w->ids[last] == f->unk) {
                w->next[last] = (uint32_t)(i + length);
                continue;
            }
            id = f->unk;
        }
        add_symbol(w, &last, i, i + length, id, frozen);
        first = size_min(first, i);
    }
    if (last != NOWHERE) w->next[last] = (uint32_t)n;
    return first;
}

/* Merges the pair of lowest rank, leftmost first, until there is none. */
static void bpe_word(const Pipeline *p, TokenWork *w, const char *s, size_t n) {
    if (p->form.ignore_merges) {
        int32_t id = trie_find(&p->trie[TRIE_PIECES], s, n);
        if (id >= 0) {
            w->out[w->count++] = id;
            return;
        }
    }
    size_t first = first_symbols(p, w, s, n);
    w->queue.count = 0;
    for (size_t i = first; i < n; i = w->next[i]) queue_pair(p, w, s, n, i);
    while (w->queue.count > 0) {
        uint64_t top = merge_queue_take(&w->queue);
        size_t place = (uint32_t)top;
        if (w->merged[place] == NO_PIECE || w->ranks[place] != top >> 32) continue;
        size_t after = w->next[place];
        w->ids[place] = w->merged[place];
        w->merged[after] = NO_PIECE;
        w->next[place] = w->next[after];
        if (w->next[place] < n) w->previous[w->next[place]] = (uint32_t)place;
        queue_pair(p, w, s, n, place);
        if (w->previous[place] != NOWHERE) queue_pair(p, w, s, n, w->previous[place]);
    }
    for (size_t i = first; i < n; i = w->next[i])
        if (w->ids[i] >= 0)
            w->out[w->count++] = w->ids[i];
        else
            put_unknown(&p->form, w, s + i, w->next[i] - i);
}

/* ---- WordPiece: the longest piece at the front, again and again (Song et al. 2021) ---- */

static void wordpiece_word(const Pipeline *p, TokenWork *w, const char *s, size_t n) {
    const PipelineForm *f = &p->form;
    const Trie *t = &p->trie[TRIE_PIECES];
    size_t chars = 0, at = 0;
    uint32_t later = 0; /* the node of the prefix of later pieces */
    for (size_t i = 0; i < n; i += char_length(s + i, n - i)) chars++;
    for (size_t i = 0; i < f->word_prefix.n; i++)
        if ((later = trie_step(t, later, (uint8_t)p->strings[f->word_prefix.at + i])) == 0) break;
    bool ok = chars <= f->max_chars;
    while (ok && at < n) {
        int32_t id = -1;
        size_t end = at;
        uint32_t node = at > 0 ? later : 0;
        ok = at == 0 || later != 0 || f->word_prefix.n == 0;
        for (size_t i = at; ok && i < n && (node = trie_step(t, node, (uint8_t)s[i])) != 0; i++)
            if (t->value[node] >= 0) id = t->value[node], end = i + 1;
        ok = ok && id >= 0;
        if (ok) w->out[w->count++] = id;
        at = end;
    }
    if (ok) return;
    w->count = 0;
    w->out[w->count++] = f->unk;
}

const int32_t *model_word(const Pipeline *p, TokenWork *w, const char *word, size_t n, double *sum,
                          bool *steady, size_t *count) {
    reserve(w, n);
    w->count = 0;
    *steady = true;
    if (p->form.model == MODEL_UNIGRAM)
        unigram_word(p, w, word, n, sum, steady);
    else if (p->form.model == MODEL_BPE)
        bpe_word(p, w, word, n);
    else
        wordpiece_word(p, w, word, n);
    *count = w->count;
    return w->out;
}
