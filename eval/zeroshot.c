#include "eval/zeroshot.h"

#include "data/io/progress.h"
#include "eval/search.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

/* ---- the classifier ---- */

static void normalise(float *v, size_t E) {
    double sum = 0;
    for (size_t j = 0; j < E; j++) sum += (double)v[j] * v[j];
    double norm = fmax(sqrt(sum), 1e-12);
    for (size_t j = 0; j < E; j++) v[j] = (float)(v[j] / norm);
}

/* features[T,E] of one class → its weights. */
static void ensemble(float *w, const float *features, size_t T, size_t E) {
    for (size_t j = 0; j < E; j++) {
        double sum = 0;
        for (size_t t = 0; t < T; t++) sum += features[t * E + j];
        w[j] = (float)(sum / (double)T);
    }
    normalise(w, E);
}

/* Classes first … end-1: weights[end-first,E], and features[end-first,T,E] unless NULL. */
static void encode_classes(Encoder *e, const ClassSet *s, size_t first, size_t end, size_t group,
                           float *weights, float *features) {
    size_t E = encoder_dim(e), T = s->template_count;
    char **captions = xcalloc(size_mul(group, T), sizeof *captions);
    float *scratch = xmalloc(size_mul(group * T, E * sizeof *scratch));
    Progress progress = progress_start("classes");
    for (size_t c = first; c < end; c += group) {
        size_t n = size_min(group, end - c);
        for (size_t i = 0; i < n * T; i++) captions[i] = class_caption_of(s, c + i / T, i % T);
        encoder_texts(e, (const char *const *)captions, NULL, n * T, scratch);
        for (size_t i = 0; i < n; i++)
            ensemble(weights + (c - first + i) * E, scratch + i * T * E, T, E);
        if (features) memcpy(features + (c - first) * T * E, scratch, n * T * E * sizeof *features);
        for (size_t i = 0; i < n * T; i++) free(captions[i]);
        progress_show(&progress, c - first + n, end - first, "");
    }
    progress_end(&progress);
    FREE_ALL(captions, scratch);
}

static void *joined(const Comm *c, float *own, size_t floats) {
    if (c->size == 1 || !own) return own;
    float *all = comm_join(c, own, size_mul(floats, sizeof *own));
    free(own);
    return all;
}

void classifier_build(Classifier *w, Encoder *e, const Comm *c, const ClassSet *s,
                      bool each_template) {
    size_t E = encoder_dim(e), T = s->template_count;
    /* groups of many whole batches, the same for any number of ranks */
    size_t group = size_min(s->count, div_up(16 * encoder_batch(e), T));
    size_t groups = div_up(s->count, group);
    size_t first = size_min(s->count, groups * (size_t)c->rank / (size_t)c->size * group);
    size_t end = size_min(s->count, groups * (size_t)(c->rank + 1) / (size_t)c->size * group);
    *w = (Classifier){.classes = s->count, .dim = E, .templates = T};
    float *weights = xmalloc(size_mul(end - first, E * sizeof *weights)), *features = NULL;
    if (each_template) features = xmalloc(size_mul((end - first) * T, E * sizeof *features));
    encode_classes(e, s, first, end, group, weights, features);
    w->weights = joined(c, weights, (end - first) * E);
    features = joined(c, features, (end - first) * T * E);
    if (!features) return;
    w->of_single = xmalloc(size_mul(s->count * T, E * sizeof *w->of_single));
    for (size_t i = 0; i < s->count; i++)
        for (size_t t = 0; t < T; t++)
            memcpy(w->of_single + (t * s->count + i) * E, features + (i * T + t) * E,
                   E * sizeof *features);
    free(features);
}

void classifier_free(Classifier *w) { FREE_ALL(w->weights, w->of_single); }

/* ---- scores ---- */

enum { SCORE_ROWS = 256 };

struct Scorer {
    const Kernels *k;
    size_t classes, dim;
    acc *weights, *images, *scores;
    float *host; /* [SCORE_ROWS,classes] */
};

