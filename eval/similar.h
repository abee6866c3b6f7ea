/* similar: pictures as queries among the others of one set: precision at k and average precision,
 * where pictures of the query's label are relevant. Source: docs/NUMERICS.md, Evaluation. */
#pragma once
#include "eval/rows.h"
#include "kernels/kernels.h"

typedef struct SimilarScore {
    double precision, average; /* at k; average precision over all rows */
    size_t relevant;           /* other rows of its label; 0: no scores */
} SimilarScore;

/* out[n] of the rows queries[n] (NULL: of every row; then n = rows) with labels[rows]. All rows but
 * the query itself are ranked, by falling dot product in f32, ties by lower row. precision: the
 * relevant ones among the first `top`, by `top`. average: the mean over the relevant ones of the
 * share of relevant ones from the first to it. */
void similar_scores(const Kernels *k, SimilarScore *out, const Rows *rows, const int *labels,
                    const size_t *queries, size_t n, size_t top);
/* What a random order of `others` rows with `relevant` relevant ones scores on average. */
SimilarScore similar_chance(size_t others, size_t relevant, size_t top);

typedef struct SimilarMean {
    double mean, error; /* of the mean: the sample deviation by √n */
} SimilarMean;
SimilarMean similar_mean(const double *x, size_t n);
