/* cpu/attention: softmax attention of packed sequences. A thread processes one head of one sequence
 * and walks over its queries in blocks. Scores exist only for a block of queries, in the thread's
 * scratch. Backward recomputes the probabilities from the stored log-sum-exp (Dao et al.,
 * "FlashAttention", 2022). There are two implementations: in f32, with keys and values widened,
 * both as stored and transposed, so that every product runs along vectors; and in tiles of bf16 if
 * the CPU multiplies those. */
#include "kernels/cpu/cpu.h"

#include "kernels/cpu/bf16_tiles.h"
#include <float.h>
#include <math.h>
#include <omp.h>

/* One head of one sequence: pointers at its first row and channel. */
typedef struct Head {
    const act *qkv, *dout, *o;
    act *to; /* o in forward, dqkv in backward */
    acc *lse_to;
    const acc *lse;
    size_t T, C, D;
    bool causal;
} Head;

/* `bytes` of scratch for each thread, at a distance of *stride. */
static char *thread_scratch(size_t bytes, size_t *stride) {
    *stride = round_up(bytes, 64) + 64;
    return FN(scratch)(SCRATCH_THREADS, (size_t)omp_get_max_threads() * *stride);
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

#if !defined TILES_BUILT
/* ======== in f32 ======== */

#define QUERY_BLOCK 48

#if VREGISTERS == 32
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
    for (size_t t = 0; t < Tp; t += VW)
        for (size_t d = 0; d < D; d += VW) {
            vf r[VW];
#pragma GCC unroll 16
            for (size_t i = 0; i < VW; i++)
                r[i] = t + i < T ? vload(from + (t + i) * Dp + d) : vzero();
            vtranspose(r);
#pragma GCC unroll 16
            for (size_t i = 0; i < VW; i++)
                if (d + i < D) vstore(to + (d + i) * Tp + t, r[i]);
        }
}

static void narrow_rows(act *to, size_t ld, const float *from, size_t Dp, size_t T, size_t D,
                        float scale) {
    vf s = vset(scale);
    for (size_t t = 0; t < T; t++)
        for (size_t d = 0; d < D; d += VW)
            act_store(to + t * ld + d, vload(from + t * Dp + d) * s, D - d);
}

static size_t forward_bytes(size_t T, size_t D) {
    size_t Tp = round_up(T, VW), Dp = round_up(D, VW);
    return (2 * T * Dp + D * Tp + QUERY_BLOCK * (Tp + 2 * Dp)) * sizeof(float);
}