Scorer *scorer_new(const Kernels *k, const float *weights, size_t classes, size_t dim) {
    Scorer *s = xmalloc(sizeof *s);
    *s = (Scorer){.k = k,
                  .classes = classes,
                  .dim = dim,
                  .weights = k->device->alloc(size_mul(classes * dim, k->acc_size)),
                  .images = k->device->alloc(SCORE_ROWS * dim * k->acc_size),
                  .scores = k->device->alloc(size_mul(classes, SCORE_ROWS * k->acc_size)),
                  .host = xmalloc(size_mul(classes, SCORE_ROWS * sizeof(float)))};
    k->acc_set_f32(s->weights, weights, classes * dim);
    return s;
}

void scorer_run(Scorer *s, const float *images, size_t n, Prediction *list) {
    const Kernels *k = s->k;
    size_t classes = s->classes, E = s->dim;
    for (size_t first = 0; first < n; first += SCORE_ROWS) {
        size_t rows = size_min(SCORE_ROWS, n - first);
        k->acc_set_f32(s->images, images + first * E, rows * E);
        k->gemm(s->scores, classes, s->images, E, false, s->weights, E, true, rows, classes, E,
                false);
        k->acc_get_f32(s->host, s->scores, rows * classes);
#pragma omp parallel for
        for (size_t i = 0; i < rows; i++) {
            Hit hits[ZEROSHOT_TOP];
            Prediction *p = &list[first + i];
            size_t found = search_top_scores(hits, ZEROSHOT_TOP, s->host + i * classes, classes);
            for (size_t h = 0; h < ZEROSHOT_TOP; h++)
                p->top[h] = h < found ? (int32_t)hits[h].row : -1;
            p->score = hits[0].score;
        }
    }
}

void scorer_plan(const Kernels *k, size_t classes, size_t dim) {
    Scorer *s = scorer_new(k, NULL, classes, dim);
    k->gemm(s->scores, classes, s->images, dim, false, s->weights, dim, true, SCORE_ROWS, classes,
            dim, false);
    scorer_free(s);
}

void scorer_free(Scorer *s) {
    s->k->device->release(s->weights);
    s->k->device->release(s->images);
    s->k->device->release(s->scores);
    FREE_ALL(s->host, s);
}

/* ---- a data set ---- */

typedef struct LabelledReader {
    Dataset *data;
    const Labels *labels;
    Sample *sample; /* [threads] */
    size_t first;   /* sample of row 0 */
    int *label;     /* [rows] */
} LabelledReader;

static bool fetch_labelled(void *context, size_t i, Image *img, Error *err) {
    LabelledReader *r = context;
    Sample *s = &r->sample[omp_get_thread_num()];
    if (!dataset_read(r->data, r->first + i, s, err)) return false;
    r->label[i] = labels_class(r->labels, s, err);
    if (image_decode(img, s->image, s->image_size, (size_t)image_max_pixels, err)) return true;
    Error why = *err;
    return error_set(err, "%.200s: %.250s", s->key, why.text);
}

typedef struct Pass {
    Encoder *encoder;
    LabelledReader reader;
    Scorer *all, **single; /* single[templates] */
    size_t chunk;
    float *features;  /* [chunk,dim] */
    bool *ok;         /* [chunk] */
    Prediction *list; /* [chunk], of a single template */
} Pass;

static bool all_finite(const float *x, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!isfinite(x[i])) return false;
    return true;
}

/* A label that is no class: the correct class is unknown. */
static _Noreturn void die_of_label(const LabelledReader *r, size_t i) {
    Sample s = {0};
    Error err;
    if (dataset_read(r->data, r->first + i, &s, &err)) labels_class(r->labels, &s, &err);
    die("%s", err.text);
}

