/* cuda/loss: logit tiles: statistics, losses and gradients. */
#include "kernels/cuda/cuda.cuh"

/* z = scale·cos + bias */
typedef struct Logit {
    float scale, bias;
} Logit;

__device__ static inline Logit logit(const acc *log_scale, const acc *bias) {
    Logit l = {expf(log_scale->v), bias ? bias->v : 0};
    return l;
}

/* max, and the sum of exp(z - max). */
struct alignas(8) Stats {
    float max, sum;
};

__device__ static inline Stats stats_start(void) {
    Stats s = {-FLT_MAX, 0};
    return s;
}
/* Adds z[k] of QUAD; the others are the lowest value. */
__device__ static inline void stats_add(Stats *s, const float z[QUAD]) {
    float top = fmaxf(fmaxf(z[0], z[1]), fmaxf(z[2], z[3]));
    if (top > s->max) {
        s->sum *= expf(s->max - top);
        s->max = top;
    }
    s->sum += (__expf(z[0] - s->max) + __expf(z[1] - s->max)) +
              (__expf(z[2] - s->max) + __expf(z[3] - s->max));
}
__device__ static inline Stats stats_joined(Stats a, Stats b) {
    float m = fmaxf(a.max, b.max);
    Stats s = {m, a.sum * expf(a.max - m) + b.sum * expf(b.max - m)};
    return s;
}
__device__ static inline void stats_join_into(acc *max, acc *sum, Stats s) {
    Stats old = {max->v, sum->v};
    s = stats_joined(old, s);
    max->v = s.max;
    sum->v = s.sum;
}

/* ---- statistics ---- */

/* One block for each row. */
__global__ static void __launch_bounds__(BLOCK)
    row_stats(acc *row_max, acc *row_sum, acc *positive, const acc *cos, const acc *log_scale,
              const acc *bias, size_t m, ptrdiff_t diag, bool wide) {
    __shared__ Stats shared[BLOCK / WARP];
    Logit l = logit(log_scale, bias);
    size_t i = blockIdx.x;
    Stats s = stats_start();
    size_t match = i + (size_t)diag; /* past the end if it is not in this tile */
    for (size_t j = (size_t)threadIdx.x * QUAD; j < m; j += BLOCK * QUAD) {
        float z[QUAD];
        acc_load<QUAD>(z, cos + i * m + j, m - j, wide);
#pragma unroll
        for (int u = 0; u < QUAD; u++) {
            z[u] = j + u < m ? l.scale * z[u] + l.bias : -FLT_MAX;
            if (j + u == match) positive[i].v = z[u];
        }
        stats_add(&s, z);
    }
#pragma unroll
    for (int d = WARP / 2; d; d /= 2) {
        Stats other = {__shfl_xor_sync(FULL_MASK, s.max, d), __shfl_xor_sync(FULL_MASK, s.sum, d)};
        s = stats_joined(s, other);
    }
    if (threadIdx.x % WARP == 0) shared[threadIdx.x / WARP] = s;
    __syncthreads();
    if (threadIdx.x != 0) return;
    s = shared[0];
    for (int w = 1; w < BLOCK / WARP; w++) s = stats_joined(s, shared[w]);
    stats_join_into(row_max + i, row_sum + i, s);
}

/* One thread for each column, one block for each chunk of rows: parts[chunk, m]. */
__global__ static void col_partials(Stats *parts, const acc *cos, const acc *log_scale,
                                    const acc *bias, size_t n, size_t m, size_t rows_chunk) {
    size_t j = thread_index(), first = blockIdx.y * rows_chunk, end = min(n, first + rows_chunk);
    if (j >= m) return;
    Logit l = logit(log_scale, bias);
    Stats s = stats_start();
#pragma unroll 2
    for (size_t i = first; i < end; i += QUAD) {
        float z[QUAD];
#pragma unroll
        for (int u = 0; u < QUAD; u++)
            z[u] = i + u < end ? l.scale * cos[(i + u) * m + j].v + l.bias : -FLT_MAX;
        stats_add(&s, z);
    }
    parts[blockIdx.y * m + j] = s;
}

