/* cuda/optim: the gradient's norm and AdamW over the flat parameter block. */
#include "kernels/cuda/cuda.cuh"

/* Every block leaves its sum; the block that comes last adds them up in their order. */
__global__ static void __launch_bounds__(BLOCK)
    sum_squares(acc *out, float *parts, unsigned *counter, const acc *x, size_t n, bool wide) {
    __shared__ float shared[2][BLOCK / WARP];
    __shared__ bool last;
    float sum = 0;
    size_t stride = (size_t)gridDim.x * blockDim.x * VW;
    for (size_t i = thread_index() * VW; i < n; i += stride) {
        float v[VW];
        acc_load(v, x + i, n - i, wide);
#pragma unroll
        for (int j = 0; j < VW; j++) sum += v[j] * v[j];
    }
    block_sums<1>(&sum, shared[0]);
    if (threadIdx.x == 0) {
        parts[blockIdx.x] = sum;
        __threadfence();
        last = atomicAdd(counter, 1) == gridDim.x - 1;
    }
    __syncthreads();
    if (!last) return;
    __threadfence();
    sum = 0;
    for (unsigned i = threadIdx.x; i < gridDim.x; i += BLOCK) sum += parts[i];
    block_sums<1>(&sum, shared[1]);
    if (threadIdx.x == 0) {
        out->v += sum;
        *counter = 0;
    }
}

void FN(sum_squares)(acc *out, const acc *x, size_t n) {
    GPU_TIMER(sum_squares, 2 * n, n * sizeof(acc));
    size_t blocks = size_min(div_up(blocks_of(n), 4), (size_t)device_multiprocessors() * 8);
    float *parts = (float *)device_scratch(SCRATCH_PARTIAL, blocks * sizeof *parts);
    LAUNCH(sum_squares, blocks, BLOCK, 0, out, parts, device_counter(), x, n, aligned16(x));
}

/* AdamW's constants as the kernel uses them. */
typedef struct AdamWFloats {
    float keep1, add1, keep2, add2, decay, step, root, eps;
} AdamWFloats;

__global__ static void __launch_bounds__(BLOCK)
    adamw(acc *p, act *w, acc *g, acc *m, acc *v, const acc *grad_scale, AdamWFloats o, size_t n,
          bool wide) {
    size_t i = thread_index() * VW, k = n - i;
    if (i >= n) return;
    float scale = grad_scale ? grad_scale->v : 1, d[VW], m1[VW], v1[VW], p1[VW];
    acc_load(d, g + i, k, wide);
    acc_load(m1, m + i, k, wide);
    acc_load(v1, v + i, k, wide);
    acc_load(p1, p + i, k, wide);
#pragma unroll
    for (int j = 0; j < VW; j++) {
        float grad = d[j] * scale;
        m1[j] = o.keep1 * m1[j] + o.add1 * grad;
        v1[j] = o.keep2 * v1[j] + o.add2 * grad * grad;
        p1[j] = p1[j] * o.decay - o.step * m1[j] / (sqrtf(v1[j]) * o.root + o.eps);
        d[j] = 0;
    }
    acc_store(m + i, m1, k, wide);
    acc_store(v + i, v1, k, wide);
    acc_store(p + i, p1, k, wide);
    acc_store(g + i, d, k, wide);
    if (w) act_store(w + i, p1, k, wide);
}

void FN(adamw)(acc *p, act *w, acc *g, acc *m, acc *v, const acc *grad_scale, const AdamW *o,
               size_t n) {
    GPU_TIMER(adamw, 14 * n, n * (32 + (w ? sizeof(act) : 0)));
    AdamWFloats f = {
        (float)o->beta1,
        (float)(1 - o->beta1),
        (float)o->beta2,
        (float)(1 - o->beta2),
        (float)(1 - o->lr * o->weight_decay),
        (float)(o->lr / o->correction1),
        (float)(1 / sqrt(o->correction2)),
        (float)o->eps,
    };
    bool wide = aligned16(p) && aligned16(g) && aligned16(m) && aligned16(v) && aligned16(w);
    LAUNCH(adamw, blocks_of(n), BLOCK, 0, p, w, g, m, v, grad_scale, f, n, wide);
}

__global__ static void clip_factor(acc *scale, const acc *sum_squares, float max_norm) {
    scale->v = fminf(1, max_norm / (sqrtf(sum_squares->v) + 1e-6f));
}

void FN(clip_factor)(acc *scale, const acc *sum_squares, double max_norm) {
    GPU_TIMER(clip_factor, 4, 8);
    LAUNCH(clip_factor, 1, 1, 0, scale, sum_squares, (float)max_norm);
}

__global__ static void clamp(acc *x, float lo, float hi, size_t n) {
    size_t i = thread_index();
    if (i < n) x[i].v = fminf(fmaxf(x[i].v, lo), hi);
}

void FN(clamp)(acc *x, double lo, double hi, size_t n) {
    GPU_TIMER(clamp, 2 * n, 8 * n);
    LAUNCH(clamp, div_up(n, BLOCK), BLOCK, 0, x, (float)lo, (float)hi, n);
}

__global__ static void __launch_bounds__(BLOCK)
    axpy(acc *y, float alpha, const acc *x, size_t n, bool wide) {
    size_t i = thread_index() * VW;
    if (i >= n) return;
    float a[VW], b[VW];
    acc_load(a, y + i, n - i, wide);
    acc_load(b, x + i, n - i, wide);
#pragma unroll
    for (int j = 0; j < VW; j++) a[j] += alpha * b[j];
    acc_store(y + i, a, n - i, wide);
}

void FN(axpy)(acc *y, double alpha, const acc *x, size_t n) {
    GPU_TIMER(axpy, 2 * n, 12 * n);
    LAUNCH(axpy, blocks_of(n), BLOCK, 0, y, (float)alpha, x, n, aligned16(x) && aligned16(y));
}

__global__ static void __launch_bounds__(BLOCK)
    ema(acc *avg, const acc *x, float add, size_t n, bool wide) {
    size_t i = thread_index() * VW;
    if (i >= n) return;
    float e[VW], v[VW];
    acc_load(e, avg + i, n - i, wide);
    acc_load(v, x + i, n - i, wide);
#pragma unroll
    for (int j = 0; j < VW; j++) e[j] += (v[j] - e[j]) * add;
    acc_store(avg + i, e, n - i, wide);
}

void FN(ema)(acc *avg, const acc *x, double decay, size_t n) {
    GPU_TIMER(ema, 3 * n, 12 * n);
    LAUNCH(ema, blocks_of(n), BLOCK, 0, avg, x, (float)(1 - decay), n,
           aligned16(x) && aligned16(avg));
}
