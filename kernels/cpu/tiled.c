/* cpu/tiled: products of bf16 by the backend's own tiles, with bias, activation and the sums of the
 * left operand in the pass that stores them. */
#include "kernels/cpu/matmul.h"

#if defined TILES_BUILT
#include <omp.h>

/* Below this a product is one thread's. */
#define SERIAL_FLOPS 1e6

enum { NO_ACTIVATION = -1 };

static inline vf activate(vf v, const Cubic *gelu, Activation f) {
    if (f == ACTIVATION_GELU) return gelu_rough(gelu, v);
    return v * vsigmoid(v * vset(1.702f));
}

/* Inlined with a constant f. */
static inline __attribute__((always_inline)) void
out_rows(const Product *p, const float *c, size_t i, size_t j, size_t rows, size_t cols, int f) {
    vf b0 = p->bias ? f32_load(p->bias + j, cols) : vzero();
    vf b1 = p->bias && cols > 16 ? f32_load(p->bias + j + 16, cols - 16) : vzero();
    uint16_t *to = (uint16_t *)p->c + i * p->ldc + j;
    uint16_t *activated = f == NO_ACTIVATION ? NULL : (uint16_t *)p->activated + i * p->ldc + j;
    __mmask32 m = cols < 32 ? (1u << cols) - 1 : 0xffffffffu;
    Cubic gelu;
    if (f == ACTIVATION_GELU) gelu = cubic_load(gelu_cubics()->below);
    for (size_t r = 0; r < rows; r++, c += 32, to += p->ldc) {
        __m512i v = (__m512i)_mm512_cvtne2ps_pbh(vload(c + 16) + b1, vload(c) + b0);
        _mm512_mask_storeu_epi16(to, m, v);
        if (f == NO_ACTIVATION) continue;
        /* f of the rounded value: what backward will find */
        vf low = activate(bf16_widen(_mm512_castsi512_si256(v)), &gelu, (Activation)f);
        vf high = activate(bf16_widen(_mm512_extracti64x4_epi64(v, 1)), &gelu, (Activation)f);
        _mm512_mask_storeu_epi16(activated, m, (__m512i)_mm512_cvtne2ps_pbh(high, low));
        activated += p->ldc;
    }
}

static void out_act(const void *p, const float *c, size_t i, size_t j, size_t rows, size_t cols) {
    out_rows(p, c, i, j, rows, cols, NO_ACTIVATION);
}

static void out_activation(const void *context, const float *c, size_t i, size_t j, size_t rows,
                           size_t cols) {
    const Product *p = context;
    if (p->f == ACTIVATION_GELU)
        out_rows(p, c, i, j, rows, cols, ACTIVATION_GELU);
    else
        out_rows(p, c, i, j, rows, cols, ACTIVATION_QUICK_GELU);
}

static void out_add(const void *context, const float *c, size_t i, size_t j, size_t rows,
                    size_t cols) {
    const Product *p = context;
    float *to = (float *)p->c + i * p->ldc + j;
    for (size_t r = 0; r < rows; r++, c += 32, to += p->ldc)
        for (size_t k = 0; k < cols; k += VW)
            f32_store(to + k, f32_load(to + k, cols - k) + vload(c + k), cols - k);
}

static void out_acc(const void *context, const float *c, size_t i, size_t j, size_t rows,
                    size_t cols) {
    const Product *p = context;
    float *to = (float *)p->c + i * p->ldc + j;
    for (size_t r = 0; r < rows; r++, c += 32, to += p->ldc)
        for (size_t k = 0; k < cols; k += VW) f32_store(to + k, vload(c + k), cols - k);
}

void tiled_matmul(const Product *p) {
    tiles_amx(); /* asked for, and filled, before threads meet */
    gelu_cubics();
    TilesProduct t = {.a = {p->a, p->lda, p->ta, false},
                      .b = {p->b, p->ldb, !p->tb, true},
                      .M = p->M,
                      .N = p->N,
                      .K = p->K,
                      .chunked = p->add,
                      .left_sums = p->left_sums,
                      .out = p->out == ELEMENT_ACT ? (p->activated ? out_activation : out_act)
                             : p->add              ? out_add
                                                   : out_acc,
                      .context = p};
    bool parallel = 2.0 * (double)p->M * (double)p->N * (double)p->K > SERIAL_FLOPS;
    TilesPlan plan = tiles_plan(&t, parallel ? (size_t)omp_get_max_threads() : 1);
    size_t tasks = plan.tasks_m * plan.tasks_n, parts = div_up(p->M, TILES_PACK_ROWS);
    size_t stride = round_up(plan.thread_bytes, 4096) + 64;
    Tile *left = FN(scratch)(SCRATCH_LEFT, plan.left_bytes);
    char *mem = FN(scratch)(SCRATCH_THREADS, (size_t)omp_get_max_threads() * stride);
#pragma omp parallel if (parallel)
    {
        tiles_begin();
        for (size_t k = 0; k < p->K; k += plan.chunk) {
#pragma omp for schedule(dynamic)
            for (size_t i = 0; i < parts; i++) tiles_pack_left(&t, &plan, k, i, left);
#pragma omp for schedule(dynamic)
            for (size_t i = 0; i < tasks; i++)
                tiles_task(&t, &plan, k, i, left, mem + (size_t)omp_get_thread_num() * stride);
        }
        tiles_end();
    }
}
#endif
