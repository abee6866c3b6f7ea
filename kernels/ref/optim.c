#include "kernels/ref/ref.h"

#include <math.h>

void ref_sum_squares(acc *out, const acc *x, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += x[i].v * x[i].v;
    out->v += sum;
}

void ref_adamw(acc *p, act *w, acc *g, acc *m, acc *v, const acc *grad_scale, const AdamW *o,
               size_t n) {
    double scale = grad_scale ? grad_scale->v : 1;
    for (size_t i = 0; i < n; i++) {
        double grad = g[i].v * scale;
        m[i].v = o->beta1 * m[i].v + (1 - o->beta1) * grad;
        v[i].v = o->beta2 * v[i].v + (1 - o->beta2) * grad * grad;
        p[i].v *= 1 - o->lr * o->weight_decay;
        p[i].v -= o->lr / o->correction1 * m[i].v / (sqrt(v[i].v) / sqrt(o->correction2) + o->eps);
        if (w) w[i].v = p[i].v;
        g[i].v = 0;
    }
}

void ref_clip_factor(acc *scale, const acc *sum_squares, double max_norm) {
    scale->v = fmin(1, max_norm / (sqrt(sum_squares->v) + 1e-6));
}

void ref_clamp(acc *x, double lo, double hi, size_t n) {
    for (size_t i = 0; i < n; i++) x[i].v = fmin(fmax(x[i].v, lo), hi);
}

void ref_axpy(acc *y, double alpha, const acc *x, size_t n) {
    for (size_t i = 0; i < n; i++) y[i].v += alpha * x[i].v;
}

void ref_ema(acc *avg, const acc *x, double decay, size_t n) {
    for (size_t i = 0; i < n; i++) avg[i].v += (x[i].v - avg[i].v) * (1 - decay);
}
