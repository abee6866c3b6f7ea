/* cpu/attention: softmax attention of packed sequences. A thread takes one head of one sequence,
 * widens it to f32 in its own scratch (keys and values both as they stand and transposed, so that
 * every product runs along vectors), and walks its queries in blocks; scores exist only for a block
 * of queries. Backward computes the probabilities again from the stored log-sum-exp (Dao et al.,
 * "FlashAttention", 2022). */
#include "kernels/cpu/cpu.h"

#include <float.h>
#include <math.h>
#include <omp.h>

#define QUERY_BLOCK 48

#if VW == 16
#define TILE_ROWS 6
#define TILE_VECS 4
#else
#define TILE_ROWS 4
#define TILE_VECS 3
#endif

/* ---- small products in registers ---- */

/* c[rows, nv·VW] (+)= Σ_k a[i·am + k·ak] b[k, nv·VW]; rows <= TILE_ROWS; surplus rows repeat the
 * last one and are not stored. */
static inline __attribute__((always_inline)) void tile(float *c, size_t ldc, const float *a,
                                                       size_t am, size_t ak, const float *b,
                                                       size_t ldb, size_t rows, size_t K, bool add,
                                                       int nv) {
    vf sum[TILE_ROWS][TILE_VECS];
    const float *row[TILE_ROWS];
#pragma GCC unroll 8
    for (int i = 0; i < TILE_ROWS; i++) {
        row[i] = a + size_min((size_t)i, rows - 1) * am;
#pragma GCC unroll 8
        for (int j = 0; j < nv; j++) sum[i][j] = vzero();
    }
    for (size_t k = 0; k < K; k++) {
        vf v[TILE_VECS];
#pragma GCC unroll 8
        for (int j = 0; j < nv; j++) v[j] = vload(b + k * ldb + j * VW);
#pragma GCC unroll 8
        for (int i = 0; i < TILE_ROWS; i++) {
            vf s = vset(row[i][k * ak]);
#pragma GCC unroll 8
            for (int j = 0; j < nv; j++) sum[i][j] = vfma(s, v[j], sum[i][j]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < TILE_ROWS; i++) {
        if ((size_t)i >= rows) break;
#pragma GCC unroll 8
        for (int j = 0; j < nv; j++) {
            float *to = c + (size_t)i * ldc + j * VW;
            vf v = sum[i][j];
            if (add) v += vload(to);
            vstore(to, v);
        }
    }
}

/* c[M,N] (+)= a b, N a multiple of VW, c and b padded to it; a by strides. */
static void small_gemm(float *c, size_t ldc, const float *a, size_t am, size_t ak, const float *b,
                       size_t ldb, size_t M, size_t N, size_t K, bool add) {
    size_t vecs = N / VW, blocks = div_up(vecs, TILE_VECS);
    for (size_t block = 0, v = 0; block < blocks; block++) {
        size_t nv = (vecs - v + blocks - block - 1) / (blocks - block);
        for (size_t i = 0; i < M; i += TILE_ROWS) {
            float *to = c + i * ldc + v * VW;
            const float *from = a + i * am, *with = b + v * VW;
            size_t rows = size_min(TILE_ROWS, M - i);
            switch (nv) {
            case 1:
                tile(to, ldc, from, am, ak, with, ldb, rows, K, add, 1);
                break;
            case 2:
                tile(to, ldc, from, am, ak, with, ldb, rows, K, add, 2);
                break;
            case 3:
                tile(to, ldc, from, am, ak, with, ldb, rows, K, add, 3);
                break;
#if TILE_VECS > 3
            case 4:
                tile(to, ldc, from, am, ak, with, ldb, rows, K, add, 4);
                break;
#endif
            default:
                assert(0);
            }
        }
        v += nv;
    }
}

/* ---- one head of one sequence in f32 ---- */

/* to[T, Dp] = scale · from[T, D], rows of ld elements; the padding is 0. */
static void widen_rows(float *to, const act *from, size_t ld, size_t T, size_t D, size_t Dp,
                       float scale) {
    vf s = vset(scale);
    for (size_t t = 0; t < T; t++)
        for (size_t d = 0; d < Dp; d += VW)
            vstore(to + t * Dp + d, act_load(from + t * ld + d, D - d) * s);
}

/* to[D, Tp] = from[T, Dp] transposed; the padding is 0. */
static void transpose(float *to, const float *from, size_t T, size_t D, size_t Dp, size_t Tp) {
    for (size_t d = 0; d < D; d++)
        for (size_t t = T; t < Tp; t++) to[d * Tp + t] = 0;
    for (size_t t0 = 0; t0 < T; t0 += VW)
        for (size_t d = 0; d < D; d++)
            for (size_t t = t0; t < size_min(T, t0 + VW); t++) to[d * Tp + t] = from[t * Dp + d];
}

static void narrow_rows(act *to, size_t ld, const float *from, size_t Dp, size_t T, size_t D,
                        float scale) {
    vf s = vset(scale);
    for (size_t t = 0; t < T; t++)
        for (size_t d = 0; d < D; d += VW)
            act_store(to + t * ld + d, vload(from + t * Dp + d) * s, D - d);
}

/* The threads' scratch: `floats` floats each, apart by whole cache lines. */
static float *thread_scratch(size_t floats, size_t *stride) {
    *stride = round_up(floats + 16, 16);
    return FN(scratch)(SCRATCH_THREADS, (size_t)omp_get_max_threads() * *stride * sizeof(float));
}

/* Softmax of one row of `keys` scores in place; the padding up to `padded` becomes 0; lse. */
static float softmax_row(float *s, size_t keys, size_t padded) {
    vf top = vset(-FLT_MAX), sum = vzero();
    for (size_t j = 0; j < keys; j += VW) {
        vf v = vload(s + j);
        if (keys - j < VW) v = vselect(vfirst(keys - j), v, vset(-FLT_MAX));
        top = vmax(top, v);
    }
    float max = vmaxof(top);
    vf m = vset(max);
    for (size_t j = 0; j < keys; j += VW) {
        vf e = vexp(vload(s + j) - m);
        if (keys - j < VW) e = vselect(vfirst(keys - j), e, vzero());
        vstore(s + j, e);
        sum += e;
    }
    float total = vsum(sum);
    vf inv = vset(1.0f / total);
    size_t j = 0;
    for (; j < keys; j += VW) vstore(s + j, vload(s + j) * inv);
    for (; j < padded; j += VW) vstore(s + j, vzero());
    return max + logf(total);
}

typedef struct Head {
    const act *qkv;
    const act *dout, *o;
    act *to; /* o in forward, dqkv in backward */
    acc *lse_to;
    const acc *lse;
    size_t T, C, D;
    bool causal;
} Head;

static size_t forward_floats(size_t T, size_t D) {
    size_t Tp = round_up(T, VW), Dp = round_up(D, VW);
    return 2 * T * Dp + D * Tp + QUERY_BLOCK * (Tp + 2 * Dp);
}

static void head_fwd(const Head *h, float *mem) {
    size_t T = h->T, C = h->C, D = h->D, Tp = round_up(T, VW), Dp = round_up(D, VW);
    float *k = mem, *v = k + T * Dp, *kt = v + T * Dp;
    float *s = kt + D * Tp, *q = s + QUERY_BLOCK * Tp, *o = q + QUERY_BLOCK * Dp;
    widen_rows(k, h->qkv + C, 3 * C, T, D, Dp, 1);
    transpose(kt, k, T, D, Dp, Tp);
    widen_rows(v, h->qkv + 2 * C, 3 * C, T, D, Dp, 1);
    for (size_t i = 0; i < T; i += QUERY_BLOCK) {
        size_t n = size_min(QUERY_BLOCK, T - i), keys = h->causal ? i + n : T;
        size_t padded = round_up(keys, VW);
        widen_rows(q, h->qkv + i * 3 * C, 3 * C, n, D, Dp, 1.0f / sqrtf((float)D));
        small_gemm(s, Tp, q, Dp, 1, kt, Tp, n, padded, D, false);
        for (size_t r = 0; r < n; r++)
            h->lse_to[i + r].v = softmax_row(s + r * Tp, h->causal ? i + r + 1 : T, padded);
        small_gemm(o, Dp, s, Tp, 1, v, Dp, n, Dp, keys, false);
        narrow_rows(h->to + i * C, C, o, Dp, n, D, 1);
    }
}

void FN(attention_fwd)(act *o, acc *lse, const act *qkv, const int32_t *start, size_t B,
                       size_t rows, size_t max_T, size_t H, size_t D, bool causal) {
    KERNEL_TIMER(attention_fwd, 4.0 * (double)rows * (double)max_T * (double)(H * D),
                 4 * rows * H * D * sizeof(act));
    size_t stride, C = H * D;
    float *mem = thread_scratch(forward_floats(max_T, D), &stride);
#pragma omp parallel for schedule(dynamic)
    for (size_t i = 0; i < B * H; i++) {
        size_t b = i / H, h = i % H, first = (size_t)start[b];
        Head head = {.qkv = qkv + first * 3 * C + h * D,
                     .to = o + first * C + h * D,
                     .lse_to = lse + h * rows + first,
                     .T = (size_t)start[b + 1] - first,
                     .C = C,
                     .D = D,
                     .causal = causal};
        head_fwd(&head, mem + (size_t)omp_get_thread_num() * stride);
    }
}

static size_t backward_floats(size_t T, size_t D) {
    size_t Tp = round_up(T, VW), Dp = round_up(D, VW);
    return 4 * T * Dp + 2 * D * Tp + QUERY_BLOCK * (2 * Tp + 3 * Dp);
}

/* P of one row from its scores and lse, then dS = P∘(dP - delta), both in place. */
static void score_grad_row(float *s, float *dp, float lse, float delta, size_t keys,
                           size_t padded) {
    vf l = vset(lse), d = vset(delta);
    size_t j = 0;
    for (; j < keys; j += VW) {
        vf p = vexp(vload(s + j) - l);
        if (keys - j < VW) p = vselect(vfirst(keys - j), p, vzero());
        vstore(s + j, p);
        vstore(dp + j, p * (vload(dp + j) - d));
    }
    for (; j < padded; j += VW) {
        vstore(s + j, vzero());
        vstore(dp + j, vzero());
    }
}

static void head_bwd(const Head *h, float *mem) {
    size_t T = h->T, C = h->C, D = h->D, Tp = round_up(T, VW), Dp = round_up(D, VW);
    float *k = mem, *v = k + T * Dp, *dk = v + T * Dp, *dv = dk + T * Dp;
    float *kt = dv + T * Dp, *vt = kt + D * Tp;
    float *s = vt + D * Tp, *dp = s + QUERY_BLOCK * Tp;
    float *q = dp + QUERY_BLOCK * Tp, *dout = q + QUERY_BLOCK * Dp, *dq = dout + QUERY_BLOCK * Dp;
    float scale = 1.0f / sqrtf((float)D);
    widen_rows(k, h->qkv + C, 3 * C, T, D, Dp, 1);
    transpose(kt, k, T, D, Dp, Tp);
    widen_rows(v, h->qkv + 2 * C, 3 * C, T, D, Dp, 1);
    transpose(vt, v, T, D, Dp, Tp);
    memset(dk, 0, 2 * T * Dp * sizeof *dk);
    for (size_t i = 0; i < T; i += QUERY_BLOCK) {
        size_t n = size_min(QUERY_BLOCK, T - i), keys = h->causal ? i + n : T;
        size_t padded = round_up(keys, VW);
        widen_rows(q, h->qkv + i * 3 * C, 3 * C, n, D, Dp, scale);
        widen_rows(dout, h->dout + i * C, C, n, D, Dp, 1);
        small_gemm(s, Tp, q, Dp, 1, kt, Tp, n, padded, D, false);
        small_gemm(dp, Tp, dout, Dp, 1, vt, Tp, n, padded, D, false);
        for (size_t r = 0; r < n; r++) {
            vf sum = vzero();
            for (size_t d = 0; d < D; d += VW)
                sum = vfma(vload(dout + r * Dp + d), act_load(h->o + (i + r) * C + d, D - d), sum);
            score_grad_row(s + r * Tp, dp + r * Tp, h->lse[i + r].v, vsum(sum),
                           h->causal ? i + r + 1 : T, padded);
        }
        small_gemm(dv, Dp, s, 1, Tp, dout, Dp, keys, Dp, n, true);
        small_gemm(dk, Dp, dp, 1, Tp, q, Dp, keys, Dp, n, true);
        small_gemm(dq, Dp, dp, Tp, 1, k, Dp, n, Dp, keys, false);
        narrow_rows(h->to + i * 3 * C, 3 * C, dq, Dp, n, D, scale);
    }
    narrow_rows(h->to + C, 3 * C, dk, Dp, T, D, 1);
    narrow_rows(h->to + 2 * C, 3 * C, dv, Dp, T, D, 1);
}

void FN(attention_bwd)(act *dqkv, const act *dout, const act *o, const acc *lse, const act *qkv,
                       const int32_t *start, size_t B, size_t rows, size_t max_T, size_t H,
                       size_t D, bool causal) {
    KERNEL_TIMER(attention_bwd, 10.0 * (double)rows * (double)max_T * (double)(H * D),
                 8 * rows * H * D * sizeof(act));
    size_t stride, C = H * D;
    float *mem = thread_scratch(backward_floats(max_T, D), &stride);
#pragma omp parallel for schedule(dynamic)
    for (size_t i = 0; i < B * H; i++) {
        size_t b = i / H, h = i % H, first = (size_t)start[b];
        Head head = {.qkv = qkv + first * 3 * C + h * D,
                     .dout = dout + first * C + h * D,
                     .o = o + first * C + h * D,
                     .to = dqkv + first * 3 * C + h * D,
                     .lse = lse + h * rows + first,
                     .T = (size_t)start[b + 1] - first,
                     .C = C,
                     .D = D,
                     .causal = causal};
        head_bwd(&head, mem + (size_t)omp_get_thread_num() * stride);
    }
}

/* ---- one query a sequence ---- */

static float dot_row(const act *a, const act *b, size_t D) {
    vf s = vzero();
    for (size_t d = 0; d < D; d += VW) s = vfma(act_load(a + d, D - d), act_load(b + d, D - d), s);
    return vsum(s);
}

static size_t longest(const int32_t *start, size_t B) {
    size_t T = 1;
    for (size_t b = 0; b < B; b++) T = size_max(T, (size_t)(start[b + 1] - start[b]));
    return T;
}

void FN(attention_pool_fwd)(act *o, acc *lse, const act *q, const act *kv, const int32_t *start,
                            size_t B, size_t rows, size_t H, size_t D) {
    KERNEL_TIMER(attention_pool_fwd, 4 * rows * H * D, 2 * (rows + B) * H * D * sizeof(act));
    size_t stride, C = H * D;
    float *mem = thread_scratch(round_up(longest(start, B), VW), &stride);
    float scale = 1.0f / sqrtf((float)D);
#pragma omp parallel for schedule(dynamic)
    for (size_t i = 0; i < B * H; i++) {
        size_t b = i / H, h = i % H, first = (size_t)start[b], T = (size_t)start[b + 1] - first;
        const act *k = kv + first * 2 * C + h * D, *query = q + b * C + h * D;
        float *s = mem + (size_t)omp_get_thread_num() * stride;
        for (size_t t = 0; t < T; t++) s[t] = scale * dot_row(query, k + t * 2 * C, D);
        lse[h * B + b].v = softmax_row(s, T, round_up(T, VW));
        for (size_t d = 0; d < D; d += VW) {
            vf sum = vzero();
            for (size_t t = 0; t < T; t++)
                sum = vfma(vset(s[t]), act_load(k + C + t * 2 * C + d, D - d), sum);
            act_store(o + b * C + h * D + d, sum, D - d);
        }
    }
}

void FN(attention_pool_bwd)(act *dq, act *dkv, const act *dout, const act *o, const acc *lse,
                            const act *q, const act *kv, const int32_t *start, size_t B,
                            size_t rows, size_t H, size_t D) {
    KERNEL_TIMER(attention_pool_bwd, 10 * rows * H * D, 4 * (rows + B) * H * D * sizeof(act));
    size_t stride, C = H * D;
    float *mem = thread_scratch(2 * round_up(longest(start, B), VW), &stride);
    float scale = 1.0f / sqrtf((float)D);
#pragma omp parallel for schedule(dynamic)
    for (size_t i = 0; i < B * H; i++) {
        size_t b = i / H, h = i % H, first = (size_t)start[b], T = (size_t)start[b + 1] - first;
        size_t padded = round_up(T, VW), at = b * C + h * D;
        const act *k = kv + first * 2 * C + h * D, *v = k + C, *query = q + at, *g = dout + at;
        act *dk = dkv + first * 2 * C + h * D, *dv = dk + C;
        float *s = mem + (size_t)omp_get_thread_num() * stride, *ds = s + padded;
        for (size_t t = 0; t < T; t++) {
            s[t] = scale * dot_row(query, k + t * 2 * C, D);
            ds[t] = dot_row(g, v + t * 2 * C, D);
        }
        score_grad_row(s, ds, lse[h * B + b].v, dot_row(g, o + at, D), T, padded);
        for (size_t d = 0; d < D; d += VW) {
            size_t n = D - d;
            vf gd = act_load(g + d, n), qd = act_load(query + d, n) * vset(scale), sum = vzero();
            for (size_t t = 0; t < T; t++) {
                act_store(dv + t * 2 * C + d, vset(s[t]) * gd, n);
                act_store(dk + t * 2 * C + d, vset(ds[t]) * qd, n);
                sum = vfma(vset(ds[t]), act_load(k + t * 2 * C + d, n), sum);
            }
            act_store(dq + at + d, sum * vset(scale), n);
        }
    }
}
