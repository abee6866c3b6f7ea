/* cuda/norm: LayerNorm and L2 normalisation. */
#include "kernels/cuda/cuda.cuh"

#define L2NORM_MIN 1e-12f

/* A row belongs to a team: a warp if PIECES pieces of VW columns for each lane hold it, else a
 * block. It stays in registers: one read for all passes. */
enum { PIECES = 4, WARP_COLUMNS = PIECES * WARP * VW, BLOCK_COLUMNS = PIECES * BLOCK * VW };

template <int TEAM> __device__ static inline float team_sum(float x, float *shared) {
    if (TEAM == WARP) return warp_sum(x);
    block_sums<1>(&x, shared);
    return x;
}

template <int TEAM>
__global__ static void __launch_bounds__(BLOCK)
    layernorm_fwd(act *y, acc *mean, acc *rstd, act *sum, const act *x, const act *r, const acc *w,
                  const acc *b, size_t rows, size_t C, float eps, bool wide) {
    __shared__ float shared[2][BLOCK / WARP];
    size_t row = thread_index() / TEAM;
    if (TEAM == WARP && row >= rows) return;
    size_t lane = threadIdx.x % TEAM, at = row * C;
    float v[PIECES][VW], m = 0, var = 0;
#pragma unroll
    for (int i = 0; i < PIECES; i++) {
        size_t c = (i * TEAM + lane) * VW;
        if (c >= C) break;
        act_load(v[i], x + at + c, C - c, wide);
        if (r) {
            float u[VW];
            act_load(u, r + at + c, C - c, wide);
#pragma unroll
            for (int j = 0; j < VW; j++) v[i][j] = act_round(v[i][j] + u[j]);
        }
#pragma unroll
        for (int j = 0; j < VW; j++) m += v[i][j];
    }
    m = team_sum<TEAM>(m, shared[0]) / (float)C;
#pragma unroll
    for (int i = 0; i < PIECES; i++) {
        size_t c = (i * TEAM + lane) * VW;
        if (c >= C) break;
        if (r) act_store(sum + at + c, v[i], C - c, wide);
#pragma unroll
        for (int j = 0; j < VW; j++)
            if (c + j < C) var += (v[i][j] - m) * (v[i][j] - m);
    }
    float rs = rsqrtf(team_sum<TEAM>(var, shared[1]) / (float)C + eps);
    if (lane == 0) {
        mean[row].v = m;
        rstd[row].v = rs;
    }
#pragma unroll
    for (int i = 0; i < PIECES; i++) {
        size_t c = (i * TEAM + lane) * VW;
        if (c >= C) break;
        float u[VW], o[VW];
        acc_load(u, w + c, C - c, wide);
        acc_load(o, b + c, C - c, wide);
#pragma unroll
        for (int j = 0; j < VW; j++) o[j] += (v[i][j] - m) * rs * u[j];
        act_store(y + at + c, o, C - c, wide);
    }
}

void FN(layernorm_fwd)(act *y, acc *mean, acc *rstd, act *sum, const act *x, const act *r,
                       const acc *w, const acc *b, size_t rows, size_t C, double eps) {
    GPU_TIMER(layernorm_fwd, 8 * rows * C, rows * C * (r ? 4 : 2) * sizeof(act));
    assert(C <= BLOCK_COLUMNS);
    bool wide = C % VW == 0 && aligned16(y) && aligned16(x) && aligned16(w) && aligned16(b) &&
                (!r || (aligned16(r) && aligned16(sum)));
    if (C <= WARP_COLUMNS)
        LAUNCH(layernorm_fwd<WARP>, div_up(rows, BLOCK / WARP), BLOCK, 0, y, mean, rstd, sum, x, r,
               w, b, rows, C, (float)eps, wide);
    else
        LAUNCH(layernorm_fwd<BLOCK>, rows, BLOCK, 0, y, mean, rstd, sum, x, r, w, b, rows, C,
               (float)eps, wide);
}

