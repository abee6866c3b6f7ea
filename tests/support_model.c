#include "tests/support_model.h"
#include "tests/support_kernels.h"
#include "kernels/rng.h"
#include "tests/support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static ClipConfig config_of(size_t embed, size_t image, size_t patch, TowerConfig vision,
                            size_t context, size_t vocab, TowerConfig text) {
    ClipConfig c = {.name = "test",
                    .embed_dim = embed,
                    .image = vision,
                    .text = text,
                    .image_size = image,
                    .patch_size = patch,
                    .context_length = context,
                    .vocab_size = vocab,
                    .init_logit_scale = log(1 / 0.07),
                    .has_logit_bias = false};
    for (int i = 0; i < 3; i++) {
        c.eval_transform.mean[i] = 0.4f + 0.02f * (float)i;
        c.eval_transform.std[i] = 0.27f;
    }
    return c;
}

ClipConfig golden_config(void) {
    return config_of(32, 32, 8, clip_image_tower(64, 2, 2, 256), 16, 64,
                     clip_text_tower(64, 2, 2, 256));
}

ClipConfig odd_config(void) {
    return config_of(29, 21, 7, clip_image_tower(160, 3, 2, 335), 13, 37,
                     clip_text_tower(72, 2, 3, 190));
}

ClipConfig tiny_config(void) {
    ClipConfig c = odd_config();
    c.image = clip_image_tower(24, 2, 2, 40);
    c.text = clip_text_tower(18, 2, 3, 31);
    c.image_size = 12;
    c.patch_size = 4;
    c.embed_dim = 7;
    return c;
}

double golden_value(uint32_t k, uint32_t i) {
    uint32_t h = i * 2654435761u ^ (k + 1) * 2246822519u;
    h ^= h >> 15;
    h *= 2246822519u;
    h ^= h >> 13;
    h *= 3266489917u;
    h ^= h >> 16;
    return (double)h / 4294967296.0 * 2 - 1;
}

static bool is_norm_weight(const char *name) {
    const char *dot = strrchr(name, '.');
    if (!dot || strcmp(dot, ".weight")) return false;
    const char *layer = strstr(name, "ln_");
    return layer && (layer == name || layer[-1] == '.');
}

/* Weights of norms and running variances are around 1. */
static bool is_about_one(const Param *q) {
    return is_norm_weight(q->name) || (param_is_batch_norm(q) && !q->bias) ||
           (param_is_statistic(q) && q->bias);
}

static void fill(Params *p, const ClipConfig *c) {
    uint32_t number = 0;
    for (size_t t = 0; t < p->count; t++) {
        const Param *q = &p->list[t];
        double *v = xmalloc(q->size * sizeof *v);
        if (!strcmp(q->name, "logit_scale")) {
            v[0] = c->init_logit_scale;
        } else if (!strcmp(q->name, "logit_bias")) {
            v[0] = c->init_logit_bias;
        } else {
            for (size_t i = 0; i < q->size; i++)
                v[i] = (double)(float)((is_about_one(q) ? 1 : 0) +
                                       0.1 * golden_value(number, (uint32_t)i + 1));
            number++;
        }
        if (q->no_key) memset(v + q->size / 3, 0, q->size / 3 * sizeof *v);
        p->k->acc_set(param_acc(p, q), v, q->size);
        free(v);
    }
    params_round(p);
}

/* ---- batches ---- */

TestBatch golden_batch(uint32_t i) {
    static const int32_t ids[] = {62, 5,  9,  63, 62, 17, 3, 40, 22, 63, 62, 1,  8,  15,
                                  22, 29, 36, 43, 50, 57, 4, 11, 18, 25, 32, 63, 62, 63};
    static const int32_t start[] = {0, 4, 10, 26, 28};
    size_t values = (size_t)4 * 3 * 32 * 32;
    TestBatch b = {.B = 4};
    b.f32 = xmalloc(values * sizeof *b.f32);
    for (size_t j = 0; j < values; j++) b.f32[j] = (float)golden_value(1000 + i, (uint32_t)j + 1);
    b.ids = memcpy(xmalloc(sizeof ids), ids, sizeof ids);
    b.start = memcpy(xmalloc(sizeof start), start, sizeof start);
    return b;
}

