/* cuda/optim: the gradient's norm, AdamW and LARS over the flat parameter block: one block for each
 * chunk. */
#include "kernels/cuda/cuda.cuh"

/* 0 while no kernel runs. */
__device__ static unsigned blocks_done;

/* Every block writes its sum; the last block to finish adds them up in order. */
__global__ static void __launch_bounds__(BLOCK)
    sum_squares(acc *out, float *parts, const acc *g, const OptimChunk *chunk) {
    __shared__ float shared[2][BLOCK / WARP];
    __shared__ bool last;
    OptimChunk c = chunk[blockIdx.x];
    const acc *x = g + c.weights;
    bool wide = aligned16(x);
    size_t n = c.size;
    float sum = 0;
#pragma unroll 4
    for (size_t i = threadIdx.x * QUAD; i < n; i += BLOCK * QUAD) {
        float v[QUAD];
        acc_load<QUAD>(v, x + i, n - i, wide);
#pragma unroll
        for (int j = 0; j < QUAD; j++) sum += v[j] * v[j];
    }
    block_sums<1>(&sum, shared[0]);
    if (threadIdx.x == 0) {
        parts[blockIdx.x] = sum;
        __threadfence();
        last = atomicAdd(&blocks_done, 1) == gridDim.x - 1;
    }
    __syncthreads();
    if (!last) return;
    __threadfence();
    sum = 0;
    for (unsigned i = threadIdx.x; i < gridDim.x; i += BLOCK) sum += parts[i];
    block_sums<1>(&sum, shared[1]);
    if (threadIdx.x == 0) {
        out->v += sum;
        blocks_done = 0;
    }
}

void FN(sum_squares)(acc *out, const acc *g, const OptimChunk *chunk, size_t count) {
    GPU_TIMER(sum_squares, 2 * count * OPTIM_CHUNK, count * OPTIM_CHUNK * sizeof(acc));
    float *parts = (float *)device_scratch(SCRATCH_PARTIAL, count * sizeof *parts);
    LAUNCH(sum_squares, count, BLOCK, 0, out, parts, g, chunk);
}

__global__ static void skip_spike(acc *squares, const acc *loss, const AdamW *o) {
    if (loss->v > o->max_loss) squares->v = INFINITY;
}

void FN(skip_spike)(acc *squares, const acc *loss, const AdamW *o) {
    GPU_TIMER(skip_spike, 0, 16);
    LAUNCH(skip_spike, 1, 1, 0, squares, loss, o);
}

/* AdamW's values for the threads of a block. */
typedef struct Constants {
    float scale, keep1, add1, keep2, add2, decay, step, root, eps, lo, hi;
    uint32_t key;
    bool update;
} Constants;

/* In f64 once for each block, as on the host. */
__device__ static inline void constants_set(Constants *k, const AdamW *o, const OptimGroup *s,
                                            float squares) {
    double norm = sqrt((double)squares);
    k->update = isfinite(squares);
    k->scale = o->max_norm > 0 ? (float)fmin(1.0, o->max_norm / (norm + 1e-6)) : 1;
    k->keep1 = (float)o->beta1;
    k->add1 = (float)(1 - o->beta1);
    k->keep2 = (float)o->beta2;
    k->add2 = (float)(1 - o->beta2);
    k->decay = (float)(1 - o->lr * s->lr_scale * s->weight_decay);
    k->step = (float)(o->lr * s->lr_scale / o->correction1);
    k->root = (float)(1 / sqrt(o->correction2));
    k->eps = (float)o->eps;
    k->lo = (float)s->lo;
    k->hi = (float)s->hi;
    k->key = 0x9E3779B9u * (uint32_t)o->t;
}

/* ---- moments as f32 or as bf16, independent of the activations ---- */

typedef struct Bf16 {
    uint16_t bits;
} Bf16;

__device__ static inline void moment_load(float r[QUAD], const acc *m, size_t k, bool wide) {
    acc_load<QUAD>(r, m, k, wide);
}
__device__ static inline void moment_load(float r[QUAD], const Bf16 *m, size_t k, bool wide) {
    if (wide && k >= QUAD) {
        uint2 u = *(const uint2 *)m;
        const uint32_t w[QUAD / 2] = {u.x, u.y};
#pragma unroll
        for (int j = 0; j < QUAD; j++)
            r[j] = __uint_as_float(j % 2 ? w[j / 2] & 0xffff0000u : w[j / 2] << 16);
    } else {
#pragma unroll
        for (int j = 0; j < QUAD; j++)
            r[j] = j < k ? __uint_as_float((uint32_t)m[j].bits << 16) : 0;
    }
}
__device__ static inline void moment_store(acc *m, const float r[QUAD], const uint32_t[QUAD], int,
                                           size_t k, bool wide) {
    acc_store<QUAD>(m, r, k, wide);
}
/* Stochastic rounding: the noise's half from bit `shift` on is added below the last kept bit. */
__device__ static inline void moment_store(Bf16 *m, const float r[QUAD], const uint32_t noise[QUAD],
                                           int shift, size_t k, bool wide) {
    uint32_t h[QUAD];
#pragma unroll
    for (int j = 0; j < QUAD; j++)
        h[j] = (__float_as_uint(r[j]) + (noise[j] >> shift & 0xffff)) >> 16;
    if (wide && k >= QUAD) {
        __stwb((uint2 *)m, make_uint2(h[0] | h[1] << 16, h[2] | h[3] << 16));
    } else {
#pragma unroll
        for (int j = 0; j < QUAD; j++)
            if (j < k) m[j].bits = (uint16_t)h[j];
    }
}

