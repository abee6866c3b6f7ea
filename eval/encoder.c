#include "eval/encoder.h"

#include "data/image/augment.h"
#include "data/text/tokenizer.h"
#include "data/io/crc32c.h"
#include "data/io/progress.h"
#include "train/model/pretrained.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct Encoder {
    const Kernels *k;
    bool borrowed; /* config, params, uploads and tokenizer belong to the caller */
    ClipConfig config;
    Params *params;
    Weights weights; /* with one tower open: the other one's are read for the identity */
    Clip *clip;      /* NULL if borrowed */
    Uploads *uploads;
    char *checkpoint, *vocab;        /* of the options; vocab may be NULL */
    char identity[17], checksum[17]; /* identity "": not computed yet */
    const Tokenizer *tokenizer;      /* NULL before the first caption */
    TokenizerCache *cache;
    size_t batch;
    acc *features;   /* device [batch,E] */
    acc *rows;       /* device [batch,T,C] of the image tower; NULL: features are wanted */
    int32_t *shapes; /* [2,batch,2] of pictures of their own sizes, or NULL */
    size_t picture;  /* bytes of a picture's pixels, or the most */
    uint8_t *pixels; /* for two batches: one is decoded while a GPU computes the other */
    int32_t *ids, *start;
    int threads;
    Image *image;               /* [threads] */
    TransformScratch **scratch; /* [threads] */
};

/* ---- identity ---- */

enum { HASHED_FLOATS = 1 << 16 };

/* Checksum of all weights that features depend on. */
static uint32_t weights_crc(const Encoder *e) {
    uint32_t crc = 0;
    float *host = xmalloc(HASHED_FLOATS * sizeof *host);
    for (size_t i = 0; i < e->params->count; i++) {
        const Param *p = &e->params->list[i];
        if (!p->tower || (param_is_absent(e->params, p) && !e->weights.list[i].count)) continue;
        crc = crc32c(crc, p->name, strlen(p->name));
        for (size_t at = 0; at < p->size; at += HASHED_FLOATS) {
            size_t n = size_min(HASHED_FLOATS, p->size - at);
            if (param_is_absent(e->params, p))
                weight_read(&e->weights.list[i], at, n, host);
            else
                e->k->acc_get_f32(host, acc_at(e->k, param_acc(e->params, p), at), n);
            crc = crc32c(crc, host, n * sizeof *host);
        }
        if (e->params->only) tensorfile_drop(&e->weights.file);
    }
    free(host);
    return crc;
}

static char *tower_form(const TowerConfig *t) {
    char more[32] = "";
    if (t->pool == POOL_ATTENTION) snprintf(more, sizeof more, " %zu", t->pool_heads);
    if (t->pool == POOL_ID) snprintf(more, sizeof more, " %d", t->pool_id);
    const Rotary *r = &t->rotary;
    char rotary[112] = "";
    if (r->theta > 0)
        snprintf(rotary, sizeof rotary, " %a %a %a %d", r->theta, r->offset, r->reference,
                 r->x_first);
    return xasprintf("%d %a %d %d %d %d %d %d%s%s", t->activation, t->eps, t->causal,
                     t->class_token, t->patch_bias, t->ln_pre, t->pool, t->norm_after_pool, more,
                     rotary);
}

/* What tensors do not show of a tower; CLIP's adds nothing. */
static uint32_t tower_crc(uint32_t crc, const TowerConfig *t, const TowerConfig *clip) {
    char *form = tower_form(t), *of_clip = tower_form(clip);
    if (strcmp(form, of_clip)) crc = crc32c(crc, form, strlen(form));
    FREE_ALL(form, of_clip);
    return crc;
}

/* Checksum of architecture and preprocessing. */
static uint32_t form_crc(const ClipConfig *c) {
    const Transform *t = &c->eval_transform;
    char *form =
        xasprintf("%zu %zu %zu %zu %zu %d %d %d %d %d %d %d,%d,%d %a,%a,%a %a,%a,%a", c->embed_dim,
                  c->image.heads, c->text.heads, c->image_size, c->patch_size, c->image.activation,
                  c->image.pool == POOL_MEAN, c->image.norm_after_pool, t->size, t->resize_mode,
                  t->interpolation, t->fill[0], t->fill[1], t->fill[2], t->mean[0], t->mean[1],
                  t->mean[2], t->std[0], t->std[1], t->std[2]);
    uint32_t crc = crc32c(0, form, strlen(form));
    free(form);
    if (c->naflex) crc = crc32c(crc, &t->max_patches, sizeof t->max_patches);
    TowerConfig image = clip_image_tower(0, 0, 0, 0), text = clip_text_tower(0, 0, 0, 0);
    image.pool = c->image.pool; /* above */
    image.norm_after_pool = c->image.norm_after_pool;
    image.activation = text.activation = c->image.activation;
    return tower_crc(tower_crc(crc, &c->image, &image), &c->text, &text);
}

