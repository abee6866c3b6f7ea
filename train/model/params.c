#include "train/model/params.h"

#include "train/model/fp8.h"

#include "kernels/rng.h"
#include "kernels/hash.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Tensors start at multiples of this: 64 bytes in bf16, 128 in f32, 256 in f64. */
enum { ALIGN = 32, CHUNK = 1 << 18 };
/* Elements of a bucket: large ones use links well, several let communication start early. */
enum { BUCKET_LEAST = 4096, BUCKET_MOST = 25 << 18, BUCKETS = 16 };

/* ---- names and shapes, in open_clip's state-dict order ---- */

static void add(Params *p, const char *prefix, const char *name, int ndim, size_t d0, size_t d1,
                size_t d2, size_t d3) {
    Param *q = &p->list[p->count++];
    int length = snprintf(q->name, sizeof q->name, "%s%s", prefix, name);
    assert(length > 0 && (size_t)length < sizeof q->name);
    q->ndim = ndim;
    q->size = 1;
    q->trainable = true;
    q->lr_scale = 1;
    size_t shape[4] = {d0, d1, d2, d3};
    for (int i = 0; i < ndim; i++) {
        q->shape[i] = shape[i];
        q->size = size_mul(q->size, shape[i]);
    }
}

static void add0(Params *p, const char *name) { add(p, "", name, 0, 0, 0, 0, 0); }
static void add1(Params *p, const char *prefix, const char *name, size_t d0) {
    add(p, prefix, name, 1, d0, 0, 0, 0);
}
static void add2(Params *p, const char *prefix, const char *name, size_t d0, size_t d1) {
    add(p, prefix, name, 2, d0, d1, 0, 0);
}

static void add_blocks(Params *p, const char *prefix, const TowerConfig *t) {
    size_t C = t->width;
    for (size_t i = 0; i < t->layers; i++) {
        char block[64];
        snprintf(block, sizeof block, "%stransformer.resblocks.%zu.", prefix, i);
        add1(p, block, "ln_1.weight", C);
        add1(p, block, "ln_1.bias", C);
        add2(p, block, "attn.in_proj_weight", 3 * C, C);
        add1(p, block, "attn.in_proj_bias", 3 * C);
        add2(p, block, "attn.out_proj.weight", C, C);
        add1(p, block, "attn.out_proj.bias", C);
        add1(p, block, "ln_2.weight", C);
        add1(p, block, "ln_2.bias", C);
        add2(p, block, "mlp.c_fc.weight", t->mlp, C);
        add1(p, block, "mlp.c_fc.bias", t->mlp);
        add2(p, block, "mlp.c_proj.weight", C, t->mlp);
        add1(p, block, "mlp.c_proj.bias", C);
    }
}

static void add_all(Params *p, const ClipConfig *c) {
    size_t d = c->image.width, w = c->text.width, P = c->patch_size;
    p->list = xcalloc(16 + 12 * (c->image.layers + c->text.layers), sizeof *p->list);
    add2(p, "", "positional_embedding", c->context_length, w);
    add2(p, "", "text_projection", w, c->embed_dim);
    add0(p, "logit_scale");
    if (c->has_logit_bias) add0(p, "logit_bias");
    add1(p, "visual.", "class_embedding", d);
    add2(p, "visual.", "positional_embedding", clip_image_tokens(c), d);
    add2(p, "visual.", "proj", d, c->embed_dim);
    add(p, "visual.", "conv1.weight", 4, d, 3, P, P);
    add1(p, "visual.", "ln_pre.weight", d);
    add1(p, "visual.", "ln_pre.bias", d);
    add_blocks(p, "visual.", &c->image);
    add1(p, "visual.", "ln_post.weight", d);
    add1(p, "visual.", "ln_post.bias", d);
    add_blocks(p, "", &c->text);
    add2(p, "", "token_embedding.weight", c->vocab_size, w);
    add1(p, "", "ln_final.weight", w);
    add1(p, "", "ln_final.bias", w);
}

size_t params_register(Params *p, const char *name, size_t rows, size_t cols) {
    p->list = xrealloc(p->list, (p->count + 1) * sizeof *p->list);
    memset(&p->list[p->count], 0, sizeof *p->list);
    add2(p, "", name, rows, cols);
    p->list[p->count - 1].factor = true;
    return p->count - 1;
}

/* ---- the flat block: what learns, then the rest; of each matrices of products, the token
 * embedding, which is read as it is, then the 2-D positional embeddings (whose decay depends on the
 * grouping), then what never decays; so a run of equal settings is one range. Last what LoRA
 * adapts, whose compute weights are never its masters ---- */