/* A thread owns VW columns, so that the sums of dw and db stay in its registers; a block walks over
 * its share of the rows, GROUP rows at a time: their loads are in flight together, and one barrier
 * is enough for the two sums of each. parts: partial sums of dw and db [blocks, 2, VW, threads]. */
enum { GROUP = 2, BWD_THREADS = 640 }; /* at most 96 registers */
__global__ static void __launch_bounds__(BWD_THREADS)
    layernorm_bwd(act *dx, float *parts, act *y, const act *dy, const act *dres, const act *x,
                  const acc *mean, const acc *rstd, const acc *w, const acc *b, size_t rows,
                  size_t C, bool wide) {
    __shared__ float shared[2][2 * GROUP * WARP];
    size_t c = threadIdx.x * VW;
    bool mine = c < C;
    float dw[VW] = {0}, db[VW] = {0}, wv[VW] = {0}, bv[VW] = {0};
    if (mine) acc_load(wv, w + c, C - c, wide);
    if (mine && y) acc_load(bv, b + c, C - c, wide);
    int turn = 0;
    for (size_t first = (size_t)blockIdx.x * GROUP; first < rows;
         first += (size_t)gridDim.x * GROUP, turn ^= 1) {
        float n[GROUP][VW], g[GROUP][VW], sums[2 * GROUP];
#pragma unroll
        for (int k = 0; k < GROUP; k++) {
            size_t row = first + k;
            sums[2 * k] = sums[2 * k + 1] = 0;
#pragma unroll
            for (int j = 0; j < VW; j++) n[k][j] = g[k][j] = 0;
            if (!mine || row >= rows) continue;
            act_load(n[k], x + row * C + c, C - c, wide);
            act_load(g[k], dy + row * C + c, C - c, wide);
        }
#pragma unroll
        for (int k = 0; k < GROUP; k++) {
            size_t row = first + k;
            if (!mine || row >= rows) continue;
            float m = mean[row].v, rs = rstd[row].v;
#pragma unroll
            for (int j = 0; j < VW; j++) {
                n[k][j] = c + j < C ? (n[k][j] - m) * rs : 0;
                dw[j] += g[k][j] * n[k][j];
                db[j] += g[k][j];
                g[k][j] *= wv[j];
                sums[2 * k] += g[k][j];
                sums[2 * k + 1] += g[k][j] * n[k][j];
            }
            if (y) {
                float o[VW];
#pragma unroll
                for (int j = 0; j < VW; j++) o[j] = n[k][j] * wv[j] + bv[j];
                act_store(y + row * C + c, o, C - c, wide);
            }
        }
        block_sums<2 * GROUP>(sums, shared[turn]);
#pragma unroll
        for (int k = 0; k < GROUP; k++) {
            size_t row = first + k;
            if (!mine || row >= rows) continue;
            float rs = rstd[row].v, g_mean = sums[2 * k] / (float)C;
            float gn_mean = sums[2 * k + 1] / (float)C, d[VW] = {0};
            if (dres) act_load(d, dres + row * C + c, C - c, wide);
#pragma unroll
            for (int j = 0; j < VW; j++) d[j] += rs * (g[k][j] - g_mean - n[k][j] * gn_mean);
            act_store(dx + row * C + c, d, C - c, wide);
        }
    }
    float *out = parts + (size_t)blockIdx.x * 2 * VW * blockDim.x + threadIdx.x;
#pragma unroll
    for (int j = 0; j < VW; j++) {
        out[j * blockDim.x] = dw[j];
        out[(VW + j) * blockDim.x] = db[j];
    }
}

