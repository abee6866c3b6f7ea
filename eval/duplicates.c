#include "eval/duplicates.h"

#include "eval/search.h"
#include "eval/score_tiles.h"

#include <math.h>
#include <stdlib.h>

/* Columns of a tile that are alike a row. */
typedef struct Found {
    uint32_t *list;
    size_t count, capacity;
} Found;

typedef struct Grouping {
    const RowsPart *a, *b; /* of the tiles being walked; a does not come after b */
    float threshold;
    uint32_t *group;
    float *alike;
    size_t pairs;
    Found found[SCORE_TILE_ROWS];
} Grouping;

static bool skipped(const RowsPart *p, size_t i) { return p->skip && bit_of(p->skip, i); }

static void found_add(Found *f, size_t j) {
    if (f->count == f->capacity) {
        f->capacity = size_max(16, 2 * f->capacity);
        f->list = xrealloc(f->list, f->capacity * sizeof *f->list);
    }
    f->list[f->count++] = (uint32_t)j;
}

/* Row i < j. All pairs of i with lower rows have been seen, so a row without a centre is one. */
static void take_pair(Grouping *g, size_t i, size_t j, float score) {
    g->pairs++;
    if (g->group[i] != i || g->group[j] != j) return;
    g->group[j] = (uint32_t)i;
    g->alike[j] = score;
    g->alike[i] = fmaxf(g->alike[i], score);
}

/* If both parts are the same, only scores right of the diagonal are used. */
static bool above_diagonal(void *context, const ScoreTile *t) {
    const Grouping *g = context;
    return g->a != g->b || t->j0 + t->m > t->i0 + 1;
}

/* Tiles come row of tiles by row of tiles: when one comes, all pairs with rows above it, and those
 * left of it, have been taken. */
static void group_tile(void *context, const ScoreTile *t) {
    Grouping *g = context;
#pragma omp parallel for schedule(dynamic, 16)
    for (size_t i = 0; i < t->n; i++) {
        const float *scores = t->scores + i * t->m;
        size_t row = t->i0 + i, from = g->a == g->b && row + 1 > t->j0 ? row + 1 - t->j0 : 0;
        g->found[i].count = 0;
        if (skipped(g->a, row)) continue;
        for (size_t j = from; j < t->m; j++)
            if (scores[j] >= g->threshold && !skipped(g->b, t->j0 + j)) found_add(&g->found[i], j);
    }
    for (size_t i = 0; i < t->n; i++)
        for (size_t f = 0; f < g->found[i].count; f++) {
            size_t j = g->found[i].list[f];
            take_pair(g, g->a->first + t->i0 + i, g->b->first + t->j0 + j, t->scores[i * t->m + j]);
        }
}

size_t duplicates_find(const Kernels *k, const RowsPart *parts, size_t count, double threshold,
                       uint32_t *group, float *alike) {
    Grouping *g = xcalloc(1, sizeof *g);
    *g = (Grouping){.threshold = (float)threshold, .group = group, .alike = alike};
    size_t rows = 0;
    for (size_t p = 0; p < count; p++) rows = size_max(rows, parts[p].first + parts[p].rows->count);
    if (rows > UINT32_MAX) die("%zu rows: at most %u", rows, UINT32_MAX);
    for (size_t i = 0; i < rows; i++) {
        group[i] = (uint32_t)i;
        alike[i] = -INFINITY;
    }
    for (size_t p = 0; p < count; p++) {
        for (size_t q = p; q < count; q++) {
            g->a = &parts[p];
            g->b = &parts[q];
            score_tiles_walk(k, parts[p].rows, parts[q].rows,
                             &(ScoreTileWalk){above_diagonal, group_tile, g, "duplicates"});
        }
    }
    size_t pairs = g->pairs;
    for (size_t i = 0; i < SCORE_TILE_ROWS; i++) free(g->found[i].list);
    free(g);
    return pairs;
}
