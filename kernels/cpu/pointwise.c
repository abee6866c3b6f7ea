/* cpu/pointwise: activations backward, sums, and gathering and scattering of rows. */
#include "kernels/cpu/cpu.h"

/* Partial sums of db: their largest number, and the fewest rows of each. */
#define BIAS_CHUNKS 64
#define BIAS_CHUNK_ROWS 16
#define ACTIVATION_PIECE ((size_t)4096) /* elements that a thread takes at a time */

#if defined GELU_ROUGH
typedef struct Tables {
    Cubic below, slope;
} Tables;
static Tables tables(void) {
    const GeluCubics *g = gelu_cubics();
    return (Tables){cubic_load(g->below), cubic_load(g->slope)};
}
static inline vf gelu(vf v, const Tables *t, vf *slope) {
    *slope = gelu_slope_rough(&t->slope, v);
    return gelu_rough(&t->below, v);
}
#else
typedef struct Tables {
} Tables;
static Tables tables(void) { return (Tables){}; }
static inline vf gelu(vf v, const Tables *t, vf *slope) {
    (void)t;
    vf bell, below = vnormal(v, &bell);
    *slope = vfma(v * vset(0.398942280f), bell, below);
    return v * below;
}
#endif

static inline vf sigmoid_gelu(vf v, Activation f, vf *slope) {
    vf w, rest, s = vsigmoids(sigmoid_input(v, f, &w), &rest);
    /* w is up to 10 times as large by tanh: 1 - s is too coarse */
    if (f == ACTIVATION_QUICK_GELU) rest = vset(1) - s;
    *slope = s * vfma(w, rest, vset(1));
    return v * s;
}

static inline __attribute__((always_inline)) void
activation_piece(act *dx, act *y, const act *dy, const act *x, size_t n, Activation f) {
    Tables t = tables();
    for (size_t i = 0; i < n; i += VW) {
        size_t k = n - i;
        ahead(x + i), ahead(dy + i), ahead_to_write(y + i);
        vf v = act_load(x + i, k), slope;
        v = f == ACTIVATION_GELU ? gelu(v, &t, &slope) : sigmoid_gelu(v, f, &slope);
        vf d = act_load(dy + i, k) * slope;
        act_store(y + i, v, k);
        act_store(dx + i, d, k);
    }
}

void FN(activation_row)(act *y, const act *x, size_t n, Activation f) {
#if defined GELU_ROUGH
    Cubic below = cubic_load(gelu_cubics()->below);
#endif
    for (size_t i = 0; i < n; i += VW) {
        ahead(x + i), ahead_to_write(y + i);
        vf v = act_load(x + i, n - i), r, w;
        if (f != ACTIVATION_GELU) {
            r = v * vsigmoid(sigmoid_input(v, f, &w));
        } else {
#if defined GELU_ROUGH
            r = gelu_rough(&below, v);
#else
            vf bell;
            r = v * vnormal(v, &bell);
#endif
        }
        act_store(y + i, r, n - i);
    }
}

void FN(activation_fwd)(act *y, const act *x, size_t n, Activation f) {
    KERNEL_BEGIN(activation_fwd, 20 * n, 2 * n * sizeof(act));
    (void)tables(); /* fills the tables before the parallel region */
#pragma omp parallel for schedule(static) if (n > SERIAL_BELOW)
    for (size_t i = 0; i < n; i += ACTIVATION_PIECE)
        FN(activation_row)(y + i, x + i, size_min(ACTIVATION_PIECE, n - i), f);
}

static void sum_rows(float *sums, const act *x, size_t rows, size_t C) {
    memset(sums, 0, C * sizeof *sums);
    for (size_t i = 0; i < rows; i++, x += C)
        for (size_t c = 0; c < C; c += VW)
            f32_store(sums + c, f32_load(sums + c, C - c) + act_load(x + c, C - c), C - c);
}

void FN(activation_bwd)(act *dx, act *y, acc *db, const act *dy, const act *x, size_t rows,
                        size_t C, Activation f) {
    KERNEL_BEGIN(activation_bwd, 30 * rows * C, 4 * rows * C * sizeof(act));
    if (!rows || !C) return;
    (void)tables(); /* fills the tables before the parallel region */
    size_t per = chunk_rows(rows, BIAS_CHUNKS, BIAS_CHUNK_ROWS), chunks = div_up(rows, per);
    float *parts = db ? FN(scratch)(SCRATCH_PARTIAL, chunks * C * sizeof *parts) : NULL;
#pragma omp parallel for schedule(static) if (rows * C > SERIAL_BELOW)
    for (size_t k = 0; k < chunks; k++) {
        size_t row = k * per, at = row * C, n = size_min(per, rows - row);
        if (f == ACTIVATION_GELU)
            activation_piece(dx + at, y + at, dy + at, x + at, n * C, ACTIVATION_GELU);
        else if (f == ACTIVATION_QUICK_GELU)
            activation_piece(dx + at, y + at, dy + at, x + at, n * C, ACTIVATION_QUICK_GELU);
        else
            activation_piece(dx + at, y + at, dy + at, x + at, n * C, ACTIVATION_GELU_TANH);
        if (db) sum_rows(parts + k * C, dx + at, n, C);
    }
    if (db) FN(add_partials)(&db->v, parts, chunks, C);
}

