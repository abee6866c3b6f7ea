#include "train/plan.h"

#include "train/loss.h"

#include <stdio.h>

static void line(const char *what, size_t bytes) {
    printf("  %-44s %12.1f MiB\n", what, (double)bytes / (1 << 20));
}

void plan_print(const Kernels *k, const ClipConfig *c, const ClipOptions *o, size_t accum,
                int ranks, size_t logit_memory, bool shard_optimizer) {
    size_t learned, block = params_layout(c, &learned), n = size_mul(o->max_batch, accum);
    size_t masters = size_mul(block, k->acc_size);
    size_t compute = k->act_size == k->acc_size ? 0 : size_mul(block, k->act_size);
    size_t activations = clip_activation_bytes(k, c, o);
    size_t loss = loss_bytes(k, ranks, n, c->embed_dim, logit_memory) +
                  4 * size_mul(n, c->embed_dim) * k->acc_size;
    size_t batch =
        size_mul(o->max_batch, 3 * c->image_size * c->image_size + 4 * c->context_length) *
        (accum + 3);
    size_t moments = div_up(2 * masters, shard_optimizer ? (size_t)ranks : 1);
    size_t weights = size_add(2 * masters, moments);
    size_t total =
        size_add(size_add(weights, compute), size_add(activations, size_add(loss, batch)));
    size_t tokens = size_min(16, c->context_length);

    printf("model %s: %zu parameters\n", c->name, learned);
    printf("  image tower: %zu layers, width %zu, %zu heads, %zu tokens of %zux%zu pixels\n",
           c->image.layers, c->image.width, c->image.heads, clip_image_tokens(c), c->patch_size,
           c->patch_size);
    printf("  text tower:  %zu layers, width %zu, %zu heads, context %zu, vocabulary %zu\n",
           c->text.layers, c->text.width, c->text.heads, c->context_length, c->vocab_size);
    printf("global batch: %zu = %zu x %zu accumulated x %d ranks\n", n * (size_t)ranks,
           o->max_batch, accum, ranks);
    printf("forward GFLOP a sample: %.3f with %zu-token captions (all %zu positions computed: "
           "%.3f); a step is 3 times that\n",
           1e-9 * clip_flops(c, tokens, false), tokens, c->context_length,
           1e-9 * clip_flops(c, c->context_length, true));
    printf("memory a rank (%s):\n", k->name);
    line(shard_optimizer ? "weights, gradients, a share of two moments"
                         : "weights, gradients, two moments",
         weights);
    if (compute) line("compute weights", compute);
    line(o->grad_checkpointing ? "activations, checkpointed (at most)"
                               : "activations (at most: captions all full)",
         activations);
    line("loss: features, gathered texts, logits", loss);
    line("batches in flight", batch);
    line("total", total);
}
