/* cuda: private header of the CUDA backend. Every .cu of this folder but device.cu is compiled
 * twice, with ACT_F32 (activations f32) and with ACT_BF16 (activations bf16); acc is float in both.
 * FN(slot) is the name of a slot's function in this build.
 *
 * In element-wise kernels a thread owns VW = 8 neighbours: 16 bytes of bf16. `wide` is true if the
 * pointers and the row length allow 16-byte accesses; otherwise the same code accesses single
 * elements, so that any size and any address is legal. bf16 is stored; sums are float. */
#pragma once
#include <cuda_bf16.h>
#include <float.h>
#include <math.h>

#include "kernels/cuda/device.h"

#if defined ACT_BF16
#define FN(slot) cuda_bf16_##slot
typedef __nv_bfloat16 elem;
#elif defined ACT_F32
#define FN(slot) cuda_f32_##slot
typedef float elem;
#else
#error "compile with ACT_F32 or ACT_BF16"
#endif

/* The element types are complete inside this folder (and only here). */
struct act {
    elem v;
};
struct acc {
    float v;
};

/* Partition of sums over the rows of [M,N]: parts[sums,chunks,N] by a grid of (columns, chunks). */
typedef struct Columns {
    float *parts; /* scratch memory */
    size_t chunks, rows_chunk;
    dim3 grid;
} Columns;

extern "C" {
#define X(slot) KERNEL_TYPE(slot) FN(slot);
KERNEL_LIST(X)
#undef X
extern const Kernels FN(kernels);

/* Shared by several slots. */
/* dst[n] = src[n], rounded. */
void FN(round_acc)(act *dst, const acc *src, size_t n);
/* sum[n] += Σ_c parts[c,n], in one order. */
void FN(add_partials)(acc *sum, const float *parts, size_t chunks, size_t n);
Columns FN(columns)(size_t M, size_t N, size_t sums);
/* sum[N] += Σ_m x[m,:N]; the rows of x are ld elements apart. */
void FN(add_columns)(acc *sum, const act *x, size_t ld, size_t M, size_t N);
/* The three products of a layer from 8-bit factors. False: w (or dw) is not registered by
 * fp8_weight, or the library refuses the sizes, and nothing is done. bias: in act; r may be NULL.
 */
bool FN(fp8_fwd)(act *y, const act *r, const act *x, const act *w, const void *bias, size_t M,
                 size_t N, size_t K);
bool FN(fp8_bwd_input)(act *dx, const act *dy, const act *w, size_t M, size_t N, size_t K);
bool FN(fp8_bwd_weight)(acc *dw, const act *dy, const act *x, size_t M, size_t N, size_t K);
/* y[n] = f(x). */
void FN(activate)(act *y, const act *x, size_t n, Activation f);
}

enum { VW = 8, QUAD = 4, WARP = 32, BLOCK = 256 };
enum { WIDEST_HEAD = 128 };
#define FULL_MASK 0xffffffffu

/* kernel<<<grid, threads, shared>>>(…) on the compute stream; nothing in a dry run. */
#define LAUNCH_GRID(kernel, grid, threads, shared, ...)                                            \
    do {                                                                                           \
        if (device_planning()) break;                                                              \
        kernel<<<grid, threads, shared, device_stream()>>>(__VA_ARGS__);                           \
        CUDA(cudaGetLastError());                                                                  \
    } while (0)
/* The same over a line of blocks; 0 blocks: no launch. */
#define LAUNCH(kernel, grid, threads, shared, ...)                                                 \
    do {                                                                                           \
        unsigned grid_ = launch_size(grid);                                                        \
        if (grid_) LAUNCH_GRID(kernel, grid_, threads, shared, __VA_ARGS__);                       \
    } while (0)
static inline unsigned launch_size(size_t blocks) {
    assert(blocks < (size_t)1 << 31);
    return (unsigned)blocks;
}
/* Blocks for n elements, VW or QUAD for each thread. */
static inline size_t blocks_of(size_t n) { return div_up(n, (size_t)VW * BLOCK); }
static inline size_t quad_blocks_of(size_t n) { return div_up(n, (size_t)QUAD * BLOCK); }

