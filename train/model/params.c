#include "train/model/params.h"

#include "train/model/params_resnet.h"

#include "kernels/rng.h"
#include "kernels/hash.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK = 1 << 18 };

/* ---- the tensors, in open_clip's state-dict order ---- */

size_t params_add(Params *p, const Param *q) {
    p->list = xrealloc(p->list, (p->count + 1) * sizeof *p->list);
    Param *new = &p->list[p->count];
    *new = *q;
    new->size = 1;
    for (int i = 0; i < q->ndim; i++) new->size = size_mul(new->size, q->shape[i]);
    new->trainable = !param_is_statistic(q);
    new->lr_scale = 1;
    if (!new->stacked) new->stacked = q->role == ROLE_IN_PROJ ? 3 : 1;
    return p->count++;
}

/* The position of the next tensors in the model, and the prefix of their names. */
typedef struct Part {
    ParamTower tower;
    size_t layer;
    const char *prefix;
} Part;

static ParamInit uniform(double square) { return (ParamInit){INIT_UNIFORM, sqrt(square)}; }
static ParamInit normal(double variance) { return (ParamInit){INIT_NORMAL, sqrt(variance)}; }
static ParamInit constant(double value) { return (ParamInit){INIT_CONSTANT, value}; }

static void add(Params *p, const Part *at, Param q, const char *name, const char *end) {
    int length = snprintf(q.name, sizeof q.name, "%s%s%s", at->prefix, name, end);
    assert(length > 0 && (size_t)length < sizeof q.name);
    q.tower = at->tower;
    q.layer = at->layer;
    params_add(p, &q);
}

static void add_scalar(Params *p, ParamRole role, const char *name, double value) {
    add(p, &(Part){TOWER_NONE, 0, ""}, (Param){.role = role, .init = constant(value)}, name, "");
}

static void add_vector(Params *p, const Part *at, ParamRole role, const char *name, ParamInit init,
                       size_t n) {
    add(p, at, (Param){.role = role, .init = init, .ndim = 1, .shape = {n}}, name, "");
}

static void add_matrix(Params *p, const Part *at, ParamRole role, const char *name, ParamInit init,
                       size_t rows, size_t cols) {
    add(p, at, (Param){.role = role, .init = init, .ndim = 2, .shape = {rows, cols}}, name, "");
}

/* Weight and bias of a layer that maps rows of n_in elements to rows of n_out; of a LayerNorm of
 * n_out, n_in is 0. */
static void add_layer(Params *p, const Part *at, ParamRole role, const char *name, size_t n_out,
                      size_t n_in, ParamInit weight, ParamInit bias) {
    Param w = {.role = role, .init = weight, .ndim = n_in ? 2 : 1, .shape = {n_out, n_in}};
    Param b = {.role = role, .bias = true, .init = bias, .ndim = 1, .shape = {n_out}};
    add(p, at, w, name, "weight");
    add(p, at, b, name, "bias");
}

static void add_norm(Params *p, const Part *at, ParamRole role, const char *name, size_t C) {
    add_layer(p, at, role, name, C, 0, constant(1), constant(0));
}

/* The tensors of a block except ln_1, with PyTorch's initial values of a ViT or CLIP's of a text
 * tower; L: blocks of the tower. */
static void add_block(Params *p, const Part *at, const TowerConfig *t) {
    size_t C = t->width;
    double d = (double)C, h = (double)t->mlp, L = (double)t->layers;
    bool image = at->tower == TOWER_IMAGE;
    add_layer(p, at, ROLE_IN_PROJ, "attn.in_proj_", 3 * C, C,
              image ? uniform(6 / (4 * d)) : normal(1 / d), constant(0));
    p->list[p->count - 1].no_key = t->no_key_bias;
    if (t->ln_inner) add_norm(p, at, ROLE_LN_INNER, "attn.ln_inner.", C);
    add_layer(p, at, ROLE_OUT_PROJ, "attn.out_proj.", C, C,
              image ? uniform(1 / d) : normal(1 / (d * 2 * L)), constant(0));
    add_norm(p, at, ROLE_LN_2, "ln_2.", C);
    add_layer(p, at, ROLE_C_FC, "mlp.c_fc.", (t->gated ? 2 : 1) * t->mlp, C,
              image ? uniform(1 / d) : normal(1 / (2 * d)), uniform(1 / d));
    for (size_t i = p->count - 2; t->gated && i < p->count; i++) p->list[i].stacked = 2;
    if (t->ln_mlp) add_norm(p, at, ROLE_LN_MLP, "mlp.ln_inner.", t->mlp);
    add_layer(p, at, ROLE_C_PROJ, "mlp.c_proj.", C, t->mlp,
              image ? uniform(1 / h) : normal(1 / (d * 2 * L)), uniform(1 / h));
}