const char *encoder_identity(Encoder *e) {
    if (!*e->identity)
        snprintf(e->identity, sizeof e->identity, "%08x%08x", weights_crc(e), form_crc(&e->config));
    return e->identity;
}

const char *encoder_checksum(const Encoder *e) { return e->checksum; }

bool encoder_is(Encoder *e, const char *identity, const char *checksum) {
    if (*checksum && !strcmp(e->checksum, checksum)) return true;
    return !strcmp(encoder_identity(e), identity);
}

/* ---- opening ---- */

static _Noreturn void another_model(const Encoder *e, const ModelId *m, const char *own) {
    die("%s was embedded by another model (%s of %s; %s is %s): embed it again, or name its own",
        m->of, m->identity, m->checkpoint, e->checkpoint, own);
}

/* An identity ends with the checksum of the form, which needs no weights. */
static void check_form(const Encoder *e, const ModelId *m) {
    char form[9];
    snprintf(form, sizeof form, "%08x", form_crc(&e->config));
    if (strcmp(m->identity + strlen(m->identity) - 8, form))
        another_model(e, m, "of another architecture or preprocessing");
}

static void load_weights(Encoder *e, const ModelId *must_be) {
    Weights *w = &e->weights;
    pretrained_open(w, e->checkpoint, &e->config, e->params->list, e->params->tensors,
                    e->params->only);
    const char *crc = tensorfile_checksum(&w->file);
    if (crc) snprintf(e->checksum, sizeof e->checksum, "%.8s%08x", crc, form_crc(&e->config));
    pretrained_read(w, e->params);
    if (must_be && !encoder_is(e, must_be->identity, must_be->checksum))
        another_model(e, must_be, encoder_identity(e));
}

/* Loaded at the first caption, since pictures do not need it. */
static void load_vocab(Encoder *e) {
    char *path;
    if (e->tokenizer) return;
    e->tokenizer = pretrained_tokenizer(&e->config, e->vocab, e->checkpoint, &path);
    e->cache = tokenizer_cache_new(e->tokenizer);
    free(path);
}

uint64_t encoder_tokenizer(Encoder *e) {
    load_vocab(e);
    return tokenizer_identity(e->tokenizer);
}

static void take_buffers(Encoder *e) {
    const ClipConfig *c = &e->config;
    size_t S = c->image_size, P = c->patch_size;
    e->picture = c->naflex ? size_mul(clip_most_patches(c), 3 * P * P) : 3 * S * S;
    if (e->params->only == TOWER_TEXT) e->picture = 0;
    if (e->config.naflex) e->shapes = xcalloc(4 * e->batch, sizeof *e->shapes);
    e->features = e->k->device->alloc(size_mul(e->batch * e->config.embed_dim, e->k->acc_size));
    e->pixels = e->k->device->host_alloc(size_mul(2 * e->batch, e->picture));
    e->ids = xmalloc(size_mul(e->batch * e->config.context_length, sizeof *e->ids));
    e->start = xmalloc((e->batch + 1) * sizeof *e->start);
    e->threads = omp_get_max_threads();
    e->image = xcalloc((size_t)e->threads, sizeof *e->image);
    e->scratch = xcalloc((size_t)e->threads, sizeof *e->scratch);
}

/* NONE: both. */
static ParamTower only_tower(const EncoderOptions *o) {
    bool images = o->towers == OPEN_BOTH || o->towers == OPEN_IMAGE,
         texts = o->towers == OPEN_BOTH || o->towers == OPEN_TEXT;
    if (o->towers == OPEN_NEEDED) {
        images = !o->no_images;
        texts = !o->no_texts;
    }
    if (!images && !o->no_images) die_usage("--tower text: the pictures need the image tower");
    if (!texts && !o->no_texts) die_usage("--tower image: the captions need the text tower");
    assert(images || texts);
    return !texts ? TOWER_IMAGE : !images ? TOWER_TEXT : TOWER_NONE;
}