void FN(bias_bwd)(acc *db, const act *dy, size_t M, size_t N) {
    KERNEL_BEGIN(bias_bwd, M * N, M * N * sizeof(act));
    if (!M || !N) return;
    size_t per = chunk_rows(M, BIAS_CHUNKS, BIAS_CHUNK_ROWS), chunks = div_up(M, per);
    float *parts = FN(scratch)(SCRATCH_PARTIAL, chunks * N * sizeof *parts);
#pragma omp parallel for schedule(static) if (M * N > SERIAL_BELOW)
    for (size_t k = 0; k < chunks; k++)
        sum_rows(parts + k * N, dy + k * per * N, size_min(per, M - k * per), N);
    FN(add_partials)(&db->v, parts, chunks, N);
}

void FN(swiglu_fwd)(act *y, const act *x, size_t rows, size_t F) {
    KERNEL_BEGIN(swiglu_fwd, 20 * rows * F, 3 * rows * F * sizeof(act));
#pragma omp parallel for schedule(static) if (rows * F > SERIAL_BELOW)
    for (size_t i = 0; i < rows; i++) {
        const act *gate = x + i * 2 * F, *value = gate + F;
        for (size_t f = 0; f < F; f += VW) {
            ahead(gate + f), ahead(value + f), ahead_to_write(y + i * F + f);
            vf g = act_load(gate + f, F - f);
            act_store(y + i * F + f, g * vsigmoid(g) * act_load(value + f, F - f), F - f);
        }
    }
}

void FN(swiglu_bwd)(act *dx, const act *dy, const act *x, size_t rows, size_t F) {
    KERNEL_BEGIN(swiglu_bwd, 25 * rows * F, 5 * rows * F * sizeof(act));
#pragma omp parallel for schedule(static) if (rows * F > SERIAL_BELOW)
    for (size_t i = 0; i < rows; i++) {
        size_t gate = i * 2 * F, value = gate + F;
        for (size_t f = 0; f < F; f += VW) {
            size_t k = F - f;
            ahead(x + gate + f), ahead(x + value + f), ahead(dy + i * F + f);
            vf g = act_load(x + gate + f, k), v = act_load(x + value + f, k);
            vf d = act_load(dy + i * F + f, k), rest, s = vsigmoids(g, &rest);
            act_store(dx + gate + f, d * v * s * vfma(g, rest, vset(1)), k);
            act_store(dx + value + f, d * g * s, k);
        }
    }
}

void FN(add)(act *y, const act *a, const act *b, size_t n) {
    KERNEL_BEGIN(add, n, 3 * n * sizeof(act));
#pragma omp parallel for schedule(static) if (n > SERIAL_BELOW)
    for (size_t i = 0; i < n; i += VW)
        act_store(y + i, act_load(a + i, n - i) + act_load(b + i, n - i), n - i);
}

void FN(gather_rows)(act *y, const act *x, const int32_t *idx, size_t n, size_t C) {
    KERNEL_BEGIN(gather_rows, 0, 2 * n * C * sizeof(act));
#pragma omp parallel for schedule(static) if (n * C > SERIAL_BELOW)
    for (size_t i = 0; i < n; i++) memcpy(y + i * C, x + (size_t)idx[i] * C, C * sizeof *y);
}

void FN(scatter_add_rows)(act *y, const act *x, const int32_t *idx, size_t n, size_t C) {
    KERNEL_BEGIN(scatter_add_rows, n * C, 3 * n * C * sizeof(act));
#pragma omp parallel for schedule(static) if (n * C > SERIAL_BELOW)
    for (size_t i = 0; i < n; i++) {
        act *to = y + (size_t)idx[i] * C;
        for (size_t c = 0; c < C; c += VW)
            act_store(to + c, act_load(to + c, C - c) + act_load(x + i * C + c, C - c), C - c);
    }
}

void FN(mean_pool_fwd)(act *y, const act *x, const int32_t *start, size_t B, size_t skip,
                       size_t C) {
    KERNEL_BEGIN(mean_pool_fwd, B ? (size_t)start[B] * C : 0,
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
    KERNEL_BEGIN(mean_pool_bwd, 0, B ? ((size_t)start[B] + B) * C * sizeof(act) : 0);
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
