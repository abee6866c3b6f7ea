#include "train/plan.h"

#include "train/loss.h"
#include "train/model/lora.h"
#include "train/optim_state.h"

#include <stdio.h>

static void line(const char *what, size_t bytes) {
    printf("  %-44s %12.1f MiB\n", what, (double)bytes / (1 << 20));
}

/* Assumed speeds of a rank on one large GPU (H100 class), each about 40 % of the specification:
 * bf16 products, f32 products, its link inside a node of 8, its link to other nodes. */
static const double tower_rate = 400e12, loss_rate = 25e12, near_rate = 180e9, far_rate = 20e9;
enum { NODE = 8 };

/* The flat parameter block of one rank, in bytes. */
typedef struct WeightBytes {
    size_t masters, frozen, compute, gradients, moments, average;
    size_t shared; /* weights that are sent */
} WeightBytes;

static WeightBytes plan_weights(const Kernels *k, const Params *p, const PlanOptions *o) {
    size_t block = p->learning, frozen = p->size - p->learning;
    /* train/shard.h: only the owner keeps the masters of matrices */
    size_t shards = o->shard_optimizer ? (size_t)o->ranks : 1;
    bool owned = shards > 1 && params_are_rounded(p) && !o->ema && !p->lora;
    size_t split = owned ? p->matrices : 0;
    return (WeightBytes){.masters = (block - split + split / shards) * k->acc_size,
                         .frozen = frozen * k->acc_size,
                         .compute = (p->size - p->rounded) * k->act_size + lora_bytes(p),
                         .gradients = (block + 2 * p->longest) * k->acc_size,
                         .moments = 2 * (block / shards) * moment_size(k, o->moments),
                         .average = o->ema ? block * k->acc_size : 0,
                         .shared = split * k->act_size + (block - split) * k->acc_size};
}

/* Computation and communication of one rank in a step, and estimated times. */
static void print_step(const Kernels *k, const ClipConfig *c, const ClipOptions *o,
                       const PlanOptions *p, const WeightBytes *w) {
    double R = p->ranks, n = (double)(o->max_batch * p->accum), N = n * R, E = (double)c->embed_dim;
    double forward = clip_flops(c, size_min(16, c->context_length), false);
    double again = (double)(p->accum - 1) / (double)p->accum + (o->grad_checkpointing ? 1 : 0);
    double towers = n * forward * (3 + again);
    int products = n * N * (double)k->acc_size <= (double)p->logit_memory ? 3 : 4;
    double loss = products * 2 * n * N * E, size = (double)k->acc_size;
    double features = (R - 1) * n * E * (size + (p->gather_bf16 ? 2 : size));
    double statistics = 4 * (R - 1) / R * N * size;
    double reduced = (R - 1) / R * (double)w->gradients * (p->shard_optimizer ? 1 : 2);
    double shared = p->shard_optimizer ? (R - 1) / R * (double)w->shared : 0;
    double gradients = reduced + shared;
    double link = p->ranks > NODE ? far_rate : near_rate;
    /* gradients are sent during the backward of the last micro-batch, weights after the update */
    double backward = 2 * (double)o->max_batch * forward / tower_rate;
    double exposed = shared / link;
    if (reduced / link > backward) exposed += reduced / link - backward;
    double seconds = towers / tower_rate + loss / loss_rate + (features + statistics) / link;
    printf("a step, each rank: towers %.1f GFLOP, loss %.1f GFLOP (%d products)\n", 1e-9 * towers,
           1e-9 * loss, products);
    printf("  sends: features and their gradients %.1f MiB, column statistics %.1f MiB, weights' "
           "gradients%s %.1f MiB\n",
           features / (1 << 20), statistics / (1 << 20),
           p->shard_optimizer ? " and the weights" : "", gradients / (1 << 20));
    printf(
        "  on GPUs of %.0f TFLOP/s (towers) and %.0f (loss), links of %.0f GB/s a rank: %.1f ms = "
        "%.1f towers + %.1f loss + %.1f features + %.1f of the gradients' %.1f not hidden; "
        "%.0f samples/s\n",
        1e-12 * tower_rate, 1e-12 * loss_rate, 1e-9 * link, 1e3 * (seconds + exposed),
        1e3 * towers / tower_rate, 1e3 * loss / loss_rate, 1e3 * (features + statistics) / link,
        1e3 * exposed, 1e3 * gradients / link, N / (seconds + exposed));
}