static void add_blocks(Params *p, ParamTower tower, const char *prefix, const TowerConfig *t) {
    for (size_t i = 0; i < t->layers; i++) {
        char block[64];
        snprintf(block, sizeof block, "%stransformer.resblocks.%zu.", prefix, i);
        Part at = {tower, i + 1, block};
        add_norm(p, &at, ROLE_LN_1, "ln_1.", t->width);
        add_block(p, &at, t);
    }
}

static void add_patches(Params *p, const Part *at, const TowerConfig *t, size_t P) {
    ParamInit init = uniform(1 / (3 * (double)P * (double)P));
    Param conv1 = {.role = ROLE_PATCHES, .init = init, .ndim = 4, .shape = {t->width, 3, P, P}};
    add(p, at, conv1, "conv1.weight", "");
    Param bias = {.role = ROLE_PATCHES, .bias = true, .init = init, .ndim = 1, .shape = {t->width}};
    if (t->patch_bias) add(p, at, bias, "conv1.bias", "");
}

static void add_image_tower(Params *p, const ClipConfig *c) {
    if (c->image.conv.kind) {
        params_add_resnet(p, c);
        return;
    }
    size_t d = c->image.width, layers = c->image.layers;
    Part embeddings = {TOWER_IMAGE, 0, "visual."}, last = {TOWER_IMAGE, layers, "visual."},
         top = {TOWER_IMAGE, layers + 1, "visual."};
    ParamInit init = normal(1 / (double)d);
    if (c->image.class_token) add_vector(p, &embeddings, ROLE_CLASS, "class_embedding", init, d);
    add_matrix(p, &embeddings, ROLE_POSITIONS, "positional_embedding", init,
               clip_image_tokens(c) - c->image.no_class_position, d);
    if (c->image.proj_bias)
        add_layer(p, &top, ROLE_PROJECTION, "proj.", c->embed_dim, d, init, constant(0));
    else if (!c->image.no_proj)
        add_matrix(p, &top, ROLE_PROJECTION, "proj", init, d, c->embed_dim);
    if (c->image.stem)
        params_add_stem(p, &c->image);
    else
        add_patches(p, &embeddings, &c->image, c->patch_size);
    if (c->image.ln_pre) add_norm(p, &embeddings, ROLE_LN_PRE, "ln_pre.", d);
    add_blocks(p, TOWER_IMAGE, "visual.", &c->image);
    add_norm(p, &last, ROLE_LN_FINAL, "ln_post.", d);
    if (c->image.pool != POOL_ATTENTION) return;
    Part pool = {TOWER_IMAGE, layers + 1, "visual.attn_pool."};
    add_matrix(p, &pool, ROLE_PROBE, "probe", init, 1, d);
    TowerConfig block = tower_pool_block(&c->image);
    add_block(p, &pool, &block);
}

/* open_clip's text tower is the model itself, and a module's tensors precede those of its
 * submodules: so these come first, and the rest follows the image tower. */
static void add_text_parameters(Params *p, const ClipConfig *c) {
    size_t w = c->text.width;
    Part embeddings = {TOWER_TEXT, 0, ""}, top = {TOWER_TEXT, c->text.layers + 1, ""};
    add_matrix(p, &embeddings, ROLE_POSITIONS, "positional_embedding", normal(0.01 * 0.01),
               c->context_length, w);
    p->list[p->count - 1].kept = c->kept_positions;
    if (!c->text.proj_bias && !c->text.no_proj)
        add_matrix(p, &top, ROLE_PROJECTION, "text_projection", normal(1 / (double)w), w,
                   c->embed_dim);
}

static void add_text_modules(Params *p, const ClipConfig *c) {
    size_t w = c->text.width;
    Part embeddings = {TOWER_TEXT, 0, ""}, last = {TOWER_TEXT, c->text.layers, ""},
         top = {TOWER_TEXT, c->text.layers + 1, ""};
    add_blocks(p, TOWER_TEXT, "", &c->text);
    add_matrix(p, &embeddings, ROLE_TOKENS, "token_embedding.weight", normal(0.02 * 0.02),
               c->vocab_size, w);
    add_norm(p, &last, ROLE_LN_FINAL, "ln_final.", w);
    if (c->text.proj_bias)
        add_layer(p, &top, ROLE_PROJECTION, "text_projection.", c->embed_dim, w,
                  normal(1 / (double)w), constant(0));
}

static void add_all(Params *p, const ClipConfig *c) {
    add_text_parameters(p, c);
    add_scalar(p, ROLE_LOGIT_SCALE, "logit_scale", c->init_logit_scale);
    if (c->has_logit_bias) add_scalar(p, ROLE_LOGIT_BIAS, "logit_bias", c->init_logit_bias);
    add_image_tower(p, c);
    add_text_modules(p, c);
}

