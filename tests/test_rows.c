/* A row's result does not depend on its batch: each product, and the features of a picture and of a
 * caption, are the same bits alone and in any batch, at any place in it, by any number of threads.
 * For ref and both precisions of the CPU. */
#include "tests/support.h"
#include "tests/support_kernels.h"
#include "tests/support_model.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

static const int thread_counts[] = {2, 1, 3, 8};

/* ---- products ---- */

enum { ROWS = 300 };
/* N, K: odd ones; more than one piece of columns, more than one part of the contraction. */
static const size_t shapes[][2] = {{37, 20},   {192, 96},   {144, 384},
                                   {768, 768}, {200, 1100}, {640, 2304}};
/* Batches of rows: how many, from which row on. */
static const size_t batches[][2] = {{1, 0},    {1, 299}, {7, 100},  {32, 17}, {50, 64},
                                    {64, 236}, {77, 1},  {256, 44}, {300, 0}};

/* Two activations, results in pre, y and dx; and one acc. */
typedef struct Linear {
    const Kernels *k;
    size_t N, K;
    act *x, *w, *b, *dy, *y, *pre, *dx;
    acc *projected;
} Linear;

static act *act_new(const Kernels *k, size_t n, bool random) {
    act *a = k->device->alloc(n * k->act_size);
    double *v = random ? test_randoms(n) : xcalloc(n, sizeof *v);
    test_act_set(k, a, v, n);
    free(v);
    return a;
}

static Linear layer_new(const Kernels *k, size_t N, size_t K) {
    return (Linear){.k = k,
                    .N = N,
                    .K = K,
                    .x = act_new(k, ROWS * K, true),
                    .w = act_new(k, N * K, true),
                    .b = act_new(k, N, true),
                    .dy = act_new(k, ROWS * N, true),
                    .y = act_new(k, ROWS * N, false),
                    .pre = act_new(k, ROWS * N, false),
                    .dx = act_new(k, ROWS * K, false),
                    .projected = k->device->alloc(ROWS * N * k->acc_size)};
}

static void layer_free(Linear *l) {
    act *all[] = {l->x, l->w, l->b, l->dy, l->y, l->pre, l->dx};
    for (size_t i = 0; i < COUNT(all); i++) l->k->device->release(all[i]);
    l->k->device->release(l->projected);
}

/* Rows [at, at + rows) as one batch. */
static void layer_run(const Linear *l, size_t rows, size_t at) {
    const Kernels *k = l->k;
    size_t N = l->N, K = l->K;
    const act *x = act_at(k, l->x, at * K);
    k->linear_activation_fwd(act_at(k, l->y, at * N), act_at(k, l->pre, at * N), x, l->w, l->b,
                             rows, N, K, ACTIVATION_GELU);
    k->linear_fwd(act_at(k, l->pre, at * N), x, l->w, NULL, rows, N, K);
    k->linear_bwd_input(act_at(k, l->dx, at * K), act_at(k, l->dy, at * N), l->w, rows, N, K);
    k->project_fwd(acc_at(k, l->projected, at * N), x, l->w, false, NULL, rows, K, N);
}

/* Those rows of the four results, malloc'd. */
static unsigned char *layer_rows(const Linear *l, size_t rows, size_t at, size_t *bytes) {
    const Kernels *k = l->k;
    const struct {
        const void *from;
        size_t bytes;
    } part[] = {{l->y, l->N * k->act_size},
                {l->pre, l->N * k->act_size},
                {l->dx, l->K * k->act_size},
                {l->projected, l->N * k->acc_size}};
    unsigned char *host = NULL;
    *bytes = 0;
    for (size_t i = 0; i < COUNT(part); i++) {
        host = xrealloc(host, *bytes + rows * part[i].bytes);
        k->device->download(host + *bytes, (const char *)part[i].from + at * part[i].bytes,
                            rows * part[i].bytes);
        *bytes += rows * part[i].bytes;
    }
    return host;
}

