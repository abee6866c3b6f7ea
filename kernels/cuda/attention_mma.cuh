/* attention_mma: shared by the tensor-core kernels of attention: tiles in shared memory, their
 * fragments, spans of keys. Private to kernels/cuda/attention_mma_*.cu.
 *
 * KD: steps of 16 elements that cover the head width; elements beyond the width are 0. A warp owns
 * 16 rows of a tile (in the forward MB times 16). Scores are kept in units of log 2: exp(s·scale -
 * lse) = 2^(s·scale_log2 - lse·log2 e). */
#pragma once
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/row_tiles.cuh"

enum { TILE = 64, THREADS = 128, SUB = 16 };
#define LOG2_E 1.44269504f

/* Elements from one row of a tile to the next. Rows start in different banks, so that the eight
 * rows of an 8 × 8 tile are read together. */
template <int KD> __host__ __device__ constexpr int tile_ld(void) { return 16 * KD + 8; }
template <int KD> __host__ __device__ constexpr size_t tile_bytes(int rows) {
    return (size_t)rows * tile_ld<KD>() * sizeof(elem);
}

/* Starts to load SIZE rows from `first` on; `from` is row 0. Rows from `end` on and elements from D
 * on are zeros, and their addresses are never read. The loop is not unrolled, because its addresses
 * would take the registers that the products need. */
template <int KD, int SIZE>
__device__ static __forceinline__ void tile_load(elem *tile, const act *from, unsigned stride,
                                                 int first, int end, int D) {
    constexpr int PIECES = 2 * KD, STEP = THREADS / PIECES;
    if (THREADS % PIECES == 0) {
        int piece = threadIdx.x % PIECES * 8, r = threadIdx.x / PIECES;
        int left = piece < D ? end - first - r : 0;
        const act *source = from + (size_t)(unsigned)(first + r) * stride + piece;
        elem *to = tile + r * tile_ld<KD>() + piece;
#pragma unroll 1
        for (int at = 0; at < SIZE; at += STEP) {
            cp_async_16(to, source, left > at);
            source += (size_t)STEP * stride;
            to += STEP * tile_ld<KD>();
        }
    } else {
#pragma unroll 1
        for (int i = threadIdx.x; i < SIZE * PIECES; i += THREADS) {
            int r = i / PIECES, piece = i % PIECES * 8;
            cp_async_16(tile + r * tile_ld<KD>() + piece,
                        from + (size_t)(unsigned)(first + r) * stride + piece,
                        first + r < end && piece < D);
        }
    }
}

/* The left operand: 16 rows from `rows` on, elements 16·kd … */
template <int KD>
__device__ static __forceinline__ void left_fragment(unsigned a[4], const elem *rows, int kd) {
    int lane = threadIdx.x % WARP;
    ldmatrix_x4(a, rows + lane % 16 * tile_ld<KD>() + 16 * kd + lane / 16 * 8);
}
/* The right operand of x·yᵀ: b[0], b[1] for rows 0-7 of the 16 rows of y, b[2], b[3] for 8-15. */
template <int KD>
__device__ static __forceinline__ void right_rows(unsigned b[4], const elem *rows, int kd) {
    int lane = threadIdx.x % WARP;
    ldmatrix_x4(b, rows + (lane / 16 * 8 + lane % 8) * tile_ld<KD>() + 16 * kd + lane / 8 % 2 * 8);
}
/* The right operand of p·y, p over the 16 rows of y: b[0], b[1] for elements 16·kd … 16·kd+7 of y,
 * b[2], b[3] for the next 8. */
template <int KD>
__device__ static __forceinline__ void right_columns(unsigned b[4], const elem *rows, int kd) {
    int lane = threadIdx.x % WARP;
    ldmatrix_x4_trans(b, rows + lane % 16 * tile_ld<KD>() + 16 * kd + lane / 16 * 8);
}
/* Adds a·b to two neighbouring 16 × 8 results, or starts their sums. */
__device__ static __forceinline__ void mma_both(float x[2][4], const unsigned a[4],
                                                const unsigned b[4], bool first) {
    if (first) {
        mma_bf16_first(x[0], a, b[0], b[1]);
        mma_bf16_first(x[1], a, b[2], b[3]);
    } else {
        mma_bf16(x[0], a, b[0], b[1]);
        mma_bf16(x[1], a, b[2], b[3]);
    }
}
/* Two neighbouring 16 × 8 results as the left operand of a product. */
__device__ static __forceinline__ void as_left(unsigned a[4], const float x[2][4]) {
    a[0] = bf16x2_from(x[0][0], x[0][1]);
    a[1] = bf16x2_from(x[0][2], x[0][3]);
    a[2] = bf16x2_from(x[1][0], x[1][1]);
    a[3] = bf16x2_from(x[1][2], x[1][3]);
}

/* Writes this warp's 16 result rows, times the scales of the lane's two rows, to rows first … end-1
 * in 16-byte pieces. They pass through `rows` of shared memory, which no other warp uses at that
 * point. */
template <int KD>
__device__ static inline void rows_store(act *to, unsigned stride, elem *rows,
                                         const float x[2 * KD][4], float scale0, float scale1,
                                         int first, int end, int D) {
    int lane = threadIdx.x % WARP, r = lane / 4, c = lane % 4 * 2;
    __syncwarp();
#pragma unroll
    for (int n = 0; n < 2 * KD; n++) {
        unsigned *at = (unsigned *)(rows + r * tile_ld<KD>() + 8 * n + c);
        at[0] = bf16x2_from(x[n][0] * scale0, x[n][1] * scale0);
        at[8 * tile_ld<KD>() / 2] = bf16x2_from(x[n][2] * scale1, x[n][3] * scale1);
    }
    __syncwarp();
    constexpr int PIECES = 2 * KD;
#pragma unroll
    for (int at = 0; at < 16 * PIECES; at += WARP) {
        int i = at + lane, piece = i % PIECES, row = first + i / PIECES;
        if (row < end && piece * 8 < D)
            *(uint4 *)(to + (size_t)(unsigned)row * stride + piece * 8) =
                *(const uint4 *)(rows + i / PIECES * tile_ld<KD>() + piece * 8);
    }
}

/* ---- spans ---- */

/* The keys that some row, and that all rows, of one warp may attend to. */
typedef struct WarpSpan {
    int any_lo, any_hi, all_lo, all_hi;
} WarpSpan;

__device__ static inline WarpSpan warp_span(const Tiles *t, const TileRows *own, int first,
                                            int size) {
    WarpSpan s = {0, 0, 0, 0};
    if (first >= own->end) return s;
    int2 a = row_span(t, own, first);
    int2 b = row_span(t, own, min(own->end, first + size) - 1);
    s.any_lo = a.x, s.all_hi = a.y;
    s.all_lo = b.x, s.any_hi = b.y;
    return s;
}

/* Sets the scores of 16 × 16 (rows of the lane: span0, span1) to -inf if the key is not in the
 * row's span. */
__device__ static __forceinline__ void mask_keys(float s[2][4], int key, int2 span0, int2 span1) {
    int c = key + threadIdx.x % 4 * 2;
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            int k = c + 8 * n + e;
            if (k < span0.x || k >= span0.y) s[n][e] = -INFINITY;
            if (k < span1.x || k >= span1.y) s[n][2 + e] = -INFINITY;
        }
}
