/* cpu/loss: the contrastive losses over tiles of logits. One exponential per element serves rows
 * and columns: exp(z - row) and exp(z - col) differ from exp(z - common) by a factor of the row or
 * the column. If a factor could leave the range of a float, both exponentials are computed. */
#include "kernels/cpu/cpu.h"

#include <float.h>
#include <math.h>

/* Largest distance of a row's or column's reference from the common one. */
#define SHARED_RANGE 60.0f
/* Rows of the tile are cut into at most this many chunks for partial column sums. */
#define LOSS_CHUNKS 64

typedef struct Logits {
    vf scale, bias;
    float s, c;
} Logits;

static Logits logits_of(const acc *log_scale, const acc *bias) {
    float s = expf(log_scale->v), c = bias ? bias->v : 0;
    return (Logits){vset(s), vset(c), s, c};
}
static inline vf logit(const Logits *l, const acc *cos, size_t k) {
    return vfma(acc_load(cos, k), l->scale, l->bias);
}
/* The same rounding as in the vector code. */
static inline float logit_at(const Logits *l, const acc *cos) { return fmaf(cos->v, l->s, l->c); }

/* The columns [0, m) that hold the positive of row i. */
static inline bool positive_column(size_t *j, size_t i, ptrdiff_t diag, size_t m) {
    ptrdiff_t at = (ptrdiff_t)i + diag;
    *j = (size_t)at;
    return at >= 0 && (size_t)at < m;
}

/* The contribution of a tile's row to the loss, to Σ G and to Σ G·cos. */
typedef struct RowSums {
    double loss, g, g_cos;
} RowSums;
typedef struct LaneSums {
    vf loss, g, g_cos;
} LaneSums;

/* G and the cost of up to VW elements: counted, and s·G written over their cosines x. */
static inline void accumulate(LaneSums *s, acc *cos, vf x, vf g, vf cost, const Logits *l,
                              size_t left) {
    if (left < VW) {
        g = vselect(vfirst(left), g, vzero());
        cost = vselect(vfirst(left), cost, vzero());
    }
    s->loss += cost;
    s->g += g;
    s->g_cos = vfma(g, x, s->g_cos);
    acc_store(cos, g * l->scale, left);
}
static inline RowSums row_sums(const LaneSums *s) {
    return (RowSums){vsum(s->loss), vsum(s->g), vsum(s->g_cos)};
}
/* Adds the rows' sums to their outputs; returns the loss. */
static double add_rows(acc *dlog_scale, acc *dbias, const RowSums *row, size_t n, const Logits *l) {
    RowSums sum = {0};
    for (size_t i = 0; i < n; i++) {
        sum.loss += row[i].loss;
        sum.g += row[i].g;
        sum.g_cos += row[i].g_cos;
    }
    dlog_scale->v = (float)(dlog_scale->v + l->s * sum.g_cos);
    if (dbias) dbias->v = (float)(dbias->v + sum.g);
    return sum.loss;
}

/* max, sum ← joined with another max, sum. */
static void join(acc *max, acc *sum, float m, float s) {
    float top = fmaxf(max->v, m);
    sum->v = sum->v * expf(max->v - top) + s * expf(m - top);
    max->v = top;
}

/* Maxima of the tile's rows [n] and columns [m]; the common maximum is returned. */
static float tile_maxima(float *rows, float *cols, float *parts, size_t chunks, size_t per,
                         const acc *cos, const Logits *l, size_t n, size_t m) {
#pragma omp parallel for schedule(static) if (n * m > SERIAL_BELOW)
    for (size_t k = 0; k < chunks; k++) {
        float *part = parts + k * m;
        for (size_t j = 0; j < m; j++) part[j] = -FLT_MAX;
        for (size_t i = k * per; i < size_min(n, (k + 1) * per); i++) {
            vf top = vset(-FLT_MAX);
            for (size_t j = 0; j < m; j += VW) {
                size_t left = m - j;
                vf z = logit(l, cos + i * m + j, left);
                if (left < VW) z = vselect(vfirst(left), z, vset(-FLT_MAX));
                f32_store(part + j, vmax(f32_load(part + j, left), z), left);
                top = vmax(top, z);
            }
            rows[i] = vmaxof(top);
        }
    }
    memcpy(cols, parts, m * sizeof *cols);
    for (size_t k = 1; k < chunks; k++)
        for (size_t j = 0; j < m; j++) cols[j] = fmaxf(cols[j], parts[k * m + j]);
    float top = -FLT_MAX;
    for (size_t i = 0; i < n; i++) top = fmaxf(top, rows[i]);
    return top;
}

