/* clipc bench step: whole training steps on synthetic data that is already in memory. */
#include "tools/bench.h"
#include "tools/common.h"
#include "kernels/rng.h"
#include "train/step.h"
#include "train/train_options.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *model = "ViT-B-32";
static int64_t batch_size = 32, accum = 1, caption_tokens = 16, steps = 7, warmup = 2;
static DeviceOption device;
static Precision precision;
static bool json, grad_checkpointing;

static Option options[] = {
    STRING("model", &model, "NAME|FILE", "architecture"),
    INT("batch-size", &batch_size, 1, 1e6, "pairs a micro-batch"),
    INT("accum-freq", &accum, 1, 1e4, "micro-batches a step"),
    INT("caption-tokens", &caption_tokens, 2, 1e4,
        "tokens of every caption, start and end counted"),
    CHOICE("precision", &precision, TRAINING_PRECISIONS, "of activations and products"),
    CHOICE("device", &device, DEVICES, "where to compute"),
    KERNEL_TUNING_OPTIONS,
    FLAG("grad-checkpointing", &grad_checkpointing, "recompute activations"),
    INT("steps", &steps, 1, 1000, "timed steps; the median is reported"),
    INT("warmup", &warmup, 0, 1000, "steps before them"),
    FLAG("json", &json, "one JSON object on stdout"),
};

static const Command command = {
    "bench step",
    "Whole training steps: forward, loss (SigLIP's if the model has a logit bias), backward, "
    "clipping at 1.0, AdamW.",
    "clipc bench step --model NAME --batch-size N --precision fp32|amp_bf16 [--caption-tokens K] "
    "[--json]",
    "  clipc bench step --model ViT-B-32 --batch-size 32 --precision amp_bf16 --caption-tokens "
    "16\n",
    options,
    COUNT(options),
};

static Batch *synthetic_batch(const Kernels *k, const ClipConfig *c, size_t B, uint64_t seed) {
    Batch *b = xcalloc(1, sizeof *b);
    size_t S = c->image_size, T = (size_t)caption_tokens, bytes = 3 * S * S * B;
    b->size = B;
    b->pixels = k->device->host_alloc(bytes); /* as the loader's ring */
    b->ids = xmalloc(B * T * sizeof *b->ids);
    b->start = xmalloc((B + 1) * sizeof *b->start);
    b->sample = xcalloc(B, sizeof *b->sample);
    b->label = xcalloc(B, sizeof *b->label);
    for (size_t i = 0; i < bytes; i += 16) {
        uint32_t w[4];
        rng_block(seed, RNG_TEST, i, w);
        memcpy(b->pixels + i, w, size_min(sizeof w, bytes - i));
    }
    for (size_t i = 0; i < B * T; i++)
        b->ids[i] = (int32_t)rng_below(seed + 1, RNG_TEST, i, c->vocab_size - 2);
    for (size_t i = 0; i < B; i++) {
        b->sample[i] = i;
        b->start[i] = (int32_t)(i * T);
        b->ids[i * T] = (int32_t)c->vocab_size - 2;
        b->ids[i * T + T - 1] = (int32_t)c->vocab_size - 1;
    }
    b->start[B] = (int32_t)(B * T);
    return b;
}

static void free_batch(const Kernels *k, Batch *b) {
    k->device->host_release(b->pixels);
    FREE_ALL(b->ids, b->start, b->sample, b->label, b);
}

static bool is_gemm(size_t slot) { return slot >= SLOT_linear_fwd && slot <= SLOT_gemm; }
/* The products that count as model FLOPs; element-wise passes do not count. */
static bool is_model_work(size_t slot) {
    return is_gemm(slot) || (slot >= SLOT_attention_fwd && slot <= SLOT_attention_pool_bwd);
}

static int by_time(const void *a, const void *b) {
    double x = kernel_stats[*(const int *)a].seconds, y = kernel_stats[*(const int *)b].seconds;
    return (x < y) - (x > y);
}

