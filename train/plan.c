#include "train/plan.h"

#include "train/model/clip.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

void plan_add(RunPlan *p, const char *what, size_t bytes) {
    size_t i = 0;
    if (!bytes) return;
    while (i < p->count && strcmp(p->line[i].what, what)) i++;
    assert(i < COUNT(p->line));
    p->count = size_max(p->count, i + 1);
    p->line[i].what = what;
    p->line[i].bytes += bytes;
    p->sum += bytes;
}

void plan_rest(RunPlan *p, const Kernels *k, const char *what) {
    plan_add(p, what, k->device->memory().taken - p->sum);
}

static void line(const char *what, size_t bytes) {
    printf("  %-44s %12.1f MiB\n", what, (double)bytes / (1 << 20));
}

/* ---- time ---- */

/* Cards as their makers specify them, dense: bf16 and f32 FLOP/s, memory, NVLink in one direction.
 */
static const struct {
    const char *name;
    double bf16, f32, memory, nvlink;
} cards[] = {
    [GPU_NONE] = {"H100", 989e12, 67e12, 80e9, 450e9},
    [GPU_H100] = {"H100", 989e12, 67e12, 80e9, 450e9},
    [GPU_H200] = {"H200", 989e12, 67e12, 141e9, 450e9},
    [GPU_A100] = {"A100", 312e12, 19.5e12, 80e9, 300e9},
    [GPU_B200] = {"B200", 2250e12, 75e12, 180e9, 900e9},
};
enum { NODE = 8 };

/* A step's work in forward passes: backward is two; what is computed again is one more, of the
 * image tower's recomputed blocks. */
static double forwards_of_step(const ClipConfig *c, const TrainOptions *opt) {
    double A = (double)opt->accum_freq;
    ClipOptions o = {.grad_checkpointing = opt->grad_checkpointing,
                     .kept_blocks = opt->kept_blocks};
    double again = (double)clip_recomputed(&o, c->image.layers) / (double)c->image.layers;
    return 3 + (A - 1) / A + again;
}

/* Work and communication of one rank in a step (FLOP, bytes), and estimated seconds. */
typedef struct StepCost {
    double towers, loss, features, statistics, gradients;           /* FLOP, FLOP, bytes … */
    double towers_s, loss_s, features_s, gradients_s, exposed_s, s; /* s: of the whole step */
    double tower_rate, loss_rate, link;
    double samples_per_s; /* of all ranks */
    int products;
} StepCost;

/* Of a sample's picture, caption and views; without the projection head. */
static double sample_flops(const ClipConfig *c, const TrainOptions *opt, size_t tokens, bool full) {
    double views = opt->objective == OBJECTIVE_CLIP ? 0 : 2 * clip_image_flops(c, full);
    return views + (opt->objective == OBJECTIVE_SIMCLR ? 0 : clip_flops(c, tokens, full));
}

static StepCost step_cost(const RunPlan *p, const Kernels *k, const ClipConfig *c,
                          const TrainOptions *opt, int ranks) {
    StepCost x = {.tower_rate = opt->gpu_share * cards[opt->gpu].bf16,
                  .loss_rate = opt->gpu_share * cards[opt->gpu].f32,
                  .link = ranks > NODE ? 1e9 * opt->node_link
                                       : opt->gpu_share * cards[opt->gpu].nvlink};
    double B = (double)opt->batch_size, A = (double)opt->accum_freq, R = ranks;
    double n = B * A, N = n * R, E = (double)c->embed_dim, size = (double)k->acc_size;
    double forward = sample_flops(c, opt, size_min(16, c->context_length), false);
    x.towers = n * forward * forwards_of_step(c, opt);
    x.products = n * N * size <= (double)logit_memory_of(opt, k) ? 3 : 4;
    bool pairs = opt->objective != OBJECTIVE_SIMCLR, views = opt->objective != OBJECTIVE_CLIP;
    double pair_width = pairs ? E : 0, view_width = views ? 4 * (double)opt->head_dim : 0;
    x.loss = x.products * 2 * n * N * (pair_width + view_width);
    x.features = (R - 1) * n * (pair_width + view_width / 2) *
                 (size + (opt->gather_dtype == GATHER_BF16 ? 2 : size));
    x.statistics = 4 * (R - 1) / R * N * size;
    double reduced = (R - 1) / R * (double)p->gradients * (opt->shard_optimizer ? 1 : 2);
    double shared = opt->shard_optimizer ? (R - 1) / R * (double)p->weights : 0;
    x.gradients = reduced + shared;
    /* gradients are sent during the backward of the last micro-batch, weights after the update */
    double backward = 2 * B * forward / x.tower_rate;
    x.exposed_s = shared / x.link;
    if (reduced / x.link > backward) x.exposed_s += reduced / x.link - backward;
    x.towers_s = x.towers / x.tower_rate;
    x.loss_s = x.loss / x.loss_rate;
    x.features_s = (x.features + x.statistics) / x.link;
    x.gradients_s = x.gradients / x.link;
    x.s = x.towers_s + x.loss_s + x.features_s + x.exposed_s;
    x.samples_per_s = N / x.s;
    return x;
}

