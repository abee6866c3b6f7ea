#include "tests/cuda_on_cpu/gemm.h"
#include "tests/cuda_on_cpu/ptx.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TILE_M = 16, TILE_N = 4 };
typedef float Vec __attribute__((vector_size(32)));

size_t gemm_type_bytes(GemmType t) { return t == GEMM_F32 ? 4 : t == GEMM_BF16 ? 2 : 1; }
static float load(const unsigned char *p, GemmType t, int64_t at) {
    if (t == GEMM_F32) return ((const float *)(const void *)p)[at];
    if (t != GEMM_BF16) return fp8_float(p[at], t == GEMM_E5M2);
    return bf16_float(((const uint16_t *)(const void *)p)[at]);
}
static void store(unsigned char *p, GemmType t, int64_t at, float v) {
    if (t == GEMM_F32)
        ((float *)(void *)p)[at] = v;
    else
        ((uint16_t *)(void *)p)[at] = float_bf16(v);
}
static float round_input(float v, GemmRound r) {
    if (r == GEMM_AS_BF16) return bf16_float(float_bf16(v));
    if (r == GEMM_EXACT || !isfinite(v)) return v;
    uint32_t u;
    memcpy(&u, &v, 4);
    u = (u + 0x1000u) & ~0x1FFFu;
    memcpy(&v, &u, 4);
    return v;
}

/* Interleaves lines of `lines` elements in groups of `group`: out[group][k][line]. */
static float *pack(const GemmMatrix *x, int64_t batch, bool rows, int64_t count, int64_t k,
                   int group, GemmRound round) {
    int64_t groups = (count + group - 1) / group, line = rows ? x->row : x->col;
    int64_t step = rows ? x->col : x->row;
    float *out = aligned_alloc(64, (size_t)(groups * group * k * 4 + 127) / 64 * 64);
    memset(out, 0, (size_t)(groups * group * k) * 4);
    for (int64_t i = 0; i < count; i++) {
        float *to = out + i / group * group * k + i % group;
        int64_t at = i * line + batch * x->batch;
        for (int64_t p = 0; p < k; p++, at += step)
            to[p * group] = round_input(load(x->data, x->type, at), round);
    }
    return out;
}
static void tile(const float *a, const float *b, int64_t k, float out[TILE_N][TILE_M]) {
    Vec acc[TILE_N][2] = {0};
    for (int64_t p = 0; p < k; p++) {
        const Vec *va = (const Vec *)(const void *)(a + p * TILE_M);
        for (int n = 0; n < TILE_N; n++) {
            acc[n][0] += va[0] * b[p * TILE_N + n];
            acc[n][1] += va[1] * b[p * TILE_N + n];
        }
    }
    memcpy(out, acc, sizeof acc);
}

/* cuBLASLt's GELU is the tanh form (Hendrycks and Gimpel, 2016). */
static float gelu(float x) {
    return 0.5f * x * (1 + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));
}
static float gelu_slope(float x) {
    float t = tanhf(0.7978845608f * (x + 0.044715f * x * x * x));
    return 0.5f * (1 + t) + 0.5f * x * (1 - t * t) * 0.7978845608f * (1 + 3 * 0.044715f * x * x);
}
static float epilogue(const Gemm *g, float v, int64_t i, int64_t j, int64_t batch) {
    if (g->bias) v += load(g->bias, g->bias_type, i + batch * g->bias_batch);
    int64_t at = i * g->aux.row + j * g->aux.col + batch * g->aux.batch;
    if (g->act == ACT_GELU && g->aux.data) store(g->aux.data, g->aux.type, at, v);
    if (g->act == ACT_GELU) return gelu(v);
    if (g->act == ACT_RELU) return v > 0 ? v : 0;
    if (g->act == ACT_DGELU) return v * gelu_slope(load(g->aux.data, g->aux.type, at));
    return v;
}
static void finish(const Gemm *g, float acc[TILE_N][TILE_M], int64_t m0, int64_t n0, int64_t batch,
                   double *sums) {
    for (int n = 0; n < TILE_N && n0 + n < g->n; n++)
        for (int m = 0; m < TILE_M && m0 + m < g->m; m++) {
            int64_t i = m0 + m, j = n0 + n;
            float v = g->alpha * acc[n][m];
            if (g->beta != 0)
                v += g->beta *
                     load(g->c.data, g->c.type, i * g->c.row + j * g->c.col + batch * g->c.batch);
            v = epilogue(g, v, i, j, batch);
            store(g->d.data, g->d.type, i * g->d.row + j * g->d.col + batch * g->d.batch, v);
            if (sums) sums[i] += v;
        }
}
/* Sums of a's rows or b's columns over k. */
static void input_grad(const Gemm *g, int64_t batch, double *sums) {
    const GemmMatrix *x = g->grad_of == 'a' ? &g->a : &g->b;
    int64_t count = g->grad_of == 'a' ? g->m : g->n;
    int64_t line = g->grad_of == 'a' ? x->row : x->col, step = g->grad_of == 'a' ? x->col : x->row;
    for (int64_t i = 0; i < count; i++)
        for (int64_t p = 0; p < g->k; p++)
            sums[i] += load(x->data, x->type, i * line + p * step + batch * x->batch);
}

void gemm_run(const Gemm *g) {
    for (int64_t batch = 0; batch < g->batches; batch++) {
        float *a = pack(&g->a, batch, true, g->m, g->k, TILE_M, g->round);
        float *b = pack(&g->b, batch, false, g->n, g->k, TILE_N, g->round);
        int64_t most = g->m > g->n ? g->m : g->n;
        double *sums = g->bias_grad ? calloc((size_t)most + 1, sizeof *sums) : NULL;
        for (int64_t n = 0; n < g->n; n += TILE_N)
            for (int64_t m = 0; m < g->m; m += TILE_M) {
                float acc[TILE_N][TILE_M];
                tile(a + m * g->k, b + n * g->k, g->k, acc);
                finish(g, acc, m, n, batch, g->grad_of == 'd' ? sums : NULL);
            }
        if (sums && g->grad_of != 'd') input_grad(g, batch, sums);
        int64_t count = g->grad_of == 'b' ? g->n : g->m;
        for (int64_t i = 0; sums && i < count; i++)
            store(g->bias_grad, g->bias_type, i + batch * g->bias_batch, (float)sums[i]);
        free(sums);
        free(a);
        free(b);
    }
}
