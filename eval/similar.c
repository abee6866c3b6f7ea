#include "eval/similar.h"

#include "eval/score_tiles.h"
#include "eval/search.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SCORES_AT_ONCE = 1 << 24 }; /* of so many queries as have them, at least one */

typedef struct ScoreRows {
    float *scores; /* [queries,rows] */
    size_t rows;
} ScoreRows;

static void take_tile(void *context, const ScoreTile *t) {
    const ScoreRows *b = context;
    for (size_t i = 0; i < t->n; i++)
        memcpy(b->scores + (t->i0 + i) * b->rows + t->j0, t->scores + i * t->m,
               t->m * sizeof *t->scores);
}

static int better_first(const void *a, const void *b) {
    const Hit *x = a, *y = b;
    if (x->score != y->score) return x->score < y->score ? 1 : -1;
    return (x->row > y->row) - (x->row < y->row);
}

/* hits: room for all rows. */
static SimilarScore score_query(const float *scores, size_t rows, const int *labels, size_t query,
                                size_t top, Hit *hits) {
    SimilarScore s = {.relevant = 0};
    size_t n = 0;
    for (size_t i = 0; i < rows; i++)
        if (i != query) hits[n++] = (Hit){i, scores[i]};
    qsort(hits, n, sizeof *hits, better_first);
    for (size_t i = 0; i < n; i++) {
        if (labels[hits[i].row] != labels[query]) continue;
        s.relevant++;
        s.average += (double)s.relevant / (double)(i + 1);
        if (i < top) s.precision += 1 / (double)top;
    }
    if (s.relevant) s.average /= (double)s.relevant;
    return s;
}

void similar_scores(const Kernels *k, SimilarScore *out, const Rows *rows, const int *labels,
                    const size_t *queries, size_t n, size_t top) {
    size_t E = rows->dim, N = rows->count, most = size_min(n, size_max(1, SCORES_AT_ONCE / N));
    float *x = xmalloc(size_mul(most, E * sizeof *x));
    ScoreRows b = {xmalloc(size_mul(most, N * sizeof(float))), N};
    for (size_t first = 0; first < n; first += most) {
        size_t m = size_min(most, n - first);
        for (size_t i = 0; i < m; i++)
            rows_load(rows, queries ? queries[first + i] : first + i, 1, x + i * E, E);
        Rows part = rows_of_floats(x, m, E);
        score_tiles_walk(k, &part, rows, &(ScoreTileWalk){NULL, take_tile, &b, NULL});
#pragma omp parallel
        {
            Hit *hits = xmalloc(size_mul(N, sizeof *hits));
#pragma omp for schedule(dynamic)
            for (size_t i = 0; i < m; i++)
                out[first + i] = score_query(b.scores + i * N, N, labels,
                                             queries ? queries[first + i] : first + i, top, hits);
            free(hits);
        }
    }
    FREE_ALL(x, b.scores);
}

SimilarScore similar_chance(size_t others, size_t relevant, size_t top) {
    double N = (double)others, P = (double)relevant, harmonic = 0;
    for (size_t i = 1; i <= others; i++) harmonic += 1 / (double)i;
    /* a relevant row at place i has (i - 1)(P - 1)/(N - 1) relevant ones before it on average */
    double before = others > 1 ? (P - 1) / (N - 1) : 0;
    return (SimilarScore){.precision = P / N * (double)size_min(top, others) / (double)top,
                          .average = (harmonic + before * (N - harmonic)) / N,
                          .relevant = relevant};
}

SimilarMean similar_mean(const double *x, size_t n) {
    double sum = 0, squares = 0;
    for (size_t i = 0; i < n; i++) sum += x[i];
    double mean = sum / (double)n;
    for (size_t i = 0; i < n; i++) squares += (x[i] - mean) * (x[i] - mean);
    return (SimilarMean){mean, n > 1 ? sqrt(squares / (double)(n - 1) / (double)n) : 0};
}