static void print_kernels(double total, double gemm_peak, double copy_peak) {
    int order[SLOT_COUNT];
    for (int s = 0; s < SLOT_COUNT; s++) order[s] = s;
    qsort(order, SLOT_COUNT, sizeof *order, by_time);
    printf("\n%-24s %8s %9s %7s %10s %8s %8s %8s\n", "kernel", "calls", "ms/step", "share",
           "GFLOP/s", "of peak", "GB/s", "of copy");
    for (int i = 0; i < SLOT_COUNT; i++) {
        const KernelStat *s = &kernel_stats[order[i]];
        if (!s->calls) continue;
        double gflops = 1e-9 * s->flops / s->seconds, gb = 1e-9 * s->bytes / s->seconds;
        printf("%-24s %8.1f %9.3f %6.1f%% %10.1f %7.1f%% %8.1f %7.1f%%\n", kernel_names[order[i]],
               (double)s->calls / (double)steps, 1e3 * s->seconds / (double)steps,
               100 * s->seconds / total, gflops, 100 * gflops / gemm_peak, gb,
               100 * gb / copy_peak);
    }
    printf("ceilings of this machine: products %.1f GFLOP/s, copies %.1f GB/s\n", gemm_peak,
           copy_peak);
}

static json_t *kernels_json(void) {
    json_t *o = json_object();
    for (int s = 0; s < SLOT_COUNT; s++)
        if (kernel_stats[s].calls)
            json_object_set_new(o, kernel_names[s],
                                json_pack("{s:f, s:f, s:f}", "ms_per_step",
                                          1e3 * kernel_stats[s].seconds / (double)steps, "gflops",
                                          1e-9 * kernel_stats[s].flops / kernel_stats[s].seconds,
                                          "gb_per_s",
                                          1e-9 * kernel_stats[s].bytes / kernel_stats[s].seconds));
    return o;
}

typedef struct Timing {
    Step *step;
    Batch **batches;
    uint64_t t;
    size_t n;
    double *seconds; /* [n] */
    double loss;
} Timing;

static const double lr = 5e-4;

static void warm_up(Timing *r) {
    for (int64_t i = 0; i < warmup; i++) step_run(r->step, r->batches, lr, ++r->t);
}

/* As in training: a step is enqueued before the previous one's results are read. */
static void run_steps(Timing *r) {
    step_start(r->step, r->batches, lr, ++r->t);
    for (size_t i = 0; i < r->n; i++) {
        double t0 = clock_now();
        step_start(r->step, r->batches, lr, ++r->t);
        r->loss = step_result(r->step).loss;
        r->seconds[i] = clock_now() - t0;
    }
    step_result(r->step);
}

/* One by one, kernel by kernel; seconds of all of them. */
static double run_observed(Timing *r, bool record) {
    double total = 0;
    for (size_t i = 0; i < r->n; i++) {
        double t0 = clock_now();
        r->loss = step_run(r->step, r->batches, lr, ++r->t).loss;
        double dt = clock_now() - t0;
        total += dt;
        if (record) r->seconds[i] = dt;
    }
    return total;
}

/* What learns. */
typedef struct Trainee {
    Params *p;
    OptimState *state;
    Clip *m;
    Optim *o;
    Step *s;
} Trainee;

static Trainee trainee_new(const Kernels *k, const ClipConfig *c, bool planning) {
    size_t B = (size_t)batch_size;
    Trainee t = {.p = params_declare(k, c)};
    params_layout(t.p, 1);
    t.state = optim_state_new(t.p, NULL, 1, MOMENTS_FP32);
    if (!planning) params_init(t.p, 1);
    ClipOptions co = {.max_batch = B,
                      .max_text_rows = B * (size_t)caption_tokens,
                      .text_bucket = clip_text_bucket(k, c, B),
                      .training = true,
                      .grad_checkpointing = grad_checkpointing,
                      .patch_dropout = c->patch_dropout,
                      .seed = 1};
    t.m = clip_new(k, c, t.p, &co);
    OptimOptions oo = {0.9, 0.98, 1e-6, 0.2, WD_LEGACY, 1.0};
    t.o = optim_new(t.state, &oo);
    t.s = step_new(k, comm_self(k), t.m, t.state, t.o, c->has_logit_bias ? LOSS_SIGLIP : LOSS_CLIP,
                   B, (size_t)accum, c->embed_dim,
                   logit_memory_of(&(TrainOptions){.logit_memory = 0}, k), NULL);
    return t;
}

static void trainee_free(Trainee *t) {
    step_free(t->s);
    optim_free(t->o);
    clip_free(t->m);
    optim_state_free(t->state);
    params_free(t->p);
}

/* A GPU's memory is planned and taken at once, as in training. */
static void plan_memory(const Kernels *k, const ClipConfig *c) {
    MemoryUse use = k->device->memory();
    if (!use.total) return;
    k->device->plan_begin();
    Trainee t = trainee_new(k, c, true);
    step_plan(t.s);
    trainee_free(&t);
    size_t needed = k->device->plan_end(use.unused);
    if (needed > use.unused)
        die("GPU memory: these steps take %.1f MiB, %.1f of %.1f MiB are free: lower --batch-size",
            (double)needed / (1 << 20), (double)use.unused / (1 << 20),
            (double)use.total / (1 << 20));
}