enum { MATRICES, TOKENS, POSITIONS, VECTORS, KINDS, ADAPTED = 2 * KINDS, PLACES };

static int place_of(const Param *q) {
    int kind = q->ndim < 2                                  ? VECTORS
               : strstr(q->name, "positional_embedding")    ? POSITIONS
               : !strcmp(q->name, "token_embedding.weight") ? TOKENS
                                                            : MATRICES;
    return q->adapted ? ADAPTED : q->trainable ? kind : KINDS + kind;
}

void params_place(Params *p, size_t shards) {
    assert(!p->size);
    p->shards = shards;
    for (int place = 0; place < PLACES; place++) {
        if (place == KINDS) p->size = p->learning = round_up(p->size, size_mul(ALIGN, shards));
        if (place == ADAPTED) p->rounded = p->k->act_size == p->k->acc_size ? p->size : 0;
        for (size_t i = 0; i < p->count; i++) {
            Param *q = &p->list[i];
            if (place_of(q) != place) continue;
            q->offset = p->size;
            p->size = size_add(p->size, round_up(q->size, ALIGN));
            if (place == KINDS + VECTORS)
                p->longest = size_max(p->longest, round_up(q->size, ALIGN));
        }
        if (place == MATRICES) p->matrices = p->size;
    }
    p->bucket = size_min(BUCKET_MOST, size_max(BUCKET_LEAST, p->learning / BUCKETS));
    p->bucket = round_up(p->bucket, size_mul(ALIGN, shards));
}

static void *take(const Kernels *k, size_t count, size_t elem_size) {
    if (!count) return NULL;
    size_t bytes = size_mul(count, elem_size);
    void *x = k->device->alloc(bytes);
    k->device->zero(x, bytes);
    return x;
}

Params *params_declare(const Kernels *k, const ClipConfig *c, const LoraOptions *lora) {
    Params *p = xcalloc(1, sizeof *p);
    p->k = k;
    add_all(p, c);
    p->tensors = p->count;
    if (lora && lora->rank) p->lora = lora_new(p, lora);
    return p;
}

/* All weights but the masters of what learns, which are taken last: where ranks share them later
 * (shard_masters), what is taken next follows their part. */
static void take_weights(Params *p) {
    p->frozen = take(p->k, p->size - p->learning, p->k->acc_size);
    p->compute = take(p->k, p->size - p->rounded, p->k->act_size);
    if (p->lora) lora_bind(p->lora, p);
}

static void take_masters(Params *p) { p->master = take(p->k, p->learning, p->k->acc_size); }

void params_take(Params *p, const Comm *comm, Moments moments) {
    const Kernels *k = p->k;
    p->comm = comm && comm->size > 1 ? comm : NULL;
    p->moments = moments;
    assert(p->shards == 1 || p->shards == (size_t)p->comm->size);
    take_weights(p);
    p->grad = take(k, p->learning, k->acc_size);
    p->unread = take(k, 2 * p->longest, k->acc_size);
    p->m = take(k, p->learning / p->shards, moment_size(k, moments));
    p->v = take(k, p->learning / p->shards, moment_size(k, moments));
    fp8_start(p);
    take_masters(p);
}

Params *params_new(const Kernels *k, const ClipConfig *c, bool training) {
    Params *p = params_declare(k, c, NULL);
    params_place(p, 1);
    if (training)
        params_take(p, NULL, MOMENTS_FP32);
    else
        take_weights(p), take_masters(p);
    return p;
}

void params_free(Params *p) {
    if (!p) return;
    void *const blocks[] = {p->compute, p->master, p->frozen, p->grad,
                            p->unread,  p->m,      p->v,      p->ema};
    fp8_stop(p);
    for (size_t i = 0; i < COUNT(blocks); i++)
        if (blocks[i]) p->k->device->release(blocks[i]);
    lora_free(p->lora, p);
    free(p->list);
    free(p);
}

Param *params_find(const Params *p, const char *name) {
    for (size_t i = 0; i < p->count; i++)
        if (!strcmp(p->list[i].name, name)) return &p->list[i];
    return NULL;
}

Param *params_describe(const ClipConfig *c, size_t *count) {
    Params p = {0};
    add_all(&p, c);
    *count = p.count;
    return p.list;
}

size_t params_learned(const Params *p) {
    size_t n = 0;
    for (size_t i = 0; i < p->tensors; i++) n += p->list[i].size;
    return n;
}

void params_round(Params *p) {
    assert(!p->split);
    if (params_are_rounded(p)) {
        p->k->act_from_acc(p->compute, p->master, p->learning);
        p->k->act_from_acc(act_at(p->k, p->compute, p->learning), p->frozen, p->size - p->learning);
    }
    if (p->lora) lora_merge(p);
}

