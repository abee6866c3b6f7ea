/* row_tiles: assigns attention's rows to blocks. Private to kernels/cuda/attention*.cu.
 *
 * A block has the queries (or, in the backward's second half, the keys) of one tile of rows and one
 * head. If sequences are long, a tile is inside one sequence. If they are short, tiles are cut from
 * the packed rows across sequence borders, so that several sequences share a block. In both cases a
 * query may attend to the keys lo <= key < hi of its span, and lo and hi never decrease from one
 * row to the next. */
#pragma once
#include "kernels/cuda/cuda.cuh"

typedef struct Tiles {
    const int32_t *start;
    const int2 *span; /* [rows] first row and end of each row's sequence; NULL: a tile is inside one
                         sequence */
    int per_sequence; /* tiles of the longest sequence, if span is NULL */
    int rows, H, D;
    bool causal;
} Tiles;

/* A block's rows, and their sequence if a tile is inside one. */
typedef struct TileRows {
    int first, end, lo, hi;
} TileRows;

/* false: the block has no rows. */
__device__ static inline bool tile_rows(TileRows *own, const Tiles *t, int size) {
    if (t->span) {
        own->first = blockIdx.x * size;
        own->hi = t->rows;
        own->lo = 0;
    } else {
        int b = blockIdx.x / t->per_sequence;
        own->lo = t->start[b];
        own->hi = t->start[b + 1];
        own->first = own->lo + blockIdx.x % t->per_sequence * size;
    }
    own->end = min(own->hi, own->first + size);
    return own->first < own->end;
}

/* The keys that query `row` may attend to. */
__device__ static inline int2 row_span(const Tiles *t, const TileRows *own, int row) {
    int2 s = t->span ? t->span[row] : make_int2(own->lo, own->hi);
    if (t->causal) s.y = row + 1;
    return s;
}
/* The end of the sequence of `row`. */
__device__ static inline int row_end(const Tiles *t, const TileRows *own, int row) {
    return t->span ? t->span[row].y : own->hi;
}

/* Sequences of fewer rows than this share tiles. */
#define SHARE_BELOW 33

/* Host code: parameters of a launch. */
extern "C" {
Tiles FN(tiles_of)(const int32_t *start, size_t B, size_t rows, size_t H, size_t D, bool causal);
/* For tiles of `size` rows: sets per_sequence and returns the grid. */
dim3 FN(tiles_grid)(Tiles *t, size_t B, size_t max_T, int size);

/* Any width up to 128 and any address, on the ordinary float units. delta[H,rows]: scratch. */
void FN(attention_plain_fwd)(act *o, acc *lse, const act *qkv, Tiles t, size_t B, size_t max_T);
void FN(attention_plain_bwd)(act *dqkv, float *delta, const act *dout, const act *o, const acc *lse,
                             const act *qkv, Tiles t, size_t B, size_t max_T);
#if defined ACT_BF16
/* Widths that are multiples of 8, aligned rows, on the tensor cores. */
void FN(attention_mma_fwd)(act *o, acc *lse, const act *qkv, Tiles t, size_t B, size_t max_T);
/* False: a block of this device has too little shared memory, and nothing is done. */
bool FN(attention_mma_bwd)(act *dqkv, float *delta, const act *dout, const act *o, const acc *lse,
                           const act *qkv, Tiles t, size_t B, size_t max_T);
#endif
}
