/* cuda/batchnorm: batch normalisation with the residual add and the ReLU that follow it. Sums over
 * rows run in two stages (Columns). */
#include "kernels/cuda/cuda.cuh"

/* sums[2,C] = the sums over the chunks of parts[2,chunks,C]; blockIdx.y: which. */
__global__ static void __launch_bounds__(BLOCK)
    finish_sums(acc *sums, const float *parts, size_t chunks, size_t C) {
    size_t i = (size_t)blockIdx.x * WARP + threadIdx.x % WARP;
    float s = parts_sum(parts + blockIdx.y * chunks * C, chunks, C, i);
    if (threadIdx.x < WARP && i < C) sums[blockIdx.y * C + i].v = s;
}

static void finish(acc *sums, const Columns *c, size_t C) {
    dim3 grid(launch_size(div_up(C, (size_t)WARP)), 2);
    LAUNCH_GRID(finish_sums, grid, WARP * PART_TEAMS, 0, sums, c->parts, c->chunks, C);
}

__global__ static void __launch_bounds__(WARP *COLUMN_TEAMS)
    sum_shifted(float *parts, const act *x, const acc *shift, size_t rows, size_t C,
                size_t rows_chunk, bool wide) {
    size_t col = columns_first(), end = min(rows, (blockIdx.y + 1) * rows_chunk);
    float sum[VW] = {0}, squares[VW] = {0}, m[VW] = {0};
    if (col < C) acc_load(m, shift + col, C - col, wide);
    for (size_t i = blockIdx.y * rows_chunk + threadIdx.x / WARP; i < end && col < C;
         i += COLUMN_TEAMS) {
        float v[VW];
        act_load(v, x + i * C + col, C - col, wide);
#pragma unroll
        for (int j = 0; j < VW; j++) {
            v[j] -= m[j];
            sum[j] += v[j];
            squares[j] += v[j] * v[j];
        }
    }
    columns_store(parts, sum, C);
    __syncthreads();
    columns_store(parts + gridDim.y * C, squares, C);
}

void FN(batchnorm_sums)(acc *sums, const act *x, const acc *shift, size_t rows, size_t C) {
    GPU_TIMER(batchnorm_sums, 3 * rows * C, rows * C * sizeof(act));
    Columns c = FN(columns)(rows, C, 2);
    bool wide = C % VW == 0 && aligned16(x) && aligned16(shift);
    if (rows)
        LAUNCH_GRID(sum_shifted, c.grid, WARP * COLUMN_TEAMS, 0, c.parts, x, shift, rows, C,
                    c.rows_chunk, wide);
    finish(sums, &c, C);
}

__global__ static void statistics(acc *mean, acc *rstd, acc *running_mean, acc *running_var,
                                  const acc *sums, double count, size_t C, double eps,
                                  double momentum) {
    size_t c = thread_index();
    if (c >= C) return;
    double m = running_mean[c].v, var = running_var[c].v;
    if (sums) {
        double d = sums[c].v / count;
        m += d;
        var = fmax(0.0, sums[C + c].v / count - d * d);
        double unbiased = count > 1 ? var * count / (count - 1) : 0;
        running_mean[c].v = (float)(running_mean[c].v + momentum * d);
        running_var[c].v = (float)(running_var[c].v + momentum * (unbiased - running_var[c].v));
    }
    mean[c].v = (float)m;
    rstd[c].v = (float)(1 / sqrt(var + eps));
}

void FN(batchnorm_stats)(acc *mean, acc *rstd, acc *running_mean, acc *running_var, const acc *sums,
                         double count, size_t C, double eps, double momentum) {
    GPU_TIMER(batchnorm_stats, 10 * C, 6 * C * sizeof(acc));
    LAUNCH(statistics, div_up(C, (size_t)BLOCK), BLOCK, 0, mean, rstd, running_mean, running_var,
           sums, count, C, eps, momentum);
}

/* Thread t of all has VW columns from *col on of row *row. */
__device__ static inline bool piece_of(size_t rows, size_t C, size_t *row, size_t *col) {
    size_t pieces = (C + VW - 1) / VW, t = thread_index();
    *row = t / pieces;
    *col = t % pieces * VW;
    return *row < rows;
}
static size_t piece_blocks(size_t rows, size_t C) {
    return div_up(rows * div_up(C, (size_t)VW), BLOCK);
}

__global__ static void normalise(act *y, const act *x, const act *r, const acc *mean,
                                 const acc *rstd, const acc *w, const acc *b, size_t rows, size_t C,
                                 bool relu, bool wide) {
    size_t row, c;
    if (!piece_of(rows, C, &row, &c)) return;
    float v[VW], u[VW];
    size_t at = row * C + c, k = C - c;
    act_load(v, x + at, k, wide);
    acc_load(u, mean + c, k, wide);
#pragma unroll
    for (int j = 0; j < VW; j++) v[j] -= u[j];
    acc_load(u, rstd + c, k, wide);
#pragma unroll
    for (int j = 0; j < VW; j++) v[j] *= u[j];
    acc_load(u, w + c, k, wide);
#pragma unroll
    for (int j = 0; j < VW; j++) v[j] *= u[j];
    acc_load(u, b + c, k, wide);
#pragma unroll
    for (int j = 0; j < VW; j++) v[j] += u[j];
    if (r) {
        act_load(u, r + at, k, wide);
#pragma unroll
        for (int j = 0; j < VW; j++) v[j] += u[j];
    }
#pragma unroll
    for (int j = 0; j < VW; j++)
        if (relu && v[j] < 0) v[j] = 0;
    act_store(y + at, v, k, wide);
}