TestBatch random_batch(const ClipConfig *c, size_t B, uint64_t seed) {
    size_t S = c->image_size, values = B * S * S * 3, context = c->context_length;
    TestBatch b = {.B = B};
    b.u8 = xmalloc(values);
    b.f32 = xmalloc(values * sizeof *b.f32);
    for (size_t i = 0; i < values; i++) b.u8[i] = (uint8_t)rng_below(seed, RNG_TEST, i, 256);
    for (size_t i = 0; i < B; i++)
        for (size_t ch = 0; ch < 3; ch++)
            for (size_t at = 0; at < S * S; at++)
                b.f32[(i * 3 + ch) * S * S + at] =
                    ((float)b.u8[(i * S * S + at) * 3 + ch] / 255 - c->eval_transform.mean[ch]) /
                    c->eval_transform.std[ch];
    b.ids = xmalloc(B * context * sizeof *b.ids);
    b.start = xcalloc(B + 1, sizeof *b.start);
    b.sample = xmalloc(B * sizeof *b.sample);
    for (size_t i = 0; i < B; i++) {
        uint64_t s = rng_mix(seed, i);
        int32_t n = i ? 1 + (int32_t)rng_below(s, RNG_TEST, 0, context) : (int32_t)context;
        b.start[i + 1] = b.start[i] + n;
        int32_t *caption = b.ids + b.start[i], *end = caption + n - 1;
        for (int32_t j = 0; j < n; j++)
            caption[j] = (int32_t)rng_below(s, RNG_TEST, (uint64_t)j + 1, c->vocab_size);
        for (int32_t *at = caption; at < end; at++) *end = *at > *end ? *at : *end;
        if (!*end) *end = 1;
        for (int32_t *at = caption; at < end; at++)
            if (*at == *end) *at = 0;
        b.sample[i] = 1000 + i;
    }
    return b;
}

void batch_free(TestBatch *b) {
    free(b->f32);
    free(b->u8);
    free(b->ids);
    free(b->start);
    free(b->sample);
    free(b->shape);
}

/* ---- models ---- */

static bool none(const char *name) {
    (void)name;
    return false;
}
static bool of_image(const char *name) { return !strncmp(name, "visual.", 7); }
static bool of_text(const char *name) { return !of_image(name); }
static bool any(const char *name) {
    (void)name;
    return true;
}

Param *param_named(const Params *p, const char *name) {
    for (size_t i = 0; i < p->count; i++)
        if (!strcmp(p->list[i].name, name)) return &p->list[i];
    return NULL;
}

TestModel model_new(const Kernels *k, const ClipConfig *c, const ClipOptions *o, LossKind kind) {
    return model_new_frozen(k, c, o, kind,
                            o->frozen_image && o->frozen_text ? any
                            : o->frozen_image                 ? of_image
                            : o->frozen_text                  ? of_text
                                                              : none);
}

TestModel model_new_frozen(const Kernels *k, const ClipConfig *c, const ClipOptions *o,
                           LossKind kind, bool (*frozen)(const char *name)) {
    Kernels *table = memcpy(xmalloc(sizeof *table), k, sizeof *table);
    k = table;
    TestModel m = {.k = k, .table = table, .config = *c, .kind = kind, .B = o->max_batch};
    size_t features = m.B * c->embed_dim * k->acc_size;
    m.p = params_declare(k, c);
    for (size_t i = 0; i < m.p->count; i++) {
        Param *q = &m.p->list[i];
        q->trainable =
            !strncmp(q->name, "logit_", 6) || (!frozen(q->name) && !param_is_statistic(q));
    }
    params_layout(m.p, 1);
    m.state = optim_state_new(m.p, NULL, 1, MOMENTS_FP32);
    fill(m.p, c);
    m.clip = clip_new(k, c, m.p, o);
    m.loss = loss_new(k, comm_self(k), kind, m.B, c->embed_dim, 1 << 20);
    m.images = k->device->alloc(features);
    m.texts = k->device->alloc(features);
    m.dimages = k->device->alloc(features);
    m.dtexts = k->device->alloc(features);
    m.value = k->device->alloc(k->acc_size);
    return m;
}