__device__ static inline uint32_t noise_at(uint32_t x) {
    x = (x ^ x >> 16) * 0x85EBCA6Bu;
    x = (x ^ x >> 13) * 0xC2B2AE35u;
    return x ^ x >> 16;
}

/* Moment: acc or Bf16. */
template <typename Moment>
__global__ static void __launch_bounds__(BLOCK)
    adamw(acc *p, act *w, acc *g, Moment *m, Moment *v, const OptimChunk *chunk,
          const OptimGroup *group, const AdamW *step, const acc *squares) {
    __shared__ Constants shared;
    OptimChunk c = chunk[blockIdx.x];
    if (threadIdx.x == 0) constants_set(&shared, step, &group[c.group], squares->v);
    __syncthreads();
    Constants o = shared;
    p += c.weights, g += c.weights, m += c.moments, v += c.moments;
    w = w ? w + c.weights : w;
    bool wide = aligned16(p) && aligned16(g) && aligned16(m) && aligned16(v) && aligned16(w);
    for (size_t i = threadIdx.x * QUAD; i < c.size; i += BLOCK * QUAD) {
        size_t k = c.size - i;
        float d[QUAD], m1[QUAD], v1[QUAD], p1[QUAD], zero[QUAD] = {0};
        uint32_t noise[QUAD];
        if (!o.update) {
            acc_store<QUAD>(g + i, zero, k, wide);
            continue;
        }
        acc_load<QUAD>(d, g + i, k, wide);
        moment_load(m1, m + i, k, wide);
        moment_load(v1, v + i, k, wide);
        acc_load<QUAD>(p1, p + i, k, wide);
#pragma unroll
        for (int j = 0; j < QUAD; j++) {
            float grad = d[j] * o.scale;
            m1[j] = o.keep1 * m1[j] + o.add1 * grad;
            v1[j] = o.keep2 * v1[j] + o.add2 * grad * grad;
            p1[j] = p1[j] * o.decay - o.step * m1[j] / (sqrtf(v1[j]) * o.root + o.eps);
            p1[j] = fminf(fmaxf(p1[j], o.lo), o.hi);
            noise[j] = noise_at((uint32_t)(c.weights + i + j) + o.key);
        }
        moment_store(m + i, m1, noise, 0, k, wide);
        moment_store(v + i, v1, noise, 16, k, wide);
        acc_store<QUAD>(p + i, p1, k, wide);
        acc_store<QUAD>(g + i, zero, k, wide);
        if (w) act_store<QUAD>(w + i, p1, k, wide);
    }
}

void FN(adamw)(acc *p, act *w, acc *g, void *m, void *v, Moments moments, const OptimChunk *chunk,
               size_t count, const OptimGroup *group, const AdamW *o, const acc *squares) {
    size_t n = count * OPTIM_CHUNK, moment = moments == MOMENTS_BF16 ? 2 : 4;
    GPU_TIMER(adamw, 14 * n, n * (16 + 4 * moment + (w ? sizeof(act) : 0)));
    if (moments == MOMENTS_BF16)
        LAUNCH(adamw, count, BLOCK, 0, p, w, g, (Bf16 *)m, (Bf16 *)v, chunk, group, o, squares);
    else
        LAUNCH(adamw, count, BLOCK, 0, p, w, g, (acc *)m, (acc *)v, chunk, group, o, squares);
}

/* ---- LARS ---- */

__device__ static inline float clip_of(const AdamW *o, float squares) {
    return o->max_norm > 0 ? (float)fmin(1.0, o->max_norm / (sqrt((double)squares) + 1e-6)) : 1;
}

