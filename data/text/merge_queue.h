/* merge_queue: merges of a word that are possible, lowest rank first, then leftmost: a binary heap
 * of rank << 32 | place. */
#pragma once
#include "kernels/base.h"

typedef struct MergeQueue {
    uint64_t *at; /* three for each byte of the word */
    size_t count;
} MergeQueue;

static inline void merge_queue_put(MergeQueue *q, uint64_t value) {
    size_t i = q->count++;
    for (; i > 0 && q->at[(i - 1) / 2] > value; i = (i - 1) / 2) q->at[i] = q->at[(i - 1) / 2];
    q->at[i] = value;
}

/* The first one; there must be one. */
static inline uint64_t merge_queue_take(MergeQueue *q) {
    uint64_t top = q->at[0], value = q->at[--q->count];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= q->count) break;
        if (child + 1 < q->count && q->at[child + 1] < q->at[child]) child++;
        if (q->at[child] >= value) break;
        q->at[i] = q->at[child];
        i = child;
    }
    q->at[i] = value;
    return top;
}
