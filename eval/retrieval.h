/* retrieval: recall@k and ranks over N pairs, both directions (spec 10). */
#ifndef EVAL_RETRIEVAL_H
#define EVAL_RETRIEVAL_H
#include "kernels/kernels.h"

typedef struct Recall {
    double at1, at5, at10, mean_rank, median_rank; /* recalls are fractions; ranks from 1 */
} Recall;

/* ranks[i] of query i's own row among keys: how many keys score higher than it, or equal at a lower
 * index. queries, keys [N,E] in host memory. Scores are fp32, computed in chunks of rows: memory
 * does not grow with N². */
void retrieval_ranks(const Kernels *k, size_t *ranks, const float *queries, const float *keys,
                     size_t N, size_t E);
Recall retrieval_recall(const size_t *ranks, size_t N);
#endif
