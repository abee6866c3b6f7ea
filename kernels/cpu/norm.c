/* cpu/norm: LayerNorm with its residual add, and the features' L2 normalisation. */
#include "kernels/cpu/cpu.h"

#include <math.h>

/* Partial sums of dw, db: their largest number, and the fewest rows of each. */
#define LN_CHUNKS 128
#define LN_CHUNK_ROWS 16

/* One row; sum may be NULL if r is. */
static void layernorm_row(act *y, acc *mean, acc *rstd, act *sum, const act *x, const act *r,
                          const acc *w, const acc *b, size_t C, float eps) {
    vf s = vzero(), q = vzero();
    if (r) {
        for (size_t c = 0; c < C; c += VW) {
            ahead(x + c), ahead(r + c), ahead_to_write(sum + c);
            vf v = act_round(act_load(x + c, C - c) + act_load(r + c, C - c));
            act_store(sum + c, v, C - c);
            s += v;
        }
        x = sum;
    } else {
        for (size_t c = 0; c < C; c += VW) {
            ahead(x + c);
            s += act_load(x + c, C - c);
        }
    }
    float m = vsum(s) / (float)C;
    vf vm_ = vset(m);
    for (size_t c = 0; c < C; c += VW) {
        vf d = act_load(x + c, C - c) - vm_;
        if (C - c < VW) d = vselect(vfirst(C - c), d, vzero());
        q = vfma(d, d, q);
    }
    float rs = 1.0f / sqrtf(vsum(q) / (float)C + eps);
    vf vrs = vset(rs);
    for (size_t c = 0; c < C; c += VW) {
        ahead_to_write(y + c);
        vf v = (act_load(x + c, C - c) - vm_) * vrs;
        act_store(y + c, vfma(v, acc_load(w + c, C - c), acc_load(b + c, C - c)), C - c);
    }
    mean->v = m;
    rstd->v = rs;
}

void FN(layernorm_fwd)(act *y, acc *mean, acc *rstd, act *sum, const act *x, const act *r,
                       const acc *w, const acc *b, size_t rows, size_t C, double eps) {
    KERNEL_BEGIN(layernorm_fwd, 8 * rows * C, rows * C * sizeof(act) * (r ? 4 : 2));
#pragma omp parallel for schedule(static) if (rows * C > SERIAL_BELOW)
    for (size_t i = 0; i < rows; i++)
        layernorm_row(y + i * C, mean + i, rstd + i, r ? sum + i * C : NULL, x + i * C,
                      r ? r + i * C : NULL, w, b, C, (float)eps);
}

/* One row; dw, db [C] are this chunk's partial sums. */
static void layernorm_bwd_row(act *dx, float *dw, float *db, act *y, const act *dy, const act *dres,
                              const act *x, float mean, float rstd, const acc *w, const acc *b,
                              size_t C) {
    vf m = vset(mean), rs = vset(rstd), sum_g = vzero(), sum_gx = vzero();
    for (size_t c = 0; c < C; c += VW) {
        size_t k = C - c;
        ahead(x + c), ahead(dy + c);
        vf d = act_load(dy + c, k), xn = (act_load(x + c, k) - m) * rs;
        vf g = d * acc_load(w + c, k);
        f32_store(dw + c, vfma(d, xn, f32_load(dw + c, k)), k);
        f32_store(db + c, d + f32_load(db + c, k), k);
        sum_g += g;
        sum_gx = vfma(g, xn, sum_gx);
    }
    vf mg = vset(vsum(sum_g) / (float)C), mgx = vset(vsum(sum_gx) / (float)C);
    for (size_t c = 0; c < C; c += VW) {
        size_t k = C - c;
        vf xn = (act_load(x + c, k) - m) * rs, wv = acc_load(w + c, k);
        vf g = rs * (vfma(act_load(dy + c, k), wv, -mg) - xn * mgx);
        ahead_to_write(dx + c);
        if (dres) g += act_load(dres + c, k);
        if (y) ahead_to_write(y + c);
        if (y) act_store(y + c, vfma(xn, wv, acc_load(b + c, k)), k);
        act_store(dx + c, g, k);
    }
}

void FN(layernorm_bwd)(act *dx, acc *dw, acc *db, act *y, const act *dy, const act *dres,
                       const act *x, const acc *mean, const acc *rstd, const acc *w, const acc *b,
                       size_t rows, size_t C) {
    KERNEL_BEGIN(layernorm_bwd, 16 * rows * C,
                 rows * C * sizeof(act) * (3 + (y != NULL) + (dres != NULL)));
    if (!rows) return;
    size_t per = chunk_rows(rows, LN_CHUNKS, LN_CHUNK_ROWS), chunks = div_up(rows, per);
    float *parts = FN(scratch)(SCRATCH_PARTIAL, chunks * 2 * C * sizeof *parts);
    float *pw = parts, *pb = parts + chunks * C;
#pragma omp parallel for schedule(dynamic) if (rows * C > SERIAL_BELOW)
    for (size_t k = 0; k < chunks; k++) {
        memset(pw + k * C, 0, C * sizeof *pw);
        memset(pb + k * C, 0, C * sizeof *pb);
        for (size_t i = k * per; i < size_min(rows, (k + 1) * per); i++)
            layernorm_bwd_row(dx + i * C, pw + k * C, pb + k * C, y ? y + i * C : NULL, dy + i * C,
                              dres ? dres + i * C : NULL, x + i * C, mean[i].v, rstd[i].v, w, b, C);
    }
    FN(add_partials)(&dw->v, pw, chunks, C);
    FN(add_partials)(&db->v, pb, chunks, C);
}

void FN(l2norm_fwd)(acc *y, acc *norm, const acc *x, size_t rows, size_t E) {
    KERNEL_BEGIN(l2norm_fwd, 3 * rows * E, 8 * rows * E);
#pragma omp parallel for schedule(static) if (rows * E > SERIAL_BELOW)
    for (size_t i = 0; i < rows; i++) {
        vf q = vzero();
        for (size_t c = 0; c < E; c += VW) {
            vf v = acc_load(x + i * E + c, E - c);
            q = vfma(v, v, q);
        }
        float n = fmaxf(sqrtf(vsum(q)), 1e-12f);
        norm[i].v = n;
        vf inv = vset(1.0f / n);
        for (size_t c = 0; c < E; c += VW)
            acc_store(y + i * E + c, acc_load(x + i * E + c, E - c) * inv, E - c);
    }
}

void FN(l2norm_bwd)(acc *dx, const acc *dy, const acc *y, const acc *norm, size_t rows, size_t E) {
    KERNEL_BEGIN(l2norm_bwd, 5 * rows * E, 12 * rows * E);
#pragma omp parallel for schedule(static) if (rows * E > SERIAL_BELOW)
    for (size_t i = 0; i < rows; i++) {
        const acc *d = dy + i * E, *u = y + i * E;
        vf s = vzero();
        for (size_t c = 0; c < E; c += VW)
            s = vfma(acc_load(d + c, E - c), acc_load(u + c, E - c), s);
        vf dot = vset(vsum(s)), inv = vset(1.0f / norm[i].v);
        for (size_t c = 0; c < E; c += VW)
            acc_store(dx + i * E + c,
                      vfnma(acc_load(u + c, E - c), dot, acc_load(d + c, E - c)) * inv, E - c);
    }
}
