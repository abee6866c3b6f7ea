/* cuda/pointwise: activations, sums, gathers and means of rows. */
#include "kernels/cuda/cuda.cuh"

/* Thread t of all has VW columns from `col` on of row `row`; a row is cut into div_up(C, VW). */
__device__ static inline bool row_piece(size_t rows, size_t C, size_t *row, size_t *col) {
    size_t pieces = (C + VW - 1) / VW, t = thread_index();
    *row = t / pieces;
    *col = t % pieces * VW;
    return *row < rows;
}
static size_t row_blocks(size_t rows, size_t C) {
    return div_up(rows * div_up(C, (size_t)VW), BLOCK);
}

/* ---- activations ---- */

/* GELU's cumulative distribution, from density = exp(-x²/2): Abramowitz and Stegun 7.1.26, in error
 * by 1e-7, which bf16 has too few digits to show. */
__device__ static inline float normal_cdf(float x, float density) {
    float t = __fdividef(1, 1 + 0.231641888f * fabsf(x)); /* 0.3275911/√2 */
    float p =
        t * (0.127414796f +
             t * (-0.142248368f + t * (0.710706871f + t * (-0.726576013f + t * 0.530702714f))));
    float tail = p * density;
    return x < 0 ? tail : 1 - tail;
}

/* f(x) and f'(x). QuickGELU and GELU by tanh are x·σ(u), since ½(1 + tanh(u/2)) = σ(u); w =
 * x·u'(x). The cube of a large x would overflow: at |x| = 12 σ is 0 or 1 already. */
__device__ static inline float activation(float x, Activation f, float *slope) {
    if (f != ACTIVATION_GELU) {
        float u = 1.702f * x, w = u;
        if (f == ACTIVATION_GELU_TANH) {
            float v = fmaxf(-12, fminf(12, x)), k = 1.59576912f * v; /* 2√(2/π) */
            float cube = 0.044715f * v * v;
            u = k * (1 + cube);
            w = k * (1 + 3 * cube);
        }
        float e = __expf(-u), s = 1 / (1 + e);
        /* w is up to 10 times as large by tanh: beside it 1 - s is too coarse */
        float rest = f == ACTIVATION_GELU_TANH && u > 0 ? e * s : 1 - s;
        *slope = s + w * s * rest;
        return x * s;
    }
    const float root_half = 0.707106781f, root_2pi = 0.398942280f; /* 1/√2, 1/√(2π) */
    float density = __expf(-0.5f * x * x);
    float cdf = sizeof(act) == 2 ? normal_cdf(x, density) : 0.5f * erfcf(-x * root_half);
    *slope = cdf + x * root_2pi * density;
    return x * cdf;
}

__global__ static void activate(act *y, const act *x, size_t n, Activation f, bool wide) {
    size_t i = thread_index() * VW;
    if (i >= n) return;
    float v[VW], slope;
    act_load(v, x + i, n - i, wide);
#pragma unroll
    for (int j = 0; j < VW; j++) v[j] = activation(v[j], f, &slope);
    act_store(y + i, v, n - i, wide);
}

void FN(activate)(act *y, const act *x, size_t n, Activation f) {
    LAUNCH(activate, blocks_of(n), BLOCK, 0, y, x, n, f, aligned16(y) && aligned16(x));
}

void FN(activation_fwd)(act *y, const act *x, size_t n, Activation f) {
    GPU_TIMER(activation_fwd, 20 * n, 2 * n * sizeof(act));
    if (n) FN(activate)(y, x, n, f);
}

/* A block has WARP·VW columns of a chunk of the rows; parts: its sums of dx, or NULL. */
__global__ static void __launch_bounds__(WARP *COLUMN_TEAMS)
    activation_bwd(act *dx, act *y, float *parts, const act *dy, const act *x, size_t rows,
                   size_t C, size_t rows_chunk, Activation f, bool wide) {
    size_t col = columns_first(), end = min(rows, (blockIdx.y + 1) * rows_chunk);
    float sum[VW] = {0};
    for (size_t m = blockIdx.y * rows_chunk + threadIdx.x / WARP; m < end && col < C;
         m += COLUMN_TEAMS) {
        float v[VW], d[VW], slope;
        size_t i = m * C + col;
        act_load(v, x + i, C - col, wide);
        act_load(d, dy + i, C - col, wide);
#pragma unroll
        for (int j = 0; j < VW; j++) {
            v[j] = activation(v[j], f, &slope);
            d[j] *= slope;
            sum[j] += act_round(d[j]);
        }
        act_store(dx + i, d, C - col, wide);
        act_store(y + i, v, C - col, wide);
    }
    if (parts) columns_store(parts, sum, C);
}

