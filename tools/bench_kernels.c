/* clipc bench kernels: single kernels at the shapes of one model against the ceilings of this
 * machine, measured in the same call. */
#include "tools/bench.h"
#include "tools/common.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *model = "ViT-B-32";
static int64_t batch_size = 32, caption_tokens = 16, reps = 9;
static int device, precision;
static bool json;

static Option options[] = {
    {"model", OPT_STRING, &model, "NAME|FILE", 0, 0, "whose shapes", 0},
    {"batch-size", OPT_INT, &batch_size, NULL, 1, 1e6, "samples", 0},
    {"caption-tokens", OPT_INT, &caption_tokens, NULL, 1, 1e4, "tokens of a caption", 0},
    {"precision", OPT_CHOICE, &precision, TRAINING_PRECISION_CHOICES, 0, 0,
     "of activations and products", 0},
    {"device", OPT_CHOICE, &device, DEVICE_CHOICES, 0, 0, "where to compute", 0},
    KERNEL_TUNING_OPTIONS,
    {"reps", OPT_INT, &reps, NULL, 1, 1000, "runs; the median is reported", 0},
    {"json", OPT_FLAG, &json, NULL, 0, 0, "one JSON object on stdout", 0},
};

static const Command command = {
    "bench kernels",
    "Single kernels at one model's shapes.",
    "clipc bench kernels --model NAME --batch-size N --precision P",
    "  clipc bench kernels --model small --batch-size 256 --precision amp_bf16\n",
    options,
    COUNT(options),
};

typedef struct Tower {
    const Kernels *k;
    size_t rows, B, T, C, H, M; /* M: MLP width */
    bool causal;
    act *x, *y, *z, *w, *wide, *wide2, *qkv, *dqkv;
    acc *b, *dw, *db, *mean, *rstd, *lse;
    int32_t *start;
} Tower;

static act *filled(const Kernels *k, size_t n, double v) {
    act *x = k->alloc(n * k->act_size);
    double *host = xcalloc(n, sizeof *host);
    for (size_t i = 0; i < n; i++)
        host[i] = v * (double)((i * 2654435761u >> 8) % 1000) / 1000 - v / 2;
    k->act_set(x, host, n);
    free(host);
    return x;
}

static acc *zeros(const Kernels *k, size_t n) {
    acc *x = k->alloc(n * k->acc_size);
    k->zero(x, n * k->acc_size);
    return x;
}

static Tower tower_new(const Kernels *k, size_t B, size_t T, const TowerConfig *c, bool causal) {
    size_t rows = B * T, C = c->width, M = c->mlp;
    Tower t = {k,
               rows,
               B,
               T,
               C,
               c->heads,
               M,
               causal,
               filled(k, rows * C, 1),
               filled(k, rows * C, 1),
               filled(k, rows * C, 1),
               filled(k, M * size_max(C, 3), 0.1),
               filled(k, rows * M, 1),
               filled(k, rows * M, 1),
               filled(k, rows * 3 * C, 1),
               filled(k, rows * 3 * C, 1),
               zeros(k, size_max(M, 3 * C)),
               zeros(k, M * C),
               zeros(k, size_max(M, 3 * C)),
               zeros(k, rows),
               zeros(k, rows),
               zeros(k, rows * c->heads),
               k->alloc((B + 1) * sizeof(int32_t))};
    int32_t *host = xcalloc(B + 1, sizeof *host);
    for (size_t b = 0; b <= B; b++) host[b] = (int32_t)(b * T);
    k->upload(t.start, host, (B + 1) * sizeof *host);
    free(host);
    return t;
}

static void run_all(const Tower *t) {
    const Kernels *k = t->k;
    size_t R = t->rows, C = t->C, M = t->M;
    k->layernorm_fwd(t->y, t->mean, t->rstd, t->z, t->x, t->y, t->b, t->b, R, C);
    k->layernorm_bwd(t->y, t->dw, t->db, t->z, t->y, t->x, t->x, t->mean, t->rstd, t->b, t->b, R,
                     C);
    k->linear_fwd(t->y, t->x, t->w, t->b, R, C, C);
    k->linear_bwd_input(t->y, t->x, t->w, R, C, C);
    k->linear_bwd_weight(t->dw, t->db, t->wide, t->x, R, M, C);
    k->linear_activation_fwd(t->wide, t->wide2, t->x, t->w, t->b, R, M, C, ACTIVATION_GELU);
    k->activation_bwd(t->wide, t->wide2, t->db, t->wide, t->wide2, R, M, ACTIVATION_GELU);
    k->attention_fwd(t->y, t->lse, t->qkv, t->start, t->B, R, t->T, t->H, C / t->H, t->causal);
    k->attention_bwd(t->dqkv, t->x, t->y, t->lse, t->qkv, t->start, t->B, R, t->T, t->H, C / t->H,
                     t->causal);
    k->add(t->z, t->x, t->y, R * C);
}

static json_t *measure(const char *name, const Tower *t, double gemm_peak, double copy_peak) {
    double *seconds[SLOT_COUNT] = {0};
    json_t *o = json_object();
    run_all(t);
    kernel_stats_on = true;
    for (int64_t r = 0; r < reps; r++) {
        kernel_stats_reset();
        run_all(t);
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
    const Kernels *k = kernels_open_choice(device, precision);
    ClipConfig c;
    clip_config_load(&c, model);
    size_t B = (size_t)batch_size;
    Tower image = tower_new(k, B, clip_image_tokens(&c), &c.image, false);
    Tower text = tower_new(k, B, (size_t)caption_tokens, &c.text, true);
    double gemm_peak = bench_gemm_peak(k), copy_peak = bench_copy_peak(k);
    if (!json)
        printf("%s, %s: matrix peak %.1f GFLOP/s, copy %.1f GB/s\n", c.name, k->name, gemm_peak,
               copy_peak);
    json_t *i = measure("image tower", &image, gemm_peak, copy_peak),
           *t = measure("text tower", &text, gemm_peak, copy_peak);
    json_t *all = json_pack("{s:f, s:f, s:o, s:o}", "peak_gflops", gemm_peak, "copy_gb_per_s",
                            copy_peak, "image", i, "text", t);
    if (json)
        print_json(all);
    else
        json_decref(all);
    return EXIT_OK;
}
