/* cpu/optim: the gradient's norm, AdamW and LARS over the flat parameter block. */
#include "kernels/cpu/cpu.h"

#include <math.h>

/* Software prefetch distance in elements; the arrays are far larger than any cache. */
#define AHEAD 512

void FN(sum_squares)(acc *out, const acc *g, const OptimChunk *chunk, size_t count) {
    KERNEL_BEGIN(sum_squares, 2 * count * OPTIM_CHUNK, 4 * count * OPTIM_CHUNK);
    double *parts = FN(scratch)(SCRATCH_PARTIAL, count * sizeof *parts);
#pragma omp parallel for schedule(static) if (count > 1)
    for (size_t k = 0; k < count; k++) {
        const acc *x = g + chunk[k].weights;
        size_t end = chunk[k].size, i = 0;
        vf a = vzero(), b = vzero();
        for (; i + 2 * VW <= end; i += 2 * VW) {
            __builtin_prefetch(&x[i + AHEAD]);
            __builtin_prefetch(&x[i + AHEAD + VW]);
            vf u = vload(&x[i].v), v = vload(&x[i + VW].v);
            a = vfma(u, u, a);
            b = vfma(v, v, b);
        }
        for (; i < end; i += VW) {
            vf u = acc_load(x + i, end - i);
            a = vfma(u, u, a);
        }
        parts[k] = vsum(a + b);
    }
    double sum = 0;
    for (size_t k = 0; k < count; k++) sum += parts[k];
    out->v = (float)(out->v + sum);
}

void FN(skip_spike)(acc *squares, const acc *loss, const AdamW *o) {
    KERNEL_BEGIN(skip_spike, 0, 16);
    if (loss->v > o->max_loss) squares->v = INFINITY;
}

/* Values of AdamW used by one call. */
typedef struct Constants {
    vf scale, keep1, add1, keep2, add2, eps, step, root;
} Constants;

typedef uint32_t vu __attribute__((vector_size(4 * VW)));

/* Noise of the elements i … i+VW-1. */
static inline vu noise_at(uint64_t t, size_t i) {
    vu x = {0};
    for (int j = 0; j < VW; j++) x[j] = (uint32_t)j;
    x += (uint32_t)i + 0x9E3779B9u * (uint32_t)t;
    x = (x ^ x >> 16) * 0x85EBCA6Bu;
    x = (x ^ x >> 13) * 0xC2B2AE35u;
    return x ^ x >> 16;
}
static inline vf with_noise(vf x, vu noise) { return (vf)(((vu)x + noise) & 0xffff0000u); }

static inline vf moment_load(const void *m, bool bf16, size_t i, size_t k) {
    return bf16 ? bf16_load((const uint16_t *)m + i, k) : acc_load((const acc *)m + i, k);
}

static inline __attribute__((always_inline)) void update(acc *p, act *w, acc *g, void *m, void *v,
                                                         bool bf16, const OptimChunk *c,
                                                         const OptimGroup *s, const Constants *o,
                                                         double lr, uint64_t t) {
    vf decay = vset((float)(1 - lr * s->lr_scale * s->weight_decay)), zero = vzero();
    vf step = o->step * vset((float)s->lr_scale);
    vf lo = vset((float)s->lo), hi = vset((float)s->hi);
    p += c->weights;
    w = w ? w + c->weights : NULL;
    g += c->weights;
    for (size_t i = 0; i < c->size; i += VW) {
        size_t k = c->size - i, at = c->moments + i, size = bf16 ? 2 : 4;
        __builtin_prefetch(&g[i + AHEAD], 1);
        __builtin_prefetch((const char *)m + (at + AHEAD) * size, 1);
        __builtin_prefetch((const char *)v + (at + AHEAD) * size, 1);
        __builtin_prefetch(&p[i + AHEAD], 1);
        vf d = acc_load(g + i, k) * o->scale;
        vf m1 = vfma(o->keep1, moment_load(m, bf16, at, k), o->add1 * d);
        vf v1 = vfma(o->keep2, moment_load(v, bf16, at, k), o->add2 * d * d);
        vf p1 = acc_load(p + i, k) * decay - step * m1 / vfma(vsqrt(v1), o->root, o->eps);
        p1 = vmin(hi, vmax(lo, p1));
        if (bf16) {
            vu noise = noise_at(t, c->weights + i);
            bf16_store((uint16_t *)m + at, with_noise(m1, noise & 0xffff), k);
            bf16_store((uint16_t *)v + at, with_noise(v1, noise >> 16), k);
        } else {
            acc_store((acc *)m + at, m1, k);
            acc_store((acc *)v + at, v1, k);
        }
        acc_store(p + i, p1, k);
        acc_store(g + i, zero, k);
        if (w) act_store(w + i, p1, k);
    }
}