/* ---- the flat block: trainable tensors, then frozen ones. In each part: matrices of products, the
 * token embedding, which is read from masters, the 2-D positional embeddings (whose decay depends
 * on the grouping), then tensors that never decay; so tensors with equal settings form one range.
 * Running statistics follow, and tensors adapted by LoRA, whose compute weights are never their
 * masters, come last ---- */

enum { MATRICES, TOKENS, POSITIONS, VECTORS, KINDS, STATISTICS = 2 * KINDS, ADAPTED, PLACES };

static int place_of(const Param *q) {
    int kind = q->ndim < 2                 ? VECTORS
               : q->role == ROLE_POSITIONS ? POSITIONS
               : q->role == ROLE_TOKENS    ? TOKENS
                                           : MATRICES;
    if (param_is_statistic(q)) return STATISTICS;
    return q->adapted ? ADAPTED : q->trainable ? kind : KINDS + kind;
}

void params_layout(Params *p, size_t shards) {
    assert(!p->size);
    for (int place = 0; place < PLACES; place++) {
        if (place == KINDS)
            p->size = p->learning = round_up(p->size, size_mul(PARAM_ALIGN, shards));
        if (place == ADAPTED) p->rounded = p->k->act_size == p->k->acc_size ? p->size : 0;
        for (size_t i = 0; i < p->count; i++) {
            Param *q = &p->list[i];
            if (place_of(q) != place || param_is_absent(p, q)) continue;
            q->offset = p->size;
            p->size = size_add(p->size, round_up(q->size, PARAM_ALIGN));
            if (place == KINDS + VECTORS)
                p->longest = size_max(p->longest, round_up(q->size, PARAM_ALIGN));
        }
        if (place == MATRICES) p->matrices = p->size;
        if (place + 1 == STATISTICS) p->statistics = p->size;
        if (place == STATISTICS) p->statistics_size = p->size - p->statistics;
    }
}

Params *params_declare(const Kernels *k, const ClipConfig *c) {
    Params *p = xcalloc(1, sizeof *p);
    p->k = k;
    add_all(p, c);
    p->tensors = p->count;
    return p;
}

void *params_block(const Params *p, size_t count, size_t elem_size) {
    if (!count) return NULL;
    size_t bytes = size_mul(count, elem_size);
    void *x = p->k->device->alloc(bytes);
    p->k->device->zero(x, bytes);
    return x;
}

void params_alloc(Params *p) {
    p->frozen = params_block(p, p->size - p->learning, p->k->acc_size);
    p->compute = params_block(p, p->size - p->rounded, p->k->act_size);
}

void params_alloc_masters(Params *p) { p->master = params_block(p, p->learning, p->k->acc_size); }

Params *params_new(const Kernels *k, const ClipConfig *c) {
    return params_new_of(k, c, TOWER_NONE);
}

Params *params_new_of(const Kernels *k, const ClipConfig *c, ParamTower only) {
    Params *p = params_declare(k, c);
    p->only = only;
    params_layout(p, 1);
    params_alloc(p);
    params_alloc_masters(p);
    return p;
}

void params_free(Params *p) {
    if (!p) return;
    void *const blocks[] = {p->compute, p->master, p->frozen};
    for (size_t i = 0; i < COUNT(blocks); i++)
        if (blocks[i]) p->k->device->release(blocks[i]);
    FREE_ALL(p->lora, p->list, p);
}

const Param *params_at(const Params *p, ParamTower tower, size_t layer, ParamRole role, bool bias) {
    for (size_t i = 0; i < p->tensors; i++) {
        const Param *q = &p->list[i];
        if (q->tower == tower && q->layer == layer && q->role == role && q->bias == bias) return q;
    }
    return NULL;
}

Param *params_describe(const ClipConfig *c, size_t *count) {
    Params p = {0};
    add_all(&p, c);
    *count = p.count;
    return p.list;
}

size_t params_elements(const Params *p) {
    size_t n = 0;
    for (size_t i = 0; i < p->tensors; i++)
        n += p->list[i].no_key ? p->list[i].size / 3 * 2 : p->list[i].size;
    return n;
}

void params_round(Params *p) {
    assert(!p->master_first);
    if (params_are_rounded(p)) {
        p->k->act_from_acc(p->compute, p->master, p->learning);
        p->k->act_from_acc(act_at(p->k, p->compute, p->learning), p->frozen, p->size - p->learning);
    }
}

/* ---- initial values ---- */

/* A tensor's draws depend on its name, not on its index in the list. */
static uint64_t name_hash(const char *s) { return fnv_hash(FNV_START, s, strlen(s)); }

void params_init(Params *p, uint64_t seed) {
    double *values = xmalloc(CHUNK * sizeof *values);
    for (size_t i = 0; i < p->count; i++) {
        const Param *q = &p->list[i];
        ParamInit init = q->init;
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
