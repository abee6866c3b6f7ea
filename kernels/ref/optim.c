#include "kernels/ref/ref.h"

#include <math.h>
#include <string.h>

void ref_sum_squares(acc *out, const acc *g, const OptimChunk *chunk, size_t count) {
    double sum = 0;
    for (const OptimChunk *c = chunk; c < chunk + count; c++)
        for (size_t i = 0; i < c->size; i++) sum += g[c->weights + i].v * g[c->weights + i].v;
    out->v += sum;
}

void ref_skip_spike(acc *squares, const acc *loss, const AdamW *o) {
    if (loss->v > o->max_loss) squares->v = INFINITY;
}

static double from_bf16(uint16_t h) {
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* Truncates the low half of a float after adding the noise. */
static uint16_t bf16_at_random(double x, uint32_t noise) {
    float f = (float)x;
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return (uint16_t)((u + noise) >> 16);
}

static uint32_t noise_at(uint64_t t, uint64_t i) {
    uint32_t x = (uint32_t)i + 0x9E3779B9u * (uint32_t)t;
    x = (x ^ x >> 16) * 0x85EBCA6Bu;
    x = (x ^ x >> 13) * 0xC2B2AE35u;
    return x ^ x >> 16;
}

static double moment_get(const void *m, Moments moments, size_t i) {
    return moments == MOMENTS_BF16 ? from_bf16(((const uint16_t *)m)[i]) : ((const acc *)m)[i].v;
}
static void moment_set(void *m, Moments moments, size_t i, double x, uint32_t noise) {
    if (moments == MOMENTS_BF16)
        ((uint16_t *)m)[i] = bf16_at_random(x, noise);
    else
        ((acc *)m)[i].v = x;
}

void ref_adamw(acc *p, act *w, acc *g, void *m, void *v, Moments moments, const OptimChunk *chunk,
               size_t count, const OptimGroup *group, const AdamW *o, const acc *squares) {
    double norm = sqrt(squares->v);
    double scale = o->max_norm > 0 ? fmin(1, o->max_norm / (norm + 1e-6)) : 1;
    for (const OptimChunk *c = chunk; c < chunk + count; c++)
        for (size_t i = 0; i < c->size; i++) {
            const OptimGroup *s = &group[c->group];
            acc *q = &p[c->weights + i], *d = &g[c->weights + i];
            size_t at = c->moments + i;
            double grad = d->v * scale;
            d->v = 0;
            if (!isfinite(norm)) continue;
            double first = o->beta1 * moment_get(m, moments, at) + (1 - o->beta1) * grad;
            double second = o->beta2 * moment_get(v, moments, at) + (1 - o->beta2) * grad * grad;
            double lr = o->lr * s->lr_scale;
            q->v *= 1 - lr * s->weight_decay;
            q->v -= lr / o->correction1 * first / (sqrt(second / o->correction2) + o->eps);
            q->v = fmin(fmax(q->v, s->lo), s->hi);
            if (w) w[c->weights + i].v = q->v;
            uint32_t noise = noise_at(o->t, c->weights + i);
            moment_set(m, moments, at, first, noise & 0xffff);
            moment_set(v, moments, at, second, noise >> 16);
        }
}

/* The gradient with clipping and decay. */
static double lars_gradient(const acc *p, const acc *g, size_t i, const OptimGroup *s,
                            const AdamW *o, const acc *squares) {
    double scale = o->max_norm > 0 ? fmin(1, o->max_norm / (sqrt(squares->v) + 1e-6)) : 1;
    return g[i].v * scale + s->weight_decay * p[i].v;
}

void ref_lars_norms(acc *norms, const acc *p, const acc *g, const OptimChunk *chunk, size_t count,
                    const OptimGroup *group, size_t tensors, const AdamW *o, const acc *squares) {
    for (const OptimChunk *c = chunk; c < chunk + count; c++)
        for (size_t i = c->weights; c->group < tensors && i < c->weights + c->size; i++) {
            double d = lars_gradient(p, g, i, &group[c->group], o, squares);
            norms[2 * c->group].v += p[i].v * p[i].v;
            norms[2 * c->group + 1].v += d * d;
        }
}

void ref_lars(acc *p, act *w, acc *g, void *m, Moments moments, const OptimChunk *chunk,
              size_t count, const OptimGroup *group, size_t tensors, const AdamW *o,
              const acc *squares, const acc *norms, double trust) {
    for (const OptimChunk *c = chunk; c < chunk + count; c++)
        for (size_t j = 0; j < c->size; j++) {
            const OptimGroup *s = &group[c->group];
            const acc *norm = &norms[2 * c->group];
            size_t i = c->weights + j, at = c->moments + j;
            double d = lars_gradient(p, g, i, s, o, squares), ratio = 1;
            g[i].v = 0;
            if (!isfinite(squares->v)) continue;
            if (c->group < tensors && norm[0].v > 0 && norm[1].v > 0)
                ratio = trust * sqrt(norm[0].v) / sqrt(norm[1].v);
            double moved = o->beta1 * moment_get(m, moments, at) + o->lr * s->lr_scale * ratio * d;
            p[i].v = fmin(fmax(p[i].v - moved, s->lo), s->hi);
            if (w) w[i].v = p[i].v;
            moment_set(m, moments, at, moved, noise_at(o->t, i) & 0xffff);
        }
}

void ref_acc_from_bf16(acc *dst, const void *src, size_t n) {
    for (size_t i = 0; i < n; i++) dst[i].v = from_bf16(((const uint16_t *)src)[i]);
}

void ref_bf16_from_acc(void *dst, const acc *src, size_t n) {
    for (size_t i = 0; i < n; i++) {
        float f = (float)src[i].v;
        uint32_t u;
        memcpy(&u, &f, sizeof u);
        ((uint16_t *)dst)[i] =
            f != f ? (uint16_t)(u >> 16 | 0x40) : bf16_at_random(f, 0x7fff + (u >> 16 & 1));
    }
}

void ref_axpy(acc *y, double alpha, const acc *x, size_t n) {
    for (size_t i = 0; i < n; i++) y[i].v += alpha * x[i].v;
}

void ref_ema(acc *avg, const acc *x, double decay, size_t n) {
    for (size_t i = 0; i < n; i++) avg[i].v += (x[i].v - avg[i].v) * (1 - decay);
}