void FN(batchnorm_fwd)(act *y, const act *x, const act *r, const acc *mean, const acc *rstd,
                       const acc *w, const acc *b, size_t rows, size_t C, bool relu) {
    GPU_TIMER(batchnorm_fwd, 4 * rows * C, rows * C * (r ? 3 : 2) * sizeof(act));
    bool wide = C % VW == 0 && aligned16(y) && aligned16(x) && (!r || aligned16(r)) &&
                aligned16(mean) && aligned16(rstd) && aligned16(w) && aligned16(b);
    LAUNCH(normalise, piece_blocks(rows, C), BLOCK, 0, y, x, r, mean, rstd, w, b, rows, C, relu,
           wide);
}

__global__ static void __launch_bounds__(WARP *COLUMN_TEAMS)
    gradient_sums(float *parts, act *dz, const act *dy, const act *y, const act *x, const acc *mean,
                  const acc *rstd, size_t rows, size_t C, size_t rows_chunk, bool wide) {
    size_t col = columns_first(), end = min(rows, (blockIdx.y + 1) * rows_chunk);
    float sum[VW] = {0}, along[VW] = {0}, m[VW] = {0}, rs[VW] = {0};
    if (col < C) {
        acc_load(m, mean + col, C - col, wide);
        acc_load(rs, rstd + col, C - col, wide);
    }
    for (size_t i = blockIdx.y * rows_chunk + threadIdx.x / WARP; i < end && col < C;
         i += COLUMN_TEAMS) {
        float d[VW], v[VW];
        size_t at = i * C + col;
        act_load(d, dy + at, C - col, wide);
        if (y) {
            act_load(v, y + at, C - col, wide);
#pragma unroll
            for (int j = 0; j < VW; j++)
                if (!(v[j] > 0)) d[j] = 0;
            act_store(dz + at, d, C - col, wide);
        }
        act_load(v, x + at, C - col, wide);
#pragma unroll
        for (int j = 0; j < VW; j++) {
            sum[j] += d[j];
            along[j] += d[j] * ((v[j] - m[j]) * rs[j]);
        }
    }
    columns_store(parts, sum, C);
    __syncthreads();
    columns_store(parts + gridDim.y * C, along, C);
}

void FN(batchnorm_bwd_sums)(acc *sums, act *dz, const act *dy, const act *y, const act *x,
                            const acc *mean, const acc *rstd, size_t rows, size_t C) {
    GPU_TIMER(batchnorm_bwd_sums, 5 * rows * C, rows * C * (y ? 4 : 2) * sizeof(act));
    Columns c = FN(columns)(rows, C, 2);
    bool wide = C % VW == 0 && aligned16(dy) && aligned16(x) && aligned16(mean) &&
                aligned16(rstd) && (!y || (aligned16(y) && aligned16(dz)));
    if (rows)
        LAUNCH_GRID(gradient_sums, c.grid, WARP * COLUMN_TEAMS, 0, c.parts, dz, dy, y, x, mean,
                    rstd, rows, C, c.rows_chunk, wide);
    finish(sums, &c, C);
}

__global__ static void gradient(act *dx, const act *dz, const act *x, const acc *mean,
                                const acc *rstd, const acc *w, const acc *sums, float share,
                                size_t rows, size_t C, bool wide) {
    size_t row, c;
    if (!piece_of(rows, C, &row, &c)) return;
    float d[VW], v[VW], rs[VW], u[VW];
    size_t at = row * C + c, k = C - c;
    act_load(d, dz + at, k, wide);
    acc_load(rs, rstd + c, k, wide);
    if (sums) {
        act_load(v, x + at, k, wide);
        acc_load(u, mean + c, k, wide);
#pragma unroll
        for (int j = 0; j < VW; j++) v[j] = (v[j] - u[j]) * rs[j];
        acc_load(u, sums + C + c, k, wide);
#pragma unroll
        for (int j = 0; j < VW; j++) v[j] *= u[j];
        acc_load(u, sums + c, k, wide);
#pragma unroll
        for (int j = 0; j < VW; j++) d[j] -= (v[j] + u[j]) * share;
    }
    acc_load(u, w + c, k, wide);
#pragma unroll
    for (int j = 0; j < VW; j++) d[j] *= u[j] * rs[j];
    act_store(dx + at, d, k, wide);
}

void FN(batchnorm_bwd)(act *dx, const act *dz, const act *x, const acc *mean, const acc *rstd,
                       const acc *w, const acc *sums, double count, size_t rows, size_t C) {
    GPU_TIMER(batchnorm_bwd, 7 * rows * C, rows * C * (sums ? 3 : 2) * sizeof(act));
    bool wide = C % VW == 0 && aligned16(dx) && aligned16(dz) && aligned16(x) && aligned16(mean) &&
                aligned16(rstd) && aligned16(w) && (!sums || aligned16(sums));
    LAUNCH(gradient, piece_blocks(rows, C), BLOCK, 0, dx, dz, x, mean, rstd, w, sums,
           (float)(1 / count), rows, C, wide);
}