__global__ static void col_join(acc *col_max, acc *col_sum, const Stats *parts, size_t chunks,
                                size_t m) {
    size_t j = thread_index();
    if (j >= m) return;
    Stats s = parts[j];
    for (size_t c = 1; c < chunks; c++) s = stats_joined(s, parts[c * m + j]);
    stats_join_into(col_max + j, col_sum + j, s);
}

void FN(logits_stats)(acc *row_max, acc *row_sum, acc *col_max, acc *col_sum, acc *positive,
                      const acc *cos, const acc *log_scale, const acc *bias, size_t n, size_t m,
                      ptrdiff_t diag) {
    GPU_TIMER(logits_stats, 8 * n * m, 2 * n * m * sizeof(acc));
    if (!n || !m) return;
    LAUNCH(row_stats, n, BLOCK, 0, row_max, row_sum, positive, cos, log_scale, bias, m, diag,
           m % VW == 0 && aligned16(cos));
    size_t across = div_up(m, BLOCK), wanted = div_up((size_t)device_multiprocessors() * 4, across);
    size_t rows_chunk = size_max(div_up(n, wanted), 32), chunks = div_up(n, rows_chunk);
    Stats *parts = (Stats *)device_scratch(SCRATCH_PARTIAL, chunks * m * sizeof *parts);
    dim3 grid(launch_size(across), (unsigned)chunks);
    LAUNCH_GRID(col_partials, grid, BLOCK, 0, parts, cos, log_scale, bias, n, m, rows_chunk);
    LAUNCH(col_join, across, BLOCK, 0, col_max, col_sum, parts, chunks, m);
}

__global__ static void stats_init(acc *max, acc *sum, size_t n) {
    size_t i = thread_index();
    if (i >= n) return;
    max[i].v = -FLT_MAX;
    sum[i].v = 0;
}

void FN(stats_init)(acc *max, acc *sum, size_t n) {
    GPU_TIMER(stats_init, 0, 8 * n);
    LAUNCH(stats_init, div_up(n, BLOCK), BLOCK, 0, max, sum, n);
}

__global__ static void stats_join(acc *max, acc *sum, const acc *other_max, const acc *other_sum,
                                  size_t n) {
    size_t i = thread_index();
    if (i >= n) return;
    Stats other = {other_max[i].v, other_sum[i].v};
    stats_join_into(max + i, sum + i, other);
}

void FN(stats_join)(acc *max, acc *sum, const acc *other_max, const acc *other_sum, size_t n) {
    GPU_TIMER(stats_join, 6 * n, 24 * n);
    LAUNCH(stats_join, div_up(n, BLOCK), BLOCK, 0, max, sum, other_max, other_sum, n);
}

__global__ static void stats_lse(acc *lse, const acc *max, const acc *sum, size_t n) {
    size_t i = thread_index();
    if (i < n) lse[i].v = max[i].v + logf(sum[i].v);
}

void FN(stats_lse)(acc *lse, const acc *max, const acc *sum, size_t n) {
    GPU_TIMER(stats_lse, 2 * n, 12 * n);
    LAUNCH(stats_lse, div_up(n, BLOCK), BLOCK, 0, lse, max, sum, n);
}

/* ---- losses and gradients ---- */

/* One block, whose threads' shares are added in a fixed order. */
__global__ static void __launch_bounds__(BLOCK)
    clip_loss(acc *loss, const acc *row_lse, const acc *col_lse, const acc *positive, size_t n,
              float weight) {
    __shared__ float shared[BLOCK / WARP];
    float sum = 0;
    for (size_t i = threadIdx.x; i < n; i += BLOCK)
        sum += row_lse[i].v - positive[i].v + (col_lse[i].v - positive[i].v);
    block_sums<1>(&sum, shared);
    if (threadIdx.x == 0) loss->v += weight * sum;
}

