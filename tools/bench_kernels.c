/* clipc bench kernels: single kernels at the shapes of one model against the ceilings of this
 * machine, measured in the same call. */
#include "tools/bench.h"
#include "tools/common.h"
#include "train/model/clip.h"
#include "train/optim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *model = "ViT-B-32";
static int64_t batch_size = 32, caption_tokens = 16, reps = 9;
static DeviceOption device;
static Precision precision;
static bool json;

static Option options[] = {
    STRING("model", &model, "NAME|FILE", "whose shapes"),
    INT("batch-size", &batch_size, 1, 1e6, "samples"),
    INT("caption-tokens", &caption_tokens, 1, 1e4, "tokens of a caption"),
    CHOICE("precision", &precision, TRAINING_PRECISIONS, "of activations and products"),
    CHOICE("device", &device, DEVICES, "where to compute"),
    KERNEL_TUNING_OPTIONS,
    INT("reps", &reps, 1, 1000, "runs; the median is reported"),
    FLAG("json", &json, "one JSON object on stdout"),
};

static const Command command = {
    "bench kernels",
    "Single kernels at one model's shapes.",
    "clipc bench kernels --model NAME --batch-size N --precision P",
    "  clipc bench kernels --model small --batch-size 256 --precision amp_bf16\n",
    options,
    COUNT(options),
};

typedef struct BenchTower {
    const Kernels *k;
    size_t rows, B, T, C, H, M; /* M: MLP width */
    bool causal;
    act *x, *y, *z, *w, *wide, *wide2, *qkv, *dqkv;
    acc *b, *dw, *db, *mean, *rstd, *lse;
    int32_t *start;
} BenchTower;

static acc *zeros(const Kernels *k, size_t n) {
    acc *x = k->device->alloc(n * k->acc_size);
    k->device->zero(x, n * k->acc_size);
    return x;
}

static BenchTower tower_new(const Kernels *k, size_t B, size_t T, const TowerConfig *c,
                            bool causal) {
    size_t rows = B * T, C = c->width, M = c->mlp;
    BenchTower t = {k,
                    rows,
                    B,
                    T,
                    C,
                    c->heads,
                    M,
                    causal,
                    bench_filled(k, rows * C, 1),
                    bench_filled(k, rows * C, 1),
                    bench_filled(k, rows * C, 1),
                    bench_filled(k, M * size_max(C, 3), 0.1),
                    bench_filled(k, rows * M, 1),
                    bench_filled(k, rows * M, 1),
                    bench_filled(k, rows * 3 * C, 1),
                    bench_filled(k, rows * 3 * C, 1),
                    zeros(k, size_max(M, 3 * C)),
                    zeros(k, M * C),
                    zeros(k, size_max(M, 3 * C)),
                    zeros(k, rows),
                    zeros(k, rows),
                    zeros(k, rows * c->heads),
                    k->device->alloc((B + 1) * sizeof(int32_t))};
    int32_t *host = xcalloc(B + 1, sizeof *host);
    for (size_t b = 0; b <= B; b++) host[b] = (int32_t)(b * T);
    k->device->upload(t.start, host, (B + 1) * sizeof *host);
    free(host);
    return t;
}

static void run_tower(const void *tower) {
    const BenchTower *t = tower;
    const Kernels *k = t->k;
    size_t R = t->rows, C = t->C, M = t->M;
    k->layernorm_fwd(t->y, t->mean, t->rstd, t->z, t->x, t->y, t->b, t->b, R, C, 1e-5);
    k->layernorm_bwd(t->y, t->dw, t->db, t->z, t->y, t->x, t->x, t->mean, t->rstd, t->b, t->b, R,
                     C);
    k->linear_fwd(t->y, t->x, t->w, t->x, R, C, C);
    k->linear_bwd_input(t->y, t->x, t->w, R, C, C);
    k->linear_bwd_weight(t->dw, t->db, t->wide, t->x, R, M, C);
    k->linear_activation_fwd(t->wide, t->wide2, t->x, t->w, t->x, R, M, C, ACTIVATION_GELU);
    k->activation_bwd(t->wide, t->wide2, t->db, t->wide, t->wide2, R, M, ACTIVATION_GELU);
    k->attention_fwd(t->y, t->lse, t->qkv, t->start, t->B, R, t->T, t->H, C / t->H, t->causal);
    k->attention_bwd(t->dqkv, t->x, t->y, t->lse, t->qkv, t->start, t->B, R, t->T, t->H, C / t->H,
                     t->causal);
    k->add(t->z, t->x, t->y, R * C);
}