static void head_fwd(const Head *h, void *mem) {
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

static size_t backward_bytes(size_t T, size_t D) {
    size_t Tp = round_up(T, VW), Dp = round_up(D, VW);
    return (4 * T * Dp + 2 * D * Tp + QUERY_BLOCK * (2 * Tp + 3 * Dp)) * sizeof(float);
}

static void head_bwd(const Head *h, void *mem) {
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
#else
/* ======== in bf16 tiles ======== */

/* Queries whose probabilities backward holds at once. */
#define QUERY_BLOCK 128

/* The step to the second tile of a block with `n` rows or columns left. */
static inline size_t second(size_t n, size_t step) { return n > 16 ? step : 0; }

/* Divides a thread's scratch. */
static Tile *next_tiles(char **at, size_t n) {
    Tile *t = (Tile *)*at;
    *at += n * sizeof *t;
    return t;
}
static float *next_floats(char **at, size_t n) {
    float *f = (float *)*at;
    *at += round_up(n * sizeof *f, 64);
    return f;
}

/* to[rows, cols] = c · scale, where scale[r] is the row's or, if NULL, `all`. */
static __attribute__((noinline)) void store_block(act *to, size_t ld, const float *c,
                                                  const float *scale, float all, size_t rows,
                                                  size_t cols) {
    __mmask32 m = cols < 32 ? (1u << cols) - 1 : 0xffffffffu;
    for (size_t r = 0; r < rows; r++, c += 32) {
        vf s = vset(scale ? scale[r] : all);
        __m512bh v = _mm512_cvtne2ps_pbh(vload(c + 16) * s, vload(c) * s);
        _mm512_mask_storeu_epi16(to + r * ld, m, (__m512i)v);
    }
}

/* e^(scale·s - top) of one row of scores: probabilities up to a factor, as row `r` of left tiles p
 * (one per 32 keys, `steps` of them); keys beyond `keys` become 0. The sum is returned, the largest
 * score is stored in *top. */
static float softmax_tiles(Tile *p, size_t r, const float *s, size_t keys, size_t steps,
                           float scale, float *top) {
    vf high = vset(-FLT_MAX), sum = vzero(), factor = vset(scale);
    size_t j = 0;
    for (; j + VW <= keys; j += VW) high = vmax(high, vload(s + j));
    if (j < keys) high = vmax(high, vselect(vfirst(keys - j), vload(s + j), high));
    *top = vmaxof(high) * scale;
    vf minus = vset(-*top);
    for (size_t k = 0; k < steps; k++) {
        size_t left = keys > 32 * k ? keys - 32 * k : 0;
        vf e[2];
        for (size_t half = 0; half < 2; half++) {
            e[half] = vzero();
            if (left <= half * VW) continue;
            e[half] = vexp(vfma(vload(s + 32 * k + half * VW), factor, minus));
            if (left < (half + 1) * VW)
                e[half] = vselect(vfirst(left - half * VW), e[half], vzero());
            sum += e[half];
        }
        _mm512_store_si512(p[k].pair[r], (__m512i)_mm512_cvtne2ps_pbh(e[1], e[0]));
    }
    return vsum(sum);
}

static size_t forward_bytes(size_t T, size_t D) {
    size_t kt = div_up(T, 32), kd = div_up(D, 32);
    return (2 * kd + 4 * kt * kd + 2 * kt) * sizeof(Tile) +
           (32 * 32 * kt + 32 * 32 + 3 * 32) * sizeof(float);
}

static void head_fwd(const Head *h, void *mem) {
    size_t T = h->T, C = h->C, D = h->D, kt = div_up(T, 32), kd = div_up(D, 32);
    const uint16_t *qkv = &h->qkv->v;
    char *at = mem;
    Tile *q = next_tiles(&at, 2 * kd), *k = next_tiles(&at, 2 * kt * kd);
    Tile *v = next_tiles(&at, 2 * kt * kd), *p = next_tiles(&at, 2 * kt);
    float *s = next_floats(&at, 32 * 32 * kt), *c = next_floats(&at, 32 * 32);
    float *top = next_floats(&at, 32), *sum = next_floats(&at, 32), *inv = next_floats(&at, 32);
    float scale = 1.0f / sqrtf((float)D);
    tiles_pack(k, (Side){qkv + C, 3 * C, false, true}, 0, T, 0, D);
    tiles_pack(v, (Side){qkv + 2 * C, 3 * C, true, true}, 0, D, 0, T);
    for (size_t i = 0; i < T; i += 32) {
        size_t n = size_min(32, T - i), steps = h->causal ? i / 32 + 1 : kt;
        tiles_pack(q, (Side){qkv, 3 * C, false, false}, i, n, 0, D);
        for (size_t j = 0; j < steps; j++)
            tiles_block(s + 32 * j, 32 * kt, q, second(n, kd), k + 2 * j * kd,
                        second(T - 32 * j, kd), kd, false);
        for (size_t r = 0; r < n; r++)
            sum[r] = softmax_tiles(p + r / 16 * kt, r % 16, s + r * 32 * kt,
                                   h->causal ? i + r + 1 : T, steps, scale, top + r);
        for (size_t r = 0; r < n; r += VW) {
            vf total = f32_load(sum + r, n - r);
            acc_store(h->lse_to + i + r, f32_load(top + r, n - r) + vlog(total), n - r);
            f32_store(inv + r, vset(1) / total, n - r);
        }
        for (size_t d = 0; d < D; d += 32) {
            tiles_block(c, 32, p, second(n, kt), v + d / 16 * kt, second(D - d, kt), steps, false);
            store_block(h->to + i * C + d, C, c, inv, 0, n, size_min(32, D - d));
        }
    }
}

static size_t backward_bytes(size_t T, size_t D) {
    size_t kt = div_up(T, 32), kd = div_up(D, 32);
    size_t nt = div_up(size_min(QUERY_BLOCK, T), 32);
    return (6 * kt * kd + 8 * nt * kd + 6 * kt * nt) * sizeof(Tile) +
           (2 * kt * kd * 32 * 32 + (2 * nt + 1) * 32 * 32 + 2 * 32 * nt + 64) * sizeof(float);
}

/* One key's row of scores and dP over n queries, as row r of the tiles p and ds (one per 32
 * queries). The first `skip` queries do not attend to the key. */
static void score_grad_tiles(Tile *p, Tile *ds, size_t r, const float *s, const float *dp,
                             const float *lse, const float *delta, size_t n, size_t skip,
                             float scale) {
    vf factor = vset(scale);
    for (size_t j = 0; 32 * j < n; j++) {
        vf pr[2], dsr[2];
        for (size_t half = 0; half < 2; half++) {
            size_t q = 32 * j + half * VW;
            pr[half] = dsr[half] = vzero();
            if (q >= n || skip >= q + VW) continue;
            vf e = vexp(vfma(vload(s + q), factor, -vload(lse + q)));
            if (skip > q) e = vselect(vfirst(skip - q), vzero(), e);
            pr[half] = e;
            dsr[half] = e * factor * (vload(dp + q) - vload(delta + q));
        }
        _mm512_store_si512(p[j].pair[r], (__m512i)_mm512_cvtne2ps_pbh(pr[1], pr[0]));
        _mm512_store_si512(ds[j].pair[r], (__m512i)_mm512_cvtne2ps_pbh(dsr[1], dsr[0]));
    }
}

/* lse and delta of n queries from i; beyond them e^(s - lse) and dS are 0. */
static __attribute__((noinline)) void query_sums(const Head *h, float *lse, float *delta, size_t i,
                                                 size_t n) {
    for (size_t r = 0; r < round_up(n, 32); r++) {
        lse[r] = FLT_MAX;
        delta[r] = 0;
        if (r >= n) continue;
        vf sum = vzero();
        const act *g = h->dout + (i + r) * h->C, *o = h->o + (i + r) * h->C;
        for (size_t d = 0; d < h->D; d += VW)
            sum = vfma(act_load(g + d, h->D - d), act_load(o + d, h->D - d), sum);
        lse[r] = h->lse[i + r].v;
        delta[r] = vsum(sum);
    }
}

static void head_bwd(const Head *h, void *mem) {
    size_t T = h->T, C = h->C, D = h->D, kt = div_up(T, 32), kd = div_up(D, 32);
    size_t most = div_up(size_min(QUERY_BLOCK, T), 32);
    const uint16_t *qkv = &h->qkv->v, *dout = &h->dout->v;
    char *at = mem;
    Tile *k_rows = next_tiles(&at, 2 * kt * kd), *v_rows = next_tiles(&at, 2 * kt * kd);
    Tile *k_pairs = next_tiles(&at, 2 * kt * kd);
    Tile *q = next_tiles(&at, 2 * most * kd), *g = next_tiles(&at, 2 * most * kd);
    Tile *q_pairs = next_tiles(&at, 2 * most * kd), *g_pairs = next_tiles(&at, 2 * most * kd);
    Tile *ds_rows = next_tiles(&at, 2 * kt * most);
    Tile *p = next_tiles(&at, 2 * kt * most), *ds = next_tiles(&at, 2 * kt * most);
    float *dk = next_floats(&at, kt * kd * 32 * 32), *dv = next_floats(&at, kt * kd * 32 * 32);
    float *s = next_floats(&at, 32 * 32 * most + 64), *dp = next_floats(&at, 32 * 32 * most);
    float *c = next_floats(&at, 32 * 32);
    float *lse = next_floats(&at, 32 * most), *delta = next_floats(&at, 32 * most);
    float scale = 1.0f / sqrtf((float)D);
    tiles_pack(k_rows, (Side){qkv + C, 3 * C, false, false}, 0, T, 0, D);
    tiles_pack(v_rows, (Side){qkv + 2 * C, 3 * C, false, false}, 0, T, 0, D);
    tiles_pack(k_pairs, (Side){qkv + C, 3 * C, true, true}, 0, D, 0, T);
    for (size_t i = 0; i < T; i += QUERY_BLOCK) {
        size_t n = size_min(QUERY_BLOCK, T - i), nt = div_up(n, 32);
        tiles_pack(q, (Side){qkv, 3 * C, false, true}, i, n, 0, D);
        tiles_pack(g, (Side){dout, C, false, true}, i, n, 0, D);
        tiles_pack(q_pairs, (Side){qkv, 3 * C, true, true}, 0, D, i, n);
        tiles_pack(g_pairs, (Side){dout, C, true, true}, 0, D, i, n);
        query_sums(h, lse, delta, i, n);
        for (size_t a = 0; a < kt; a++) {
            Tile *pa = p + 2 * a * nt, *dsa = ds + 2 * a * nt;
            for (size_t j = 0; j < nt; j++)
                tiles_block(s + 32 * j, 32 * most, k_rows + 2 * a * kd, second(T - 32 * a, kd),
                            q + 2 * j * kd, second(n - 32 * j, kd), kd, false);
            for (size_t j = 0; j < nt; j++)
                tiles_block(dp + 32 * j, 32 * most, v_rows + 2 * a * kd, second(T - 32 * a, kd),
                            g + 2 * j * kd, second(n - 32 * j, kd), kd, false);
            for (size_t r = 0; r < 32; r++) {
                size_t key = 32 * a + r; /* no query attends to keys beyond the last */
                size_t skip = key >= T ? SIZE_MAX : h->causal && key > i ? key - i : 0;
                score_grad_tiles(pa + r / 16 * nt, dsa + r / 16 * nt, r % 16, s + r * 32 * most,
                                 dp + r * 32 * most, lse, delta, n, skip, scale);
            }
            for (size_t j = 0; j < nt; j++)
                tiles_transpose(ds_rows + 2 * j * kt + a, kt, dsa + j, dsa + nt + j);
        }
        for (size_t a = 0; a < kt; a++)
            for (size_t d = 0; d < kd; d++) {
                size_t block = (a * kd + d) * 32 * 32;
                size_t left = second(T - 32 * a, nt), right = second(D - 32 * d, nt);
                tiles_block(dv + block, 32, p + 2 * a * nt, left, g_pairs + 2 * d * nt, right, nt,
                            i > 0);
                tiles_block(dk + block, 32, ds + 2 * a * nt, left, q_pairs + 2 * d * nt, right, nt,
                            i > 0);
            }
        for (size_t j = 0; j < n; j += 32)
            for (size_t d = 0; d < D; d += 32) {
                tiles_block(c, 32, ds_rows + j / 16 * kt, second(n - j, kt), k_pairs + d / 16 * kt,
                            second(D - d, kt), kt, false);
                store_block(h->to + (i + j) * 3 * C + d, 3 * C, c, NULL, 1, size_min(32, n - j),
                            size_min(32, D - d));
            }
    }
    for (size_t j = 0; j < T; j += 32)
        for (size_t d = 0; d < D; d += 32) {
            size_t block = (j / 32 * kd + d / 32) * 32 * 32;
            size_t rows = size_min(32, T - j), cols = size_min(32, D - d);
            store_block(h->to + C + j * 3 * C + d, 3 * C, dk + block, NULL, 1, rows, cols);
            store_block(h->to + 2 * C + j * 3 * C + d, 3 * C, dv + block, NULL, 1, rows, cols);
        }
}
#endif

/* ======== the slots ======== */

void FN(attention_fwd)(act *o, acc *lse, const act *qkv, const int32_t *start, size_t B,
                       size_t rows, size_t max_T, size_t H, size_t D, bool causal) {
    KERNEL_BEGIN(attention_fwd, 4.0 * (double)rows * (double)max_T * (double)(H * D),
                 4 * rows * H * D * sizeof(act));
    size_t stride, C = H * D;
    char *mem = thread_scratch(forward_bytes(max_T, D), &stride);
#pragma omp parallel
    {
        tiles_begin();
#pragma omp for schedule(dynamic)
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
        tiles_end();
    }
}

void FN(attention_bwd)(act *dqkv, const act *dout, const act *o, const acc *lse, const act *qkv,
                       const int32_t *start, size_t B, size_t rows, size_t max_T, size_t H,
                       size_t D, bool causal) {
    KERNEL_BEGIN(attention_bwd, 10.0 * (double)rows * (double)max_T * (double)(H * D),
                 8 * rows * H * D * sizeof(act));
    size_t stride, C = H * D;
    char *mem = thread_scratch(backward_bytes(max_T, D), &stride);
#pragma omp parallel
    {
        tiles_begin();
#pragma omp for schedule(dynamic)
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
        tiles_end();
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
    KERNEL_BEGIN(attention_pool_fwd, 4 * rows * H * D, 2 * (rows + B) * H * D * sizeof(act));
    size_t stride, C = H * D;
    char *mem = thread_scratch(round_up(longest(start, B), VW) * sizeof(float), &stride);
    float scale = 1.0f / sqrtf((float)D);
#pragma omp parallel for schedule(dynamic)
    for (size_t i = 0; i < B * H; i++) {
        size_t b = i / H, h = i % H, first = (size_t)start[b], T = (size_t)start[b + 1] - first;
        const act *k = kv + first * 2 * C + h * D, *query = q + b * C + h * D;
        float *s = (float *)(mem + (size_t)omp_get_thread_num() * stride);
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
    KERNEL_BEGIN(attention_pool_bwd, 10 * rows * H * D, 4 * (rows + B) * H * D * sizeof(act));
    size_t stride, C = H * D;
    char *mem = thread_scratch(2 * round_up(longest(start, B), VW) * sizeof(float), &stride);
    float scale = 1.0f / sqrtf((float)D);
#pragma omp parallel for schedule(dynamic)
    for (size_t i = 0; i < B * H; i++) {
        size_t b = i / H, h = i % H, first = (size_t)start[b], T = (size_t)start[b + 1] - first;
        size_t padded = round_up(T, VW), at = b * C + h * D;
        const act *k = kv + first * 2 * C + h * D, *v = k + C, *query = q + at, *g = dout + at;
        act *dk = dkv + first * 2 * C + h * D, *dv = dk + C;
        float *s = (float *)(mem + (size_t)omp_get_thread_num() * stride), *ds = s + padded;
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