static void check_layer(const Kernels *k, size_t N, size_t K) {
    Linear l = layer_new(k, N, K);
    for (size_t i = 0; i < COUNT(batches); i++) {
        size_t rows = batches[i][0], at = batches[i][1], bytes;
        omp_set_num_threads(thread_counts[0]);
        layer_run(&l, ROWS, 0);
        unsigned char *want = layer_rows(&l, rows, at, &bytes);
        for (size_t t = 0; t < COUNT(thread_counts); t++) {
            omp_set_num_threads(thread_counts[t]);
            layer_run(&l, rows, at);
            assert_int_equal(omp_get_max_threads(), thread_counts[t]);
            unsigned char *got = layer_rows(&l, rows, at, &bytes);
            if (memcmp(got, want, bytes))
                fail_msg("%s, N %zu, K %zu: %zu rows from %zu on by %d threads differ from the "
                         "same of %d",
                         k->name, N, K, rows, at, thread_counts[t], ROWS);
            free(got);
        }
        free(want);
    }
    layer_free(&l);
}

/* ref is naive: small shapes only. */
static void products(void **state) {
    (void)state;
    for (size_t i = 0; model_backend(i); i++)
        for (size_t s = 0; s < COUNT(shapes); s++) {
            size_t N = shapes[s][0], K = shapes[s][1];
            if (i || N * K < 20000) check_layer(model_backend(i), N, K);
        }
}

/* ---- features ---- */

enum { B = 256 };

/* Wide enough for several parts of a contraction; heads, hidden widths and tokens of odd sizes. */
static ClipConfig wide_config(void) {
    ClipConfig c = odd_config();
    c.image = clip_image_tower(240, 2, 3, 1100);
    c.text = clip_text_tower(136, 2, 2, 300);
    return c;
}

/* Features of pairs [first, first + n) of the batch as a batch, images then texts, malloc'd. */
static double *features(TestModel *m, const TestBatch *all, size_t n, size_t first, bool keep) {
    size_t S = m->config.image_size, E = m->config.embed_dim, from = (size_t)all->start[first];
    int32_t *start = xmalloc((n + 1) * sizeof *start);
    for (size_t i = 0; i <= n; i++) start[i] = all->start[first + i] - (int32_t)from;
    Batch batch = {
        .size = n, .pixels = all->u8 + first * S * S * 3, .ids = all->ids + from, .start = start};
    model_forward(m, &batch, keep, NULL);
    double *x = xmalloc(2 * n * E * sizeof *x);
    m->k->acc_get(x, m->images, n * E);
    m->k->acc_get(x + n * E, m->texts, n * E);
    free(start);
    return x;
}

static void check_features(const Kernels *k) {
    static const size_t parts[][2] = {{1, 0}, {1, 255}, {7, 100}, {64, 33}, {255, 1}};
    ClipConfig c = wide_config();
    ClipOptions o = {.max_batch = B, .training = true};
    TestModel m = model_new(k, &c, &o, LOSS_CLIP);
    TestBatch all = random_batch(&c, B, test_seed());
    size_t E = c.embed_dim;
    omp_set_num_threads(2);
    double *want = features(&m, &all, B, 0, true);
    for (size_t i = 0; i < COUNT(parts); i++)
        for (size_t t = 0; t < COUNT(thread_counts); t++) {
            size_t n = parts[i][0], first = parts[i][1];
            omp_set_num_threads(thread_counts[t]);
            double *got = features(&m, &all, n, first, t & 1);
            for (size_t kind = 0; kind < 2; kind++)
                if (memcmp(got + kind * n * E, want + (kind * B + first) * E, n * E * sizeof *got))
                    fail_msg("%s: features of %s %zu to %zu by %d threads differ from those in a "
                             "batch of %d",
                             k->name, kind ? "captions" : "pictures", first, first + n - 1,
                             thread_counts[t], B);
            free(got);
        }
    free(want);
    batch_free(&all);
    model_free(&m);
}

/* Not in ref: its loops know no batch, and take minutes. */
static void features_alone(void **state) {
    (void)state;
    for (size_t i = 1; model_backend(i); i++) check_features(model_backend(i));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(products),
                                       cmocka_unit_test(features_alone)};
    return cmocka_run_group_tests_name("rows", tests, NULL, NULL);
}