/* ---- kernels before the towers and after the backward pass ---- */

typedef struct Ends {
    const Kernels *k;
    const ClipConfig *c;
    size_t B, patches, rows; /* of an image; of all captions */
    uint8_t *pixels;
    int32_t *start, *ids;
    act *cut, *tokens, *x, *text; /* patches, their products, the towers' inputs */
    acc *image_table, *text_table, *image_grad,
        *text_grad; /* class and positions; tokens, positions */
    Optim *optim;
} Ends;

static void *uploaded(const Kernels *k, void *host, size_t bytes) {
    void *p = k->device->alloc(bytes);
    k->device->upload(p, host, bytes);
    free(host);
    return p;
}

/* Captions of random tokens between a start and an end. */
static void make_captions(Ends *e, size_t B, size_t T, size_t vocab) {
    int32_t *ids = xcalloc(B * T, sizeof *ids), *start = xcalloc(B + 1, sizeof *start);
    for (size_t i = 0; i < B * T; i++)
        ids[i] = (int32_t)(i % T == 0       ? vocab - 2
                           : i % T == T - 1 ? vocab - 1
                                            : (i * 2654435761u >> 7) % (vocab - 2));
    for (size_t b = 0; b <= B; b++) start[b] = (int32_t)(b * T);
    e->ids = uploaded(e->k, ids, B * T * sizeof *ids);
    e->start = uploaded(e->k, start, (B + 1) * sizeof *start);
}

static Ends ends_new(const Kernels *k, const ClipConfig *c, size_t B, size_t T) {
    size_t side = c->image_size / c->patch_size, n = side * side, C = c->image.width;
    size_t bytes = B * c->image_size * c->image_size * 3, D = c->text.width;
    Ends e = {.k = k, .c = c, .B = B, .patches = n, .rows = B * T};
    uint8_t *pixels = xmalloc(bytes);
    for (size_t i = 0; i < bytes; i++) pixels[i] = (uint8_t)(i * 2654435761u >> 13);
    e.pixels = uploaded(k, pixels, bytes);
    make_captions(&e, B, T, c->vocab_size);
    e.cut = bench_filled(k, B * n * 3 * c->patch_size * c->patch_size, 1);
    e.tokens = bench_filled(k, B * n * C, 1);
    e.x = bench_filled(k, B * (1 + n) * C, 1);
    e.text = bench_filled(k, e.rows * D, 1);
    e.image_table = zeros(k, (2 + n) * C);
    e.image_grad = zeros(k, (2 + n) * C);
    e.text_table = zeros(k, (c->vocab_size + c->context_length) * D);
    e.text_grad = zeros(k, (c->vocab_size + c->context_length) * D);
    Params *p = params_declare(k, c);
    params_layout(p, 1);
    OptimState *state = optim_state_new(p, NULL, 1, MOMENTS_FP32);
    params_init(p, 1);
    e.optim = optim_new(state, &(OptimOptions){0.9, 0.98, 1e-6, 0.2, WD_LEGACY, 1.0});
    optim_set(e.optim, 5e-4, 1);
    return e;
}

static void run_ends(const void *ends) {
    const Ends *e = ends;
    const Kernels *k = e->k;
    const ClipConfig *c = e->c;
    const Transform *t = &c->eval_transform;
    size_t B = e->B, n = e->patches, C = c->image.width, D = c->text.width;
    acc *positions = acc_at(k, e->image_table, C), *dpositions = acc_at(k, e->image_grad, C);
    acc *text_positions = acc_at(k, e->text_table, c->vocab_size * D);
    k->patches_u8(e->cut, e->pixels, NULL, t->mean, t->std, B, c->image_size, c->patch_size, n);
    k->image_embed_fwd(e->x, e->tokens, e->image_table, positions, NULL, B, n, C);
    k->image_embed_bwd(e->tokens, e->image_grad, dpositions, e->x, NULL, B, n, C);
    k->text_embed_fwd(e->text, e->ids, e->start, e->text_table, text_positions, B, e->rows, D);
    k->text_embed_bwd(e->text_grad, acc_at(k, e->text_grad, c->vocab_size * D), e->text, e->ids,
                      e->start, B, e->rows, D);
    optim_update(e->optim);
}

