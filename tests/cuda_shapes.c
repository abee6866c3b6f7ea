/* cuda_shapes: runs one slot of the backend cuda at realistic sizes, to be profiled without a GPU
 * (tests/cuda_on_cpu/profile.h). Results are checked by the kernel tests, not here.
 *
 *   CUDAEMU_PROFILE=1 build/tests/cuda_shapes [fp32] CASE [SIZE…]
 *
 * Without a case it lists all cases with their sizes. The default precision is amp_bf16. */
#include "kernels/kernels.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const Kernels *k;
enum { SIZES = 5 };
static size_t size[SIZES]; /* of the case that runs */

static double *noise(size_t n, double scale) {
    double *x = xcalloc(n, sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = scale * ((double)((i * 2654435761u >> 8) % 1000) / 500 - 1);
    return x;
}
static acc *accs(size_t n, double scale) {
    acc *x = k->device->alloc(n * k->acc_size);
    double *host = noise(n, scale);
    k->acc_set(x, host, n);
    free(host);
    return x;
}
static act *acts(size_t n) {
    act *x = k->device->alloc(n * k->act_size);
    acc *wide = accs(n, 1);
    k->act_from_acc(x, wide, n);
    k->device->release(wide);
    return x;
}
static int32_t *ints(const int32_t *host, size_t n) {
    int32_t *x = k->device->alloc(n * sizeof *x);
    k->device->upload(x, host, n * sizeof *x);
    return x;
}
/* The first rows of B packed sequences with lengths between least and most; sets the number of
 * rows. */
static int32_t *starts(size_t B, size_t least, size_t most, size_t *rows) {
    int32_t *host = xcalloc(B + 1, sizeof *host);
    for (size_t b = 0; b < B; b++)
        host[b + 1] = host[b] + (int32_t)(least + b * 7 % (most - least + 1));
    *rows = (size_t)host[B];
    int32_t *start = ints(host, B + 1);
    free(host);
    return start;
}

static void attention_of(size_t B, size_t least, size_t most, size_t H, size_t D, bool causal) {
    size_t rows, C = H * D;
    int32_t *start = starts(B, least, most, &rows);
    act *qkv = acts(rows * 3 * C), *o = acts(rows * C), *d = acts(rows * C);
    act *dqkv = acts(rows * 3 * C);
    acc *lse = accs(H * rows, 0);
    k->attention_fwd(o, lse, qkv, start, B, rows, most, H, D, causal);
    k->attention_bwd(dqkv, d, o, lse, qkv, start, B, rows, most, H, D, causal);
}
static void attention(void) { attention_of(size[0], size[1], size[1], size[2], size[3], size[4]); }
static void attention_text(void) {
    attention_of(size[0], size[1], size[2], size[3], size[4], true);
}
static void attention_pool(void) {
    size_t B = size[0], T = size[1], H = size[2], D = size[3], C = H * D, rows;
    int32_t *start = starts(B, T, T, &rows);
    act *q = acts(B * C), *kv = acts(rows * 2 * C), *o = acts(B * C), *d = acts(B * C);
    acc *lse = accs(H * B, 0);
    k->attention_pool_fwd(o, lse, q, kv, start, B, rows, H, D);
    k->attention_pool_bwd(acts(B * C), acts(rows * 2 * C), d, o, lse, q, kv, start, B, rows, H, D);
}

static void layernorm(void) {
    size_t R = size[0], C = size[1];
    act *x = acts(R * C), *r = acts(R * C), *sum = acts(R * C), *y = acts(R * C);
    acc *w = accs(C, 1), *b = accs(C, 1), *mean = accs(R, 0), *rstd = accs(R, 0);
    k->layernorm_fwd(y, mean, rstd, NULL, sum, NULL, w, b, R, C, 1e-5);
    k->layernorm_bwd(acts(R * C), accs(C, 0), accs(C, 0), y, x, r, sum, mean, rstd, w, b, R, C);
}
static void l2norm(void) {
    size_t R = size[0], E = size[1];
    acc *x = accs(R * E, 1), *y = accs(R * E, 0), *norm = accs(R, 0);
    k->l2norm_fwd(y, norm, x, R, E);
    k->l2norm_bwd(accs(R * E, 0), x, y, norm, R, E);
}

static void pointwise(void) {
    size_t n = size[0] * size[1];
    act *x = acts(n), *y = acts(n), *z = acts(n);
    k->add(z, x, y, n);
    k->activation_bwd(z, y, accs(size[1], 0), x, x, size[0], size[1], ACTIVATION_GELU);
    k->act_from_acc(z, accs(n, 1), n);
    act *pair = acts(2 * n);
    k->swiglu_fwd(z, pair, size[0], size[1]);
    k->swiglu_bwd(pair, z, pair, size[0], size[1]);
}
static void rows_of(void) {
    size_t B = size[0], T = size[1], C = size[2], rows;
    int32_t *start = starts(B, T, T, &rows);
    act *x = acts(rows * C), *y = acts(B * C);
    k->gather_rows(y, x, start, B, C);
    k->scatter_add_rows(x, y, start, B, C);
    k->mean_pool_fwd(y, x, start, B, 1, C);
    k->mean_pool_bwd(x, y, start, B, 1, C);
}

static void image(void) {
    size_t B = size[0], S = size[1], P = size[2], C = size[3], n = S / P * (S / P);
    const float mean[3] = {0.48f, 0.46f, 0.41f}, std[3] = {0.27f, 0.26f, 0.28f};
    size_t tokens = B * (1 + n) * C;
    void *pixels = k->device->alloc(B * S * S * 3);
    k->device->zero(pixels, B * S * S * 3);
    act *patches = acts(B * n * 3 * P * P), *tok = acts(B * n * C), *x = acts(tokens);
    k->patches_u8(patches, pixels, NULL, mean, std, B, S, P, n);
    k->image_embed_fwd(x, tok, accs(C, 1), accs((1 + n) * C, 1), NULL, B, n, C);
    k->image_embed_bwd(tok, accs(C, 0), accs((1 + n) * C, 0), x, NULL, B, n, C);
    const int32_t first[] = {0, (int32_t)n}, grid[] = {(int32_t)(S / P), (int32_t)(S / P)};
    k->grid_weights(accs(n * 16 * 16, 0), ints(first, 2), ints(grid, 2), 1, 0, n, 16);
    size_t D = C % 64 ? 2 : 64;
    k->rotate_heads(x, accs(n * 2 * D, 1), NULL, B, 1, n, C, C / D, D, false);
}
/* The same with half of the patches. */
static void image_dropout(void) {
    size_t B = size[0], S = size[1], P = size[2], C = size[3], grid = S / P * (S / P), n = grid / 2;
    int32_t *host = xcalloc(B * n, sizeof *host);
    for (size_t i = 0; i < B * n; i++) host[i] = (int32_t)(2 * (i % n) + i / n % 2);
    int32_t *keep = ints(host, B * n);
    free(host);
    act *tok = acts(B * n * C), *x = acts(B * (1 + n) * C);
    k->image_embed_fwd(x, tok, accs(C, 1), accs((1 + grid) * C, 1), keep, B, n, C);
    k->image_embed_bwd(tok, accs(C, 0), accs((1 + grid) * C, 0), x, keep, B, n, C);
}
static void text(void) {
    size_t B = size[0], V = size[3], C = size[4], rows;
    int32_t *start = starts(B, size[1], size[2], &rows);
    int32_t *host = xcalloc(rows, sizeof *host);
    for (size_t i = 0; i < rows; i++) host[i] = (int32_t)((i * 2654435761u >> 7) % V);
    int32_t *ids = ints(host, rows);
    free(host);
    act *x = acts(rows * C);
    acc *table = accs(V * C, 1), *pos = accs(size[2] * C, 1);
    k->text_embed_fwd(x, ids, start, table, pos, B, rows, C);
    k->text_embed_bwd(table, pos, x, ids, start, B, rows, C);
}

static void logits(void) {
    size_t n = size[0], m = size[1];
    acc *cos = accs(n * m, 1), *t = accs(n * m, 1), *scale = accs(1, 1), *bias = accs(1, 1);
    acc *row_max = accs(n, 0), *row_sum = accs(n, 0), *col_max = accs(m, 0), *col_sum = accs(m, 0);
    acc *positive = accs(n, 0), *loss = accs(1, 0), *ds = accs(1, 0), *db = accs(1, 0);
    k->stats_init(row_max, row_sum, n);
    k->stats_init(col_max, col_sum, m);
    k->logits_stats(row_max, row_sum, col_max, col_sum, positive, cos, scale, bias, n, m, 0);
    k->stats_lse(row_max, row_max, row_sum, n);
    k->stats_lse(col_max, col_max, col_sum, m);
    k->clip_loss(loss, row_max, col_max, positive, n < m ? n : m, 1);
    k->clip_logits_grad(cos, ds, db, row_max, col_max, scale, bias, n, m, 0, 1);
    k->siglip_tile(cos, loss, ds, db, scale, bias, n, m, 0, 1);
    k->teacher_targets(t, cos, row_max, col_max, scale, n, m);
    k->soft_logits_grad(cos, loss, ds, db, t, row_max, col_max, scale, bias, n, m, 1, 1);
    k->siglip_targets_tile(cos, loss, ds, db, t, scale, bias, n, m, 1);
}

static void optim(void) {
    size_t n = size[0], count = div_up(n, (size_t)OPTIM_CHUNK);
    OptimChunk *host = xcalloc(count, sizeof *host);
    for (size_t c = 0; c < count; c++) {
        size_t at = c * OPTIM_CHUNK;
        host[c] = (OptimChunk){at, at, (uint32_t)size_min(n - at, OPTIM_CHUNK), 0};
    }
    OptimGroup group = {0.2, -1e30, 1e30, 1};
    AdamW adamw = {1e-3, 0.9, 0.98, 1e-6, 0.1, 0.02, 1, 1, 1e30};
    OptimChunk *chunk = k->device->alloc(count * sizeof *chunk);
    OptimGroup *g = k->device->alloc(sizeof *g);
    AdamW *o = k->device->alloc(sizeof *o);
    k->device->upload(chunk, host, count * sizeof *chunk);
    k->device->upload(g, &group, sizeof group);
    k->device->upload(o, &adamw, sizeof adamw);
    free(host);
    acc *p = accs(n, 1), *grad = accs(n, 1), *m = accs(n, 0), *v = accs(n, 0), *sum = accs(1, 0);
    act *w = acts(n);
    k->sum_squares(sum, grad, chunk, count);
    k->adamw(p, w, grad, m, v, MOMENTS_FP32, chunk, count, g, o, sum);
    k->adamw(p, w, grad, m, v, MOMENTS_BF16, chunk, count, g, o, sum);
    acc *norms = accs(2, 0);
    k->lars_norms(norms, p, grad, chunk, count, g, 1, o, sum);
    k->lars(p, w, grad, m, MOMENTS_FP32, chunk, count, g, 1, o, sum, norms, 1e-3);
    k->lars(p, w, grad, m, MOMENTS_BF16, chunk, count, g, 1, o, sum, norms, 1e-3);
    k->acc_from_bf16(grad, v, n);
    k->bf16_from_acc(v, grad, n);
    k->axpy(p, 2, grad, n);
    k->ema(m, p, 0.99, n);
}

typedef struct Case {
    const char *name;
    void (*run)(void);
    size_t size[SIZES];
    const char *sizes;
} Case;
static const Case cases[] = {
    {"attention", attention, {2, 197, 2, 64, 0}, "sequences, length, heads, width, causal"},
    {"attention_text", attention_text, {16, 8, 77, 2, 64}, "sequences, least, most, heads, width"},
    {"attention_pool", attention_pool, {8, 50, 8, 64}, "sequences, length, heads, width"},
    {"layernorm", layernorm, {512, 768}, "rows, columns"},
    {"l2norm", l2norm, {64, 512}, "rows, columns"},
    {"pointwise", pointwise, {64, 3072}, "rows, columns"},
    {"rows", rows_of, {16, 50, 768}, "sequences, length, columns"},
    {"image", image, {4, 224, 32, 768}, "images, side, patch, columns"},
    {"image_dropout", image_dropout, {4, 224, 16, 768}, "images, side, patch, columns"},
    {"text", text, {32, 8, 24, 1000, 512}, "sequences, least, most, vocabulary, columns"},
    {"logits", logits, {256, 512}, "rows, columns"},
    {"optim", optim, {100000}, "parameters"},
};

int main(int argc, char **argv) {
    int at = 1;
    bool fp32 = at < argc && !strcmp(argv[at], "fp32");
    at += fp32;
    for (size_t i = 0; i < COUNT(cases); i++) {
        const Case *c = &cases[i];
        if (at >= argc) {
            printf("%s", c->name);
            for (size_t s = 0; s < SIZES && c->size[s]; s++) printf(" %zu", c->size[s]);
            printf(" (%s)\n", c->sizes);
        } else if (!strcmp(argv[at], c->name)) {
            memcpy(size, c->size, sizeof size);
            for (int s = 0; s < SIZES && at + 1 + s < argc; s++)
                size[s] = (size_t)strtoull(argv[at + 1 + s], NULL, 10);
            k = kernels_open("cuda", fp32 ? PRECISION_FP32 : PRECISION_AMP_BF16);
            c->run();
            k->device->sync();
            return 0;
        }
    }
    if (at < argc) fprintf(stderr, "no case %s\n", argv[at]);
    return at < argc ? 2 : 0;
}