void FN(adamw)(acc *p, act *w, acc *g, void *m, void *v, Moments moments, const OptimChunk *chunk,
               size_t count, const OptimGroup *group, const AdamW *o, const acc *squares) {
    size_t n = count * OPTIM_CHUNK, moment = moments == MOMENTS_BF16 ? 2 : 4;
    KERNEL_BEGIN(adamw, 14 * n, n * (16 + 4 * moment + (w ? sizeof(act) : 0)));
    double norm = sqrt(squares->v);
    double scale = o->max_norm > 0 ? fmin(1, o->max_norm / (norm + 1e-6)) : 1;
    Constants constants = {
        .scale = vset((float)scale),
        .keep1 = vset((float)o->beta1),
        .add1 = vset((float)(1 - o->beta1)),
        .keep2 = vset((float)o->beta2),
        .add2 = vset((float)(1 - o->beta2)),
        .eps = vset((float)o->eps),
        .step = vset((float)(o->lr / o->correction1)),
        .root = vset((float)(1 / sqrt(o->correction2))),
    };
#pragma omp parallel for schedule(static) if (count > 1)
    for (size_t k = 0; k < count; k++) {
        const OptimChunk *c = &chunk[k];
        const OptimGroup *s = &group[c->group];
        if (!isfinite(norm))
            memset(g + c->weights, 0, c->size * sizeof *g);
        else if (moments == MOMENTS_BF16)
            update(p, w, g, m, v, true, c, s, &constants, o->lr, o->t);
        else
            update(p, w, g, m, v, false, c, s, &constants, o->lr, o->t);
    }
}

/* ---- LARS ---- */

static double clip_of(const AdamW *o, const acc *squares) {
    return o->max_norm > 0 ? fmin(1, o->max_norm / (sqrt(squares->v) + 1e-6)) : 1;
}

void FN(lars_norms)(acc *norms, const acc *p, const acc *g, const OptimChunk *chunk, size_t count,
                    const OptimGroup *group, size_t tensors, const AdamW *o, const acc *squares) {
    KERNEL_BEGIN(lars_norms, 6 * count * OPTIM_CHUNK, 8 * count * OPTIM_CHUNK);
    double *parts = FN(scratch)(SCRATCH_PARTIAL, 2 * count * sizeof *parts);
    vf scale = vset((float)clip_of(o, squares));
#pragma omp parallel for schedule(static) if (count > 1)
    for (size_t k = 0; k < count; k++) {
        const OptimChunk *c = &chunk[k];
        if (c->group >= tensors) continue;
        vf decay = vset((float)group[c->group].weight_decay), a = vzero(), b = vzero();
        for (size_t i = 0; i < c->size; i += VW) {
            __builtin_prefetch(&g[c->weights + i + AHEAD]);
            __builtin_prefetch(&p[c->weights + i + AHEAD]);
            vf q = acc_load(p + c->weights + i, c->size - i);
            vf d = vfma(decay, q, acc_load(g + c->weights + i, c->size - i) * scale);
            a = vfma(q, q, a);
            b = vfma(d, d, b);
        }
        parts[2 * k] = vsum(a);
        parts[2 * k + 1] = vsum(b);
    }
    for (size_t k = 0; k < count;) {
        size_t at = chunk[k].group;
        double sum[2] = {0};
        for (; k < count && chunk[k].group == at; k++)
            for (int i = 0; at < tensors && i < 2; i++) sum[i] += parts[2 * k + (size_t)i];
        for (size_t i = 0; at < tensors && i < 2; i++)
            norms[2 * at + i].v = (float)(norms[2 * at + i].v + sum[i]);
    }
}

static double ratio_of(const acc *norm, double trust) {
    return norm[0].v > 0 && norm[1].v > 0 ? trust * sqrt(norm[0].v) / sqrt(norm[1].v) : 1;
}

