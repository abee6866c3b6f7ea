/* score_tiles: the matrix of all scores A·Bᵀ of two sets of features, a tile at a time: memory does
 * not grow with it. */
#pragma once
#include "eval/rows.h"
#include "kernels/kernels.h"

/* Tiles begin at multiples of these. Every walk computes the same product for a tile, so a score
 * always has the same bits. */
enum { SCORE_TILE_ROWS = 2048, SCORE_TILE_COLS = 4096 };

typedef struct ScoreTile {
    size_t i0, n, j0, m; /* rows i0 … i0+n-1 of A, j0 … j0+m-1 of B */
    const float *scores; /* [n,m] */
} ScoreTile;

typedef struct ScoreTileWalk {
    /* Selects tiles; NULL: all. It is called with scores NULL. */
    bool (*wanted)(void *context, const ScoreTile *t);
    void (*visit)(void *context, const ScoreTile *t);
    void *context;
    const char *progress; /* name of the work (data/io/progress.h); NULL: not shown */
} ScoreTileWalk;

/* Between plan_begin and plan_end (kernels/device.h): takes the memory of the largest tile. */
void score_tiles_plan(const Kernels *k, size_t dim);
void score_tiles_walk(const Kernels *k, const Rows *a, const Rows *b, const ScoreTileWalk *w);