void FN(activation_bwd)(act *dx, act *y, acc *db, const act *dy, const act *x, size_t rows,
                        size_t C, Activation f) {
    GPU_TIMER(activation_bwd, 20 * rows * C, 4 * rows * C * sizeof(act));
    if (!rows || !C) return;
    bool wide = C % VW == 0 && aligned16(dx) && aligned16(y) && aligned16(dy) && aligned16(x);
    Columns c = FN(columns)(rows, C, 1);
    LAUNCH_GRID(activation_bwd, c.grid, WARP * COLUMN_TEAMS, 0, dx, y, db ? c.parts : NULL, dy, x,
                rows, C, c.rows_chunk, f, wide);
    if (db) FN(add_partials)(db, c.parts, c.chunks, C);
}

/* A thread has VW columns of a row of F outputs. */
__global__ static void swiglu_fwd(act *y, const act *x, size_t rows, size_t F, bool wide) {
    size_t row, f;
    if (!row_piece(rows, F, &row, &f)) return;
    float g[VW], v[VW];
    act_load(g, x + row * 2 * F + f, F - f, wide);
    act_load(v, x + row * 2 * F + F + f, F - f, wide);
#pragma unroll
    for (int j = 0; j < VW; j++) v[j] *= g[j] / (1 + __expf(-g[j]));
    act_store(y + row * F + f, v, F - f, wide);
}

void FN(swiglu_fwd)(act *y, const act *x, size_t rows, size_t F) {
    GPU_TIMER(swiglu_fwd, 20 * rows * F, 3 * rows * F * sizeof(act));
    bool wide = F % VW == 0 && aligned16(y) && aligned16(x);
    LAUNCH(swiglu_fwd, row_blocks(rows, F), BLOCK, 0, y, x, rows, F, wide);
}

__global__ static void swiglu_bwd(act *dx, const act *dy, const act *x, size_t rows, size_t F,
                                  bool wide) {
    size_t row, f;
    if (!row_piece(rows, F, &row, &f)) return;
    size_t gate = row * 2 * F + f;
    float g[VW], v[VW], d[VW];
    act_load(g, x + gate, F - f, wide);
    act_load(v, x + gate + F, F - f, wide);
    act_load(d, dy + row * F + f, F - f, wide);
#pragma unroll
    for (int j = 0; j < VW; j++) {
        float s = 1 / (1 + __expf(-g[j])), silu = g[j] * s;
        /* e·s for 1 - s would be ∞·0 far below 0 */
        v[j] *= d[j] * (s + silu * (1 - s));
        d[j] *= silu;
    }
    act_store(dx + gate, v, F - f, wide);
    act_store(dx + gate + F, d, F - f, wide);
}

void FN(swiglu_bwd)(act *dx, const act *dy, const act *x, size_t rows, size_t F) {
    GPU_TIMER(swiglu_bwd, 25 * rows * F, 5 * rows * F * sizeof(act));
    bool wide = F % VW == 0 && aligned16(dx) && aligned16(dy) && aligned16(x);
    LAUNCH(swiglu_bwd, row_blocks(rows, F), BLOCK, 0, dx, dy, x, rows, F, wide);
}

/* ---- sums and rows ---- */

void FN(bias_bwd)(acc *db, const act *dy, size_t M, size_t N) {
    GPU_TIMER(bias_bwd, M * N, M * N * sizeof(act));
    FN(add_columns)(db, dy, N, M, N);
}

__global__ static void add(act *y, const act *a, const act *b, size_t n, bool wide) {
    size_t i = thread_index() * VW;
    if (i >= n) return;
    float u[VW], v[VW];
    act_load(u, a + i, n - i, wide);
    act_load(v, b + i, n - i, wide);
#pragma unroll
    for (int j = 0; j < VW; j++) u[j] += v[j];
    act_store(y + i, u, n - i, wide);
}