/* Samples first … first+n-1 → predictions, appended. */
static void predict_chunk(Pass *a, Predictions *p, size_t first, size_t n) {
    size_t E = encoder_dim(a->encoder), good = 0;
    Prediction *out = p->list + p->count;
    a->reader.first = first;
    encoder_images(a->encoder, fetch_labelled, &a->reader, n, a->features, a->ok);
    for (size_t i = 0; i < n; i++) {
        if (!a->ok[i]) continue;
        if (a->reader.label[i] < 0) die_of_label(&a->reader, i);
        out[good] = (Prediction){.sample = first + i, .label = a->reader.label[i]};
        memmove(a->features + good * E, a->features + i * E, E * sizeof *a->features);
        good++;
    }
    p->finite = p->finite && all_finite(a->features, good * E);
    p->count += good;
    p->bad += n - good;
    scorer_run(a->all, a->features, good, out);
    for (size_t t = 0; t < p->templates; t++) {
        scorer_run(a->single[t], a->features, good, a->list);
        for (size_t i = 0; i < good; i++) p->right[t] += a->list[i].top[0] == out[i].label;
    }
}

static void join_predictions(Predictions *p, const Comm *c) {
    size_t own[2] = {p->bad, !p->finite}, count = p->count, sums[3] = {0};
    size_t *all = comm_join(c, own, sizeof own);
    for (int r = 0; r < c->size; r++)
        for (size_t i = 0; i < 2; i++) sums[i] += all[2 * (size_t)r + i];
    free(all);
    p->bad = sums[0];
    p->finite = !sums[1];
    all = comm_join(c, &count, sizeof count);
    p->count = 0;
    for (int r = 0; r < c->size; r++) p->count += all[r];
    free(all);
    Prediction *list = comm_join(c, p->list, count * sizeof *list);
    free(p->list);
    p->list = list;
    if (!p->templates) return;
    all = comm_join(c, p->right, p->templates * sizeof *p->right);
    memset(p->right, 0, p->templates * sizeof *p->right);
    for (size_t i = 0; i < p->templates * (size_t)c->size; i++)
        p->right[i % p->templates] += all[i];
    free(all);
}

void zeroshot_predict(Predictions *p, Encoder *e, const Comm *c, Dataset *d, const Labels *labels,
                      const Classifier *w) {
    double t0 = clock_now();
    size_t n = dataset_count(d), batch = encoder_batch(e), batches = div_up(n, batch);
    size_t first = size_min(n, batches * (size_t)c->rank / (size_t)c->size * batch);
    size_t end = size_min(n, batches * (size_t)(c->rank + 1) / (size_t)c->size * batch);
    size_t chunk = size_mul(batch, div_up(1024, batch)), E = w->dim, single = w->classes * E;
    const Kernels *k = encoder_kernels(e);
    *p = (Predictions){.list = xcalloc(end - first, sizeof *p->list), .finite = true};
    p->finite = all_finite(w->weights, single);
    if (w->of_single) p->templates = w->templates;
    p->right = xcalloc(p->templates, sizeof *p->right);
    size_t threads = (size_t)omp_get_max_threads();
    Pass a = {.encoder = e,
              .reader = {.data = d,
                         .labels = labels,
                         .sample = xcalloc(threads, sizeof(Sample)),
                         .label = xcalloc(chunk, sizeof(int))},
              .all = scorer_new(k, w->weights, w->classes, E),
              .single = xcalloc(p->templates, sizeof *a.single),
              .chunk = chunk,
              .features = xmalloc(size_mul(chunk, E * sizeof *a.features)),
              .ok = xcalloc(chunk, sizeof *a.ok),
              .list = xcalloc(chunk, sizeof *a.list)};
    for (size_t t = 0; t < p->templates; t++)
        a.single[t] = scorer_new(k, w->of_single + t * single, w->classes, E);
    Progress progress = progress_start("images");
    for (size_t at = first; at < end; at += chunk) {
        predict_chunk(&a, p, at, size_min(chunk, end - at));
        progress_show(&progress, at - first + size_min(chunk, end - at), end - first, "");
    }
    progress_end(&progress);
    if (c->size > 1) join_predictions(p, c);
    for (size_t t = 0; t < p->templates; t++) scorer_free(a.single[t]);
    for (size_t t = 0; t < threads; t++) sample_free(&a.reader.sample[t]);
    scorer_free(a.all);
    FREE_ALL(a.single, a.reader.sample, a.reader.label, a.features, a.ok, a.list);
    p->seconds = clock_now() - t0;
}

void predictions_free(Predictions *p) { FREE_ALL(p->list, p->right); }
