#include "eval/search.h"

#include "kernels/cpu_sets.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

/* ---- heaps of the best hits ---- */

/* True: a is a worse hit than b. */
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

/* Keeps the k best of what is pushed. */
static void push(Hit *heap, size_t *n, size_t k, Hit h) {
    if (*n == k) {
        if (!worse(heap[0], h)) return;
        heap[0] = h;
        sift_down(heap, k, 0);
        return;
    }
    size_t i = (*n)++;
    for (; i && worse(h, heap[(i - 1) / 2]); i = (i - 1) / 2) heap[i] = heap[(i - 1) / 2];
    heap[i] = h;
}

static int by_falling_score(const void *a, const void *b) {
    Hit x = *(const Hit *)a, y = *(const Hit *)b;
    return worse(x, y) - worse(y, x);
}

size_t search_top_scores(Hit *hits, size_t k, const float *scores, size_t N) {
    size_t n = 0;
    for (size_t i = 0; k && i < N; i++) push(hits, &n, k, (Hit){i, scores[i]});
    qsort(hits, n, sizeof *hits, by_falling_score);
    return n;
}

/* ---- scores: rows × queries, in vectors; the lanes of every score are added in the same order
 * with every instruction set ---- */

/* AT_ONCE rows and at most TOGETHER queries are multiplied in registers. */
enum { LANES = 16, AT_ONCE = 4, TOGETHER = 4, BLOCK = 64 };
typedef float Vector __attribute__((vector_size(LANES * sizeof(float)), aligned(sizeof(float))));
typedef float Half __attribute__((vector_size(LANES / 2 * sizeof(float)), aligned(sizeof(float))));

static inline float add_lanes(Half low, Half high) {
    Half s = low + high;
    for (int n = LANES / 4; n; n /= 2)
        for (int l = 0; l < n; l++) s[l] += s[l + n];
    return s[0];
}

#if !defined __aarch64__
/* out[AT_ONCE][TOGETHER] of rows and queries at a distance of `stride`, a multiple of LANES. */
__attribute__((target("avx512f"))) static void multiply_wide(float out[AT_ONCE][TOGETHER],
                                                             const float *rows,
                                                             const float *queries, size_t stride) {
    Vector sum[AT_ONCE][TOGETHER] = {{{0}}};
    for (size_t j = 0; j < stride; j += LANES) {
        Vector q[TOGETHER];
        for (size_t b = 0; b < TOGETHER; b++) q[b] = *(const Vector *)(queries + b * stride + j);
        for (size_t a = 0; a < AT_ONCE; a++) {
            Vector r = *(const Vector *)(rows + a * stride + j);
            for (size_t b = 0; b < TOGETHER; b++) sum[a][b] += r * q[b];
        }
    }
    for (size_t a = 0; a < AT_ONCE; a++)
        for (size_t b = 0; b < TOGETHER; b++) {
            const Half *h = (const Half *)&sum[a][b];
            out[a][b] = add_lanes(h[0], h[1]);
        }
}

#endif

/* Of half as many queries, because a vector takes two registers or more. */
static void multiply_narrow(float out[AT_ONCE][TOGETHER], const float *rows, const float *queries,
                            size_t stride) {
    enum { ROWS = 2, QUERIES = TOGETHER / 2 };
    for (size_t first = 0; first < AT_ONCE; first += ROWS) {
        Half low[ROWS][QUERIES] = {{{0}}}, high[ROWS][QUERIES] = {{{0}}};
        for (size_t j = 0; j < stride; j += LANES)
            for (size_t a = 0; a < ROWS; a++) {
                const Half *r = (const Half *)(rows + (first + a) * stride + j);
                for (size_t b = 0; b < QUERIES; b++) {
                    const Half *q = (const Half *)(queries + b * stride + j);
                    low[a][b] += r[0] * q[0];
                    high[a][b] += r[1] * q[1];
                }
            }
        for (size_t a = 0; a < ROWS; a++)
            for (size_t b = 0; b < QUERIES; b++)
                out[first + a][b] = add_lanes(low[a][b], high[a][b]);
    }
}

typedef struct Multiply {
    size_t queries; /* that are multiplied at a time */
    void (*run)(float out[AT_ONCE][TOGETHER], const float *rows, const float *queries,
                size_t stride);
} Multiply;
static const Multiply narrow = {TOGETHER / 2, multiply_narrow};
#if defined __aarch64__
static const Multiply *multiply_of_set(void) { return &narrow; }
#else
static const Multiply wide = {TOGETHER, multiply_wide};
static const Multiply *multiply_of_set(void) { return cpu_set() >= CPU_V4 ? &wide : &narrow; }
#endif

