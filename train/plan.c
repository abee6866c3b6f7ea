#include "train/plan.h"

#include "train/model/clip.h"

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

/* Assumed speeds of a rank on one large GPU (H100 class), each about 40 % of the specification:
 * bf16 products, f32 products, its link inside a node of 8, its link to other nodes. */
static const double tower_rate = 400e12, loss_rate = 25e12, near_rate = 180e9, far_rate = 20e9;
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

/* Computation and communication of one rank in a step, and estimated times. */
static void print_step(const RunPlan *p, const Kernels *k, const ClipConfig *c,
                       const TrainOptions *opt, int ranks) {
    double B = (double)opt->batch_size, A = (double)opt->accum_freq, R = ranks;
    double n = B * A, N = n * R, E = (double)c->embed_dim;
    double forward = clip_flops(c, size_min(16, c->context_length), false);
    double towers = n * forward * forwards_of_step(c, opt);
    int products = n * N * (double)k->acc_size <= (double)logit_memory_of(opt, k) ? 3 : 4;
    double loss = products * 2 * n * N * E, size = (double)k->acc_size;
    double features = (R - 1) * n * E * (size + (opt->gather_dtype == GATHER_BF16 ? 2 : size));
    double statistics = 4 * (R - 1) / R * N * size;
    double reduced = (R - 1) / R * (double)p->gradients * (opt->shard_optimizer ? 1 : 2);
    double shared = opt->shard_optimizer ? (R - 1) / R * (double)p->weights : 0;
    double gradients = reduced + shared;
    double link = ranks > NODE ? far_rate : near_rate;
    /* gradients are sent during the backward of the last micro-batch, weights after the update */
    double backward = 2 * B * forward / tower_rate;
    double exposed = shared / link;
    if (reduced / link > backward) exposed += reduced / link - backward;
    double seconds = towers / tower_rate + loss / loss_rate + (features + statistics) / link;
    printf("a step, each rank: towers %.1f GFLOP, loss %.1f GFLOP (%d products)\n", 1e-9 * towers,
           1e-9 * loss, products);
    printf("  sends: features and their gradients %.1f MiB, column statistics %.1f MiB, weights' "
           "gradients%s %.1f MiB\n",
           features / (1 << 20), statistics / (1 << 20),
           opt->shard_optimizer ? " and the weights" : "", gradients / (1 << 20));
    printf(
        "  on GPUs of %.0f TFLOP/s (towers) and %.0f (loss), links of %.0f GB/s a rank: %.1f ms = "
        "%.1f towers + %.1f loss + %.1f features + %.1f of the gradients' %.1f not hidden; "
        "%.0f samples/s\n",
        1e-12 * tower_rate, 1e-12 * loss_rate, 1e-9 * link, 1e3 * (seconds + exposed),
        1e3 * towers / tower_rate, 1e3 * loss / loss_rate, 1e3 * (features + statistics) / link,
        1e3 * exposed, 1e3 * gradients / link, N / (seconds + exposed));
}

void plan_print(const RunPlan *p, const Kernels *k, const ClipConfig *c, const TrainOptions *opt,
                int ranks) {
    size_t B = (size_t)opt->batch_size, A = (size_t)opt->accum_freq, R = (size_t)ranks;
    size_t tokens = size_min(16, c->context_length);

    printf("model %s: %zu parameters\n", c->name, p->parameters);
    printf("  image tower: %zu layers, width %zu, %zu heads, %zu tokens of %zux%zu pixels\n",
           c->image.layers, c->image.width, c->image.heads, clip_image_tokens(c), c->patch_size,
           c->patch_size);
    printf("  text tower:  %zu layers, width %zu, %zu heads, context %zu, vocabulary %zu\n",
           c->text.layers, c->text.width, c->text.heads, c->context_length, c->vocab_size);
    printf("global batch: %zu = %zu x %zu accumulated x %d ranks\n", B * A * R, B, A, ranks);
    printf("forward GFLOP a sample: %.3f with %zu-token captions (all %zu positions computed: "
           "%.3f); a step is %.3g times that\n",
           1e-9 * clip_flops(c, tokens, false), tokens, c->context_length,
           1e-9 * clip_flops(c, c->context_length, true), forwards_of_step(c, opt));
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
    if (ranks > 1) print_step(p, k, c, opt, ranks);
}
