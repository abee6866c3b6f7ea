#include "eval/score_tiles.h"

#include "data/io/progress.h"

#include <stdlib.h>

/* Rows of a set on the device; a block that is already there is not sent again. */
typedef struct RowBlock {
    const Rows *rows;
    size_t size, first; /* rows; first SIZE_MAX: empty */
    float *host;
    acc *device;
} RowBlock;

static RowBlock block_new(const Kernels *k, const Rows *r, size_t most) {
    RowBlock b = {.rows = r, .size = size_min(most, r->count), .first = SIZE_MAX};
    b.host = xmalloc(size_mul(b.size, r->dim * sizeof *b.host));
    b.device = k->device->alloc(size_mul(b.size, r->dim * k->acc_size));
    return b;
}

static void block_load(RowBlock *b, const Kernels *k, size_t first) {
    size_t n = size_min(b->size, b->rows->count - first);
    if (b->first == first) return;
    rows_load(b->rows, first, n, b->host, b->rows->dim);
    k->acc_set_f32(b->device, b->host, n * b->rows->dim);
    b->first = first;
}

static void block_free(RowBlock *b, const Kernels *k) {
    k->device->release(b->device);
    free(b->host);
}

void score_tiles_plan(const Kernels *k, size_t dim) {
    acc *rows = k->device->alloc(size_mul(SCORE_TILE_ROWS * dim, k->acc_size));
    acc *cols = k->device->alloc(size_mul(SCORE_TILE_COLS * dim, k->acc_size));
    acc *product = k->device->alloc(SCORE_TILE_ROWS * SCORE_TILE_COLS * k->acc_size);
    k->gemm(product, SCORE_TILE_COLS, rows, dim, false, cols, dim, true, SCORE_TILE_ROWS,
            SCORE_TILE_COLS, dim, false);
    k->device->release(product);
    k->device->release(cols);
    k->device->release(rows);
}

void score_tiles_walk(const Kernels *k, const Rows *a, const Rows *b, const ScoreTileWalk *w) {
    assert(a->dim == b->dim);
    if (!a->count || !b->count) return;
    size_t E = a->dim,
           size = size_min(SCORE_TILE_ROWS, a->count) * size_min(SCORE_TILE_COLS, b->count);
    RowBlock rows = block_new(k, a, SCORE_TILE_ROWS), cols = block_new(k, b, SCORE_TILE_COLS);
    acc *product = k->device->alloc(size_mul(size, k->acc_size));
    float *scores = xmalloc(size_mul(size, sizeof *scores));
    Progress progress = progress_start(w->progress);
    for (size_t i0 = 0; i0 < a->count; i0 += SCORE_TILE_ROWS) {
        for (size_t j0 = 0; j0 < b->count; j0 += SCORE_TILE_COLS) {
            ScoreTile t = {i0, size_min(SCORE_TILE_ROWS, a->count - i0), j0,
                           size_min(SCORE_TILE_COLS, b->count - j0), NULL};
            if (w->wanted && !w->wanted(w->context, &t)) continue;
            block_load(&rows, k, i0);
            block_load(&cols, k, j0);
            k->gemm(product, t.m, rows.device, E, false, cols.device, E, true, t.n, t.m, E, false);
            k->acc_get_f32(scores, product, t.n * t.m);
            t.scores = scores;
            w->visit(w->context, &t);
            progress_show(&progress, i0 * b->count + t.n * (j0 + t.m), a->count * b->count, "");
        }
    }
    progress_end(&progress);
    free(scores);
    k->device->release(product);
    block_free(&cols, k);
    block_free(&rows, k);
}