void params_broadcast(Params *p) {
    p->comm->broadcast(p->master, p->learning, 0);
    if (p->frozen) p->comm->broadcast(p->frozen, p->size - p->learning, 0);
}

void params_track(Params *p, double decay) {
    p->ema_decay = decay;
    size_t bytes = size_mul(p->learning, p->k->acc_size);
    if (!p->ema) p->ema = p->k->device->alloc(bytes);
    p->k->device->copy(p->ema, p->master, bytes);
}

/* ---- initial values ---- */

typedef struct Init {
    enum { INIT_CONSTANT, INIT_UNIFORM, INIT_NORMAL } kind;
    double value; /* the constant, the bound a of U(±a), the standard deviation */
} Init;

static Init uniform(double square) { return (Init){INIT_UNIFORM, sqrt(square)}; }
static Init normal(double variance) { return (Init){INIT_NORMAL, sqrt(variance)}; }
static Init constant(double value) { return (Init){INIT_CONSTANT, value}; }

static Init init_block(const char *name, const TowerConfig *t, bool image) {
    double d = (double)t->width, h = (double)t->mlp, L = (double)t->layers;
    if (!strcmp(name, "attn.in_proj_weight")) return image ? uniform(6 / (4 * d)) : normal(1 / d);
    if (!strcmp(name, "attn.out_proj.weight"))
        return image ? uniform(1 / d) : normal(1 / (d * 2 * L));
    if (!strcmp(name, "mlp.c_fc.weight")) return image ? uniform(1 / d) : normal(1 / (2 * d));
    if (!strcmp(name, "mlp.c_proj.weight")) return image ? uniform(1 / h) : normal(1 / (d * 2 * L));
    if (!strcmp(name, "mlp.c_fc.bias")) return uniform(1 / d);
    if (!strcmp(name, "mlp.c_proj.bias")) return uniform(1 / h);
    assert(!strncmp(name, "ln_", 3) || strstr(name, ".in_proj_bias") ||
           strstr(name, ".out_proj.bias"));
    return constant(strstr(name, "weight") ? 1 : 0);
}

static Init init_of(const Param *q, const ClipConfig *c) {
    const char *name = q->name, *block;
    double d = (double)c->image.width, w = (double)c->text.width;
    bool image = !strncmp(name, "visual.", 7);
    if (q->factor) /* as PyTorch's linear layer, and so that B·A starts at 0 */
        return strncmp(name, "lora_a.", 7) ? constant(0) : uniform(1 / (double)q->shape[1]);
    if (image) name += 7;
    if ((block = strstr(name, "resblocks.")))
        return init_block(strchr(block + 10, '.') + 1, image ? &c->image : &c->text, image);
    if (!strncmp(name, "ln_", 3)) return constant(strstr(name, "weight") ? 1 : 0);
    if (!strcmp(name, "logit_scale")) return constant(c->init_logit_scale);
    if (!strcmp(name, "logit_bias")) return constant(c->init_logit_bias);
    if (!strcmp(name, "conv1.weight"))
        return uniform(1 / (3 * (double)c->patch_size * (double)c->patch_size));
    if (!strcmp(name, "token_embedding.weight")) return normal(0.02 * 0.02);
    if (!image && !strcmp(name, "positional_embedding")) return normal(0.01 * 0.01);
    return normal(1 / (image ? d : w));
}

/* A tensor's draws depend on its name, not on its place in the list. */
static uint64_t name_hash(const char *s) { return fnv_hash(FNV_START, s, strlen(s)); }

void params_init(Params *p, const ClipConfig *c, uint64_t seed) {
    double *values = xmalloc(CHUNK * sizeof *values);
    for (size_t i = 0; i < p->count; i++) {
        const Param *q = &p->list[i];
        Init init = init_of(q, c);
        uint64_t key = rng_mix(seed, name_hash(q->name));
        for (size_t first = 0; first < q->size; first += CHUNK) {
            size_t n = size_min(CHUNK, q->size - first);
#pragma omp parallel for schedule(static)
            for (size_t j = 0; j < n; j++) {
                if (init.kind == INIT_UNIFORM)
                    values[j] = init.value * (2 * rng_uniform(key, RNG_INIT, first + j) - 1);
                else if (init.kind == INIT_NORMAL)
                    values[j] = init.value * rng_normal(key, RNG_INIT, first + j);
                else
                    values[j] = init.value;
            }
            p->k->acc_set(acc_at(p->k, param_acc(p, q), first), values, n);
        }
    }
    free(values);
    params_round(p);
}