/* The kernels that `run` calls; times are summed if it calls one several times. */
static json_t *measure(const char *name, const Kernels *k, void (*run)(const void *), const void *x,
                       double gemm_peak, double copy_peak) {
    double *seconds[SLOT_COUNT] = {0};
    json_t *o = json_object();
    run(x);
    k->device->sync();
    kernel_stats_on = true;
    for (int64_t r = 0; r < reps; r++) {
        kernel_stats_reset();
        run(x);
        k->device->sync();
        for (int s = 0; s < SLOT_COUNT; s++) {
            if (!kernel_stats[s].calls) continue;
            if (!seconds[s]) seconds[s] = xcalloc((size_t)reps, sizeof **seconds);
            seconds[s][r] = kernel_stats[s].seconds;
        }
    }
    kernel_stats_on = false;
    if (!json)
        printf("\n%-24s %10s %10s %8s %8s %8s\n", name, "ms", "GFLOP/s", "of peak", "GB/s",
               "of copy");
    for (int s = 0; s < SLOT_COUNT; s++) {
        if (!seconds[s]) continue;
        double sec = bench_median(seconds[s], (size_t)reps);
        double gflops = 1e-9 * kernel_stats[s].flops / sec, gb = 1e-9 * kernel_stats[s].bytes / sec;
        if (!json)
            printf("%-24s %10.3f %10.1f %7.1f%% %8.1f %7.1f%%\n", kernel_names[s], 1e3 * sec,
                   gflops, 100 * gflops / gemm_peak, gb, 100 * gb / copy_peak);
        json_object_set_new(
            o, kernel_names[s],
            json_pack("{s:f, s:f, s:f}", "ms", 1e3 * sec, "gflops", gflops, "gb_per_s", gb));
        free(seconds[s]);
    }
    return o;
}

int bench_kernels(int argc, char **argv) {
    options_parse(&command, argc, argv, NULL);
    const Kernels *k = kernels_open_device(device, precision);
    ClipConfig c;
    clip_config_load(&c, model);
    if (c.naflex)
        die_usage(
            "clipc bench kernels: %s takes pictures of any aspect ratio: take a model of a fixed "
            "size",
            model);
    if (c.image.conv.kind)
        die_usage("clipc bench kernels: %s has a ResNet, and the measured kernels are those of a "
                  "ViT: bench step measures any model",
                  model);
    size_t B = (size_t)batch_size;
    BenchTower image = tower_new(k, B, clip_image_tokens(&c), &c.image, false);
    BenchTower text = tower_new(k, B, (size_t)caption_tokens, &c.text, true);
    Ends ends = ends_new(k, &c, B, (size_t)caption_tokens);
    double gemm_peak = bench_gemm_peak(k), copy_peak = bench_copy_peak(k);
    if (!json)
        printf("%s, %s: matrix peak %.1f GFLOP/s, copy %.1f GB/s\n", c.name, kernels_title(k),
               gemm_peak, copy_peak);
    json_t *i = measure("image tower", k, run_tower, &image, gemm_peak, copy_peak),
           *t = measure("text tower", k, run_tower, &text, gemm_peak, copy_peak),
           *e = measure("embeddings, AdamW", k, run_ends, &ends, gemm_peak, copy_peak);
    json_t *all = json_pack("{s:f, s:f, s:o, s:o, s:o}", "peak_gflops", gemm_peak, "copy_gb_per_s",
                            copy_peak, "image", i, "text", t, "ends", e);
    if (json)
        print_json(all);
    else
        json_decref(all);
    return EXIT_OK;
}