/* parts[2·chunk] = Σ p², parts[2·chunk + 1] = Σ d² of a chunk. */
__global__ static void __launch_bounds__(BLOCK)
    lars_sums(float *parts, const acc *p, const acc *g, const OptimChunk *chunk,
              const OptimGroup *group, size_t tensors, const AdamW *o, const acc *squares) {
    __shared__ float shared[2 * BLOCK / WARP];
    OptimChunk c = chunk[blockIdx.x];
    if (c.group >= tensors) return;
    p += c.weights, g += c.weights;
    bool wide = aligned16(p) && aligned16(g);
    float scale = clip_of(o, squares->v), decay = (float)group[c.group].weight_decay;
    float sum[2] = {0, 0};
    for (size_t i = threadIdx.x * QUAD; i < c.size; i += BLOCK * QUAD) {
        float q[QUAD], d[QUAD];
        acc_load<QUAD>(q, p + i, c.size - i, wide);
        acc_load<QUAD>(d, g + i, c.size - i, wide);
#pragma unroll
        for (int j = 0; j < QUAD; j++) {
            d[j] = d[j] * scale + decay * q[j];
            sum[0] += q[j] * q[j];
            sum[1] += d[j] * d[j];
        }
    }
    block_sums<2>(sum, shared);
    if (threadIdx.x == 0) {
        parts[2 * blockIdx.x] = sum[0];
        parts[2 * blockIdx.x + 1] = sum[1];
    }
}

/* The thread of a tensor's first chunk adds its chunks up in order. */
__global__ static void lars_join(acc *norms, const float *parts, const OptimChunk *chunk,
                                 size_t count, size_t tensors) {
    size_t i = thread_index();
    if (i >= count) return;
    uint32_t at = chunk[i].group;
    if (at >= tensors || (i > 0 && chunk[i - 1].group == at)) return;
    double sum[2] = {0, 0};
    for (; i < count && chunk[i].group == at; i++) {
        sum[0] += parts[2 * i];
        sum[1] += parts[2 * i + 1];
    }
    norms[2 * at].v += (float)sum[0];
    norms[2 * at + 1].v += (float)sum[1];
}

void FN(lars_norms)(acc *norms, const acc *p, const acc *g, const OptimChunk *chunk, size_t count,
                    const OptimGroup *group, size_t tensors, const AdamW *o, const acc *squares) {
    GPU_TIMER(lars_norms, 6 * count * OPTIM_CHUNK, 2 * count * OPTIM_CHUNK * sizeof(acc));
    float *parts = (float *)device_scratch(SCRATCH_PARTIAL, 2 * count * sizeof *parts);
    LAUNCH(lars_sums, count, BLOCK, 0, parts, p, g, chunk, group, tensors, o, squares);
    LAUNCH(lars_join, div_up(count, BLOCK), BLOCK, 0, norms, parts, chunk, count, tensors);
}

/* LARS's values for the threads of a block. */
typedef struct LarsConstants {
    float scale, decay, keep, rate, lo, hi;
    uint32_t key;
    bool update;
} LarsConstants;

/* norm: of the chunk's tensor; NULL: its step is not scaled. */
__device__ static inline void lars_set(LarsConstants *k, const AdamW *o, const OptimGroup *s,
                                       float squares, const acc *norm, double trust) {
    double ratio = norm && norm[0].v > 0 && norm[1].v > 0
                       ? trust * sqrt((double)norm[0].v) / sqrt((double)norm[1].v)
                       : 1;
    k->update = isfinite(squares);
    k->scale = clip_of(o, squares);
    k->decay = (float)s->weight_decay;
    k->keep = (float)o->beta1;
    k->rate = (float)(o->lr * s->lr_scale * ratio);
    k->lo = (float)s->lo;
    k->hi = (float)s->hi;
    k->key = 0x9E3779B9u * (uint32_t)o->t;
}

template <typename Moment>
__global__ static void __launch_bounds__(BLOCK)
    lars(acc *p, act *w, acc *g, Moment *m, const OptimChunk *chunk, const OptimGroup *group,
         size_t tensors, const AdamW *step, const acc *squares, const acc *norms, double trust) {
    __shared__ LarsConstants shared;
    OptimChunk c = chunk[blockIdx.x];
    if (threadIdx.x == 0)
        lars_set(&shared, step, &group[c.group], squares->v,
                 c.group < tensors ? norms + 2 * c.group : NULL, trust);
    __syncthreads();
    LarsConstants o = shared;
    p += c.weights, g += c.weights, m += c.moments;
    w = w ? w + c.weights : w;
    bool wide = aligned16(p) && aligned16(g) && aligned16(m) && aligned16(w);
    for (size_t i = threadIdx.x * QUAD; i < c.size; i += BLOCK * QUAD) {
        size_t k = c.size - i;
        float d[QUAD], m1[QUAD], p1[QUAD], zero[QUAD] = {0};
        uint32_t noise[QUAD];
        if (!o.update) {
            acc_store<QUAD>(g + i, zero, k, wide);
            continue;
        }
        acc_load<QUAD>(d, g + i, k, wide);
        moment_load(m1, m + i, k, wide);
        acc_load<QUAD>(p1, p + i, k, wide);
#pragma unroll
        for (int j = 0; j < QUAD; j++) {
            m1[j] = o.keep * m1[j] + o.rate * (d[j] * o.scale + o.decay * p1[j]);
            p1[j] = fminf(fmaxf(p1[j] - m1[j], o.lo), o.hi);
            noise[j] = noise_at((uint32_t)(c.weights + i + j) + o.key);
        }
        moment_store(m + i, m1, noise, 0, k, wide);
        acc_store<QUAD>(p + i, p1, k, wide);
        acc_store<QUAD>(g + i, zero, k, wide);
        if (w) act_store<QUAD>(w + i, p1, k, wide);
    }
}

