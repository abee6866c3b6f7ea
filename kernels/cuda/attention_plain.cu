/* cuda/attention_plain: attention on the ordinary float units: f32 activations, and shapes that the
 * tensor cores do not support. Four neighbouring threads share a query (in the second half of the
 * backward a key) and divide its elements. The tiles that they walk over are in shared memory as
 * floats. */
#include "kernels/cuda/row_tiles.cuh"

/* SIZE rows of a tile, TEAM threads for each row: 128 threads. */
enum { SIZE = 32, TEAM = 4, THREADS = SIZE * TEAM };

/* Thread t of a team has the elements t, t + TEAM, … : W of them, beyond D they are 0. */
template <int W> __device__ static inline void part_load(float r[W], const act *row, int D) {
#pragma unroll
    for (int i = 0; i < W; i++) {
        int d = i * TEAM + threadIdx.x % TEAM;
        r[i] = d < D ? act_value(row[d]) : 0;
    }
}
template <int W>
__device__ static inline void part_store(act *row, const float r[W], float scale, int D) {
#pragma unroll
    for (int i = 0; i < W; i++) {
        int d = i * TEAM + threadIdx.x % TEAM;
        if (d < D) row[d] = act_from(scale * r[i]);
    }
}
/* The dot products of a tile's row with two vectors, over the team. */
template <int W> __device__ static inline float part_dot(const float a[W], const float *row) {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < W; i++) sum += a[i] * row[i * TEAM + threadIdx.x % TEAM];
#pragma unroll
    for (int d = 1; d < TEAM; d *= 2) sum += __shfl_xor_sync(FULL_MASK, sum, d);
    return sum;
}

/* rows first … end-1 (at most SIZE) of a matrix into a tile; missing elements are 0. */
template <int W>
__device__ static inline void rows_fetch(float (*tile)[W * TEAM], const act *from, size_t stride,
                                         int first, int end, int D) {
    for (int i = threadIdx.x; i < SIZE * W * TEAM; i += THREADS) {
        int row = first + i / (W * TEAM), d = i % (W * TEAM);
        tile[i / (W * TEAM)][d] = row < end && d < D ? act_value(from[row * stride + d]) : 0;
    }
}

template <int W>
__global__ static void __launch_bounds__(THREADS, 2)
    plain_fwd(act *o, acc *lse, const act *qkv, Tiles t) {
    __shared__ float keys[SIZE][W * TEAM], values[SIZE][W * TEAM];
    TileRows own;
    if (!tile_rows(&own, &t, SIZE)) return;
    size_t C = (size_t)t.H * t.D, h = blockIdx.y;
    const act *q = qkv + h * t.D;
    int row = min(own.first + (int)threadIdx.x / TEAM, own.end - 1);
    int2 span = row_span(&t, &own, row);
    int first = row_span(&t, &own, own.first).x, end = row_span(&t, &own, own.end - 1).y;
    float query[W], out[W] = {0}, max = -FLT_MAX, sum = 0, scale = rsqrtf((float)t.D);
    part_load<W>(query, q + row * 3 * C, t.D);
    for (int k0 = first; k0 < end; k0 += SIZE) {
        __syncthreads();
        rows_fetch<W>(keys, q + C, 3 * C, k0, end, t.D);
        rows_fetch<W>(values, q + 2 * C, 3 * C, k0, end, t.D);
        __syncthreads();
        for (int j = 0; j < min(SIZE, end - k0); j++) {
            float score = scale * part_dot<W>(query, keys[j]);
            if (k0 + j < span.x || k0 + j >= span.y) continue;
            float top = fmaxf(max, score), keep = expf(max - top), weight = expf(score - top);
            sum = sum * keep + weight;
            max = top;
#pragma unroll
            for (int i = 0; i < W; i++)
                out[i] = out[i] * keep + weight * values[j][i * TEAM + threadIdx.x % TEAM];
        }
    }
    if (own.first + (int)threadIdx.x / TEAM >= own.end) return;
    part_store<W>(o + row * C + h * t.D, out, 1 / sum, t.D);
    if (threadIdx.x % TEAM == 0) lse[h * t.rows + row].v = max + logf(sum);
}

/* With P = exp(score - lse), dP_j = do·v_j, delta = do·o and dS = P (dP - delta): dq = scale Σ_j
 * dS_j k_j. delta is kept for the other half. */