int bench_step(int argc, char **argv) {
    kernel_tuning.autotune = true; /* as in training */
    options_parse(&command, argc, argv, NULL);
    const Kernels *k = kernels_open_device(device, precision);
    double peak = bench_gemm_peak(k);
    ClipConfig c;
    clip_config_load(&c, model);
    if (c.naflex)
        die_usage(
            "clipc bench step: %s takes pictures of any aspect ratio: take a model of a fixed "
            "size",
            model);
    if ((size_t)caption_tokens > c.context_length)
        die_usage("clipc bench step: --caption-tokens %lld exceeds the context of %zu",
                  (long long)caption_tokens, c.context_length);
    size_t B = (size_t)batch_size, A = (size_t)accum, n = (size_t)steps;
    plan_memory(k, &c);
    Trainee trainee = trainee_new(k, &c, false);
    Batch **batches = xcalloc(A, sizeof *batches);
    for (size_t j = 0; j < A; j++) batches[j] = synthetic_batch(k, &c, B, 100 + j);
    Timing r = {
        .step = trainee.s, .batches = batches, .n = n, .seconds = xcalloc(n, sizeof(double))};
    warm_up(&r);
    if (k->device->asynchronous) run_steps(&r); /* timing a GPU's kernels slows the steps down */
    kernel_stats_on = true;
    kernel_stats_reset();
    double total = run_observed(&r, !k->device->asynchronous);
    kernel_stats_on = false;
    double flops = 0, gemm = 0, kernels = 0;
    for (size_t i = 0; i < SLOT_COUNT; i++) {
        if (is_model_work(i)) flops += kernel_stats[i].flops;
        kernels += kernel_stats[i].seconds;
        if (is_gemm(i)) gemm += kernel_stats[i].seconds;
    }
    /* before the copy ceiling allocates memory */
    double memory = bench_device_memory(k) / (1 << 20), rss = (double)peak_rss() / (1 << 20);
    double copy = bench_copy_peak(k), step = bench_median(r.seconds, n), loss = r.loss;
    double rate = (double)(B * A) / step;
    double gflops = 1e-9 * flops / (double)n / step, again = bench_gemm_peak(k);
    /* open_clip's FLOPs for the same samples: every position, nothing skipped */
    double whole = 3e-9 * clip_flops(&c, c.context_length, true) * rate;
    if (again > peak) peak = again;
    if (json) {
        print_json(json_pack(
            "{s:s, s:s, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:o}",
            "model", c.name, "kernels_name", k->name, "batch_size", (json_int_t)(B * A),
            "caption_tokens", (json_int_t)caption_tokens, "samples_per_s", rate, "step_seconds",
            step, "gflops", gflops, "peak_gflops", peak, "peak_share", gflops / peak,
            "open_clip_equivalent_gflops", whole, "non_gemm_share", 1 - gemm / total,
            "copy_gb_per_s", copy, "peak_rss_mib", rss, "peak_memory_mib", memory, "loss", loss,
            "kernels", kernels_json()));
    } else {
        printf("%s, %s, batch %zu, captions of %lld tokens: %.2f samples/s (median step %.1f ms of "
               "%zu)\n",
               c.name, kernels_title(k), B * A, (long long)caption_tokens, rate, 1e3 * step, n);
        printf("%.1f GFLOP/s = %.1f %% of this machine's matrix peak now (%.1f); all but the "
               "products: %.1f %% of the step\n",
               gflops, 100 * gflops / peak, peak, 100 * (1 - gemm / total));
        printf("open_clip's work for as many samples: %.1f GFLOP/s = %.1f %% of the peak\n", whole,
               100 * whole / peak);
        printf("peak memory %.0f MiB%s; loss %.4f\n", memory,
               k->device->memory().total ? " of the GPU's" : "", loss);
        print_kernels(total, peak, copy);
        printf("between the kernels: %.1f %% of the step\n", 100 * (1 - kernels / total));
    }
    for (size_t j = 0; j < A; j++) free_batch(k, batches[j]);
    FREE_ALL(batches, r.seconds);
    trainee_free(&trainee);
    clip_config_free(&c);
    return EXIT_OK;
}