void FN(clip_loss)(acc *loss, const acc *row_lse, const acc *col_lse, const acc *positive, size_t n,
                   double weight) {
    GPU_TIMER(clip_loss, 4 * n, 12 * n);
    LAUNCH(clip_loss, 1, BLOCK, 0, loss, row_lse, col_lse, positive, n, (float)weight);
}

/* Sums of a walk over a tile. */
enum { SUM_SCALE, SUM_BIAS, SUM_LOSS, SUMS };

/* A block walks over every gridDim-th row; parts[SUMS, blocks]. row_lse NULL: SigLIP. */
__global__ static void __launch_bounds__(BLOCK)
    tile_grad(acc *cos, float *parts, const acc *row_lse, const acc *col_lse, const acc *log_scale,
              const acc *bias, size_t n, size_t m, ptrdiff_t diag, float weight, bool wide) {
    __shared__ float shared[SUMS * BLOCK / WARP];
    Logit l = logit(log_scale, bias);
    float sums[SUMS] = {0};
    for (size_t i = blockIdx.x; i < n; i += gridDim.x) {
        size_t match = i + (size_t)diag;
        float lse = row_lse ? row_lse[i].v : 0;
        for (size_t j = (size_t)threadIdx.x * QUAD; j < m; j += BLOCK * QUAD) {
            float c[QUAD], col[QUAD];
            acc_load<QUAD>(c, cos + i * m + j, m - j, wide);
            if (row_lse) acc_load<QUAD>(col, col_lse + j, m - j, wide);
#pragma unroll
            for (int u = 0; u < QUAD; u++) {
                if (j + u >= m) continue;
                bool positive = j + u == match;
                float z = l.scale * c[u] + l.bias, g;
                if (row_lse) {
                    g = weight * (__expf(z - lse) + __expf(z - col[u]) - (positive ? 2.0f : 0.0f));
                } else {
                    float y = positive ? 1 : -1, e = expf(-fabsf(z)), yz = y * z;
                    sums[SUM_LOSS] += fmaxf(-yz, 0) + log1pf(e);
                    g = -y * weight * (yz > 0 ? e : 1) / (1 + e);
                }
                sums[SUM_SCALE] += g * c[u];
                sums[SUM_BIAS] += g;
                c[u] = l.scale * g;
            }
            acc_store<QUAD>(cos + i * m + j, c, m - j, wide);
        }
    }
    block_sums<SUMS>(sums, shared);
    if (threadIdx.x == 0)
        for (int k = 0; k < SUMS; k++) parts[k * gridDim.x + blockIdx.x] = sums[k];
}

__global__ static void mask_pairs(acc *cos, size_t n, size_t m, size_t row, size_t col,
                                  size_t samples) {
    size_t i = thread_index();
    if (i >= n) return;
    size_t r = row + i, j = (r / samples % 2 ? r - samples : r + samples) - col;
    if (j < m) cos[i * m + j].v = LOGIT_MASKED;
}

void FN(mask_pairs)(acc *cos, size_t n, size_t m, size_t row, size_t col, size_t samples) {
    GPU_TIMER(mask_pairs, 0, 4 * n);
    if (n) LAUNCH(mask_pairs, div_up(n, BLOCK), BLOCK, 0, cos, n, m, row, col, samples);
}

__global__ static void __launch_bounds__(BLOCK)
    tile_sums(acc *loss, acc *dlog_scale, acc *dbias, const float *parts, size_t blocks,
              const acc *log_scale, float weight) {
    __shared__ float shared[SUMS * BLOCK / WARP];
    float sums[SUMS] = {0};
    for (size_t i = threadIdx.x; i < blocks; i += BLOCK)
        for (int k = 0; k < SUMS; k++) sums[k] += parts[k * blocks + i];
    block_sums<SUMS>(sums, shared);
    if (threadIdx.x != 0) return;
    dlog_scale->v += expf(log_scale->v) * sums[SUM_SCALE];
    if (dbias) dbias->v += sums[SUM_BIAS];
    if (loss) loss->v += weight * sums[SUM_LOSS];
}