/* Division of numbers below 2^31 by one divisor, as a product (Granlund & Montgomery 1994). */
typedef struct Divisor {
    unsigned divisor, factor, shift;
} Divisor;
static inline Divisor divisor_of(size_t d) {
    assert(d >= 1 && d < (size_t)1 << 31);
    unsigned shift = 0;
    while ((size_t)1 << shift < d) shift++;
    Divisor by = {(unsigned)d, (unsigned)((((uint64_t)1 << (31 + shift)) + d - 1) / d), shift};
    return by;
}
__device__ static inline unsigned divided(unsigned n, Divisor by, unsigned *rest) {
    unsigned q = by.shift ? __umulhi(n, by.factor) >> (by.shift - 1) : n;
    *rest = n - q * by.divisor;
    return q;
}

__host__ __device__ static inline bool aligned16(const void *p) { return (uintptr_t)p % 16 == 0; }

__device__ static inline size_t thread_index(void) {
    return (size_t)blockIdx.x * blockDim.x + threadIdx.x;
}

/* ---- elements ---- */

__device__ static inline float act_value(act a) {
#if defined ACT_BF16
    return __bfloat162float(a.v);
#else
    return a.v;
#endif
}
__device__ static inline act act_from(float f) {
    act a;
#if defined ACT_BF16
    a.v = __float2bfloat16_rn(f);
#else
    a.v = f;
#endif
    return a;
}
/* f rounded to act. */
__device__ static inline float act_round(float f) { return act_value(act_from(f)); }

/* N (4 or VW) floats at p: k > 0 of them are accessed (k >= N: all), the others are 0.
 *
 * Lanes of 8 floats are 32 bytes apart, so that each of their two accesses covers half of every
 * sector. The first-level cache compensates for loads, but not for stores. If f32 arrays are most
 * of the bytes, a thread has 4 neighbours. Stores name their components, because nvcc may split a
 * store of a uint4 into four. */
template <int N = VW>
__device__ static inline void acc_load(float *r, const acc *p, size_t k, bool wide) {
    if (wide && k >= N) {
#pragma unroll
        for (int i = 0; i < N; i += QUAD) {
            float4 a = *(const float4 *)(p + i);
            r[i] = a.x, r[i + 1] = a.y, r[i + 2] = a.z, r[i + 3] = a.w;
        }
    } else {
#pragma unroll
        for (int j = 0; j < N; j++) r[j] = j < k ? p[j].v : 0;
    }
}
template <int N = VW>
__device__ static inline void acc_store(acc *p, const float *r, size_t k, bool wide) {
    if (wide && k >= N) {
#pragma unroll
        for (int i = 0; i < N; i += QUAD)
            __stwb((float4 *)(p + i), make_float4(r[i], r[i + 1], r[i + 2], r[i + 3]));
    } else {
#pragma unroll
        for (int j = 0; j < N; j++)
            if (j < k) p[j].v = r[j];
    }
}