void FN(lars)(acc *p, act *w, acc *g, void *m, Moments moments, const OptimChunk *chunk,
              size_t count, const OptimGroup *group, size_t tensors, const AdamW *o,
              const acc *squares, const acc *norms, double trust) {
    size_t n = count * OPTIM_CHUNK, moment = moments == MOMENTS_BF16 ? 2 : 4;
    GPU_TIMER(lars, 8 * n, n * (16 + 2 * moment + (w ? sizeof(act) : 0)));
    if (moments == MOMENTS_BF16)
        LAUNCH(lars, count, BLOCK, 0, p, w, g, (Bf16 *)m, chunk, group, tensors, o, squares, norms,
               trust);
    else
        LAUNCH(lars, count, BLOCK, 0, p, w, g, (acc *)m, chunk, group, tensors, o, squares, norms,
               trust);
}

__global__ static void acc_from_bf16(acc *dst, const Bf16 *src, size_t n, bool wide) {
    size_t i = thread_index() * QUAD;
    if (i >= n) return;
    float x[QUAD];
    moment_load(x, src + i, n - i, wide);
    acc_store<QUAD>(dst + i, x, n - i, wide);
}

void FN(acc_from_bf16)(acc *dst, const void *src, size_t n) {
    GPU_TIMER(acc_from_bf16, 0, 6 * n);
    LAUNCH(acc_from_bf16, quad_blocks_of(n), BLOCK, 0, dst, (const Bf16 *)src, n,
           aligned16(dst) && aligned16(src));
}

__global__ static void bf16_from_acc(Bf16 *dst, const acc *src, size_t n) {
    size_t i = thread_index();
    if (i < n) dst[i].bits = __bfloat16_as_ushort(__float2bfloat16_rn(src[i].v));
}

void FN(bf16_from_acc)(void *dst, const acc *src, size_t n) {
    GPU_TIMER(bf16_from_acc, 0, 6 * n);
    LAUNCH(bf16_from_acc, div_up(n, BLOCK), BLOCK, 0, (Bf16 *)dst, src, n);
}

__global__ static void __launch_bounds__(BLOCK)
    axpy(acc *y, float alpha, const acc *x, size_t n, bool wide) {
    size_t i = thread_index() * QUAD;
    if (i >= n) return;
    float a[QUAD], b[QUAD];
    acc_load<QUAD>(a, y + i, n - i, wide);
    acc_load<QUAD>(b, x + i, n - i, wide);
#pragma unroll
    for (int j = 0; j < QUAD; j++) a[j] += alpha * b[j];
    acc_store<QUAD>(y + i, a, n - i, wide);
}

void FN(axpy)(acc *y, double alpha, const acc *x, size_t n) {
    GPU_TIMER(axpy, 2 * n, 12 * n);
    LAUNCH(axpy, quad_blocks_of(n), BLOCK, 0, y, (float)alpha, x, n, aligned16(x) && aligned16(y));
}

__global__ static void __launch_bounds__(BLOCK)
    ema(acc *avg, const acc *x, float add, size_t n, bool wide) {
    size_t i = thread_index() * QUAD;
    if (i >= n) return;
    float e[QUAD], v[QUAD];
    acc_load<QUAD>(e, avg + i, n - i, wide);
    acc_load<QUAD>(v, x + i, n - i, wide);
#pragma unroll
    for (int j = 0; j < QUAD; j++) e[j] += (v[j] - e[j]) * add;
    acc_store<QUAD>(avg + i, e, n - i, wide);
}

void FN(ema)(acc *avg, const acc *x, double decay, size_t n) {
    GPU_TIMER(ema, 3 * n, 12 * n);
    LAUNCH(ema, quad_blocks_of(n), BLOCK, 0, avg, x, (float)(1 - decay), n,
           aligned16(x) && aligned16(avg));
}