static void print_step(const StepCost *x, const TrainOptions *opt) {
    printf("a step, each rank: towers %.1f GFLOP, loss %.1f GFLOP (%d products)\n",
           1e-9 * x->towers, 1e-9 * x->loss, x->products);
    printf("  sends: features and their gradients %.1f MiB, column statistics %.1f MiB, weights' "
           "gradients%s %.1f MiB\n",
           x->features / (1 << 20), x->statistics / (1 << 20),
           opt->shard_optimizer ? " and the weights" : "", x->gradients / (1 << 20));
    printf("  on GPUs of %.0f TFLOP/s (towers) and %.0f (loss), links of %.0f GB/s a rank: %.1f ms "
           "= %.1f towers + %.1f loss + %.1f features + %.1f of the gradients' %.1f not hidden; "
           "%.0f samples/s\n",
           1e-12 * x->tower_rate, 1e-12 * x->loss_rate, 1e-9 * x->link, 1e3 * x->s,
           1e3 * x->towers_s, 1e3 * x->loss_s, 1e3 * x->features_s, 1e3 * x->exposed_s,
           1e3 * x->gradients_s, x->samples_per_s);
}

/* ---- a whole run on a named card ---- */

typedef struct RunCost {
    double samples; /* of an epoch; 0: not known */
    double steps_per_epoch, steps, epochs, hours, gpu_hours, threads;
} RunCost;

static RunCost run_cost(const RunPlan *p, const StepCost *x, const TrainOptions *opt, int ranks) {
    double N = (double)opt->batch_size * (double)opt->accum_freq * ranks;
    RunCost r = {.samples = (double)p->samples,
                 .steps_per_epoch = floor((double)p->samples / N),
                 .threads = ceil(x->samples_per_s / ranks / opt->loader_rate)};
    r.steps = r.steps_per_epoch * (double)opt->epochs;
    if (r.steps < (double)opt->min_steps && r.steps_per_epoch > 0)
        r.steps = ceil((double)opt->min_steps / r.steps_per_epoch) * r.steps_per_epoch;
    if (opt->max_steps) r.steps = (double)opt->max_steps;
    r.epochs = r.steps_per_epoch > 0 ? r.steps / r.steps_per_epoch : 0;
    r.hours = r.steps * x->s / 3600;
    r.gpu_hours = r.hours * ranks;
    return r;
}

static void print_run(const RunPlan *p, const StepCost *x, const RunCost *r,
                      const TrainOptions *opt, int ranks) {
    double memory = cards[opt->gpu].memory;
    printf("on %d %s, at %.0f %% of what is specified (--gpu-share): %.1f ms a step, %.0f "
           "samples/s\n",
           ranks, cards[opt->gpu].name, 100 * opt->gpu_share, 1e3 * x->s, x->samples_per_s);
    printf("  memory: %.1f of %.0f GB%s\n", 1e-9 * (double)p->total, 1e-9 * memory,
           (double)p->total > memory ? ": too little" : "");
    if (r->steps > 0) {
        if (r->samples > 0)
            printf("  data: %.0f samples an epoch, %.0f steps; %.4g epochs\n", r->samples,
                   r->steps_per_epoch, r->epochs);
        printf("  run: %.0f steps, %.4g hours, %.4g GPU-hours", r->steps, r->hours, r->gpu_hours);
        if (opt->gpu_hour_price > 0)
            printf(", at %g each %.4g", opt->gpu_hour_price, r->gpu_hours * opt->gpu_hour_price);
        printf("\n");
    } else {
        printf("  run: not known without --train-data, --train-num-samples or --max-steps\n");
    }
    printf("  loader: %.0f samples/s a GPU need %.0f threads of %g each (--loader-rate); --workers "
           "%lld %s\n",
           x->samples_per_s / ranks, r->threads, opt->loader_rate, (long long)opt->workers,
           !opt->workers                        ? "takes the rank's CPUs but two"
           : (double)opt->workers >= r->threads ? "suffice"
                                                : "are too few");
}

