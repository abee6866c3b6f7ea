#include "eval/duplicates.h"

#include "eval/search.h"
#include "eval/score_tiles.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>

typedef struct Linking {
    const RowsPart *a, *b; /* of the tiles being walked; a does not come after b */
    float threshold;
    uint32_t *group; /* a forest: group[i] <= i, roots point to themselves */
    float *alike;
    size_t pairs;
    uint32_t *found; /* [threads,SCORE_TILE_COLS] */
} Linking;

static bool skipped(const RowsPart *p, size_t i) { return p->skip && bit_of(p->skip, i); }

static uint32_t root_of(uint32_t *group, uint32_t i) {
    while (group[i] != i) i = group[i] = group[group[i]];
    return i;
}

/* The lower root becomes the root of both, so that the groups do not depend on the order. */
static void link_rows(Linking *l, size_t i, size_t j, float score) {
    uint32_t a = root_of(l->group, (uint32_t)i), b = root_of(l->group, (uint32_t)j);
    if (a < b)
        l->group[b] = a;
    else
        l->group[a] = b;
    l->alike[i] = fmaxf(l->alike[i], score);
    l->alike[j] = fmaxf(l->alike[j], score);
    l->pairs++;
}

/* If both parts are the same, only scores right of the diagonal are used. */
static bool above_diagonal(void *context, const ScoreTile *t) {
    const Linking *l = context;
    return l->a != l->b || t->j0 + t->m > t->i0 + 1;
}

static void link_tile(void *context, const ScoreTile *t) {
    Linking *l = context;
#pragma omp parallel for schedule(dynamic, 16)
    for (size_t i = 0; i < t->n; i++) {
        const float *scores = t->scores + i * t->m;
        uint32_t *found = l->found + (size_t)omp_get_thread_num() * SCORE_TILE_COLS;
        size_t row = t->i0 + i, n = 0;
        size_t from = l->a == l->b && row + 1 > t->j0 ? row + 1 - t->j0 : 0;
        for (size_t j = from; j < t->m; j++) {
            found[n] = (uint32_t)j;
            n += scores[j] >= l->threshold;
        }
        if (!n || skipped(l->a, row)) continue;
#pragma omp critical
        for (size_t f = 0; f < n; f++)
            if (!skipped(l->b, t->j0 + found[f]))
                link_rows(l, l->a->first + row, l->b->first + t->j0 + found[f], scores[found[f]]);
    }
}

size_t duplicates_find(const Kernels *k, const RowsPart *parts, size_t count, double threshold,
                       uint32_t *group, float *alike) {
    Linking l = {.threshold = (float)threshold, .group = group, .alike = alike};
    l.found = xmalloc((size_t)omp_get_max_threads() * SCORE_TILE_COLS * sizeof *l.found);
    size_t rows = 0;
    for (size_t p = 0; p < count; p++) rows = size_max(rows, parts[p].first + parts[p].rows->count);
    if (rows > UINT32_MAX) die("%zu rows: at most %u", rows, UINT32_MAX);
    for (size_t i = 0; i < rows; i++) {
        group[i] = (uint32_t)i;
        alike[i] = -INFINITY;
    }
    for (size_t p = 0; p < count; p++) {
        for (size_t q = p; q < count; q++) {
            l.a = &parts[p];
            l.b = &parts[q];
            score_tiles_walk(k, parts[p].rows, parts[q].rows,
                             &(ScoreTileWalk){above_diagonal, link_tile, &l, "duplicates"});
        }
    }
    for (size_t i = 0; i < rows; i++) group[i] = root_of(group, (uint32_t)i);
    free(l.found);
    return l.pairs;
}
