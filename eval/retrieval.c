#include "eval/retrieval.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { QUERY_ROWS = 256 };

void retrieval_ranks(const Kernels *k, size_t *ranks, const float *queries, const float *keys,
                     size_t N, size_t E) {
    acc *q = k->alloc(QUERY_ROWS * E * k->acc_size), *t = k->alloc(size_mul(N * E, k->acc_size));
    acc *scores = k->alloc(size_mul(N * QUERY_ROWS, k->acc_size));
    float *host = xmalloc(size_mul(N, QUERY_ROWS * sizeof *host));
    k->acc_set_f32(t, keys, N * E);
    for (size_t first = 0; first < N; first += QUERY_ROWS) {
        size_t n = size_min(QUERY_ROWS, N - first);
        k->acc_set_f32(q, queries + first * E, n * E);
        k->gemm(scores, N, q, E, false, t, E, true, n, N, E, false);
        k->acc_get_f32(host, scores, n * N);
#pragma omp parallel for
        for (size_t i = 0; i < n; i++) {
            const float *row = host + i * N;
            size_t own = first + i, above = 0;
            float s = row[own];
            for (size_t j = 0; j < N; j++) above += row[j] > s;
            for (size_t j = 0; j < own; j++) above += row[j] == s;
            ranks[own] = above;
        }
    }
    free(host);
    k->release(scores);
    k->release(t);
    k->release(q);
}

static int compare_size(const void *a, const void *b) {
    size_t x = *(const size_t *)a, y = *(const size_t *)b;
    return (x > y) - (x < y);
}

Recall retrieval_recall(const size_t *ranks, size_t N) {
    Recall r = {0};
    if (!N) return r;
    size_t *sorted = xmalloc(N * sizeof *sorted);
    memcpy(sorted, ranks, N * sizeof *sorted);
    qsort(sorted, N, sizeof *sorted, compare_size);
    double sum = 0;
    for (size_t i = 0; i < N; i++) {
        sum += (double)sorted[i];
        r.at1 += sorted[i] < 1;
        r.at5 += sorted[i] < 5;
        r.at10 += sorted[i] < 10;
    }
    double middle =
        N % 2 ? (double)sorted[N / 2] : 0.5 * (double)(sorted[N / 2 - 1] + sorted[N / 2]);
    r.at1 /= (double)N;
    r.at5 /= (double)N;
    r.at10 /= (double)N;
    r.mean_rank = sum / (double)N + 1;
    r.median_rank = floor(middle) + 1;
    free(sorted);
    return r;
}