void FN(logits_stats)(acc *row_max, acc *row_sum, acc *col_max, acc *col_sum, acc *positive,
                      const acc *cos, const acc *log_scale, const acc *bias, size_t n, size_t m,
                      ptrdiff_t diag) {
    KERNEL_BEGIN(logits_stats, 20 * n * m, 4 * n * m);
    if (!n || !m) return;
    Logits l = logits_of(log_scale, bias);
    size_t per = chunk_rows(n, LOSS_CHUNKS, 4), chunks = div_up(n, per);
    float *rows = FN(scratch)(SCRATCH_PARTIAL, (n + m + chunks * m) * sizeof *rows);
    float *cols = rows + n, *parts = cols + m;
    float top = tile_maxima(rows, cols, parts, chunks, per, cos, &l, n, m);
    vf ref = vset(top);
#pragma omp parallel for schedule(static) if (n * m > SERIAL_BELOW)
    for (size_t k = 0; k < chunks; k++) {
        float *part = parts + k * m;
        memset(part, 0, m * sizeof *part);
        for (size_t i = k * per; i < size_min(n, (k + 1) * per); i++) {
            const acc *c = cos + i * m;
            bool own = top - rows[i] > SHARED_RANGE;
            vf sum = vzero(), mine = vset(rows[i]);
            for (size_t j = 0; j < m; j += VW) {
                size_t left = m - j;
                vf z = logit(&l, c + j, left), e = vexp(z - ref);
                f32_store(part + j, f32_load(part + j, left) + e, left);
                if (own) e = vexp(z - mine);
                if (left < VW) e = vselect(vfirst(left), e, vzero());
                sum += e;
            }
            join(row_max + i, row_sum + i, rows[i], vsum(sum) * (own ? 1 : expf(top - rows[i])));
            size_t j;
            if (positive_column(&j, i, diag, m)) positive[i].v = logit_at(&l, c + j);
        }
    }
#pragma omp parallel for schedule(static) if (n * m > SERIAL_BELOW)
    for (size_t j = 0; j < m; j++) {
        float s = 0;
        if (top - cols[j] > SHARED_RANGE) {
            for (size_t i = 0; i < n; i++) s += expf(logit_at(&l, cos + i * m + j) - cols[j]);
        } else {
            for (size_t k = 0; k < chunks; k++) s += parts[k * m + j];
            s *= expf(top - cols[j]);
        }
        join(col_max + j, col_sum + j, cols[j], s);
    }
}

void FN(stats_init)(acc *max, acc *sum, size_t n) {
    KERNEL_BEGIN(stats_init, 0, 8 * n);
    for (size_t i = 0; i < n; i++) max[i].v = -FLT_MAX, sum[i].v = 0;
}

void FN(stats_join)(acc *max, acc *sum, const acc *other_max, const acc *other_sum, size_t n) {
    KERNEL_BEGIN(stats_join, 10 * n, 24 * n);
    for (size_t i = 0; i < n; i++) join(max + i, sum + i, other_max[i].v, other_sum[i].v);
}

void FN(stats_lse)(acc *lse, const acc *max, const acc *sum, size_t n) {
    KERNEL_BEGIN(stats_lse, 10 * n, 12 * n);
    for (size_t i = 0; i < n; i++) lse[i].v = max[i].v + logf(sum[i].v);
}

void FN(clip_loss)(acc *loss, const acc *row_lse, const acc *col_lse, const acc *positive, size_t n,
                   double weight) {
    KERNEL_BEGIN(clip_loss, 4 * n, 12 * n);
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += ((double)row_lse[i].v - positive[i].v) + ((double)col_lse[i].v - positive[i].v);
    loss->v = (float)(loss->v + weight * sum);
}

/* Smallest and largest of both. */
static void range_of(float *lo, float *hi, const acc *a, size_t n) {
    for (size_t i = 0; i < n; i++) {
        *lo = fminf(*lo, a[i].v);
        *hi = fmaxf(*hi, a[i].v);
    }
}