struct Search {
    const Multiply *multiply;
    size_t k, Q, E, padded, stride; /* padded: Q rounded up to multiply->queries */
    float *queries;                 /* [padded,stride] */
    size_t threads;
    Hit *heaps;    /* [threads,Q,k] */
    size_t *held;  /* [threads,Q] */
    float *blocks; /* [threads,BLOCK,stride] */
    float *scores; /* [threads,padded,BLOCK] */
};

Search *search_new(size_t k, const float *queries, size_t Q, size_t E) {
    assert(k && Q && E);
    Search *s = xcalloc(1, sizeof *s);
    s->k = k;
    s->Q = Q;
    s->E = E;
    s->multiply = multiply_of_set();
    s->padded = round_up(Q, s->multiply->queries);
    s->stride = round_up(E, LANES);
    s->queries = xcalloc(size_mul(s->padded, s->stride), sizeof *s->queries);
    for (size_t q = 0; q < Q; q++)
        memcpy(s->queries + q * s->stride, queries + q * E, E * sizeof *queries);
    s->threads = (size_t)omp_get_max_threads();
    s->heaps = xmalloc(size_mul(s->threads * Q, size_mul(k, sizeof *s->heaps)));
    s->held = xcalloc(s->threads * Q, sizeof *s->held);
    s->blocks = xcalloc(size_mul(s->threads * BLOCK, s->stride), sizeof *s->blocks);
    s->scores = xmalloc(size_mul(s->threads * BLOCK, s->padded * sizeof *s->scores));
    return s;
}

/* The block's rows at a distance of `stride`; a multiple of AT_ONCE of them is readable. */
static const float *block_rows(const Search *s, const Rows *r, size_t at, size_t n, float *block) {
    if (r->f32 && !r->scale && r->dim == s->stride && n % AT_ONCE == 0) return r->f32 + at * r->dim;
    rows_load(r, at, n, block, s->stride);
    return block;
}

static void add_block(Search *s, const Rows *r, size_t at, size_t n, size_t first,
                      const uint64_t *skip, size_t thread) {
    float *scores = s->scores + thread * BLOCK * s->padded, out[AT_ONCE][TOGETHER];
    const float *rows = block_rows(s, r, at, n, s->blocks + thread * BLOCK * s->stride);
    const Multiply *m = s->multiply;
    for (size_t q = 0; q < s->padded; q += m->queries) {
        for (size_t i = 0; i < n; i += AT_ONCE) {
            m->run(out, rows + i * s->stride, s->queries + q * s->stride, s->stride);
            for (size_t a = 0; a < AT_ONCE; a++)
                for (size_t b = 0; b < m->queries; b++) scores[(q + b) * BLOCK + i + a] = out[a][b];
        }
    }
    for (size_t q = 0; q < s->Q; q++) {
        Hit *heap = s->heaps + (thread * s->Q + q) * s->k;
        size_t *held = &s->held[thread * s->Q + q];
        for (size_t i = 0; i < n; i++) {
            float score = scores[q * BLOCK + i];
            if (*held == s->k && score < heap[0].score) continue;
            if (skip && bit_of(skip, at + i)) continue;
            push(heap, held, s->k, (Hit){first + at + i, score});
        }
    }
}

void search_add(Search *s, const Rows *r, size_t first, const uint64_t *skip) {
    assert(r->dim == s->E);
#pragma omp parallel for schedule(static) num_threads((int)s->threads)
    for (size_t block = 0; block < div_up(r->count, BLOCK); block++)
        add_block(s, r, block * BLOCK, size_min(BLOCK, r->count - block * BLOCK), first, skip,
                  (size_t)omp_get_thread_num());
}

size_t search_finish(Search *s, Hit *hits) {
    size_t n = 0;
    for (size_t q = 0; q < s->Q; q++) {
        Hit *best = s->heaps + q * s->k;
        n = s->held[q];
        for (size_t t = 1; t < s->threads; t++)
            for (size_t h = 0; h < s->held[t * s->Q + q]; h++)
                push(best, &n, s->k, s->heaps[(t * s->Q + q) * s->k + h]);
        qsort(best, n, sizeof *best, by_falling_score);
        memcpy(hits + q * s->k, best, n * sizeof *best);
    }
    FREE_ALL(s->queries, s->heaps, s->held, s->blocks, s->scores, s);
    return n;
}
