#include "kernels/ref/ref.h"

#include <math.h>

static double dot(const act *a, const act *b, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += a[i].v * b[i].v;
    return sum;
}

/* One query against `count` keys and values, whose rows are `stride` elements apart: o[D]; returns
 * the log-sum-exp of the scores. Softmax in two passes: the maximum, then the weights. */
static double query_fwd(act *o, const act *q, const act *k, const act *v, size_t count,
                        size_t stride, size_t D) {
    double scale = 1 / sqrt((double)D), max = -INFINITY, sum = 0;
    for (size_t j = 0; j < count; j++) max = fmax(max, scale * dot(q, k + j * stride, D));
    for (size_t d = 0; d < D; d++) o[d].v = 0;
    for (size_t j = 0; j < count; j++) {
        double weight = exp(scale * dot(q, k + j * stride, D) - max);
        sum += weight;
        for (size_t d = 0; d < D; d++) o[d].v += weight * v[j * stride + d].v;
    }
    for (size_t d = 0; d < D; d++) o[d].v /= sum;
    return max + log(sum);
}

/* The gradient of query_fwd: with P = exp(score - lse), dP_j = do·v_j and dS = P (dP - do·o):
 * dq = scale Σ_j dS_j k_j is written, dk_j += scale dS_j q and dv_j += P_j do are added to. */
static void query_bwd(act *dq, act *dk, act *dv, const act *dout, const act *o, double lse,
                      const act *q, const act *k, const act *v, size_t count, size_t stride,
                      size_t D) {
    double scale = 1 / sqrt((double)D), mean = dot(dout, o, D);
    for (size_t d = 0; d < D; d++) dq[d].v = 0;
    for (size_t j = 0; j < count; j++) {
        size_t row = j * stride;
        double p = exp(scale * dot(q, k + row, D) - lse);
        double ds = scale * p * (dot(dout, v + row, D) - mean);
        for (size_t d = 0; d < D; d++) {
            dq[d].v += ds * k[row + d].v;
            dk[row + d].v += ds * q[d].v;
            dv[row + d].v += p * dout[d].v;
        }
    }
}

void ref_attention_fwd(act *o, acc *lse, const act *qkv, const int32_t *start, size_t B,
                       size_t rows, size_t max_T, size_t H, size_t D, bool causal) {
    (void)max_T;
    size_t C = H * D;
#pragma omp parallel for collapse(2)
    for (size_t b = 0; b < B; b++)
        for (size_t h = 0; h < H; h++) {
            size_t first = (size_t)start[b], T = (size_t)start[b + 1] - first;
            const act *q = qkv + first * 3 * C + h * D, *k = q + C, *v = k + C;
            for (size_t i = 0; i < T; i++)
                lse[h * rows + first + i].v = query_fwd(o + (first + i) * C + h * D, q + i * 3 * C,
                                                        k, v, causal ? i + 1 : T, 3 * C, D);
        }
}

void ref_attention_bwd(act *dqkv, const act *dout, const act *o, const acc *lse, const act *qkv,
                       const int32_t *start, size_t B, size_t rows, size_t max_T, size_t H,
                       size_t D, bool causal) {
    (void)max_T;
    size_t C = H * D;
    for (size_t i = 0; i < rows * 3 * C; i++) dqkv[i].v = 0;
#pragma omp parallel for collapse(2)
    for (size_t b = 0; b < B; b++)
        for (size_t h = 0; h < H; h++) {
            size_t first = (size_t)start[b], T = (size_t)start[b + 1] - first;
            const act *q = qkv + first * 3 * C + h * D, *k = q + C, *v = k + C;
            act *dq = dqkv + first * 3 * C + h * D, *dk = dq + C, *dv = dk + C;
            for (size_t i = 0; i < T; i++) {
                size_t at = (first + i) * C + h * D;
                query_bwd(dq + i * 3 * C, dk, dv, dout + at, o + at, lse[h * rows + first + i].v,
                          q + i * 3 * C, k, v, causal ? i + 1 : T, 3 * C, D);
            }
        }
}

void ref_attention_pool_fwd(act *o, acc *lse, const act *q, const act *kv, const int32_t *start,
                            size_t B, size_t rows, size_t H, size_t D) {
    (void)rows;
    size_t C = H * D;
    for (size_t b = 0; b < B; b++)
        for (size_t h = 0; h < H; h++) {
            size_t first = (size_t)start[b], T = (size_t)start[b + 1] - first;
            const act *k = kv + first * 2 * C + h * D;
            lse[h * B + b].v =
                query_fwd(o + b * C + h * D, q + b * C + h * D, k, k + C, T, 2 * C, D);
        }
}

void ref_attention_pool_bwd(act *dq, act *dkv, const act *dout, const act *o, const acc *lse,
                            const act *q, const act *kv, const int32_t *start, size_t B,
                            size_t rows, size_t H, size_t D) {
    size_t C = H * D;
    for (size_t i = 0; i < rows * 2 * C; i++) dkv[i].v = 0;
    for (size_t b = 0; b < B; b++)
        for (size_t h = 0; h < H; h++) {
            size_t first = (size_t)start[b], T = (size_t)start[b + 1] - first, at = b * C + h * D;
            const act *k = kv + first * 2 * C + h * D;
            act *dk = dkv + first * 2 * C + h * D;
            query_bwd(dq + at, dk, dk + C, dout + at, o + at, lse[h * B + b].v, q + at, k, k + C, T,
                      2 * C, D);
        }
}