static void tile_walk(acc *cos, acc *loss, acc *dlog_scale, acc *dbias, const acc *row_lse,
                      const acc *col_lse, const acc *log_scale, const acc *bias, size_t n, size_t m,
                      ptrdiff_t diag, double weight) {
    if (!n || !m) return;
    size_t blocks = size_min(div_up(n, 4), (size_t)device_multiprocessors() * 8);
    float *parts = (float *)device_scratch(SCRATCH_PARTIAL, blocks * SUMS * sizeof *parts);
    bool wide = m % VW == 0 && aligned16(cos) && aligned16(col_lse);
    LAUNCH(tile_grad, blocks, BLOCK, 0, cos, parts, row_lse, col_lse, log_scale, bias, n, m, diag,
           (float)weight, wide);
    LAUNCH(tile_sums, 1, BLOCK, 0, loss, dlog_scale, dbias, parts, blocks, log_scale,
           (float)weight);
}

void FN(clip_logits_grad)(acc *cos, acc *dlog_scale, acc *dbias, const acc *row_lse,
                          const acc *col_lse, const acc *log_scale, const acc *bias, size_t n,
                          size_t m, ptrdiff_t diag, double weight) {
    GPU_TIMER(clip_logits_grad, 12 * n * m, 8 * n * m);
    tile_walk(cos, NULL, dlog_scale, dbias, row_lse, col_lse, log_scale, bias, n, m, diag, weight);
}

void FN(siglip_tile)(acc *cos, acc *loss, acc *dlog_scale, acc *dbias, const acc *log_scale,
                     const acc *bias, size_t n, size_t m, ptrdiff_t diag, double weight) {
    GPU_TIMER(siglip_tile, 16 * n * m, 8 * n * m);
    tile_walk(cos, loss, dlog_scale, dbias, NULL, NULL, log_scale, bias, n, m, diag, weight);
}

/* ---- soft targets ---- */

__global__ static void __launch_bounds__(BLOCK)
    group_targets(acc *t, const int32_t *row_group, const int32_t *col_group, const acc *share,
                  size_t n, size_t m) {
    size_t at = thread_index();
    if (at < n * m) t[at].v = row_group[at / m] == col_group[at % m] ? share[at / m].v : 0;
}

void FN(group_targets)(acc *t, const int32_t *row_group, const int32_t *col_group, const acc *share,
                       size_t n, size_t m) {
    GPU_TIMER(group_targets, n * m, n * m * sizeof(acc));
    LAUNCH(group_targets, div_up(n * m, BLOCK), BLOCK, 0, t, row_group, col_group, share, n, m);
}

__global__ static void __launch_bounds__(BLOCK)
    teacher_targets(acc *t, const acc *cos, const acc *row_lse, const acc *col_lse,
                    const acc *log_scale, size_t n, size_t m) {
    size_t at = thread_index();
    if (at >= n * m) return;
    float z = expf(log_scale->v) * cos[at].v;
    t[at].v += 0.5f * (expf(z - row_lse[at / m].v) + expf(z - col_lse[at % m].v));
}

void FN(teacher_targets)(acc *t, const acc *cos, const acc *row_lse, const acc *col_lse,
                         const acc *log_scale, size_t n, size_t m) {
    GPU_TIMER(teacher_targets, 10 * n * m, 3 * n * m * sizeof(acc));
    LAUNCH(teacher_targets, div_up(n * m, BLOCK), BLOCK, 0, t, cos, row_lse, col_lse, log_scale, n,
           m);
}