static void print_object(const RunPlan *p, const StepCost *x, const RunCost *r, const Kernels *k,
                         const ClipConfig *c, const TrainOptions *opt, int ranks) {
    json_t *memory = json_object();
    for (size_t i = 0; i < p->count; i++)
        json_object_set_new(memory, p->line[i].what, json_integer((json_int_t)p->line[i].bytes));
    json_t *o =
        json_pack("{s:s, s:I, s:i, s:I, s:s, s:o, s:I, s:f, s:f, s:f, s:f}", "model", c->name,
                  "parameters", (json_int_t)p->parameters, "ranks", ranks, "global_batch",
                  (json_int_t)(opt->batch_size * opt->accum_freq * ranks), "kernels", k->name,
                  "memory", memory, "memory_total", (json_int_t)p->total, "forward_flop_per_sample",
                  sample_flops(c, opt, size_min(16, c->context_length), false), "step_flop",
                  x->towers + x->loss, "step_seconds", x->s, "samples_per_s", x->samples_per_s);
    if (opt->gpu) {
        json_object_update_new(o, json_pack("{s:s, s:f, s:f, s:f}", "gpu", cards[opt->gpu].name,
                                            "gpu_share", opt->gpu_share, "gpu_memory",
                                            cards[opt->gpu].memory, "loader_threads", r->threads));
        if (r->steps > 0)
            json_object_update_new(
                o, json_pack("{s:f, s:f, s:f, s:f, s:f, s:f}", "samples_per_epoch", r->samples,
                             "steps", r->steps, "epochs", r->epochs, "hours", r->hours, "gpu_hours",
                             r->gpu_hours, "price", r->gpu_hours * opt->gpu_hour_price));
    }
    json_dumpf(o, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(o);
}

void plan_print(const RunPlan *p, const Kernels *k, const ClipConfig *c, const TrainOptions *opt,
                int ranks) {
    size_t B = (size_t)opt->batch_size, A = (size_t)opt->accum_freq, R = (size_t)ranks;
    size_t tokens = size_min(16, c->context_length);
    StepCost cost = step_cost(p, k, c, opt, ranks);
    RunCost run = run_cost(p, &cost, opt, ranks);
    if (opt->json) {
        print_object(p, &cost, &run, k, c, opt, ranks);
        return;
    }
    printf("model %s: %zu parameters\n", c->name, p->parameters);
    printf("  image tower: %zu layers, width %zu, %zu heads, %zu tokens of %zux%zu pixels\n",
           c->image.layers, c->image.width, c->image.heads, clip_image_tokens(c), c->patch_size,
           c->patch_size);
    printf("  text tower:  %zu layers, width %zu, %zu heads, context %zu, vocabulary %zu\n",
           c->text.layers, c->text.width, c->text.heads, c->context_length, c->vocab_size);
    if (opt->caption_rows)
        printf(
            "  memory for captions of %zu tokens on average (--text-rows): a batch of more runs in "
            "parts\n",
            opt->caption_rows);
    printf("global batch: %zu = %zu x %zu accumulated x %d ranks\n", B * A * R, B, A, ranks);
    if (p->samples && !opt->gpu)
        printf("data: %zu samples an epoch, %.0f steps\n", p->samples, run.steps_per_epoch);
    printf("forward GFLOP a sample: %.3f ", 1e-9 * sample_flops(c, opt, tokens, false));
    if (opt->objective == OBJECTIVE_SIMCLR)
        printf("for two views");
    else
        printf("with %zu-token captions (all %zu positions computed: %.3f)", tokens,
               c->context_length, 1e-9 * sample_flops(c, opt, c->context_length, true));
    printf("; a step is %.3g times that\n", forwards_of_step(c, opt));
    printf("memory a rank (%s):\n", k->name);
    for (size_t i = 0; i < p->count; i++)
        if (p->line[i].bytes > (1 << 20) / 20) line(p->line[i].what, p->line[i].bytes);
    line(!k->device->gpu ? "total"
         : ranks > 1     ? "of the GPU's memory, all but NCCL's own"
                         : "of the GPU's memory, in all",
         p->total);
    if (p->host) line("pinned memory of the host", p->host);
    /* measured for the extremes: against the plans of a ViT-B-32 and of a tiny model */
    if (!k->device->gpu)
        printf("  beside it: the program, its libraries, decoding%s: some %d MiB\n",
               ranks > 1 ? ", MPI" : "", ranks > 1 ? 60 : 40);
    if (ranks > 1) print_step(&cost, opt);
    if (opt->gpu) print_run(p, &cost, &run, opt, ranks);
}