void plan_print(const Kernels *k, const ClipConfig *c, const ClipOptions *o, const PlanOptions *p) {
    size_t n = size_mul(o->max_batch, p->accum);
    WeightBytes w = plan_weights(k, p->params, p);
    size_t activations = clip_activation_bytes(k, c, o);
    size_t loss = loss_bytes(k, p->ranks, n, c->embed_dim, p->logit_memory) +
                  4 * size_mul(n, c->embed_dim) * k->acc_size;
    if (p->soft)
        loss += loss_soft_bytes(k, p->ranks, n, c->embed_dim, p->logit_memory, p->teacher_dim);
    size_t batch =
        size_mul(o->max_batch, 3 * c->image_size * c->image_size + 4 * c->context_length) *
        (p->accum + 3 + (k->device->asynchronous ? p->accum : 0));
    size_t weights = w.masters + w.frozen + w.gradients + w.moments;
    size_t total = size_add(size_add(weights, w.compute + w.average),
                            size_add(activations, size_add(loss, batch + p->teacher)));
    size_t tokens = size_min(16, c->context_length);

    printf("model %s: %zu parameters\n", c->name, params_elements(p->params));
    printf("  image tower: %zu layers, width %zu, %zu heads, %zu tokens of %zux%zu pixels\n",
           c->image.layers, c->image.width, c->image.heads, clip_image_tokens(c), c->patch_size,
           c->patch_size);
    printf("  text tower:  %zu layers, width %zu, %zu heads, context %zu, vocabulary %zu\n",
           c->text.layers, c->text.width, c->text.heads, c->context_length, c->vocab_size);
    printf("global batch: %zu = %zu x %zu accumulated x %d ranks\n", n * (size_t)p->ranks,
           o->max_batch, p->accum, p->ranks);
    printf("forward GFLOP a sample: %.3f with %zu-token captions (all %zu positions computed: "
           "%.3f); a step is 3 times that\n",
           1e-9 * clip_flops(c, tokens, false), tokens, c->context_length,
           1e-9 * clip_flops(c, c->context_length, true));
    printf("memory a rank (%s):\n", k->name);
    line(w.frozen ? "master weights that learn" : "master weights", w.masters);
    if (w.frozen) line("frozen weights", w.frozen);
    line("gradients", w.gradients);
    line(p->shard_optimizer ? "a share of two moments" : "two moments", w.moments);
    if (w.compute)
        line(p->params->lora ? "compute weights, LoRA's sums" : "compute weights", w.compute);
    if (w.average) line("moving average", w.average);
    line(o->grad_checkpointing ? "activations, checkpointed (at most)"
                               : "activations (at most: captions all full)",
         activations);
    line("loss: features, gathered texts, logits", loss);
    line("batches in flight", batch);
    if (p->teacher) line("teacher: weights, activations, features", p->teacher);
    line("total", total);
    /* measured for the extremes: against the plans of a ViT-B-32 and of a tiny model */
    if (!k->device->asynchronous)
        printf("  beside it: the program, its libraries, decoding%s: some %d MiB\n",
               p->ranks > 1 ? ", MPI" : "", p->ranks > 1 ? 60 : 40);
    if (p->device)
        line(p->ranks > 1 ? "of the GPU's memory, all but NCCL's own"
                          : "of the GPU's memory, in all",
             p->device);
    if (p->ranks > 1) print_step(k, c, o, p, &w);
}
