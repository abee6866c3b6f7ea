/* cuda/mem: conversions, sums of partial sums, and the backend's table. */
#include "kernels/cuda/cuda.cuh"

/* Host elements are converted a piece at a time. */
enum { PIECE = 1 << 16 };

void FN(acc_set)(acc *dst, const double *host, size_t n) {
    GPU_TIMER(acc_set, 0, 4 * n);
    static float piece[PIECE];
    for (size_t i = 0; i < n; i += PIECE) {
        size_t k = size_min(PIECE, n - i);
        for (size_t j = 0; j < k; j++) piece[j] = (float)host[i + j];
        device_send(dst + i, piece, k * sizeof *piece);
    }
}

void FN(acc_get)(double *host, const acc *src, size_t n) {
    GPU_TIMER(acc_get, 0, 4 * n);
    static float piece[PIECE];
    for (size_t i = 0; i < n; i += PIECE) {
        size_t k = size_min(PIECE, n - i);
        device_fetch(piece, src + i, k * sizeof *piece);
        for (size_t j = 0; j < k; j++) host[i + j] = piece[j];
    }
}

void FN(acc_set_f32)(acc *dst, const float *host, size_t n) {
    GPU_TIMER(acc_set_f32, 0, 4 * n);
    device_send(dst, host, n * sizeof *host);
}

void FN(acc_get_f32)(float *host, const acc *src, size_t n) {
    GPU_TIMER(acc_get_f32, 0, 4 * n);
    device_fetch(host, src, n * sizeof *host);
}

__global__ static void act_from_acc(act *dst, const acc *src, size_t n, bool wide) {
    size_t i = thread_index() * QUAD;
    if (i >= n) return;
    float x[QUAD];
    acc_load<QUAD>(x, src + i, n - i, wide);
    act_store<QUAD>(dst + i, x, n - i, wide);
}

void FN(round_acc)(act *dst, const acc *src, size_t n) {
    LAUNCH(act_from_acc, quad_blocks_of(n), BLOCK, 0, dst, src, n,
           aligned16(dst) && aligned16(src));
}

void FN(act_from_acc)(act *dst, const acc *src, size_t n) {
    GPU_TIMER(act_from_acc, 0, n * (sizeof(acc) + sizeof(act)));
    FN(round_acc)(dst, src, n);
}

__global__ static void acc_from_act(acc *dst, const act *src, size_t n) {
    size_t i = thread_index();
    if (i < n) dst[i].v = act_value(src[i]);
}

void FN(acc_from_act)(acc *dst, const act *src, size_t n) {
    GPU_TIMER(acc_from_act, 0, n * (sizeof(acc) + sizeof(act)));
    LAUNCH(acc_from_act, div_up(n, BLOCK), BLOCK, 0, dst, src, n);
}

/* ---- sums in a fixed order ---- */

__global__ static void __launch_bounds__(BLOCK)
    add_partials(acc *sum, const float *parts, size_t chunks, size_t n) {
    size_t i = (size_t)blockIdx.x * WARP + threadIdx.x % WARP;
    float s = parts_sum(parts, chunks, n, i);
    if (threadIdx.x < WARP && i < n) sum[i].v += s;
}

void FN(add_partials)(acc *sum, const float *parts, size_t chunks, size_t n) {
    LAUNCH(add_partials, div_up(n, WARP), WARP * PART_TEAMS, 0, sum, parts, chunks, n);
}

Columns FN(columns)(size_t M, size_t N, size_t sums) {
    size_t across = div_up(N, (size_t)WARP * VW);
    size_t wanted = div_up((size_t)device_multiprocessors() * 8, across);
    Columns c;
    c.rows_chunk = round_up(size_max(div_up(M, size_max(wanted, 1)), 64), COLUMN_TEAMS);
    c.chunks = div_up(M, c.rows_chunk);
    assert(c.chunks < 65536);
    c.grid = dim3(launch_size(across), (unsigned)c.chunks);
    /* as many as any smaller M has */
    size_t most = size_max(c.chunks, size_min(wanted, div_up(M, (size_t)64)));
    c.parts = (float *)device_scratch(SCRATCH_COLUMNS, sums * most * N * sizeof *c.parts);
    return c;
}

__global__ static void column_partials(float *parts, const act *x, size_t ld, size_t M, size_t N,
                                       size_t rows_chunk, bool wide) {
    size_t col = columns_first(), end = min(M, (blockIdx.y + 1) * rows_chunk);
    float sum[VW] = {0};
    if (col < N) {
#pragma unroll 4
        for (size_t m = blockIdx.y * rows_chunk + threadIdx.x / WARP; m < end; m += COLUMN_TEAMS) {
            float v[VW];
            act_load(v, x + m * ld + col, N - col, wide);
#pragma unroll
            for (int j = 0; j < VW; j++) sum[j] += v[j];
        }
    }
    columns_store(parts, sum, N);
}

void FN(add_columns)(acc *sum, const act *x, size_t ld, size_t M, size_t N) {
    if (!M || !N) return;
    Columns c = FN(columns)(M, N, 1);
    LAUNCH_GRID(column_partials, c.grid, WARP * COLUMN_TEAMS, 0, c.parts, x, ld, M, N, c.rows_chunk,
                aligned16(x) && ld % VW == 0);
    FN(add_partials)(sum, c.parts, c.chunks, N);
}

extern "C" const Kernels FN(kernels) = {
#if defined ACT_BF16
    .name = "cuda-amp_bf16",
#else
    .name = "cuda-fp32",
#endif
    .act_size = sizeof(act),
    .acc_size = sizeof(acc),
    .residual_in_product = true,
    .bias_in_activation = true,
    .logit_side = 0,
    .widest_head = WIDEST_HEAD,
    .fp8 = false,
    .device = &cuda_device,
#define X(slot) .slot = FN(slot),
    KERNEL_LIST(X)
#undef X
};