static inline __attribute__((always_inline)) void move(acc *p, act *w, acc *g, void *m, bool bf16,
                                                       const OptimChunk *c, const OptimGroup *s,
                                                       double clip, double rate, const AdamW *o) {
    vf scale = vset((float)clip), decay = vset((float)s->weight_decay), zero = vzero();
    vf keep = vset((float)o->beta1), step = vset((float)rate);
    vf lo = vset((float)s->lo), hi = vset((float)s->hi);
    p += c->weights;
    w = w ? w + c->weights : NULL;
    g += c->weights;
    for (size_t i = 0; i < c->size; i += VW) {
        size_t k = c->size - i, at = c->moments + i;
        __builtin_prefetch(&g[i + AHEAD], 1);
        __builtin_prefetch((const char *)m + (at + AHEAD) * (bf16 ? 2 : 4), 1);
        __builtin_prefetch(&p[i + AHEAD], 1);
        vf q = acc_load(p + i, k), d = vfma(decay, q, acc_load(g + i, k) * scale);
        vf moved = vfma(keep, moment_load(m, bf16, at, k), step * d);
        q = vmin(hi, vmax(lo, q - moved));
        if (bf16)
            bf16_store((uint16_t *)m + at,
                       with_noise(moved, noise_at(o->t, c->weights + i) & 0xffff), k);
        else
            acc_store((acc *)m + at, moved, k);
        acc_store(p + i, q, k);
        acc_store(g + i, zero, k);
        if (w) act_store(w + i, q, k);
    }
}

void FN(lars)(acc *p, act *w, acc *g, void *m, Moments moments, const OptimChunk *chunk,
              size_t count, const OptimGroup *group, size_t tensors, const AdamW *o,
              const acc *squares, const acc *norms, double trust) {
    size_t n = count * OPTIM_CHUNK, moment = moments == MOMENTS_BF16 ? 2 : 4;
    KERNEL_BEGIN(lars, 8 * n, n * (16 + 2 * moment + (w ? sizeof(act) : 0)));
    double clip = clip_of(o, squares);
#pragma omp parallel for schedule(static) if (count > 1)
    for (size_t k = 0; k < count; k++) {
        const OptimChunk *c = &chunk[k];
        const OptimGroup *s = &group[c->group];
        double rate = o->lr * s->lr_scale;
        if (c->group < tensors) rate *= ratio_of(&norms[2 * c->group], trust);
        if (!isfinite(squares->v))
            memset(g + c->weights, 0, c->size * sizeof *g);
        else if (moments == MOMENTS_BF16)
            move(p, w, g, m, true, c, s, clip, rate, o);
        else
            move(p, w, g, m, false, c, s, clip, rate, o);
    }
}

void FN(acc_from_bf16)(acc *dst, const void *src, size_t n) {
    KERNEL_BEGIN(acc_from_bf16, 0, 6 * n);
    const uint16_t *x = src;
#pragma omp parallel for schedule(static) if (n > SERIAL_BELOW)
    for (size_t i = 0; i < n; i += VW) acc_store(dst + i, bf16_load(x + i, n - i), n - i);
}

void FN(bf16_from_acc)(void *dst, const acc *src, size_t n) {
    KERNEL_BEGIN(bf16_from_acc, 0, 6 * n);
    uint16_t *y = dst;
#pragma omp parallel for schedule(static) if (n > SERIAL_BELOW)
    for (size_t i = 0; i < n; i += VW) bf16_store(y + i, acc_load(src + i, n - i), n - i);
}

void FN(axpy)(acc *y, double alpha, const acc *x, size_t n) {
    KERNEL_BEGIN(axpy, 2 * n, 12 * n);
    vf a = vset((float)alpha);
#pragma omp parallel for schedule(static) if (n > SERIAL_BELOW)
    for (size_t i = 0; i < n; i += VW)
        acc_store(y + i, vfma(a, acc_load(x + i, n - i), acc_load(y + i, n - i)), n - i);
}

void FN(ema)(acc *avg, const acc *x, double decay, size_t n) {
    KERNEL_BEGIN(ema, 3 * n, 12 * n);
    vf a = vset((float)(1 - decay));
#pragma omp parallel for schedule(static) if (n > SERIAL_BELOW)
    for (size_t i = 0; i < n; i += VW) {
        vf e = acc_load(avg + i, n - i);
        acc_store(avg + i, vfma(acc_load(x + i, n - i) - e, a, e), n - i);
    }
}
