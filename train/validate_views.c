/* Held-out pictures of --objective simclr: --val-data every --val-frequency steps: val/loss,
 * NT-Xent of two views a picture (mean over batches of the training's size, weighted by their
 * pictures), and recalls of a picture's second view among those of all, by its first:
 * val/views_R@1, …. A picture's views are the same at every measurement of every run. */
#include "train/validate.h"

#include "data/image/augment.h"
#include "eval/score_tiles.h"
#include "kernels/rng.h"
#include "train/train_data.h"
#include "train/train_options.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

/* Of a thread. */
typedef struct Reader {
    Sample sample;
    Image image;
    TransformScratch *scratch;
} Reader;

typedef struct Views {
    const Kernels *k;
    Dataset *data;
    Transform transform;
    Loss *loss;
    acc *views, *log_temperature, *value; /* device: one batch, constants, its loss */
    uint8_t *pixels;                      /* [2,batch,S,S,3] */
    size_t threads;
    Reader *readers;
} Views;

/* Features of this rank's readable pictures, then of all ranks'. */
typedef struct Found {
    float *of[2]; /* [count,dim] of first and of second views */
    size_t count;
} Found;

static bool views_wanted(void) {
    return train_options.val_data != NULL && train_options.objective == OBJECTIVE_SIMCLR;
}

static size_t dim_of(void) { return (size_t)train_options.head_dim; }

static size_t picture_bytes(const Views *p) {
    return 3 * (size_t)p->transform.size * (size_t)p->transform.size;
}

static void views_open(void *self, const TrainView *v) {
    Views *p = self;
    const Kernels *k = p->k = v->k;
    size_t n = size_mul(2, v->batch);
    double inverse = -log(train_options.temperature);
    p->transform = train_data_views(v->config);
    p->loss =
        loss_new(k, comm_self(k), LOSS_NTXENT, n, dim_of(), logit_memory_of(&train_options, k));
    p->views = k->device->alloc(size_mul(n * dim_of(), k->acc_size));
    p->value = k->device->alloc(k->acc_size);
    p->log_temperature = k->device->alloc(k->acc_size);
    k->acc_set(p->log_temperature, &inverse, 1);
    p->pixels = k->device->host_alloc(size_mul(n, picture_bytes(p)));
    p->threads = (size_t)omp_get_max_threads();
    p->readers = xcalloc(p->threads, sizeof *p->readers);
}

static void views_close(void *self) {
    Views *p = self;
    void *const memory[] = {p->views, p->value, p->log_temperature};
    for (size_t i = 0; i < COUNT(memory); i++) p->k->device->release(memory[i]);
    p->k->device->host_release(p->pixels);
    loss_free(p->loss);
    for (size_t t = 0; t < p->threads; t++) {
        sample_free(&p->readers[t].sample);
        image_free(&p->readers[t].image);
        transform_scratch_free(&p->readers[t].scratch);
    }
    if (p->data) dataset_close(p->data);
    FREE_ALL(p->readers, p);
}

/* ---- features ---- */

/* The two views of a sample, as rows `row` and `row` + n. */
static bool read_views(const Views *p, size_t index, size_t row, size_t n) {
    Reader *r = &p->readers[omp_get_thread_num()];
    Sample *s = &r->sample;
    Error err, why;
    bool ok = dataset_read(p->data, index, s, &err);
    if (ok && !image_decode(&r->image, s->image, s->image_size, (size_t)image_max_pixels, &why))
        ok = error_set(&err, "%.200s: %.250s", s->key, why.text);
    if (!ok) log_warn("%s", err.text);
    for (size_t i = 0; ok && i < 2; i++)
        transform_apply(p->pixels + (i * n + row) * picture_bytes(p), &r->image, &p->transform,
                        rng_mix(index, i), &r->scratch);
    return ok;
}

/* Keeps the rows that are ok, first and second views each in order; returns their number. */
static size_t compact(const Views *p, const bool *ok, size_t n) {
    size_t bytes = picture_bytes(p), at = 0;
    for (size_t i = 0; i < 2 * n; i++)
        if (ok[i % n]) memmove(p->pixels + at++ * bytes, p->pixels + i * bytes, bytes);
    return at / 2;
}

