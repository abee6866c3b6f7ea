#include "kernels/ref/ref.h"

#include <float.h>
#include <math.h>

typedef struct Logit {
    double scale, bias;
} Logit;

static Logit logit(const acc *log_scale, const acc *bias) {
    return (Logit){exp(log_scale->v), bias ? bias->v : 0};
}

static bool is_positive(size_t i, size_t j, ptrdiff_t diag) {
    return (ptrdiff_t)j == (ptrdiff_t)i + diag;
}

/* Adds a logit to a pair (max, sum of exp(z - max)). */
static void stats_add(acc *max, acc *sum, double z) {
    double m = fmax(max->v, z);
    sum->v = sum->v * exp(max->v - m) + exp(z - m);
    max->v = m;
}

void ref_logits_stats(acc *row_max, acc *row_sum, acc *col_max, acc *col_sum, acc *positive,
                      const acc *cos, const acc *log_scale, const acc *bias, size_t n, size_t m,
                      ptrdiff_t diag) {
    Logit l = logit(log_scale, bias);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < m; j++) {
            double z = l.scale * cos[i * m + j].v + l.bias;
            stats_add(row_max + i, row_sum + i, z);
            stats_add(col_max + j, col_sum + j, z);
            if (is_positive(i, j, diag)) positive[i].v = z;
        }
}

void ref_stats_init(acc *max, acc *sum, size_t n) {
    for (size_t i = 0; i < n; i++) {
        max[i].v = -DBL_MAX;
        sum[i].v = 0;
    }
}

void ref_stats_join(acc *max, acc *sum, const acc *other_max, const acc *other_sum, size_t n) {
    for (size_t i = 0; i < n; i++) {
        double m = fmax(max[i].v, other_max[i].v);
        sum[i].v = sum[i].v * exp(max[i].v - m) + other_sum[i].v * exp(other_max[i].v - m);
        max[i].v = m;
    }
}

void ref_stats_lse(acc *lse, const acc *max, const acc *sum, size_t n) {
    for (size_t i = 0; i < n; i++) lse[i].v = max[i].v + log(sum[i].v);
}

void ref_clip_loss(acc *loss, const acc *row_lse, const acc *col_lse, const acc *positive, size_t n,
                   double weight) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += row_lse[i].v + col_lse[i].v - 2 * positive[i].v;
    loss->v += weight * sum;
}

void ref_clip_logits_grad(acc *cos, acc *dlog_scale, acc *dbias, const acc *row_lse,
                          const acc *col_lse, const acc *log_scale, const acc *bias, size_t n,
                          size_t m, ptrdiff_t diag, double weight) {
    Logit l = logit(log_scale, bias);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < m; j++) {
            double c = cos[i * m + j].v, z = l.scale * c + l.bias;
            double g = weight * (exp(z - row_lse[i].v) + exp(z - col_lse[j].v) -
                                 (is_positive(i, j, diag) ? 2 : 0));
            cos[i * m + j].v = l.scale * g;
            dlog_scale->v += l.scale * g * c;
            if (dbias) dbias->v += g;
        }
}

void ref_mask_pairs(acc *cos, size_t n, size_t m, size_t row, size_t col, size_t samples) {
    for (size_t i = 0; i < n; i++) {
        size_t j = other_view(row + i, samples) - col;
        if (j < m) cos[i * m + j].v = LOGIT_MASKED;
    }
}

void ref_siglip_tile(acc *cos, acc *loss, acc *dlog_scale, acc *dbias, const acc *log_scale,
                     const acc *bias, size_t n, size_t m, ptrdiff_t diag, double weight) {
    Logit l = logit(log_scale, bias);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < m; j++) {
            double c = cos[i * m + j].v, y = is_positive(i, j, diag) ? 1 : -1;
            double yz = y * (l.scale * c + l.bias);
            /* -ln σ(x) = ln(1 + e^-x) without overflow for large negative x. */
            loss->v += weight * (fmax(-yz, 0) + log1p(exp(-fabs(yz))));
            double g = -y * weight / (1 + exp(yz));
            cos[i * m + j].v = l.scale * g;
            dlog_scale->v += l.scale * g * c;
            if (dbias) dbias->v += g;
        }
}

void ref_group_targets(acc *t, const int32_t *row_group, const int32_t *col_group, const acc *share,
                       size_t n, size_t m) {
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < m; j++)
            t[i * m + j].v = row_group[i] == col_group[j] ? share[i].v : 0;
}

void ref_teacher_targets(acc *t, const acc *cos, const acc *row_lse, const acc *col_lse,
                         const acc *log_scale, size_t n, size_t m) {
    double scale = exp(log_scale->v);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < m; j++) {
            double z = scale * cos[i * m + j].v;
            t[i * m + j].v += 0.5 * (exp(z - row_lse[i].v) + exp(z - col_lse[j].v));
        }
}

void ref_soft_logits_grad(acc *cos, acc *loss, acc *dlog_scale, acc *dbias, const acc *t,
                          const acc *row_lse, const acc *col_lse, const acc *log_scale,
                          const acc *bias, size_t n, size_t m, double mass, double weight) {
    Logit l = logit(log_scale, bias);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < m; j++) {
            double c = cos[i * m + j].v, z = l.scale * c + l.bias, target = t[i * m + j].v;
            double g =
                weight * (mass * (exp(z - row_lse[i].v) + exp(z - col_lse[j].v)) - 2 * target);
            loss->v -= 2 * weight * target * z;
            cos[i * m + j].v = l.scale * g;
            dlog_scale->v += l.scale * g * c;
            if (dbias) dbias->v += g;
        }
}

void ref_siglip_targets_tile(acc *cos, acc *loss, acc *dlog_scale, acc *dbias, const acc *t,
                             const acc *log_scale, const acc *bias, size_t n, size_t m,
                             double weight) {
    Logit l = logit(log_scale, bias);
    for (size_t i = 0; i < n * m; i++) {
        double c = cos[i].v, y = t[i].v > 0 ? 1 : -1, yz = y * (l.scale * c + l.bias);
        loss->v += weight * (fmax(-yz, 0) + log1p(exp(-fabs(yz))));
        double g = -y * weight / (1 + exp(yz));
        cos[i].v = l.scale * g;
        dlog_scale->v += l.scale * g * c;
        if (dbias) dbias->v += g;
    }
}
