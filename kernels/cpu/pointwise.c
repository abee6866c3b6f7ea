/* cpu/pointwise: activations backward, sums, and the moving of rows. */
#include "kernels/cpu/cpu.h"

#if defined GELU_ROUGH
static void gelu_bwd(act *dx, act *y, const act *dy, const act *x, size_t n) {
    const GeluCubics *g = gelu_cubics();
#pragma omp parallel if (n > SERIAL_BELOW)
    {
        Cubic below = cubic_load(g->below), slope = cubic_load(g->slope);
#pragma omp for schedule(static)
        for (size_t i = 0; i < n; i += VW) {
            size_t k = n - i;
            ahead(x + i), ahead(dy + i), ahead_to_write(y + i);
            vf v = act_load(x + i, k), d = act_load(dy + i, k);
            act_store(y + i, gelu_rough(&below, v), k);
            act_store(dx + i, d * gelu_slope_rough(&slope, v), k);
        }
    }
}
#else
static void gelu_bwd(act *dx, act *y, const act *dy, const act *x, size_t n) {
#pragma omp parallel for schedule(static) if (n > SERIAL_BELOW)
    for (size_t i = 0; i < n; i += VW) {
        size_t k = n - i;
        ahead(x + i), ahead(dy + i), ahead_to_write(y + i);
        vf v = act_load(x + i, k), d = act_load(dy + i, k), bell;
        vf below = vnormal(v, &bell);
        act_store(y + i, v * below, k);
        act_store(dx + i, d * vfma(v * vset(0.398942280f), bell, below), k);
    }
}
#endif

static void quick_gelu_bwd(act *dx, act *y, const act *dy, const act *x, size_t n) {
#pragma omp parallel for schedule(static) if (n > SERIAL_BELOW)
    for (size_t i = 0; i < n; i += VW) {
        size_t k = n - i;
        ahead(x + i), ahead(dy + i), ahead_to_write(y + i);
        vf v = act_load(x + i, k), d = act_load(dy + i, k);
        vf s = vsigmoid(v * vset(1.702f));
        act_store(y + i, v * s, k);
        act_store(dx + i, d * s * vfma(v * vset(1.702f), vset(1) - s, vset(1)), k);
    }
}

void FN(activation_bwd)(act *dx, act *y, const act *dy, const act *x, size_t n, Activation f) {
    KERNEL_TIMER(activation_bwd, 30 * n, 4 * n * sizeof(act));
    if (f == ACTIVATION_GELU)
        gelu_bwd(dx, y, dy, x, n);
    else
        quick_gelu_bwd(dx, y, dy, x, n);
}

void FN(add)(act *y, const act *a, const act *b, size_t n) {
    KERNEL_TIMER(add, n, 3 * n * sizeof(act));
#pragma omp parallel for schedule(static) if (n > SERIAL_BELOW)
    for (size_t i = 0; i < n; i += VW)
        act_store(y + i, act_load(a + i, n - i) + act_load(b + i, n - i), n - i);
}

void FN(gather_rows)(act *y, const act *x, const int32_t *idx, size_t n, size_t C) {
    KERNEL_TIMER(gather_rows, 0, 2 * n * C * sizeof(act));
#pragma omp parallel for schedule(static) if (n * C > SERIAL_BELOW)
    for (size_t i = 0; i < n; i++) memcpy(y + i * C, x + (size_t)idx[i] * C, C * sizeof *y);
}

void FN(scatter_add_rows)(act *y, const act *x, const int32_t *idx, size_t n, size_t C) {
    KERNEL_TIMER(scatter_add_rows, n * C, 3 * n * C * sizeof(act));
#pragma omp parallel for schedule(static) if (n * C > SERIAL_BELOW)
    for (size_t i = 0; i < n; i++) {
        act *to = y + (size_t)idx[i] * C;
        for (size_t c = 0; c < C; c += VW)
            act_store(to + c, act_load(to + c, C - c) + act_load(x + i * C + c, C - c), C - c);
    }
}

void FN(mean_pool_fwd)(act *y, const act *x, const int32_t *start, size_t B, size_t skip,
                       size_t C) {
    KERNEL_TIMER(mean_pool_fwd, B ? (size_t)start[B] * C : 0,
                 B ? ((size_t)start[B] + B) * C * sizeof(act) : 0);
#pragma omp parallel for schedule(static)
    for (size_t b = 0; b < B; b++) {
        size_t from = (size_t)start[b] + skip, to = (size_t)start[b + 1];
        vf inv = vset(1.0f / (float)(to - from));
        for (size_t c = 0; c < C; c += VW) {
            vf s = vzero();
            for (size_t i = from; i < to; i++) s += act_load(x + i * C + c, C - c);
            act_store(y + b * C + c, s * inv, C - c);
        }
    }
}

void FN(mean_pool_bwd)(act *dx, const act *dy, const int32_t *start, size_t B, size_t skip,
                       size_t C) {
    KERNEL_TIMER(mean_pool_bwd, 0, B ? ((size_t)start[B] + B) * C * sizeof(act) : 0);
#pragma omp parallel for schedule(static)
    for (size_t b = 0; b < B; b++) {
        size_t first = (size_t)start[b], from = first + skip, to = (size_t)start[b + 1];
        vf inv = vset(1.0f / (float)(to - from));
        memset(dx + first * C, 0, skip * C * sizeof *dx);
        for (size_t i = from; i < to; i++)
            for (size_t c = 0; c < C; c += VW)
                act_store(dx + i * C + c, act_load(dy + b * C + c, C - c) * inv, C - c);
    }
}
