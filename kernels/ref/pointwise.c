#include "kernels/ref/ref.h"

#include <math.h>

#define QUICK_GELU_SLOPE 1.702
#define ROOT_2_PI 0.79788456080286535588 /* √(2/π) */
#define CUBE 0.044715

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }

double ref_activation(double x, Activation f) {
    if (f == ACTIVATION_QUICK_GELU) return x * sigmoid(QUICK_GELU_SLOPE * x);
    if (f == ACTIVATION_GELU_TANH) return 0.5 * x * (1 + tanh(ROOT_2_PI * (x + CUBE * x * x * x)));
    return 0.5 * x * (1 + erf(x / sqrt(2)));
}

/* GELU' = Φ(x) + x φ(x); QuickGELU' = σ + 1.702 x σ (1 - σ); by tanh, t: ½(1 + t) + ½x(1 - t²)u'.
 */
static double activation_slope(double x, Activation f) {
    if (f == ACTIVATION_QUICK_GELU) {
        double s = sigmoid(QUICK_GELU_SLOPE * x);
        return s + QUICK_GELU_SLOPE * x * s * (1 - s);
    }
    if (f == ACTIVATION_GELU_TANH) {
        double t = tanh(ROOT_2_PI * (x + CUBE * x * x * x));
        return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * ROOT_2_PI * (1 + 3 * CUBE * x * x);
    }
    double pdf = exp(-0.5 * x * x) / sqrt(2 * 3.14159265358979323846);
    return 0.5 * (1 + erf(x / sqrt(2))) + x * pdf;
}

void ref_activation_fwd(act *y, const act *x, size_t n, Activation f) {
    for (size_t i = 0; i < n; i++) y[i].v = ref_activation(x[i].v, f);
}

void ref_activation_bwd(act *dx, act *y, acc *db, const act *dy, const act *x, size_t rows,
                        size_t C, Activation f) {
    for (size_t i = 0; i < rows * C; i++) {
        dx[i].v = dy[i].v * activation_slope(x[i].v, f);
        y[i].v = ref_activation(x[i].v, f);
        if (db) db[i % C].v += dx[i].v;
    }
}

void ref_bias_bwd(acc *db, const act *dy, size_t M, size_t N) {
    for (size_t m = 0; m < M; m++)
        for (size_t n = 0; n < N; n++) db[n].v += dy[m * N + n].v;
}

void ref_swiglu_fwd(act *y, const act *x, size_t rows, size_t F) {
    for (size_t i = 0; i < rows; i++)
        for (size_t f = 0; f < F; f++) {
            double g = x[i * 2 * F + f].v;
            y[i * F + f].v = g * sigmoid(g) * x[i * 2 * F + F + f].v;
        }
}

void ref_swiglu_bwd(act *dx, const act *dy, const act *x, size_t rows, size_t F) {
    for (size_t i = 0; i < rows; i++)
        for (size_t f = 0; f < F; f++) {
            size_t at = i * 2 * F + f;
            double g = x[at].v, v = x[at + F].v, d = dy[i * F + f].v, s = sigmoid(g);
            dx[at].v = d * v * (s + g * s * (1 - s));
            dx[at + F].v = d * g * s;
        }
}

void ref_add(act *y, const act *a, const act *b, size_t n) {
    for (size_t i = 0; i < n; i++) y[i].v = a[i].v + b[i].v;
}

void ref_gather_rows(act *y, const act *x, const int32_t *idx, size_t n, size_t C) {
    for (size_t i = 0; i < n; i++)
        for (size_t c = 0; c < C; c++) y[i * C + c] = x[(size_t)idx[i] * C + c];
}

void ref_scatter_add_rows(act *y, const act *x, const int32_t *idx, size_t n, size_t C) {
    for (size_t i = 0; i < n; i++)
        for (size_t c = 0; c < C; c++) y[(size_t)idx[i] * C + c].v += x[i * C + c].v;
}

void ref_mean_pool_fwd(act *y, const act *x, const int32_t *start, size_t B, size_t skip,
                       size_t C) {
    for (size_t b = 0; b < B; b++) {
        size_t first = (size_t)start[b] + skip, end = (size_t)start[b + 1];
        for (size_t c = 0; c < C; c++) {
            double sum = 0;
            for (size_t row = first; row < end; row++) sum += x[row * C + c].v;
            y[b * C + c].v = sum / (double)(end - first);
        }
    }
}

void ref_mean_pool_bwd(act *dx, const act *dy, const int32_t *start, size_t B, size_t skip,
                       size_t C) {
    for (size_t b = 0; b < B; b++) {
        size_t first = (size_t)start[b] + skip, end = (size_t)start[b + 1];
        for (size_t row = (size_t)start[b]; row < end; row++)
            for (size_t c = 0; c < C; c++)
                dx[row * C + c].v = row < first ? 0 : dy[b * C + c].v / (double)(end - first);
    }
}
