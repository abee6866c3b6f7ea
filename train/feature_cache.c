#include "train/feature_cache.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

/* One rank's share of a data set. */
typedef struct Share {
    Encoder *encoder;
    Dataset *data;
    size_t first, count, max_pixels;
    Sample *sample; /* [threads] */
} Share;

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
    FREE_ALL(c->rows, c->ok, c->staged, c);
}

static bool fetch_picture(void *context, size_t i, Image *img, Error *err) {
    const Share *s = context;
    Sample *sample = &s->sample[omp_get_thread_num()];
    Error why;
    if (!dataset_read(s->data, s->first + i, sample, &why))
        return error_set(err, "bad sample %.450s", why.text);
    return image_decode(img, sample->image, sample->image_size, s->max_pixels, &why) ||
           error_set(err, "bad sample %.200s: %.250s", sample->key, why.text);
}

static void compute_images(Share *s, float *rows, bool *ok) {
    encoder_images(s->encoder, fetch_picture, s, s->count, rows, ok);
}

static void compute_texts(Share *s, float *rows, bool *ok) {
    size_t batch = encoder_batch(s->encoder);
    char **text = xcalloc(batch, sizeof *text);
    size_t *bytes = xcalloc(batch, sizeof *bytes);
    for (size_t at = 0; at < s->count; at += batch) {
        size_t n = size_min(batch, s->count - at);
        for (size_t i = 0; i < n; i++) {
            Error err;
            ok[at + i] = dataset_read(s->data, s->first + at + i, s->sample, &err);
            if (!ok[at + i]) log_warn("bad sample %s", err.text);
            bytes[i] = ok[at + i] ? s->sample->text_size : 0;
            text[i] = xrealloc(text[i], bytes[i] + 1);
            memcpy(text[i], bytes[i] ? s->sample->text : "", bytes[i]);
        }
        encoder_texts(s->encoder, (const char *const *)text, bytes, n,
                      rows + at * encoder_dim(s->encoder));
    }
    for (size_t i = 0; i < batch; i++) free(text[i]);
    FREE_ALL(text, bytes);
}

static FeatureCache *fill(Share *s, const Comm *comm, void (*compute)(Share *, float *, bool *)) {
    double t0 = clock_now();
    FeatureCache *c = cache_new(s->data, encoder_dim(s->encoder), encoder_batch(s->encoder), comm);
    size_t share = div_up(c->count, (size_t)comm->size), first = share * (size_t)comm->rank;
    size_t threads = (size_t)omp_get_max_threads();
    s->first = size_min(first, c->count);
    s->count = size_min(share, c->count - s->first);
    s->sample = xcalloc(threads, sizeof *s->sample);
    compute(s, c->rows + s->first * c->dim, c->ok + s->first);
    for (size_t t = 0; t < threads; t++) sample_free(&s->sample[t]);
    free(s->sample);
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

FeatureCache *feature_cache_images(Encoder *e, const Comm *comm, Dataset *d, size_t max_pixels) {
    return fill(&(Share){.encoder = e, .data = d, .max_pixels = max_pixels}, comm, compute_images);
}

FeatureCache *feature_cache_texts(Encoder *e, const Comm *comm, Dataset *d) {
    return fill(&(Share){.encoder = e, .data = d}, comm, compute_texts);
}

void feature_cache_get(const FeatureCache *c, const Kernels *k, acc *out, const uint64_t *sample,
                       size_t n) {
    for (size_t i = 0; i < n; i++) {
        assert(sample[i] < c->count);
        memcpy(c->staged + i * c->dim, c->rows + sample[i] * c->dim, c->dim * sizeof *c->rows);
    }
    k->acc_set_f32(out, c->staged, n * c->dim);
}