#if defined ACT_BF16
/* Two bf16 in one word, the first in the low half. */
__device__ static inline float2 bf16x2_value(unsigned u) {
    return make_float2(__uint_as_float(u << 16), __uint_as_float(u & 0xffff0000u));
}
__device__ static inline unsigned bf16x2_from(float a, float b) {
    unsigned u;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(u) : "f"(b), "f"(a));
    return u;
}
template <int N = VW>
__device__ static inline void act_load(float *r, const act *p, size_t k, bool wide) {
    if (wide && k >= N) {
        unsigned u[N / 2];
        if (N == QUAD)
            *(uint2 *)u = *(const uint2 *)p;
        else
            *(uint4 *)u = *(const uint4 *)p;
#pragma unroll
        for (int i = 0; i < N / 2; i++) {
            float2 a = bf16x2_value(u[i]);
            r[2 * i] = a.x, r[2 * i + 1] = a.y;
        }
    } else {
#pragma unroll
        for (int j = 0; j < N; j++) r[j] = j < k ? act_value(p[j]) : 0;
    }
}
template <int N = VW>
__device__ static inline void act_store(act *p, const float *r, size_t k, bool wide) {
    if (wide && k >= N) {
        unsigned u[N / 2];
#pragma unroll
        for (int i = 0; i < N / 2; i++) u[i] = bf16x2_from(r[2 * i], r[2 * i + 1]);
        if (N == QUAD)
            __stwb((uint2 *)p, make_uint2(u[0], u[1]));
        else
            __stwb((uint4 *)p, make_uint4(u[0], u[1], u[N / 2 - 2], u[N / 2 - 1]));
    } else {
#pragma unroll
        for (int j = 0; j < N; j++)
            if (j < k) p[j] = act_from(r[j]);
    }
}
#else
template <int N = VW>
__device__ static inline void act_load(float *r, const act *p, size_t k, bool wide) {
    acc_load<N>(r, (const acc *)p, k, wide);
}
template <int N = VW>
__device__ static inline void act_store(act *p, const float *r, size_t k, bool wide) {
    acc_store<N>((acc *)p, r, k, wide);
}
#endif

/* ---- sums over threads; every thread of the group gets the result ---- */

__device__ static inline float warp_sum(float x) {
#pragma unroll
    for (int d = WARP / 2; d; d /= 2) x += __shfl_xor_sync(FULL_MASK, x, d);
    return x;
}
/* Σ of x[COUNT] over the block of `warps` warps; shared holds COUNT·warps floats and is free again
 * after the next barrier. */
template <int N> __device__ static inline void block_sums(float x[N], float *shared) {
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
#pragma unroll
    for (int i = 0; i < N; i++) {
        x[i] = warp_sum(x[i]);
        if (lane == 0) shared[i * warps + warp] = x[i];
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < N; i++) {
        float sum = 0;
        for (int w = 0; w < warps; w++) sum += shared[i * warps + w];
        x[i] = sum;
    }
}

/* ---- sums over rows in two stages ---- (grid and parts of Columns, blocks of COLUMN_TEAMS warps:
 * a thread has VW columns of every COLUMN_TEAMS-th row of its chunk, blockIdx.y) */

enum { COLUMN_TEAMS = 8 };

__device__ static inline size_t columns_first(void) {
    return ((size_t)blockIdx.x * WARP + threadIdx.x % WARP) * VW;
}
/* parts[chunk, N] = the sums over the block's teams; every thread takes part. A barrier must
 * precede a second call. */
__device__ static inline void columns_store(float *parts, const float sum[VW], size_t N) {
    /* a row and a column of it each use every bank once */
    __shared__ float shared[COLUMN_TEAMS][VW][WARP + 4];
    static_assert(WARP * VW == WARP * COLUMN_TEAMS, "a thread a column");
#pragma unroll
    for (int j = 0; j < VW; j++) shared[threadIdx.x / WARP][j][threadIdx.x % WARP] = sum[j];
    __syncthreads();
    size_t out = (size_t)blockIdx.x * WARP * VW + threadIdx.x;
    if (out >= N) return;
    float total = 0;
    for (int r = 0; r < COLUMN_TEAMS; r++) total += shared[r][threadIdx.x % VW][threadIdx.x / VW];
    parts[blockIdx.y * N + out] = total;
}

/* Σ_c parts[c, i] of parts[chunks, n], for a block of WARP × PART_TEAMS threads: each lane has its
 * own i, the teams share the chunks. Only the first team gets the sum. */
enum { PART_TEAMS = 8 };
__device__ static inline float parts_sum(const float *parts, size_t chunks, size_t n, size_t i) {
    __shared__ float shared[PART_TEAMS][WARP];
    float sum = 0;
#pragma unroll 8
    for (size_t c = threadIdx.x / WARP; i < n && c < chunks; c += PART_TEAMS)
        sum += parts[c * n + i];
    shared[threadIdx.x / WARP][threadIdx.x % WARP] = sum;
    __syncthreads();
    for (int t = 1; t < PART_TEAMS; t++) sum += shared[t][threadIdx.x % WARP];
    return sum;
}
