#include "eval/search.h"

#include <stdlib.h>

/* a is a worse hit than b. */
static bool worse(Hit a, Hit b) {
    return a.score < b.score || (a.score == b.score && a.row > b.row);
}

/* A heap whose root is the worst hit kept. */
static void sift_down(Hit *heap, size_t n, size_t i) {
    for (;;) {
        size_t least = i, l = 2 * i + 1, r = l + 1;
        if (l < n && worse(heap[l], heap[least])) least = l;
        if (r < n && worse(heap[r], heap[least])) least = r;
        if (least == i) return;
        Hit t = heap[i];
        heap[i] = heap[least];
        heap[least] = t;
        i = least;
    }
}

static int by_falling_score(const void *a, const void *b) {
    Hit x = *(const Hit *)a, y = *(const Hit *)b;
    return worse(x, y) - worse(y, x);
}

size_t search_top_scores(Hit *hits, size_t k, const float *scores, size_t N) {
    size_t n = size_min(k, N);
    for (size_t i = 0; i < n; i++) hits[i] = (Hit){i, scores[i]};
    for (size_t i = n / 2; i-- > 0;) sift_down(hits, n, i);
    for (size_t i = n; n && i < N; i++) {
        Hit h = {i, scores[i]};
        if (!worse(hits[0], h)) continue;
        hits[0] = h;
        sift_down(hits, n, 0);
    }
    qsort(hits, n, sizeof *hits, by_falling_score);
    return n;
}

size_t search_top(Hit *hits, size_t k, const float *query, const float *collection, size_t N,
                  size_t E) {
    float *scores = xmalloc(size_mul(N, sizeof *scores));
#pragma omp parallel for
    for (size_t i = 0; i < N; i++) {
        const float *row = collection + i * E;
        float lanes[16] = {0},
              sum =
                  0; /* sixteen partial sums: vectorises without changing the order of additions */
        size_t j = 0;
        for (; j + 16 <= E; j += 16)
            for (size_t l = 0; l < 16; l++) lanes[l] += row[j + l] * query[j + l];
        for (; j < E; j++) sum += row[j] * query[j];
        for (size_t l = 0; l < 16; l++) sum += lanes[l];
        scores[i] = sum;
    }
    size_t n = search_top_scores(hits, k, scores, N);
    free(scores);
    return n;
}
