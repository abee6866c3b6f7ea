/* trie: a read-only map from byte strings to numbers that finds every key at the front of a text.
 * Its arrays can be stored and mapped. */
#pragma once
#include "kernels/base.h"

/* Nodes in breadth-first order, the root first: the children of node i are first[i] up to
 * first[i + 1], and node j is reached by the byte label[j]. */
typedef struct Trie {
    const uint8_t *label;
    const uint32_t *first; /* [nodes + 1] */
    const int32_t *value;  /* -1: no key ends here */
    size_t nodes;
} Trie;

typedef struct TrieKey {
    const char *text;
    uint32_t length;
    int32_t value; /* not below 0 */
} TrieKey;

/* Its arrays, malloc'd, belong to the caller. False: two keys are equal, and
 * *twice is one of them. */
bool trie_build(Trie *t, const TrieKey *keys, size_t n, TrieKey *twice);
void trie_free(Trie *t);

/* The child of a node by a byte; 0: none. */
static inline uint32_t trie_step(const Trie *t, uint32_t node, uint8_t byte) {
    uint32_t lo = t->first[node], hi = t->first[node + 1];
    while (hi - lo > 8) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (t->label[mid] <= byte)
            lo = mid;
        else
            hi = mid;
    }
    for (; lo < hi; lo++)
        if (t->label[lo] == byte) return lo;
    return 0;
}
/* The value of a whole text; -1: it is no key. */
int32_t trie_find(const Trie *t, const char *text, size_t n);
/* The longest key at the front of a text; returns its value and length, or -1. */
int32_t trie_longest(const Trie *t, const char *text, size_t n, size_t *length);