static void tap_rows(Encoder *e, int64_t layer) {
    size_t T = clip_image_tokens(&e->config), C = e->config.image.width;
    e->rows = e->k->device->alloc(size_mul(e->batch, T * C * e->k->acc_size));
    clip_tap_image(e->clip, e->rows, (size_t)layer);
}

Encoder *encoder_open(const EncoderOptions *o) {
    if (!o->checkpoint)
        die_usage("--checkpoint is missing (a folder that train or open_clip wrote)");
    Encoder *e = xcalloc(1, sizeof *e);
    e->k = kernels_open_device(o->device, o->precision);
    e->checkpoint = pretrained_find(o->checkpoint);
    pretrained_config(&e->config, e->checkpoint, o->model);
    if (o->tokens && e->config.image.conv.kind != CONV_NONE)
        die_usage("--tokens: the image tower of %s is a ResNet, which has no patches",
                  e->config.name);
    if (o->tokens && e->config.naflex)
        die_usage("--tokens: the pictures of %s have different numbers of patches", e->config.name);
    if (o->layer > (int64_t)e->config.image.layers)
        die_usage("--layer: the image tower of %s has %zu blocks", e->config.name,
                  e->config.image.layers);
    if (o->must_be) check_form(e, o->must_be);
    e->vocab = o->vocab ? xstrdup(o->vocab) : NULL;
    if (o->vocab) load_vocab(e); /* an explicit vocabulary is checked at once */
    e->params = params_new_of(e->k, &e->config, only_tower(o));
    load_weights(e, o->must_be);
    e->batch = (size_t)o->batch_size;
    ClipOptions co = {.max_batch = e->batch,
                      .image_rows = o->tokens,
                      .text_bucket = clip_text_bucket(e->k, &e->config, e->batch)};
    e->clip = clip_new(e->k, &e->config, e->params, &co);
    e->uploads = uploads_new(e->k, e->clip, 1);
    take_buffers(e);
    if (o->tokens) tap_rows(e, o->layer);
    return e;
}

Encoder *encoder_of_model(const Kernels *k, const ClipConfig *c, Params *p, Uploads *uploads,
                          const Tokenizer *tokenizer, size_t batch) {
    Encoder *e = xcalloc(1, sizeof *e);
    *e = (Encoder){.k = k,
                   .borrowed = true,
                   .config = *c,
                   .params = p,
                   .uploads = uploads,
                   .tokenizer = tokenizer,
                   .cache = tokenizer ? tokenizer_cache_new(tokenizer) : NULL,
                   .batch = batch};
    take_buffers(e);
    return e;
}

void encoder_close(Encoder *e) {
    for (int t = 0; t < e->threads; t++) {
        image_free(&e->image[t]);
        transform_scratch_free(&e->scratch[t]);
    }
    FREE_ALL(e->image, e->scratch, e->shapes);
    e->k->device->host_release(e->pixels);
    FREE_ALL(e->ids, e->start);
    e->k->device->release(e->features);
    if (e->rows) e->k->device->release(e->rows);
    tokenizer_cache_free(e->cache);
    if (!e->borrowed) {
        uploads_free(e->uploads);
        clip_free(e->clip);
        params_free(e->params);
        weights_close(&e->weights);
        tokenizer_close((Tokenizer *)e->tokenizer);
        FREE_ALL(e->checkpoint, e->vocab);
        clip_config_free(&e->config);
    }
    free(e);
}

const char *encoder_checkpoint(const Encoder *e) { return e->checkpoint; }
const Kernels *encoder_kernels(const Encoder *e) { return e->k; }
const ClipConfig *encoder_config(const Encoder *e) { return &e->config; }
Params *encoder_params(Encoder *e) { return e->params; }
size_t encoder_dim(const Encoder *e) {
    return e->rows ? encoder_patches(e) * e->config.image.width : e->config.embed_dim;
}
size_t encoder_patches(const Encoder *e) {
    return e->rows ? clip_image_tokens(&e->config) - e->config.image.class_token : 0;
}
size_t encoder_batch(const Encoder *e) { return e->batch; }
double encoder_logit_scale(const Encoder *e) {
    double log_scale;
    e->k->acc_get(
        &log_scale,
        param_acc(e->params, params_at(e->params, TOWER_NONE, 0, ROLE_LOGIT_SCALE, false)), 1);
    return exp(log_scale);
}
double encoder_logit_bias(const Encoder *e) {
    double bias = 0;
    const Param *p = params_at(e->params, TOWER_NONE, 0, ROLE_LOGIT_BIAS, false);
    if (p) e->k->acc_get(&bias, param_acc(e->params, p), 1);
    return bias;
}