void FN(clip_logits_grad)(acc *cos, acc *dlog_scale, acc *dbias, const acc *row_lse,
                          const acc *col_lse, const acc *log_scale, const acc *bias, size_t n,
                          size_t m, ptrdiff_t diag, double weight) {
    KERNEL_BEGIN(clip_logits_grad, 20 * n * m, 8 * n * m);
    if (!n || !m) return;
    Logits l = logits_of(log_scale, bias);
    float lo = FLT_MAX, hi = -FLT_MAX;
    range_of(&lo, &hi, row_lse, n);
    range_of(&lo, &hi, col_lse, m);
    /* exp(z - lse) = exp(z - hi) exp(hi - lse), the second factor once a row and once a column */
    bool shared = hi - lo <= SHARED_RANGE;
    RowSums *sums = FN(scratch)(SCRATCH_PARTIAL, n * sizeof *sums + (m + VW) * sizeof(float));
    float *factor = (float *)(sums + n);
    for (size_t j = 0; shared && j < m; j += VW)
        f32_store(factor + j, vexp(vset(hi) - acc_load(col_lse + j, m - j)), m - j);
    vf w = vset((float)weight);
#pragma omp parallel for schedule(static) if (n * m > SERIAL_BELOW)
    for (size_t i = 0; i < n; i++) {
        acc *c = cos + i * m;
        vf ref = vset(hi), row = vset(row_lse[i].v), mine = vexp(ref - row);
        LaneSums lanes = {vzero(), vzero(), vzero()};
        size_t pos;
        bool has = positive_column(&pos, i, diag, m);
        float c_pos = has ? c[pos].v : 0;
        for (size_t j = 0; j < m; j += VW) {
            size_t left = m - j;
            vf x = acc_load(c + j, left), z = vfma(x, l.scale, l.bias), g;
            if (shared)
                g = vexp(z - ref) * (mine + f32_load(factor + j, left)) * w;
            else
                g = (vexp(z - row) + vexp(z - acc_load(col_lse + j, left))) * w;
            accumulate(&lanes, c + j, x, g, vzero(), &l, left);
        }
        sums[i] = row_sums(&lanes);
        if (has) {
            double two = 2 * weight;
            c[pos].v -= (float)(l.s * two);
            sums[i].g -= two;
            sums[i].g_cos -= two * c_pos;
        }
    }
    add_rows(dlog_scale, dbias, sums, n, &l);
}

void FN(mask_pairs)(acc *cos, size_t n, size_t m, size_t row, size_t col, size_t samples) {
    KERNEL_BEGIN(mask_pairs, 0, 4 * n);
    for (size_t i = 0; i < n; i++) {
        size_t j = other_view(row + i, samples) - col;
        if (j < m) cos[i * m + j].v = LOGIT_MASKED;
    }
}

void FN(siglip_tile)(acc *cos, acc *loss, acc *dlog_scale, acc *dbias, const acc *log_scale,
                     const acc *bias, size_t n, size_t m, ptrdiff_t diag, double weight) {
    KERNEL_BEGIN(siglip_tile, 40 * n * m, 8 * n * m);
    if (!n || !m) return;
    Logits l = logits_of(log_scale, bias);
    RowSums *sums = FN(scratch)(SCRATCH_PARTIAL, n * sizeof *sums);
    vf w = vset((float)weight), one = vset(1);
#pragma omp parallel for schedule(static) if (n * m > SERIAL_BELOW)
    for (size_t i = 0; i < n; i++) {
        acc *c = cos + i * m;
        LaneSums lanes = {vzero(), vzero(), vzero()};
        size_t pos;
        bool has = positive_column(&pos, i, diag, m);
        float c_pos = has ? c[pos].v : 0;
        /* every element as a negative: loss ln(1 + eᶻ), G = σ(z) */
        for (size_t j = 0; j < m; j += VW) {
            size_t left = m - j;
            vf x = acc_load(c + j, left), z = vfma(x, l.scale, l.bias), e = vexp(-vabs(z));
            vf r = vrcp(one + e), g = vselect(vge(z, vzero()), r, e * r) * w;
            vf cost = vmax(z, vzero()) + vlog1p_unit(e);
            accumulate(&lanes, c + j, x, g, cost, &l, left);
        }
        sums[i] = row_sums(&lanes);
        if (has) {
            /* correction for the positive: its loss is smaller by z, its G by 1 */
            double z = (double)l.s * c_pos + l.c, g = -weight / (1 + exp(z));
            sums[i].loss -= z;
            sums[i].g -= weight;
            sums[i].g_cos -= weight * c_pos;
            c[pos].v = (float)(l.s * g);
        }
    }
    loss->v = (float)(loss->v + weight * add_rows(dlog_scale, dbias, sums, n, &l));
}