OptimState *state_new(const Kernels *k, const ClipConfig *c, const LoraOptions *lora) {
    Params *p = params_declare(k, c);
    if (lora) lora_declare(p, lora);
    params_layout(p, 1);
    return optim_state_new(p, NULL, 1, MOMENTS_FP32);
}

void state_free(OptimState *s) {
    Params *p = s->p;
    optim_state_free(s);
    params_free(p);
}

void model_free(TestModel *m) {
    clip_free(m->clip);
    loss_free(m->loss);
    state_free(m->state);
    m->k->device->release(m->images);
    m->k->device->release(m->texts);
    m->k->device->release(m->dimages);
    m->k->device->release(m->dtexts);
    m->k->device->release(m->value);
    free(m->table);
}

/* Replaces patches_u8 if pixels are floats. */
static struct {
    const Kernels *k;
    const float *pixels; /* [B,3,S,S], normalised */
} floats;
static void patches_of_floats(act *patches, const uint8_t *pixels, const int32_t *keep,
                              const float mean[3], const float std[3], size_t B, size_t S, size_t P,
                              size_t n) {
    (void)pixels, (void)mean, (void)std;
    size_t rows = B * n, at = 0;
    double *host = xmalloc(rows * 3 * P * P * sizeof *host);
    int32_t *kept = xmalloc(rows * sizeof *kept);
    for (size_t i = 0; i < rows; i++) kept[i] = (int32_t)(i % n);
    if (keep) floats.k->device->download(kept, keep, rows * sizeof *kept);
    for (size_t i = 0; i < rows; i++) {
        size_t top = (size_t)kept[i] / (S / P) * P, left = (size_t)kept[i] % (S / P) * P;
        for (size_t c = 0; c < 3; c++)
            for (size_t y = top; y < top + P; y++)
                for (size_t x = left; x < left + P; x++)
                    host[at++] = (double)floats.pixels[((i / n * 3 + c) * S + y) * S + x];
    }
    test_act_set(floats.k, patches, host, at);
    free(host);
    free(kept);
}

void model_forward(TestModel *m, const Batch *b, bool keep, ChangeBatch *change) {
    Uploads *f = uploads_new(m->k, m->clip, 1);
    uploads_stage(f, 0, 0, b);
    const ClipBatch *sent = uploads_send(f, 0, 0, true, true);
    if (change) sent = change(m, sent);
    clip_image_fwd(m->clip, m->images, sent, keep);
    clip_text_fwd(m->clip, m->texts, sent, keep);
    m->k->device->sync();
    uploads_free(f);
}

static void forward(TestModel *m, const TestBatch *b, RunHow how, bool keep) {
    Batch batch = {.size = b->B,
                   .pixels = how.u8 ? b->u8 : (uint8_t *)b->f32,
                   .ids = b->ids,
                   .start = b->start,
                   .pad = b->pad,
                   .shape = b->shape,
                   .sample = how.dropout ? b->sample : NULL,
                   .epoch = how.draw};
    Kernels table = *m->k;
    floats.k = m->k, floats.pixels = b->f32;
    if (!how.u8) m->table->patches_u8 = patches_of_floats;
    model_forward(m, &batch, keep, NULL);
    *m->table = table;
}

static double run_loss(TestModel *m, size_t B, bool gradients) {
    const Params *p = m->p;
    const Param *scale = param_named(p, "logit_scale"), *bias = param_named(p, "logit_bias");
    double loss;
    loss_run(m->loss, m->value, gradients ? m->dimages : NULL, gradients ? m->dtexts : NULL,
             gradients ? param_grad(p, scale) : NULL,
             gradients && bias ? param_grad(p, bias) : NULL, m->images, m->texts,
             param_acc(p, scale), bias ? param_acc(p, bias) : NULL, B);
    m->k->device->sync();
    m->k->acc_get(&loss, m->value, 1);
    return loss;
}