void encoder_texts(Encoder *e, const char *const *texts, const size_t *sizes, size_t n,
                   float *out) {
    size_t E = e->config.embed_dim;
    Progress progress = progress_start("captions");
    load_vocab(e);
    for (size_t first = 0; first < n; first += e->batch) {
        size_t B = size_min(e->batch, n - first);
        e->start[0] = 0;
        for (size_t b = 0; b < B; b++) {
            int32_t *ids = e->ids + e->start[b];
            const char *text = texts[first + b];
            size_t bytes = sizes ? sizes[first + b] : strlen(text);
            size_t length = tokenizer_encode(e->cache, text, bytes, e->config.context_length, ids);
            e->start[b + 1] = e->start[b] + (int32_t)length;
        }
        Batch captions = {.size = B, .ids = e->ids, .start = e->start, .pad = e->tokenizer->pad};
        uploads_features(e->uploads, &captions, NULL, e->features);
        e->k->acc_get_f32(out + first * E, e->features, B * E);
        progress_show(&progress, first + B, n, "");
    }
    progress_end(&progress);
}

static void transform(Encoder *e, int thread, uint8_t *pixels, int32_t *shape) {
    const Image *img = &e->image[thread];
    const Transform *t = &e->config.eval_transform;
    if (shape)
        transform_patches(pixels, shape, img, t, 0, &e->scratch[thread]);
    else
        transform_apply(pixels, img, t, 0, &e->scratch[thread]);
}

/* Decodes a batch of pictures, first … first+B-1, into one of the two pixel buffers. An unreadable
 * one is black; of pictures of their own sizes, it is one patch. */
static Batch fetch_batch(Encoder *e, ImageFetch *fetch, void *context, size_t first, size_t B,
                         bool *ok) {
    size_t half = first / e->batch & 1;
    uint8_t *place = e->pixels + half * e->batch * e->picture;
    int32_t *shapes = e->shapes ? e->shapes + half * 2 * e->batch : NULL;
#pragma omp parallel for schedule(dynamic)
    for (size_t b = 0; b < B; b++) {
        int t = omp_get_thread_num();
        Error err;
        uint8_t *pixels = place + b * e->picture;
        int32_t *shape = shapes ? shapes + 2 * b : NULL;
        ok[first + b] = fetch(context, first + b, &e->image[t], &err);
        if (ok[first + b]) {
            transform(e, t, pixels, shape);
        } else {
            memset(pixels, 0, e->picture);
            if (shape) shape[0] = shape[1] = 1;
            if (err.text[0]) log_warn("%s", err.text);
        }
    }
    return (Batch){.size = B, .pixels = place, .shape = shapes};
}

/* out[B,dim]: what the last forward of B pictures computed. */
static void get_images(const Encoder *e, size_t B, float *out) {
    const TowerConfig *t = &e->config.image;
    size_t dim = encoder_dim(e), T = clip_image_tokens(&e->config);
    if (!e->rows) e->k->acc_get_f32(out, e->features, B * dim);
    for (size_t b = 0; b < B && e->rows; b++)
        e->k->acc_get_f32(out + b * dim, acc_at(e->k, e->rows, (b * T + t->class_token) * t->width),
                          dim);
}

size_t encoder_images(Encoder *e, ImageFetch *fetch, void *context, size_t n, float *out,
                      bool *ok) {
    size_t E = encoder_dim(e), good = 0;
    Progress progress = progress_start("pictures");
    Batch pictures = fetch_batch(e, fetch, context, 0, size_min(e->batch, n), ok);
    for (size_t first = 0, next; first < n; first = next) {
        size_t B = size_min(e->batch, n - first);
        next = first + B;
        uploads_features(e->uploads, &pictures, e->features, NULL);
        /* the next batch is decoded while a GPU still computes */
        pictures = fetch_batch(e, fetch, context, next, size_min(e->batch, n - next), ok);
        get_images(e, B, out + first * E);
        for (size_t b = first; b < next; b++) {
            if (!ok[b]) memset(out + b * E, 0, E * sizeof *out);
            good += ok[b];
        }
        progress_show(&progress, next, n, "");
    }
    progress_end(&progress);
    return good;
}
