/* cpu/batchnorm: batch normalisation with the residual add and the ReLU that follow it. */
#include "kernels/cpu/cpu.h"

#include <math.h>

/* Partial sums over rows: their largest number, and the fewest rows of each. */
#define BN_CHUNKS 64
#define BN_CHUNK_ROWS 64

/* s += a, q += a b, `left` columns of a vector. */
static inline void add_sums(float *s, float *q, vf a, vf b, size_t left) {
    f32_store(s, f32_load(s, left) + a, left);
    f32_store(q, vfma(a, b, f32_load(q, left)), left);
}

void FN(batchnorm_sums)(acc *sums, const act *x, const acc *shift, size_t rows, size_t C) {
    KERNEL_BEGIN(batchnorm_sums, 3 * rows * C, rows * C * sizeof(act));
    memset(sums, 0, 2 * C * sizeof *sums);
    if (!rows) return;
    size_t per = chunk_rows(rows, BN_CHUNKS, BN_CHUNK_ROWS), chunks = div_up(rows, per);
    float *parts = FN(scratch)(SCRATCH_PARTIAL, chunks * 2 * C * sizeof *parts);
#pragma omp parallel for schedule(static) if (rows * C > SERIAL_BELOW)
    for (size_t k = 0; k < chunks; k++) {
        float *s = parts + k * 2 * C, *q = s + C;
        memset(s, 0, 2 * C * sizeof *s);
        for (size_t i = k * per; i < size_min(rows, (k + 1) * per); i++)
            for (size_t c = 0; c < C; c += VW) {
                vf d = act_load(x + i * C + c, C - c) - acc_load(shift + c, C - c);
                add_sums(s + c, q + c, d, d, C - c);
            }
    }
    FN(add_partials)(&sums->v, parts, chunks, 2 * C);
}

void FN(batchnorm_stats)(acc *mean, acc *rstd, acc *running_mean, acc *running_var, const acc *sums,
                         double count, size_t C, double eps, double momentum) {
    KERNEL_BEGIN(batchnorm_stats, 10 * C, 6 * C * sizeof(acc));
    for (size_t c = 0; c < C; c++) {
        double m = running_mean[c].v, var = running_var[c].v;
        if (sums) {
            double d = sums[c].v / count;
            m += d;
            var = fmax(0, sums[C + c].v / count - d * d);
            double unbiased = count > 1 ? var * count / (count - 1) : 0;
            running_mean[c].v = (float)(running_mean[c].v + momentum * d);
            running_var[c].v = (float)(running_var[c].v + momentum * (unbiased - running_var[c].v));
        }
        mean[c].v = (float)m;
        rstd[c].v = (float)(1 / sqrt(var + eps));
    }
}

void FN(batchnorm_fwd)(act *y, const act *x, const act *r, const acc *mean, const acc *rstd,
                       const acc *w, const acc *b, size_t rows, size_t C, bool relu) {
    KERNEL_BEGIN(batchnorm_fwd, 4 * rows * C, rows * C * sizeof(act) * (r ? 3 : 2));
    vf least = vset(relu ? 0 : -INFINITY);
#pragma omp parallel for schedule(static) if (rows * C > SERIAL_BELOW)
    for (size_t i = 0; i < rows; i++)
        for (size_t c = 0; c < C; c += VW) {
            size_t at = i * C + c, k = C - c;
            vf n = (act_load(x + at, k) - acc_load(mean + c, k)) * acc_load(rstd + c, k);
            vf z = vfma(n, acc_load(w + c, k), acc_load(b + c, k));
            if (r) z += act_load(r + at, k);
            /* a NaN is the second operand, which is the result then */
            act_store(y + at, vmax(least, z), k);
        }
}

void FN(batchnorm_bwd_sums)(acc *sums, act *dz, const act *dy, const act *y, const act *x,
                            const acc *mean, const acc *rstd, size_t rows, size_t C) {
    KERNEL_BEGIN(batchnorm_bwd_sums, 5 * rows * C, rows * C * sizeof(act) * (y ? 4 : 2));
    memset(sums, 0, 2 * C * sizeof *sums);
    if (!rows) return;
    size_t per = chunk_rows(rows, BN_CHUNKS, BN_CHUNK_ROWS), chunks = div_up(rows, per);
    float *parts = FN(scratch)(SCRATCH_PARTIAL, chunks * 2 * C * sizeof *parts);
#pragma omp parallel for schedule(static) if (rows * C > SERIAL_BELOW)
    for (size_t k = 0; k < chunks; k++) {
        float *s = parts + k * 2 * C, *q = s + C;
        memset(s, 0, 2 * C * sizeof *s);
        for (size_t i = k * per; i < size_min(rows, (k + 1) * per); i++)
            for (size_t c = 0; c < C; c += VW) {
                size_t at = i * C + c, left = C - c;
                vf d = act_load(dy + at, left);
                if (y) {
                    d = vselect(vgt(act_load(y + at, left), vzero()), d, vzero());
                    act_store(dz + at, d, left);
                }
                vf n =
                    (act_load(x + at, left) - acc_load(mean + c, left)) * acc_load(rstd + c, left);
                add_sums(s + c, q + c, d, n, left);
            }
    }
    FN(add_partials)(&sums->v, parts, chunks, 2 * C);
}

void FN(batchnorm_bwd)(act *dx, const act *dz, const act *x, const acc *mean, const acc *rstd,
                       const acc *w, const acc *sums, double count, size_t rows, size_t C) {
    KERNEL_BEGIN(batchnorm_bwd, 7 * rows * C, rows * C * sizeof(act) * (sums ? 3 : 2));
    vf share = vset((float)(1 / count));
#pragma omp parallel for schedule(static) if (rows * C > SERIAL_BELOW)
    for (size_t i = 0; i < rows; i++)
        for (size_t c = 0; c < C; c += VW) {
            size_t at = i * C + c, k = C - c;
            vf d = act_load(dz + at, k), rs = acc_load(rstd + c, k);
            if (sums) {
                vf n = (act_load(x + at, k) - acc_load(mean + c, k)) * rs;
                vf m = vfma(n, acc_load(sums + C + c, k), acc_load(sums + c, k));
                d = vfnma(m, share, d);
            }
            act_store(dx + at, acc_load(w + c, k) * rs * d, k);
        }
}