/* A block walks over every gridDim-th row; parts[SUMS, blocks], as in tile_grad. */
__global__ static void __launch_bounds__(BLOCK)
    soft_grad(acc *cos, float *parts, const acc *t, const acc *row_lse, const acc *col_lse,
              const acc *log_scale, const acc *bias, size_t n, size_t m, float mass, float weight) {
    __shared__ float shared[SUMS * BLOCK / WARP];
    Logit l = logit(log_scale, bias);
    float sums[SUMS] = {0};
    for (size_t i = blockIdx.x; i < n; i += gridDim.x) {
        float lse = row_lse[i].v;
        for (size_t j = threadIdx.x; j < m; j += BLOCK) {
            float c = cos[i * m + j].v, target = t[i * m + j].v, z = l.scale * c + l.bias;
            float g = weight * (mass * (expf(z - lse) + expf(z - col_lse[j].v)) - 2 * target);
            sums[SUM_LOSS] -= 2 * target * z;
            sums[SUM_SCALE] += g * c;
            sums[SUM_BIAS] += g;
            cos[i * m + j].v = l.scale * g;
        }
    }
    block_sums<SUMS>(sums, shared);
    if (threadIdx.x == 0)
        for (int k = 0; k < SUMS; k++) parts[k * gridDim.x + blockIdx.x] = sums[k];
}

void FN(soft_logits_grad)(acc *cos, acc *loss, acc *dlog_scale, acc *dbias, const acc *t,
                          const acc *row_lse, const acc *col_lse, const acc *log_scale,
                          const acc *bias, size_t n, size_t m, double mass, double weight) {
    GPU_TIMER(soft_logits_grad, 16 * n * m, 3 * n * m * sizeof(acc));
    if (!n || !m) return;
    size_t blocks = size_min(div_up(n, 4), (size_t)device_multiprocessors() * 8);
    float *parts = (float *)device_scratch(SCRATCH_PARTIAL, blocks * SUMS * sizeof *parts);
    LAUNCH(soft_grad, blocks, BLOCK, 0, cos, parts, t, row_lse, col_lse, log_scale, bias, n, m,
           (float)mass, (float)weight);
    LAUNCH(tile_sums, 1, BLOCK, 0, loss, dlog_scale, dbias, parts, blocks, log_scale,
           (float)weight);
}

__global__ static void __launch_bounds__(BLOCK)
    siglip_targets(acc *cos, float *parts, const acc *t, const acc *log_scale, const acc *bias,
                   size_t n, size_t m, float weight) {
    __shared__ float shared[SUMS * BLOCK / WARP];
    Logit l = logit(log_scale, bias);
    float sums[SUMS] = {0};
    for (size_t i = blockIdx.x; i < n; i += gridDim.x)
        for (size_t j = threadIdx.x; j < m; j += BLOCK) {
            float c = cos[i * m + j].v, y = t[i * m + j].v > 0 ? 1 : -1;
            float z = l.scale * c + l.bias, e = expf(-fabsf(z)), yz = y * z;
            sums[SUM_LOSS] += fmaxf(-yz, 0) + log1pf(e);
            float g = -y * weight * (yz > 0 ? e : 1) / (1 + e);
            sums[SUM_SCALE] += g * c;
            sums[SUM_BIAS] += g;
            cos[i * m + j].v = l.scale * g;
        }
    block_sums<SUMS>(sums, shared);
    if (threadIdx.x == 0)
        for (int k = 0; k < SUMS; k++) parts[k * gridDim.x + blockIdx.x] = sums[k];
}

void FN(siglip_targets_tile)(acc *cos, acc *loss, acc *dlog_scale, acc *dbias, const acc *t,
                             const acc *log_scale, const acc *bias, size_t n, size_t m,
                             double weight) {
    GPU_TIMER(siglip_targets_tile, 16 * n * m, 3 * n * m * sizeof(acc));
    if (!n || !m) return;
    size_t blocks = size_min(div_up(n, 4), (size_t)device_multiprocessors() * 8);
    float *parts = (float *)device_scratch(SCRATCH_PARTIAL, blocks * SUMS * sizeof *parts);
    LAUNCH(siglip_targets, blocks, BLOCK, 0, cos, parts, t, log_scale, bias, n, m, (float)weight);
    LAUNCH(tile_sums, 1, BLOCK, 0, loss, dlog_scale, dbias, parts, blocks, log_scale,
           (float)weight);
}
