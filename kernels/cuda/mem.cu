/* cuda/mem: memory, conversions, sums of partial sums, and the backend's table. */
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/cuda.cuh"

void *FN(alloc)(size_t bytes) {
    GPU_TIMER(alloc, 0, 0);
    return device_alloc(bytes);
}

void FN(release)(void *p) {
    GPU_TIMER(release, 0, 0);
    device_release(p);
}

MemoryUse FN(memory)(void) { return device_memory(); }

bool FN(plan_begin)(void) { return device_plan_begin(); }

size_t FN(plan_end)(size_t most) { return device_plan_end(most); }

void FN(upload)(void *dst, const void *host, size_t bytes) {
    GPU_TIMER(upload, 0, bytes);
    device_upload(dst, host, bytes);
}

void FN(download)(void *host, const void *src, size_t bytes) {
    GPU_TIMER(download, 0, bytes);
    device_download(host, src, bytes);
}

void FN(copy)(void *dst, const void *src, size_t bytes) {
    GPU_TIMER(copy, 0, 2 * bytes);
    if (bytes && !device_planning())
        CUDA(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, device_stream()));
}

void FN(zero)(void *dst, size_t bytes) {
    GPU_TIMER(zero, 0, bytes);
    if (bytes && !device_planning()) CUDA(cudaMemsetAsync(dst, 0, bytes, device_stream()));
}

void FN(sync)(void) { device_sync(); }

/* ---- conversions ---- */

/* Host elements are converted a piece at a time. */
enum { PIECE = 1 << 16 };

void FN(acc_set)(acc *dst, const double *host, size_t n) {
    GPU_TIMER(acc_set, 0, 4 * n);
    static float piece[PIECE];
    for (size_t i = 0; i < n; i += PIECE) {
        size_t k = size_min(PIECE, n - i);
        for (size_t j = 0; j < k; j++) piece[j] = (float)host[i + j];
        device_upload(dst + i, piece, k * sizeof *piece);
    }
}

void FN(acc_get)(double *host, const acc *src, size_t n) {
    GPU_TIMER(acc_get, 0, 4 * n);
    static float piece[PIECE];
    for (size_t i = 0; i < n; i += PIECE) {
        size_t k = size_min(PIECE, n - i);
        device_download(piece, src + i, k * sizeof *piece);
        for (size_t j = 0; j < k; j++) host[i + j] = piece[j];
    }
}

void FN(acc_set_f32)(acc *dst, const float *host, size_t n) {
    GPU_TIMER(acc_set_f32, 0, 4 * n);
    device_upload(dst, host, n * sizeof *host);
}

void FN(acc_get_f32)(float *host, const acc *src, size_t n) {
    GPU_TIMER(acc_get_f32, 0, 4 * n);
    device_download(host, src, n * sizeof *host);
}

/* A double is rounded to odd as a float first: then rounding that to bf16 rounds only once. */
#if defined ACT_BF16
static uint16_t elem_from_double(double d) {
    float f = (float)d;
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    if (d != d) return (uint16_t)(u >> 16 | 0x40);
    bool finite = (u & 0x7fffffffu) < 0x7f800000u;
    if (finite && (double)f != d && !(u & 1)) u += fabs((double)f) > fabs(d) ? -1u : 1u;
    u += 0x7fffu + (u >> 16 & 1);
    return (uint16_t)(u >> 16);
}
static double double_from_elem(uint16_t e) {
    uint32_t u = (uint32_t)e << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}
typedef uint16_t host_elem;
#else
static float elem_from_double(double d) { return (float)d; }
static double double_from_elem(float f) { return f; }
typedef float host_elem;
#endif

void FN(act_set)(act *dst, const double *host, size_t n) {
    GPU_TIMER(act_set, 0, n * sizeof(act));
    static host_elem piece[PIECE];
    for (size_t i = 0; i < n; i += PIECE) {
        size_t k = size_min(PIECE, n - i);
        for (size_t j = 0; j < k; j++) piece[j] = elem_from_double(host[i + j]);
        device_upload(dst + i, piece, k * sizeof *piece);
    }
}

void FN(act_get)(double *host, const act *src, size_t n) {
    GPU_TIMER(act_get, 0, n * sizeof(act));
    static host_elem piece[PIECE];
    for (size_t i = 0; i < n; i += PIECE) {
        size_t k = size_min(PIECE, n - i);
        device_download(piece, src + i, k * sizeof *piece);
        for (size_t j = 0; j < k; j++) host[i + j] = double_from_elem(piece[j]);
    }
}

__global__ static void act_from_acc(act *dst, const acc *src, size_t n, bool wide) {
    size_t i = thread_index() * QUAD;
    if (i >= n) return;
    float x[QUAD];
    acc_load<QUAD>(x, src + i, n - i, wide);
    act_store<QUAD>(dst + i, x, n - i, wide);
}

void FN(round_acc)(act *dst, const acc *src, size_t n) {
    LAUNCH(act_from_acc, quad_blocks_of(n), BLOCK, 0, dst, src, n, aligned16(dst) && aligned16(src));
}

void FN(act_from_acc)(act *dst, const acc *src, size_t n) {
    GPU_TIMER(act_from_acc, 0, n * (sizeof(acc) + sizeof(act)));
    FN(round_acc)(dst, src, n);
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

Columns FN(columns)(size_t M, size_t N) {
    size_t across = div_up(N, (size_t)WARP * VW);
    size_t wanted = div_up((size_t)device_multiprocessors() * 8, across);
    Columns c;
    c.rows_chunk = round_up(size_max(div_up(M, size_max(wanted, 1)), 64), COLUMN_TEAMS);
    c.chunks = div_up(M, c.rows_chunk);
    assert(c.chunks < 65536);
    c.grid = dim3(launch_size(across), (unsigned)c.chunks);
    /* as many as any smaller M has */
    size_t most = size_max(c.chunks, size_min(wanted, div_up(M, (size_t)64)));
    c.parts = (float *)device_scratch(SCRATCH_COLUMNS, most * N * sizeof *c.parts);
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
    Columns c = FN(columns)(M, N);
    LAUNCH_GRID(column_partials, c.grid, WARP * COLUMN_TEAMS, 0, c.parts, x, ld, M, N, c.rows_chunk,
                aligned16(x) && ld % VW == 0);
    FN(add_partials)(sum, c.parts, c.chunks, N);
}

static const Device device = {
    .gpu = true,
    .asynchronous = true,
#define X(slot) .slot = FN(slot),
    DEVICE_LIST(X)
#undef X
};

extern "C" const Kernels FN(kernels) = {
#if defined ACT_BF16
    .name = "cuda-amp_bf16",
#else
    .name = "cuda-fp32",
#endif
    .act_size = sizeof(act),
    .acc_size = sizeof(acc),
    .bias_in_activation = true,
    .fp8 = false,
    .device = &device,
#define X(slot) .slot = FN(slot),
    KERNEL_LIST(X)
#undef X
};
