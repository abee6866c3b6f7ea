/* search: the k rows of a collection that score highest for a query. Exact. */
#ifndef EVAL_SEARCH_H
#define EVAL_SEARCH_H
#include "kernels/kernels.h"

typedef struct Hit {
    size_t row;
    float score;
} Hit;

/* hits[k] by falling score, ties by lower row; returns how many (min(k, N)). query[E],
 * collection[N,E] in host memory. */
size_t search_top(Hit *hits, size_t k, const float *query, const float *collection, size_t N,
                  size_t E);
/* The same over scores that are already there. */
size_t search_top_scores(Hit *hits, size_t k, const float *scores, size_t N);
#endif