static void batch_features(const Views *p, const TrainView *v, size_t first, size_t n, Found *f) {
    bool *ok = xcalloc(n, sizeof *ok);
    size_t dim = dim_of();
#pragma omp parallel for schedule(dynamic)
    for (size_t i = 0; i < n; i++) ok[i] = read_views(p, first + i, i, n);
    n = compact(p, ok, n);
    free(ok);
    if (!n) return;
    Batch b = {.size = n, .views = p->pixels};
    uploads_features(v->uploads, &b, p->views, NULL);
    clip_view_features(v->clip, p->views);
    v->k->device->sync();
    for (size_t i = 0; i < 2; i++)
        v->k->acc_get_f32(f->of[i] + f->count * dim, acc_at(v->k, p->views, i * n * dim), n * dim);
    f->count += n;
}

/* Each rank has the pictures of whole batches. */
static Found all_features(const Views *p, const TrainView *v) {
    const Comm *c = v->comm;
    size_t n = dataset_count(p->data), batches = div_up(n, v->batch);
    size_t first = size_min(n, batches * (size_t)c->rank / (size_t)c->size * v->batch);
    size_t end = size_min(n, batches * (size_t)(c->rank + 1) / (size_t)c->size * v->batch);
    size_t row = dim_of() * sizeof(float);
    Found f = {.count = 0};
    for (size_t i = 0; i < 2; i++) f.of[i] = xmalloc(size_mul(end - first + 1, row));
    for (; first < end; first += v->batch)
        batch_features(p, v, first, size_min(v->batch, end - first), &f);
    for (size_t i = 0; i < 2; i++) {
        float *own = f.of[i];
        f.of[i] = comm_join(c, own, size_mul(f.count, row));
        free(own);
    }
    size_t *counts = xcalloc((size_t)c->size, sizeof *counts);
    c->gather_bytes(counts, &f.count, sizeof f.count);
    f.count = 0;
    for (int r = 0; r < c->size; r++) f.count += counts[r];
    free(counts);
    return f;
}

/* ---- metrics ---- */

static void batch_loss(const Views *p, size_t n) {
    loss_send_views(p->loss, p->views, n, 2 * n);
    loss_run_views(p->loss, p->value, NULL, p->log_temperature, 1, 2 * n);
}

static void views_plan(void *self, const TrainView *v) {
    batch_loss(self, v->batch);
    score_tiles_plan(v->k, dim_of());
}

static double mean_loss(const Views *p, const TrainView *v, const Found *f) {
    const Kernels *k = v->k;
    size_t dim = dim_of();
    double sum = 0, value;
    for (size_t first = 0; first < f->count; first += v->batch) {
        size_t n = size_min(v->batch, f->count - first);
        for (size_t i = 0; i < 2; i++)
            k->acc_set_f32(acc_at(k, p->views, i * n * dim), f->of[i] + first * dim, n * dim);
        batch_loss(p, n);
        k->device->sync();
        k->acc_get(&value, p->value, 1);
        sum += value * (double)n;
    }
    return sum / (double)f->count;
}

enum { LOSS, RECALLS };
static const char *const names[] = {"val/loss",
                                    "val/views_R@1",
                                    "val/views_R@5",
                                    "val/views_R@10",
                                    "val/views_mean_rank",
                                    "val/views_median_rank",
                                    NULL};

static void views_run(void *self, const TrainView *v, Metrics *m) {
    Views *p = self;
    Found f = all_features(p, v);
    if (!f.count) comm_die(v->comm, "--val-data %s: no readable picture", train_options.val_data);
    if (v->comm->rank == 0) {
        metrics_add(m, names[LOSS], mean_loss(p, v, &f), true);
        metrics_add_recall(m, names + RECALLS, v->k, f.of[0], f.of[1], f.count, dim_of());
    }
    FREE_ALL(f.of[0], f.of[1]);
}

static void *views_prepare(const Comm *c, const DatasetOptions *data) {
    Views *p = xcalloc(1, sizeof *p);
    p->data = validation_data(c, data);
    return p;
}

const Validator validate_views = {.wanted = views_wanted,
                                  .names = names,
                                  .prepare = views_prepare,
                                  .open = views_open,
                                  .plan = views_plan,
                                  .due = validation_data_due,
                                  .run = views_run,
                                  .close = views_close};