double model_gradients(TestModel *m, const TestBatch *b, RunHow how) {
    m->k->device->zero(m->p->grad, m->p->learning * m->k->acc_size);
    forward(m, b, how, true);
    double loss = run_loss(m, b->B, true);
    clip_text_bwd(m->clip, m->dtexts, b->B, NULL);
    clip_image_bwd(m->clip, m->dimages, b->B);
    m->k->device->sync();
    return loss;
}

double model_loss(TestModel *m, const TestBatch *b, RunHow how) {
    forward(m, b, how, false);
    return run_loss(m, b->B, false);
}

double *host_copy(const Kernels *k, const acc *x, size_t n) {
    double *v = xmalloc(n * sizeof *v);
    k->device->sync();
    k->acc_get(v, x, n);
    return v;
}

double *model_grad(const TestModel *m, const char *name) {
    const Param *q = param_named(m->p, name);
    assert(q);
    return host_copy(m->k, param_grad(m->p, q), q->size);
}

double l2(const double *a, size_t n) {
    double s = 0;
    for (size_t i = 0; i < n; i++) s += a[i] * a[i];
    return sqrt(s);
}

double worst_gradient(const TestModel *a, const TestModel *b, const char **where) {
    double worst = -1;
    assert(a->p->count == b->p->count);
    for (size_t i = 0; i < a->p->count; i++) {
        const char *name = a->p->list[i].name;
        assert(a->p->list[i].trainable == b->p->list[i].trainable);
        if (!a->p->list[i].trainable) continue;
        double *x = model_grad(a, name), *y = model_grad(b, name);
        double e = test_error_l2(x, y, a->p->list[i].size);
        if (!(e <= worst)) {
            worst = e;
            *where = name;
        }
        free(x);
        free(y);
    }
    return worst;
}

double step_optim(const Kernels *k, Optim *o, double lr, uint64_t t) {
    double squares;
    optim_set(o, lr, t);
    optim_update(o);
    k->device->sync();
    k->acc_get(&squares, optim_squares(o), 1);
    return sqrt(squares);
}

void assert_models_agree(TestModel *a, TestModel *b, const TestBatch *batch, RunHow how_a,
                         RunHow how_b, double tolerance) {
    double x = model_gradients(a, batch, how_a), y = model_gradients(b, batch, how_b);
    const char *where = "";
    double worst = worst_gradient(a, b, &where);
    if (!(fabs(x - y) <= tolerance * fabs(y))) fail_msg("%s: loss %.17g, %.17g", a->k->name, x, y);
    if (!(worst <= tolerance)) fail_msg("%s: gradient of %s: %.3g", a->k->name, where, worst);
}

const Kernels *model_backend(size_t i) {
    static const struct {
        const char *name;
        Precision precision;
    } all[] = {
        {"ref", PRECISION_FP32}, {TEST_DEVICE, PRECISION_FP32}, {TEST_DEVICE, PRECISION_AMP_BF16}};
    return i < COUNT(all) ? kernels_open(all[i].name, all[i].precision) : NULL;
}

/* ---- a small model from JSON ---- */

OptimState *small_state(const Kernels *k, ClipConfig *c, size_t g, size_t n, bool biases) {
    char json[512];
    snprintf(json, sizeof json,
             "{\"embed_dim\": 6, %s\"vision_cfg\": {\"image_size\": %zu, \"layers\": 1, \"width\": "
             "4, \"head_width\": 4, \"patch_size\": 2}, \"text_cfg\": {%s\"context_length\": %zu, "
             "\"vocab_size\": 11, \"width\": 4, \"heads\": 1, \"layers\": 1}}",
             biases ? "\"init_logit_bias\": -10, " : "", 2 * g,
             biases ? "\"proj_bias\": true, " : "", n);
    Error err;
    if (!clip_config_parse(c, "small-vit", json, strlen(json), &err)) fail_msg("%s", err.text);
    return state_new(k, c, NULL);
}

void small_end(OptimState *o, ClipConfig *c) {
    state_free(o);
    clip_config_free(c);
}

float *param_floats(const Params *p, const acc *block, const char *name) {
    const Param *q = param_named(p, name);
    float *x = malloc(q->size * sizeof *x);
    p->k->acc_get_f32(x, acc_at(p->k, block, q->offset), q->size);
    return x;
}