template <int W>
__global__ static void __launch_bounds__(THREADS, 2)
    plain_bwd_query(act *dqkv, float *delta, const act *dout, const act *o, const acc *lse,
                    const act *qkv, Tiles t) {
    __shared__ float keys[SIZE][W * TEAM], values[SIZE][W * TEAM];
    TileRows own;
    if (!tile_rows(&own, &t, SIZE)) return;
    size_t C = (size_t)t.H * t.D, h = blockIdx.y;
    const act *q = qkv + h * t.D;
    bool mine = own.first + (int)threadIdx.x / TEAM < own.end;
    int row = min(own.first + (int)threadIdx.x / TEAM, own.end - 1);
    int2 span = row_span(&t, &own, row);
    int first = row_span(&t, &own, own.first).x, end = row_span(&t, &own, own.end - 1).y;
    float query[W], d[W], grad[W], scale = rsqrtf((float)t.D), mean = 0;
    part_load<W>(query, q + row * 3 * C, t.D);
    part_load<W>(d, dout + row * C + h * t.D, t.D);
    part_load<W>(grad, o + row * C + h * t.D, t.D);
#pragma unroll
    for (int i = 0; i < W; i++) {
        mean += d[i] * grad[i];
        grad[i] = 0;
    }
#pragma unroll
    for (int k = 1; k < TEAM; k *= 2) mean += __shfl_xor_sync(FULL_MASK, mean, k);
    float log_sum = lse[h * t.rows + row].v;
    if (mine && threadIdx.x % TEAM == 0) delta[h * t.rows + row] = mean;
    for (int k0 = first; k0 < end; k0 += SIZE) {
        __syncthreads();
        rows_fetch<W>(keys, q + C, 3 * C, k0, end, t.D);
        rows_fetch<W>(values, q + 2 * C, 3 * C, k0, end, t.D);
        __syncthreads();
        for (int j = 0; j < min(SIZE, end - k0); j++) {
            float score = scale * part_dot<W>(query, keys[j]), dp = part_dot<W>(d, values[j]);
            if (k0 + j < span.x || k0 + j >= span.y) continue;
            float ds = expf(score - log_sum) * (dp - mean);
#pragma unroll
            for (int i = 0; i < W; i++) grad[i] += ds * keys[j][i * TEAM + threadIdx.x % TEAM];
        }
    }
    if (mine) part_store<W>(dqkv + row * 3 * C + h * t.D, grad, scale, t.D);
}

/* dk_j = scale Σ_i dS_ij q_i and dv_j = Σ_i P_ij do_i, over the queries that may attend to key
 * j. */
template <int W>
__global__ static void __launch_bounds__(THREADS, 2)
    plain_bwd_key(act *dqkv, const float *delta, const act *dout, const acc *lse, const act *qkv,
                  Tiles t) {
    __shared__ float queries[SIZE][W * TEAM], grads[SIZE][W * TEAM];
    TileRows own;
    if (!tile_rows(&own, &t, SIZE)) return;
    size_t C = (size_t)t.H * t.D, h = blockIdx.y;
    const act *q = qkv + h * t.D;
    int row = min(own.first + (int)threadIdx.x / TEAM, own.end - 1);
    int first = t.causal ? own.first : row_span(&t, &own, own.first).x;
    int end = row_end(&t, &own, own.end - 1);
    float key[W], value[W], dk[W] = {0}, dv[W] = {0}, scale = rsqrtf((float)t.D);
    part_load<W>(key, q + row * 3 * C + C, t.D);
    part_load<W>(value, q + row * 3 * C + 2 * C, t.D);
    for (int q0 = first; q0 < end; q0 += SIZE) {
        __syncthreads();
        rows_fetch<W>(queries, q, 3 * C, q0, end, t.D);
        rows_fetch<W>(grads, dout + h * t.D, C, q0, end, t.D);
        __syncthreads();
        for (int j = 0; j < min(SIZE, end - q0); j++) {
            float score = scale * part_dot<W>(key, queries[j]), dp = part_dot<W>(value, grads[j]);
            int2 span = row_span(&t, &own, q0 + j);
            if (row < span.x || row >= span.y) continue;
            size_t at = h * t.rows + q0 + j;
            float p = expf(score - lse[at].v), ds = p * (dp - delta[at]);
#pragma unroll
            for (int i = 0; i < W; i++) {
                dk[i] += ds * queries[j][i * TEAM + threadIdx.x % TEAM];
                dv[i] += p * grads[j][i * TEAM + threadIdx.x % TEAM];
            }
        }
    }
    if (own.first + (int)threadIdx.x / TEAM >= own.end) return;
    part_store<W>(dqkv + row * 3 * C + C + h * t.D, dk, scale, t.D);
    part_store<W>(dqkv + row * 3 * C + 2 * C + h * t.D, dv, 1, t.D);
}

/* Selects kernel<W> with the least W that holds a row. */
#define LAUNCH_WIDTH(kernel, grid, ...)                                                            \
    do {                                                                                           \
        if (t.D <= 8 * TEAM)                                                                       \
            LAUNCH_GRID(kernel<8>, grid, THREADS, 0, __VA_ARGS__);                                 \
        else if (t.D <= 16 * TEAM)                                                                 \
            LAUNCH_GRID(kernel<16>, grid, THREADS, 0, __VA_ARGS__);                                \
        else                                                                                       \
            LAUNCH_GRID(kernel<32>, grid, THREADS, 0, __VA_ARGS__);                                \
    } while (0)

void FN(attention_plain_fwd)(act *o, acc *lse, const act *qkv, Tiles t, size_t B, size_t max_T) {
    dim3 grid = FN(tiles_grid)(&t, B, max_T, SIZE);
    LAUNCH_WIDTH(plain_fwd, grid, o, lse, qkv, t);
}

void FN(attention_plain_bwd)(act *dqkv, float *delta, const act *dout, const act *o, const acc *lse,
                             const act *qkv, Tiles t, size_t B, size_t max_T) {
    dim3 grid = FN(tiles_grid)(&t, B, max_T, SIZE);
    LAUNCH_WIDTH(plain_bwd_query, grid, dqkv, delta, dout, o, lse, qkv, t);
    LAUNCH_WIDTH(plain_bwd_key, grid, dqkv, delta, dout, lse, qkv, t);
}