void FN(add)(act *y, const act *a, const act *b, size_t n) {
    GPU_TIMER(add, n, 3 * n * sizeof(act));
    LAUNCH(add, blocks_of(n), BLOCK, 0, y, a, b, n, aligned16(y) && aligned16(a) && aligned16(b));
}

__global__ static void gather_rows(act *y, const act *x, const int32_t *idx, size_t n, size_t C,
                                   bool wide) {
    size_t i, c;
    if (!row_piece(n, C, &i, &c)) return;
    float v[VW];
    act_load(v, x + (size_t)idx[i] * C + c, C - c, wide);
    act_store(y + i * C + c, v, C - c, wide);
}

void FN(gather_rows)(act *y, const act *x, const int32_t *idx, size_t n, size_t C) {
    GPU_TIMER(gather_rows, 0, n * C * 2 * sizeof(act));
    bool wide = aligned16(y) && aligned16(x) && C % VW == 0;
    LAUNCH(gather_rows, row_blocks(n, C), BLOCK, 0, y, x, idx, n, C, wide);
}

__global__ static void scatter_add_rows(act *y, const act *x, const int32_t *idx, size_t n,
                                        size_t C, bool wide) {
    size_t i, c;
    if (!row_piece(n, C, &i, &c)) return;
    float v[VW], u[VW];
    act *into = y + (size_t)idx[i] * C + c;
    act_load(v, x + i * C + c, C - c, wide);
    act_load(u, into, C - c, wide);
#pragma unroll
    for (int j = 0; j < VW; j++) u[j] += v[j];
    act_store(into, u, C - c, wide);
}

void FN(scatter_add_rows)(act *y, const act *x, const int32_t *idx, size_t n, size_t C) {
    GPU_TIMER(scatter_add_rows, n * C, n * C * 3 * sizeof(act));
    bool wide = aligned16(y) && aligned16(x) && C % VW == 0;
    LAUNCH(scatter_add_rows, row_blocks(n, C), BLOCK, 0, y, x, idx, n, C, wide);
}

__global__ static void mean_pool_fwd(act *y, const act *x, const int32_t *start, size_t B,
                                     size_t skip, size_t C, bool wide) {
    size_t b, c;
    if (!row_piece(B, C, &b, &c)) return;
    size_t first = start[b] + skip, end = start[b + 1];
    float sum[VW] = {0};
#pragma unroll 4
    for (size_t row = first; row < end; row++) {
        float v[VW];
        act_load(v, x + row * C + c, C - c, wide);
#pragma unroll
        for (int j = 0; j < VW; j++) sum[j] += v[j];
    }
#pragma unroll
    for (int j = 0; j < VW; j++) sum[j] /= (float)(end - first);
    act_store(y + b * C + c, sum, C - c, wide);
}

void FN(mean_pool_fwd)(act *y, const act *x, const int32_t *start, size_t B, size_t skip,
                       size_t C) {
    GPU_TIMER(mean_pool_fwd, 0, 0); /* only the device knows the number of rows */
    bool wide = aligned16(y) && aligned16(x) && C % VW == 0;
    LAUNCH(mean_pool_fwd, row_blocks(B, C), BLOCK, 0, y, x, start, B, skip, C, wide);
}

/* A block a sequence. */
__global__ static void mean_pool_bwd(act *dx, const act *dy, const int32_t *start, size_t skip,
                                     size_t C, bool wide) {
    size_t b = blockIdx.x, first = start[b], end = start[b + 1];
    size_t pieces = (C + VW - 1) / VW, all = (end - first) * pieces;
    float share = 1.0f / (float)(end - first - skip);
    for (size_t t = threadIdx.x; t < all; t += blockDim.x) {
        size_t row = first + t / pieces, c = t % pieces * VW;
        float v[VW];
        act_load(v, dy + b * C + c, C - c, wide);
#pragma unroll
        for (int j = 0; j < VW; j++) v[j] = row < first + skip ? 0 : v[j] * share;
        act_store(dx + row * C + c, v, C - c, wide);
    }
}

void FN(mean_pool_bwd)(act *dx, const act *dy, const int32_t *start, size_t B, size_t skip,
                       size_t C) {
    GPU_TIMER(mean_pool_bwd, 0, 0);
    bool wide = aligned16(dx) && aligned16(dy) && C % VW == 0;
    LAUNCH(mean_pool_bwd, B, BLOCK, 0, dx, dy, start, skip, C, wide);
}