/* dw[C], db[C] += the partial sums [chunks, 2, VW, threads], in order. */
__global__ static void __launch_bounds__(BLOCK)
    layernorm_weights(acc *dw, acc *db, const float *parts, size_t chunks, unsigned threads,
                      size_t C) {
    unsigned i = blockIdx.x * WARP + threadIdx.x % WARP;
    float sum = parts_sum(parts, chunks, 2 * VW * threads, i);
    unsigned j = i / threads;
    size_t c = i % threads * VW + j % VW;
    if (threadIdx.x >= WARP || c >= C) return;
    (j < VW ? dw + c : db + c)->v += sum;
}

void FN(layernorm_bwd)(act *dx, acc *dw, acc *db, act *y, const act *dy, const act *dres,
                       const act *x, const acc *mean, const acc *rstd, const acc *w, const acc *b,
                       size_t rows, size_t C) {
    GPU_TIMER(layernorm_bwd, 16 * rows * C,
              rows * C * (3 + (y != NULL) + (dres != NULL)) * sizeof(act));
    if (!rows) return;
    size_t threads = round_up(div_up(C, VW), WARP);
    assert(threads <= BWD_THREADS);
    bool wide = C % VW == 0 && aligned16(dx) && aligned16(dy) && aligned16(x) && aligned16(w) &&
                aligned16(b) && (!y || aligned16(y)) && (!dres || aligned16(dres));
    size_t resident = (size_t)device_multiprocessors() * size_max(1, 768 / threads);
    size_t chunks = size_min(resident, div_up(rows, 4 * GROUP));
    size_t sums = 2 * VW * threads; /* threads: a multiple of WARP */
    float *parts = (float *)device_scratch(SCRATCH_PARTIAL, chunks * sums * sizeof *parts);
    LAUNCH(layernorm_bwd, chunks, (unsigned)threads, 0, dx, parts, y, dy, dres, x, mean, rstd, w, b,
           rows, C, wide);
    LAUNCH(layernorm_weights, sums / WARP, WARP * PART_TEAMS, 0, dw, db, parts, chunks,
           (unsigned)threads, C);
}

/* ---- L2 ---- (one warp for each row) */

__global__ static void l2norm_fwd(acc *y, acc *norm, const acc *x, size_t rows, size_t E) {
    size_t row = thread_index() / WARP, lane = threadIdx.x % WARP;
    if (row >= rows) return;
    x += row * E;
    y += row * E;
    float sum = 0;
    for (size_t e = lane; e < E; e += WARP) sum += x[e].v * x[e].v;
    float length = fmaxf(sqrtf(warp_sum(sum)), L2NORM_MIN);
    for (size_t e = lane; e < E; e += WARP) y[e].v = x[e].v / length;
    if (lane == 0) norm[row].v = length;
}

void FN(l2norm_fwd)(acc *y, acc *norm, const acc *x, size_t rows, size_t E) {
    GPU_TIMER(l2norm_fwd, 3 * rows * E, 2 * rows * E * sizeof(acc));
    LAUNCH(l2norm_fwd, div_up(rows, BLOCK / WARP), BLOCK, 0, y, norm, x, rows, E);
}

__global__ static void l2norm_bwd(acc *dx, const acc *dy, const acc *y, const acc *norm,
                                  size_t rows, size_t E) {
    size_t row = thread_index() / WARP, lane = threadIdx.x % WARP;
    if (row >= rows) return;
    dx += row * E;
    dy += row * E;
    y += row * E;
    float along = 0, length = norm[row].v;
    for (size_t e = lane; e < E; e += WARP) along += y[e].v * dy[e].v;
    along = warp_sum(along);
    for (size_t e = lane; e < E; e += WARP) dx[e].v = (dy[e].v - y[e].v * along) / length;
}

void FN(l2norm_bwd)(acc *dx, const acc *dy, const acc *y, const acc *norm, size_t rows, size_t E) {
    GPU_TIMER(l2norm_bwd, 5 * rows * E, 3 * rows * E * sizeof(acc));
    LAUNCH(l2norm_bwd, div_up(rows, BLOCK / WARP), BLOCK, 0, dx, dy, y, norm, rows, E);
}
