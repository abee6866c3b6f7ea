#include "eval/features.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

typedef struct DatasetReader {
    Dataset *data;
    Sample *sample; /* [threads] */
    size_t first;   /* sample of row 0 */
    Features *f;
    bool images;
} DatasetReader;

static bool fetch_sample(void *context, size_t i, Image *img, Error *err) {
    DatasetReader *r = context;
    Sample *s = &r->sample[omp_get_thread_num()];
    if (!dataset_read(r->data, r->first + i, s, err)) return false;
    if (r->images && !image_decode(img, s->image, s->image_size, (size_t)image_max_pixels, err)) {
        Error why = *err;
        return error_set(err, "%.200s: %.250s", s->key, why.text);
    }
    r->f->keys[i] = xstrdup(s->key);
    r->f->captions[i] = xstrdup(s->text ? s->text : "");
    r->f->labels[i] = s->label;
    return true;
}

/* Compacts the rows of readable samples. */
static void compact(Features *f, const bool *ok, size_t n) {
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        if (!ok[i]) continue;
        f->keys[at] = f->keys[i];
        f->captions[at] = f->captions[i];
        f->labels[at] = f->labels[i];
        if (f->images && at != i)
            memcpy(f->images + at * f->dim, f->images + i * f->dim, f->dim * sizeof(float));
        at++;
    }
    f->count = at;
    f->bad = n - at;
}

/* ---- one rank's share ---- */

static void compute(Features *f, Encoder *e, Dataset *d, size_t first, size_t n, bool images,
                    bool texts) {
    *f = (Features){.dim = encoder_dim(e)};
    f->keys = xcalloc(n, sizeof *f->keys);
    f->captions = xcalloc(n, sizeof *f->captions);
    f->labels = xcalloc(n, sizeof *f->labels);
    bool *ok = xcalloc(n, sizeof *ok);
    size_t threads = (size_t)omp_get_max_threads();
    DatasetReader r = {d, xcalloc(threads, sizeof(Sample)), first, f, images};
    if (images) {
        f->images = xmalloc(size_mul(n, f->dim * sizeof(float)));
        encoder_images(e, fetch_sample, &r, n, f->images, ok);
    } else {
        Error err;
        for (size_t i = 0; i < n; i++)
            if (!(ok[i] = fetch_sample(&r, i, NULL, &err))) log_warn("%s", err.text);
    }
    compact(f, ok, n);
    if (texts) {
        f->texts = xmalloc(size_mul(f->count, f->dim * sizeof(float)));
        encoder_texts(e, (const char *const *)f->captions, NULL, f->count, f->texts);
    }
    for (size_t t = 0; t < threads; t++) sample_free(&r.sample[t]);
    FREE_ALL(r.sample, ok);
}

/* ---- all ranks' shares in rank order ---- */

/* Gathers own[n] strings of each rank into the `total` strings of all; frees own. */
static char **join_strings(const Comm *c, char **own, size_t n, size_t total) {
    size_t bytes = 0, at = 0;
    for (size_t i = 0; i < n; i++) bytes = size_add(bytes, strlen(own[i]) + 1);
    char *packed = xmalloc(bytes);
    for (size_t i = 0; i < n; i++) {
        size_t length = strlen(own[i]) + 1;
        memcpy(packed + at, own[i], length);
        at += length;
        free(own[i]);
    }
    free(own);
    char *all = comm_join(c, packed, bytes), **strings = xcalloc(total, sizeof *strings);
    const char *p = all;
    for (size_t i = 0; i < total; i++, p += strlen(p) + 1) strings[i] = xstrdup(p);
    FREE_ALL(packed, all);
    return strings;
}

static void *join_rows(const Comm *c, void *own, size_t n, size_t row_bytes) {
    if (!own) return NULL;
    void *all = comm_join(c, own, size_mul(n, row_bytes));
    free(own);
    return all;
}

static void join_features(Features *f, const Comm *c) {
    size_t counts[2] = {f->count, f->bad}, total = 0, bad = 0;
    size_t(*all)[2] = xcalloc((size_t)c->size, sizeof *all);
    c->gather_bytes(all, counts, sizeof counts);
    for (int r = 0; r < c->size; r++) {
        total = size_add(total, all[r][0]);
        bad += all[r][1];
    }
    free(all);
    f->keys = join_strings(c, f->keys, f->count, total);
    f->captions = join_strings(c, f->captions, f->count, total);
    f->labels = join_rows(c, f->labels, f->count, sizeof *f->labels);
    f->images = join_rows(c, f->images, f->count, f->dim * sizeof(float));
    f->texts = join_rows(c, f->texts, f->count, f->dim * sizeof(float));
    f->count = total;
    f->bad = bad;
}

void features_of_dataset(Features *f, Encoder *e, const Comm *c, Dataset *d, bool images,
                         bool texts) {
    double t0 = clock_now();
    size_t n = dataset_count(d), batch = encoder_batch(e), batches = div_up(n, batch);
    size_t first = size_min(n, batches * (size_t)c->rank / (size_t)c->size * batch);
    size_t end = size_min(n, batches * (size_t)(c->rank + 1) / (size_t)c->size * batch);
    compute(f, e, d, first, end - first, images, texts);
    if (c->size > 1) join_features(f, c);
    f->seconds = clock_now() - t0;
}

void features_free(Features *f) {
    for (size_t i = 0; i < f->count; i++) {
        FREE_ALL(f->keys[i], f->captions[i]);
    }
    FREE_ALL(f->keys, f->captions, f->labels, f->images, f->texts);
}
