/* tiles: the matrix of all scores A·Bᵀ of two sets of features, a tile at a time: memory does not
 * grow with it. Called by retrieval and duplicates. */
#ifndef EVAL_TILES_H
#define EVAL_TILES_H
#include "eval/rows.h"
#include "kernels/kernels.h"

/* Tiles begin at multiples of these; every walk makes the same product of a tile, so a score has
 * the same bits whenever it is seen. */
enum { TILE_ROWS = 2048, TILE_COLS = 4096 };

typedef struct Tile {
    size_t i0, n, j0, m; /* rows i0 … i0+n-1 of A, j0 … j0+m-1 of B */
    const float *scores; /* [n,m] */
} Tile;

typedef struct TileWalk {
    /* NULL: all of them. Of a tile that is asked about, scores are NULL. */
    bool (*wanted)(void *context, const Tile *t);
    void (*visit)(void *context, const Tile *t);
    void *context;
    const char *progress; /* what to call it in a line on stderr every half minute; NULL: none */
} TileWalk;

/* Between plan_begin and plan_end (kernels.h): goes through what a walk takes, at most. */
void tiles_plan(const Kernels *k, size_t dim);
void tiles_walk(const Kernels *k, const Rows *a, const Rows *b, const TileWalk *w);
#endif
