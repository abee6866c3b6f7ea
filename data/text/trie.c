#include "data/text/trie.h"
#include <stdlib.h>
#include <string.h>

/* A key with its first bytes beside it: most comparisons end there. */
typedef struct Entry {
    uint64_t front; /* the first eight bytes, big-endian */
    TrieKey key;
} Entry;

static Entry entry_of(const TrieKey *k) {
    uint64_t x = 0;
    memcpy(&x, k->text, size_min(k->length, sizeof x));
    return (Entry){__builtin_bswap64(x), *k};
}

static uint8_t byte_at(const Entry *e, uint32_t depth) {
    return depth < 8 ? (uint8_t)(e->front >> (56 - 8 * depth)) : (uint8_t)e->key.text[depth];
}

static int by_text(const void *a, const void *b) {
    const Entry *x = a, *y = b;
    if (x->front != y->front) return x->front < y->front ? -1 : 1;
    size_t least = size_min(x->key.length, y->key.length);
    int order = least > 8 ? memcmp(x->key.text + 8, y->key.text + 8, least - 8) : 0;
    return order ? order : (x->key.length > y->key.length) - (x->key.length < y->key.length);
}

/* The keys that pass through a node, and the depth of the node. */
typedef struct Range {
    uint32_t lo, hi, depth;
} Range;

typedef struct Builder {
    Range *ranges;
    uint8_t *label;
    uint32_t *first;
    int32_t *value;
    size_t nodes, room;
} Builder;

static void add_node(Builder *b, uint8_t label, Range r) {
    if (b->nodes == b->room) {
        b->room = b->room * 2 + 256;
        b->ranges = xrealloc(b->ranges, size_mul(b->room, sizeof *b->ranges));
        b->label = xrealloc(b->label, b->room);
        b->first = xrealloc(b->first, size_mul(b->room + 1, sizeof *b->first));
        b->value = xrealloc(b->value, size_mul(b->room, sizeof *b->value));
    }
    b->label[b->nodes] = label;
    b->ranges[b->nodes] = r;
    b->nodes++;
}

static void add_children(Builder *b, const Entry *e, size_t node) {
    Range r = b->ranges[node];
    b->first[node] = (uint32_t)b->nodes;
    b->value[node] = -1;
    if (r.lo < r.hi && e[r.lo].key.length == r.depth) b->value[node] = e[r.lo++].key.value;
    while (r.lo < r.hi) {
        uint8_t byte = byte_at(&e[r.lo], r.depth);
        uint32_t end = r.lo + 1;
        while (end < r.hi && byte_at(&e[end], r.depth) == byte) end++;
        add_node(b, byte, (Range){r.lo, end, r.depth + 1});
        r.lo = end;
    }
}

bool trie_build(Trie *t, const TrieKey *keys, size_t n, TrieKey *twice) {
    Entry *e = xmalloc(size_mul(n + 1, sizeof *e));
    for (size_t i = 0; i < n; i++) e[i] = entry_of(&keys[i]);
    qsort(e, n, sizeof *e, by_text);
    bool ok = true;
    for (size_t i = 1; i < n && ok; i++) {
        ok = by_text(&e[i - 1], &e[i]) != 0;
        if (!ok) *twice = e[i].key;
    }
    Builder b = {0};
    add_node(&b, 0, (Range){0, ok ? (uint32_t)n : 0, 0});
    for (size_t node = 0; node < b.nodes; node++) add_children(&b, e, node);
    b.first[b.nodes] = (uint32_t)b.nodes;
    *t = (Trie){b.label, b.first, b.value, b.nodes};
    FREE_ALL(b.ranges, e);
    if (!ok) trie_free(t);
    return ok;
}

void trie_free(Trie *t) {
    FREE_ALL((void *)(uintptr_t)t->label, (void *)(uintptr_t)t->first, (void *)(uintptr_t)t->value);
    *t = (Trie){0};
}

int32_t trie_find(const Trie *t, const char *text, size_t n) {
    uint32_t node = 0;
    for (size_t i = 0; i < n; i++)
        if ((node = trie_step(t, node, (uint8_t)text[i])) == 0) return -1;
    return t->value[node];
}

int32_t trie_longest(const Trie *t, const char *text, size_t n, size_t *length) {
    int32_t best = -1;
    uint32_t node = 0;
    for (size_t i = 0; i < n && (node = trie_step(t, node, (uint8_t)text[i])) != 0; i++) {
        if (t->value[node] < 0) continue;
        best = t->value[node];
        *length = i + 1;
    }
    return best;
}
