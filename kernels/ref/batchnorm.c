#include "kernels/ref/ref.h"

#include <math.h>

void ref_batchnorm_sums(acc *sums, const act *x, const acc *shift, size_t rows, size_t C) {
    for (size_t c = 0; c < C; c++) {
        sums[c].v = sums[C + c].v = 0;
        for (size_t i = 0; i < rows; i++) {
            double d = x[i * C + c].v - shift[c].v;
            sums[c].v += d;
            sums[C + c].v += d * d;
        }
    }
}

void ref_batchnorm_stats(acc *mean, acc *rstd, acc *running_mean, acc *running_var, const acc *sums,
                         double count, size_t C, double eps, double momentum) {
    for (size_t c = 0; c < C; c++) {
        double m = running_mean[c].v, var = running_var[c].v;
        if (sums) {
            double d = sums[c].v / count;
            m += d;
            var = fmax(0, sums[C + c].v / count - d * d);
            double unbiased = count > 1 ? var * count / (count - 1) : 0;
            running_mean[c].v += momentum * d;
            running_var[c].v += momentum * (unbiased - running_var[c].v);
        }
        mean[c].v = m;
        rstd[c].v = 1 / sqrt(var + eps);
    }
}

void ref_batchnorm_fwd(act *y, const act *x, const act *r, const acc *mean, const acc *rstd,
                       const acc *w, const acc *b, size_t rows, size_t C, bool relu) {
    for (size_t i = 0; i < rows * C; i++) {
        size_t c = i % C;
        double z = (x[i].v - mean[c].v) * rstd[c].v * w[c].v + b[c].v + (r ? r[i].v : 0);
        y[i].v = relu && z < 0 ? 0 : z;
    }
}

void ref_batchnorm_bwd_sums(acc *sums, act *dz, const act *dy, const act *y, const act *x,
                            const acc *mean, const acc *rstd, size_t rows, size_t C) {
    for (size_t c = 0; c < 2 * C; c++) sums[c].v = 0;
    for (size_t i = 0; i < rows * C; i++) {
        size_t c = i % C;
        double d = y && !(y[i].v > 0) ? 0 : dy[i].v;
        if (y) dz[i].v = d;
        sums[c].v += d;
        sums[C + c].v += d * (x[i].v - mean[c].v) * rstd[c].v;
    }
}

void ref_batchnorm_bwd(act *dx, const act *dz, const act *x, const acc *mean, const acc *rstd,
                       const acc *w, const acc *sums, double count, size_t rows, size_t C) {
    for (size_t i = 0; i < rows * C; i++) {
        size_t c = i % C;
        double d = dz[i].v;
        if (sums) d -= (sums[c].v + (x[i].v - mean[c].v) * rstd[c].v * sums[C + c].v) / count;
        dx[i].v = w[c].v * rstd[c].v * d;
    }
}
