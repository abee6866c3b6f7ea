#include "kernels/ref/ref.h"

#include <math.h>

#define L2NORM_MIN 1e-12

void ref_layernorm_fwd(act *y, acc *mean, acc *rstd, act *sum, const act *x, const act *r,
                       const acc *w, const acc *b, size_t rows, size_t C, double eps) {
    if (r) {
        ref_add(sum, x, r, rows * C);
        x = sum;
    }
    for (size_t i = 0; i < rows; i++, x += C, y += C) {
        double m = 0, var = 0;
        for (size_t c = 0; c < C; c++) m += x[c].v;
        m /= (double)C;
        for (size_t c = 0; c < C; c++) var += (x[c].v - m) * (x[c].v - m);
        mean[i].v = m;
        rstd[i].v = 1 / sqrt(var / (double)C + eps);
        for (size_t c = 0; c < C; c++) y[c].v = (x[c].v - m) * rstd[i].v * w[c].v + b[c].v;
    }
}

void ref_layernorm_bwd(act *dx, acc *dw, acc *db, act *y, const act *dy, const act *dres,
                       const act *x, const acc *mean, const acc *rstd, const acc *w, const acc *b,
                       size_t rows, size_t C) {
    for (size_t i = 0; i < rows; i++) {
        size_t row = i * C;
        /* With g = dy·w and n = (x - mean)·rstd: dx = rstd (g - mean(g) - n mean(g n)). */
        double g_mean = 0, gn_mean = 0;
        for (size_t c = 0; c < C; c++) {
            double n = (x[row + c].v - mean[i].v) * rstd[i].v, g = dy[row + c].v * w[c].v;
            g_mean += g / (double)C;
            gn_mean += g * n / (double)C;
            dw[c].v += dy[row + c].v * n;
            db[c].v += dy[row + c].v;
            if (y) y[row + c].v = n * w[c].v + b[c].v;
        }
        for (size_t c = 0; c < C; c++) {
            double n = (x[row + c].v - mean[i].v) * rstd[i].v, g = dy[row + c].v * w[c].v;
            dx[row + c].v = (dres ? dres[row + c].v : 0) + rstd[i].v * (g - g_mean - n * gn_mean);
        }
    }
}

void ref_l2norm_fwd(acc *y, acc *norm, const acc *x, size_t rows, size_t E) {
    for (size_t i = 0; i < rows; i++) {
        double sum = 0;
        for (size_t e = 0; e < E; e++) sum += x[i * E + e].v * x[i * E + e].v;
        norm[i].v = fmax(sqrt(sum), L2NORM_MIN);
        for (size_t e = 0; e < E; e++) y[i * E + e].v = x[i * E + e].v / norm[i].v;
    }
}

void ref_l2norm_bwd(acc *dx, const acc *dy, const acc *y, const acc *norm, size_t rows, size_t E) {
    for (size_t i = 0; i < rows; i++) {
        double along = 0;
        for (size_t e = 0; e < E; e++) along += y[i * E + e].v * dy[i * E + e].v;
        for (size_t e = 0; e < E; e++)
            dx[i * E + e].v = (dy[i * E + e].v - y[i * E + e].v * along) / norm[i].v;
    }
}
