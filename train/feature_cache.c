#include "train/feature_cache.h"

#include "data/image/image.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

/* One rank's pass over its share; it uses either the pictures or the captions. */
typedef struct Pass {
    const Kernels *k;
    Clip *clip;
    Dataset *data;
    size_t dim, batch;
    const Transform *transform;
    size_t max_pixels;
    const Tokenizer *tokenizer;
    size_t context;
    acc *features; /* device [batch,dim] */
} Pass;

typedef struct Reader {
    Sample sample;
    Image image;
    TransformScratch *scratch;
} Reader;

static FeatureCache *cache_new(Dataset *d, size_t dim, size_t batch, const Comm *comm) {
    FeatureCache *c = xcalloc(1, sizeof *c);
    c->count = dataset_count(d);
    c->dim = dim;
    size_t padded = size_mul(div_up(c->count, (size_t)comm->size), (size_t)comm->size);
    c->rows = xcalloc(size_mul(padded, dim), sizeof *c->rows);
    c->ok = xcalloc(padded, sizeof *c->ok);
    c->staged = xmalloc(size_mul(batch, dim * sizeof *c->staged));
    return c;
}

void feature_cache_free(FeatureCache *c) {
    if (!c) return;
    free(c->rows);
    free(c->ok);
    free(c->staged);
    free(c);
}

static bool read_picture(const Pass *p, Reader *r, size_t index, uint8_t *pixels, Error *err) {
    Error why;
    if (!dataset_read(p->data, index, &r->sample, err)) return false;
    if (!image_decode(&r->image, r->sample.image, r->sample.image_size, p->max_pixels, &why))
        return error_set(err, "%.200s: %.250s", r->sample.key, why.text);
    transform_apply(pixels, &r->image, p->transform, 0, &r->scratch);
    return true;
}

static void compute_images(const Pass *p, FeatureCache *c, size_t first, size_t end) {
    size_t threads = (size_t)omp_get_max_threads();
    size_t pixels = 3 * (size_t)p->transform->size * (size_t)p->transform->size;
    Reader *readers = xcalloc(threads, sizeof *readers);
    uint8_t *block = xcalloc(p->batch, pixels);
    for (size_t at = first; at < end; at += p->batch) {
        size_t n = size_min(p->batch, end - at);
#pragma omp parallel for schedule(dynamic)
        for (size_t i = 0; i < n; i++) {
            Error err;
            Reader *r = &readers[omp_get_thread_num()];
            c->ok[at + i] = read_picture(p, r, at + i, block + i * pixels, &err);
            if (!c->ok[at + i]) log_warn("bad sample %s", err.text);
        }
        clip_image_fwd(p->clip, p->features, &(ClipImages){.u8 = block}, n, false);
        p->k->acc_get_f32(c->rows + at * c->dim, p->features, n * c->dim);
    }
    for (size_t t = 0; t < threads; t++) {
        sample_free(&readers[t].sample);
        image_free(&readers[t].image);
        transform_scratch_free(&readers[t].scratch);
    }
    free(readers);
    free(block);
}

/* An unreadable sample has the empty caption and is not ok. */
static void compute_texts(const Pass *p, FeatureCache *c, size_t first, size_t end) {
    Sample sample = {0};
    TokenizerCache *words = tokenizer_cache_new(p->tokenizer);
    int32_t *ids = xmalloc(size_mul(p->batch * p->context, sizeof *ids));
    int32_t *start = xcalloc(p->batch + 1, sizeof *start);
    for (size_t at = first; at < end; at += p->batch) {
        size_t n = size_min(p->batch, end - at);
        for (size_t i = 0; i < n; i++) {
            Error err;
            c->ok[at + i] = dataset_read(p->data, at + i, &sample, &err);
            if (!c->ok[at + i]) log_warn("bad sample %s", err.text);
            size_t bytes = c->ok[at + i] ? sample.text_size : 0;
            size_t length = tokenizer_encode(words, bytes ? sample.text : "", bytes, p->context,
                                             ids + start[i]);
            start[i + 1] = start[i] + (int32_t)length;
        }
        clip_text_fwd(p->clip, p->features, ids, start, n, false);
        p->k->acc_get_f32(c->rows + at * c->dim, p->features, n * c->dim);
    }
    sample_free(&sample);
    tokenizer_cache_free(words);
    free(ids);
    free(start);
}

void feature_cache_plan(const Kernels *k, size_t dim, size_t batch) {
    k->device->release(k->device->alloc(size_mul(batch * dim, k->acc_size)));
}

static FeatureCache *fill(Pass *p, const Comm *comm,
                          void (*compute)(const Pass *, FeatureCache *, size_t, size_t)) {
    double t0 = clock_now();
    FeatureCache *c = cache_new(p->data, p->dim, p->batch, comm);
    size_t share = div_up(c->count, (size_t)comm->size), first = share * (size_t)comm->rank;
    p->features = p->k->device->alloc(size_mul(p->batch * p->dim, p->k->acc_size));
    compute(p, c, size_min(first, c->count), size_min(first + share, c->count));
    p->k->device->release(p->features);
    if (comm->size > 1) {
        size_t bytes = share * c->dim * sizeof *c->rows;
        void *own = xmalloc(bytes);
        memcpy(own, c->rows + first * c->dim, bytes);
        comm->gather_bytes(c->rows, own, bytes);
        memcpy(own, c->ok + first, share * sizeof *c->ok);
        comm->gather_bytes(c->ok, own, share * sizeof *c->ok);
        free(own);
    }
    for (size_t i = 0; i < c->count; i++) c->missing += !c->ok[i];
    c->seconds = clock_now() - t0;
    return c;
}

FeatureCache *feature_cache_images(const Kernels *k, const Comm *comm, Clip *m, size_t dim,
                                   Dataset *d, const Transform *t, size_t max_pixels,
                                   size_t batch) {
    Pass p = {.k = k,
              .clip = m,
              .data = d,
              .dim = dim,
              .batch = batch,
              .transform = t,
              .max_pixels = max_pixels};
    return fill(&p, comm, compute_images);
}

FeatureCache *feature_cache_texts(const Kernels *k, const Comm *comm, Clip *m, size_t dim,
                                  Dataset *d, const Tokenizer *tokenizer, size_t context,
                                  size_t batch) {
    Pass p = {.k = k,
              .clip = m,
              .data = d,
              .dim = dim,
              .batch = batch,
              .tokenizer = tokenizer,
              .context = context};
    return fill(&p, comm, compute_texts);
}

void feature_cache_take(const FeatureCache *c, const Kernels *k, acc *out, const uint64_t *sample,
                        size_t n) {
    for (size_t i = 0; i < n; i++) {
        assert(sample[i] < c->count);
        memcpy(c->staged + i * c->dim, c->rows + sample[i] * c->dim, c->dim * sizeof *c->rows);
    }
    k->acc_set_f32(out, c->staged, n * c->dim);
}