void FN(group_targets)(acc *t, const int32_t *row_group, const int32_t *col_group, const acc *share,
                       size_t n, size_t m) {
    KERNEL_BEGIN(group_targets, n * m, 4 * n * m);
#pragma omp parallel for schedule(static) if (n * m > SERIAL_BELOW)
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < m; j++)
            t[i * m + j].v = row_group[i] == col_group[j] ? share[i].v : 0;
}

void FN(teacher_targets)(acc *t, const acc *cos, const acc *row_lse, const acc *col_lse,
                         const acc *log_scale, size_t n, size_t m) {
    KERNEL_BEGIN(teacher_targets, 30 * n * m, 12 * n * m);
    vf scale = vset(expf(log_scale->v)), half = vset(0.5f);
#pragma omp parallel for schedule(static) if (n * m > SERIAL_BELOW)
    for (size_t i = 0; i < n; i++) {
        vf row = vset(row_lse[i].v);
        for (size_t j = 0; j < m; j += VW) {
            size_t left = m - j, at = i * m + j;
            vf z = acc_load(cos + at, left) * scale;
            vf p = vexp(z - row) + vexp(z - acc_load(col_lse + j, left));
            acc_store(t + at, vfma(p, half, acc_load(t + at, left)), left);
        }
    }
}

void FN(soft_logits_grad)(acc *cos, acc *loss, acc *dlog_scale, acc *dbias, const acc *t,
                          const acc *row_lse, const acc *col_lse, const acc *log_scale,
                          const acc *bias, size_t n, size_t m, double mass, double weight) {
    KERNEL_BEGIN(soft_logits_grad, 34 * n * m, 12 * n * m);
    if (!n || !m) return;
    Logits l = logits_of(log_scale, bias);
    RowSums *sums = FN(scratch)(SCRATCH_PARTIAL, n * sizeof *sums);
    vf both = vset((float)(mass * weight)), two = vset((float)(2 * weight));
#pragma omp parallel for schedule(static) if (n * m > SERIAL_BELOW)
    for (size_t i = 0; i < n; i++) {
        acc *c = cos + i * m;
        vf row = vset(row_lse[i].v);
        LaneSums lanes = {vzero(), vzero(), vzero()};
        for (size_t j = 0; j < m; j += VW) {
            size_t left = m - j;
            vf x = acc_load(c + j, left), z = vfma(x, l.scale, l.bias);
            vf target = acc_load(t + i * m + j, left);
            vf p = vexp(z - row) + vexp(z - acc_load(col_lse + j, left));
            vf g = p * both - target * two;
            accumulate(&lanes, c + j, x, g, target * z, &l, left);
        }
        sums[i] = row_sums(&lanes);
    }
    loss->v = (float)(loss->v - 2 * weight * add_rows(dlog_scale, dbias, sums, n, &l));
}

void FN(siglip_targets_tile)(acc *cos, acc *loss, acc *dlog_scale, acc *dbias, const acc *t,
                             const acc *log_scale, const acc *bias, size_t n, size_t m,
                             double weight) {
    KERNEL_BEGIN(siglip_targets_tile, 42 * n * m, 12 * n * m);
    if (!n || !m) return;
    Logits l = logits_of(log_scale, bias);
    RowSums *sums = FN(scratch)(SCRATCH_PARTIAL, n * sizeof *sums);
    vf w = vset((float)weight), one = vset(1);
#pragma omp parallel for schedule(static) if (n * m > SERIAL_BELOW)
    for (size_t i = 0; i < n; i++) {
        acc *c = cos + i * m;
        LaneSums lanes = {vzero(), vzero(), vzero()};
        for (size_t j = 0; j < m; j += VW) {
            size_t left = m - j;
            vf x = acc_load(c + j, left), z = vfma(x, l.scale, l.bias), e = vexp(-vabs(z));
            /* σ(z) and σ(-z) without overflow */
            vm negative = vge(vzero(), acc_load(t + i * m + j, left));
            vf r = vrcp(one + e), g = vselect(vge(z, vzero()), r, e * r);
            vf h = vselect(vge(z, vzero()), e * r, r);
            g = vselect(negative, g, -h) * w;
            vf cost = vselect(negative, vmax(z, vzero()), vmax(-z, vzero())) + vlog1p_unit(e);
            accumulate(&lanes, c + j, x, g, cost, &l, left);
        }
        sums[i] = row_sums(&lanes);
    }
    loss->v = (float)(loss->v + weight * add_rows(dlog_scale, dbias, sums, n, &l));
}
