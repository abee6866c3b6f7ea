/* cpu/optim: the gradient's norm and AdamW over the flat parameter block. */
#include "kernels/cpu/cpu.h"

#include <math.h>

#define OPTIM_CHUNK 16384
/* Elements ahead that are fetched by hand: the arrays are far larger than any cache. */
#define AHEAD 512

void FN(sum_squares)(acc *out, const acc *x, size_t n) {
    KERNEL_TIMER(sum_squares, 2 * n, 4 * n);
    size_t chunks = div_up(n, OPTIM_CHUNK);
    double *parts = FN(scratch)(SCRATCH_PARTIAL, chunks * sizeof *parts);
#pragma omp parallel for schedule(static) if (n > SERIAL_BELOW)
    for (size_t k = 0; k < chunks; k++) {
        size_t end = size_min(n, (k + 1) * OPTIM_CHUNK), i = k * OPTIM_CHUNK;
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
    for (size_t k = 0; k < chunks; k++) sum += parts[k];
    out->v = (float)(out->v + sum);
}

void FN(adamw)(acc *p, act *w, acc *g, acc *m, acc *v, const acc *grad_scale, const AdamW *o,
               size_t n) {
    KERNEL_TIMER(adamw, 14 * n, n * (32 + (w ? sizeof(act) : 0)));
    vf scale = vset(grad_scale ? grad_scale->v : 1.0f), zero = vzero();
    vf keep1 = vset((float)o->beta1), add1 = vset((float)(1 - o->beta1));
    vf keep2 = vset((float)o->beta2), add2 = vset((float)(1 - o->beta2));
    vf decay = vset((float)(1 - o->lr * o->weight_decay)), eps = vset((float)o->eps);
    vf step = vset((float)(o->lr / o->correction1));
    vf root = vset((float)(1 / sqrt(o->correction2)));
#pragma omp parallel for schedule(static) if (n > SERIAL_BELOW)
    for (size_t i = 0; i < n; i += VW) {
        size_t k = n - i;
        __builtin_prefetch(&g[i + AHEAD], 1);
        __builtin_prefetch(&m[i + AHEAD], 1);
        __builtin_prefetch(&v[i + AHEAD], 1);
        __builtin_prefetch(&p[i + AHEAD], 1);
        vf d = acc_load(g + i, k) * scale;
        vf m1 = vfma(keep1, acc_load(m + i, k), add1 * d);
        vf v1 = vfma(keep2, acc_load(v + i, k), add2 * d * d);
        vf p1 = acc_load(p + i, k) * decay - step * m1 / vfma(vsqrt(v1), root, eps);
        acc_store(m + i, m1, k);
        acc_store(v + i, v1, k);
        acc_store(p + i, p1, k);
        acc_store(g + i, zero, k);
        if (w) act_store(w + i, p1, k);
    }
}

void FN(clip_factor)(acc *scale, const acc *sum_squares, double max_norm) {
    KERNEL_TIMER(clip_factor, 4, 8);
    scale->v = (float)fmin(1.0, max_norm / (sqrt(sum_squares->v) + 1e-6));
}

void FN(clamp)(acc *x, double lo, double hi, size_t n) {
    KERNEL_TIMER(clamp, 2 * n, 8 * n);
    for (size_t i = 0; i < n; i++) x[i].v = (float)fmin(fmax(x[i].v, lo), hi);
}

void FN(axpy)(acc *y, double alpha, const acc *x, size_t n) {
    KERNEL_TIMER(axpy, 2 * n, 12 * n);
    vf a = vset((float)alpha);
#pragma omp parallel for schedule(static) if (n > SERIAL_BELOW)
    for (size_t i = 0; i < n; i += VW)
        acc_store(y + i, vfma(a, acc_load(x + i, n - i), acc_load(y + i, n - i)), n - i);
}

void FN(ema)(acc *avg, const acc *x, double decay, size_t n) {
    KERNEL_TIMER(ema, 3 * n, 12 * n);
    vf a = vset((float)(1 - decay));
#pragma omp parallel for schedule(static) if (n > SERIAL_BELOW)
    for (size_t i = 0; i < n; i += VW) {
        vf e = acc_load(avg + i, n - i);
        acc_store(avg + i, vfma(acc_load(x + i, n - i) - e, a, e), n - i);
    }
}
