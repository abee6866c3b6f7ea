#include "eval/retrieval.h"

#include "eval/score_tiles.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct Ranking {
    size_t tile_columns;
    const uint32_t *image_of;
    bool *positives;     /* [tiles]: true if a tile holds any */
    float *best;         /* [images]: the best positive's score … */
    uint32_t *best_text; /* … and its index */
    float *own;          /* [texts]: score with the caption's image */
    size_t *to_text, *to_image;
    uint32_t *columns; /* [SCORE_TILE_COLS]: of one tile */
} Ranking;

#define NONE UINT32_MAX

static size_t image_of(const Ranking *r, size_t text) {
    return r->image_of ? r->image_of[text] : text;
}

/* ---- first pass: the positives' scores ---- */

static bool has_positive(void *context, const ScoreTile *t) {
    const Ranking *r = context;
    return r->positives[t->i0 / SCORE_TILE_ROWS * r->tile_columns + t->j0 / SCORE_TILE_COLS];
}

/* Tiles of a row come from left to right: the first of equal scores is kept. */
static void take_positives(void *context, const ScoreTile *t) {
    Ranking *r = context;
    for (size_t j = t->j0; j < t->j0 + t->m; j++) {
        size_t i = image_of(r, j);
        if (i < t->i0 || i >= t->i0 + t->n) continue;
        r->own[j] = t->scores[(i - t->i0) * t->m + (j - t->j0)];
        if (r->best_text[i] != NONE && !(r->own[j] > r->best[i])) continue;
        r->best[i] = r->own[j];
        r->best_text[i] = (uint32_t)j;
    }
}

/* ---- second pass: keys ranked before them ---- */

/* The number of row[0 … m-1] that rank before the row's best positive, which is in column `at` of
 * the tile (or outside, left or right). An equal score ranks before it only if its column is
 * lower. */
static size_t before_best(const float *row, size_t m, float best, ptrdiff_t at) {
    size_t split = at < 0 ? 0 : size_min((size_t)at, m);
    uint32_t count = 0;
    for (size_t j = 0; j < split; j++) count += row[j] >= best;
    for (size_t j = split; j < m; j++) count += row[j] > best;
    return count;
}

enum { STRIP = 512 }; /* columns that a thread counts together: their counters stay in its cache */

static void count_columns(const Ranking *r, const ScoreTile *t, size_t from, size_t to) {
    const float *own = r->own + t->j0;
    uint32_t *count = r->columns, image[STRIP] = {0};
    for (size_t j = from; j < to; j++) {
        count[j] = 0;
        image[j - from] = (uint32_t)image_of(r, t->j0 + j);
    }
    for (size_t i = 0; i < t->n; i++) {
        const float *row = t->scores + i * t->m;
        uint32_t index = (uint32_t)(t->i0 + i);
        for (size_t j = from; j < to; j++)
            count[j] += (row[j] > own[j]) | ((row[j] == own[j]) & (index < image[j - from]));
    }
    for (size_t j = from; j < to; j++) r->to_image[t->j0 + j] += count[j];
}

static void count_before(void *context, const ScoreTile *t) {
    const Ranking *r = context;
#pragma omp parallel
    {
        if (r->to_text) {
#pragma omp for nowait
            for (size_t i = 0; i < t->n; i++) {
                size_t image = t->i0 + i;
                r->to_text[image] += before_best(t->scores + i * t->m, t->m, r->best[image],
                                                 (ptrdiff_t)r->best_text[image] - (ptrdiff_t)t->j0);
            }
        }
        if (r->to_image) {
#pragma omp for
            for (size_t s = 0; s < div_up(t->m, STRIP); s++)
                count_columns(r, t, s * STRIP, size_min((s + 1) * STRIP, t->m));
        }
    }
}

void retrieval_ranks_of(const Kernels *k, size_t *to_text, size_t *to_image, const Rows *images,
                        const Rows *texts, const uint32_t *image_of_text, bool progress) {
    size_t N = images->count, M = texts->count;
    assert(image_of_text || N == M);
    if (M >= NONE) die("%zu captions: at most %u", M, NONE - 1);
    Ranking r = {.tile_columns = div_up(M, SCORE_TILE_COLS)};
    r.image_of = image_of_text;
    r.to_text = to_text;
    r.to_image = to_image;
    r.positives = xcalloc(div_up(N, SCORE_TILE_ROWS) * r.tile_columns + 1, sizeof *r.positives);
    r.best = xcalloc(N + 1, sizeof *r.best);
    r.best_text = xcalloc(N + 1, sizeof *r.best_text);
    r.own = xcalloc(M + 1, sizeof *r.own);
    r.columns = xcalloc(SCORE_TILE_COLS, sizeof *r.columns);
    if (to_text) memset(to_text, 0, N * sizeof *to_text);
    if (to_image) memset(to_image, 0, M * sizeof *to_image);
    for (size_t i = 0; i < N; i++) r.best_text[i] = NONE;
    for (size_t j = 0; j < M; j++) {
        assert(image_of(&r, j) < N);
        r.positives[image_of(&r, j) / SCORE_TILE_ROWS * r.tile_columns + j / SCORE_TILE_COLS] =
            true;
    }
    score_tiles_walk(k, images, texts, &(ScoreTileWalk){has_positive, take_positives, &r, NULL});
    score_tiles_walk(k, images, texts,
                     &(ScoreTileWalk){NULL, count_before, &r, progress ? "ranks" : NULL});
    FREE_ALL(r.positives, r.best, r.best_text, r.own, r.columns);
}

void retrieval_ranks(const Kernels *k, size_t *ranks, const float *queries, const float *keys,
                     size_t N, size_t E) {
    Rows q = rows_of_floats(queries, N, E), t = rows_of_floats(keys, N, E);
    retrieval_ranks_of(k, ranks, NULL, &q, &t, NULL, false);
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
