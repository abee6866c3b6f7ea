/* Batches on the device: several models read one, in whole or in part; padding of the packed
 * captions adds nothing; captured steps give the same bits as uncaptured ones. */
#include "tests/support.h"
#include "tests/support_kernels.h"
#include "tests/support_model.h"
#include "train/step.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { B = 8, BUCKET = 16 };

static ClipOptions options(size_t bucket) {
    return (ClipOptions){
        .max_batch = B, .training = true, .text_bucket = bucket, .patch_dropout = 0.5, .seed = 5};
}

static Batch loaded(const TestBatch *b, size_t n) {
    return (Batch){.size = n,
                   .pixels = b->u8,
                   .ids = b->ids,
                   .start = b->start,
                   .sample = b->sample,
                   .epoch = 3};
}

/* Gradients of the batch; loss. */
static double sent_gradients(TestModel *m, const Batch *b, ChangeBatch *change, double *features) {
    const Kernels *k = m->k;
    double loss;
    k->device->zero(m->p->grad, m->p->size * k->acc_size);
    model_forward(m, b, true, change);
    const Param *scale = param_named(m->p, "logit_scale");
    loss_run(m->loss, m->value, m->dimages, m->dtexts, param_grad(m->p, scale), NULL, m->images,
             m->texts, param_acc(m->p, scale), NULL, b->size);
    clip_text_bwd(m->clip, m->dtexts, b->size, NULL);
    clip_image_bwd(m->clip, m->dimages, b->size);
    k->device->sync();
    k->acc_get(&loss, m->value, 1);
    if (features) k->acc_get(features, m->texts, b->size * m->config.embed_dim);
    return loss;
}

static void assert_same(const Kernels *k, const acc *a, const acc *b, size_t n) {
    double *x = host_copy(k, a, n), *y = host_copy(k, b, n);
    assert_memory_equal(x, y, n * sizeof *x);
    free(x);
    free(y);
}

/* A model with patches of another size reads the batch that was sent for one that drops patches. */
static void check_shared(const Kernels *k) {
    ClipConfig c = odd_config(), other = odd_config();
    other.patch_size = 1;
    TestBatch b = random_batch(&c, B, test_seed());
    ClipOptions o = options(BUCKET), reads = {.max_batch = B, .text_bucket = BUCKET};
    TestModel student = model_new(k, &c, &o, LOSS_CLIP);
    TestModel teacher = model_new(k, &other, &reads, LOSS_CLIP);
    Batch batch = loaded(&b, B), whole = batch;
    size_t n = B * c.embed_dim;
    whole.sample = NULL;
    model_forward(&teacher, &whole, false, NULL);
    acc *images = k->device->alloc(n * k->acc_size), *texts = k->device->alloc(n * k->acc_size);
    Uploads *f = uploads_new(k, student.clip, 1);
    uploads_stage(f, 0, 0, &batch);
    const ClipBatch *sent = uploads_send(f, 0, 0, true, true);
    clip_image_fwd(student.clip, student.images, sent, true);
    clip_image_fwd(teacher.clip, images, sent, false);
    clip_text_fwd(teacher.clip, texts, sent, false);
    uploads_done(f);
    assert_same(k, images, teacher.images, n);
    assert_same(k, texts, teacher.texts, n);
    /* one of the two alone, without dropout */
    Batch pictures = {.size = B, .pixels = b.u8}, captions = {.size = B, .ids = b.ids};
    captions.start = b.start;
    model_forward(&student, &whole, false, NULL);
    uploads_features(f, &pictures, images, NULL);
    uploads_features(f, &captions, NULL, texts);
    assert_same(k, images, student.images, n);
    assert_same(k, texts, student.texts, n);
    uploads_free(f);
    k->device->release(images);
    k->device->release(texts);
    model_free(&student);
    model_free(&teacher);
    batch_free(&b);
}

/* The same batch with other ids in its padding. */
static const ClipBatch *other_padding(const TestModel *m, const ClipBatch *sent) {
    const Kernels *k = m->k;
    const TextPart *part = sent->part;
    int32_t *ids = xmalloc(part->rows * sizeof *ids), *start = xmalloc((part->sequences + 1) * 4);
    assert_int_equal(sent->parts, 1);
    k->device->sync();
    k->device->download(ids, part->ids, part->rows * sizeof *ids);
    k->device->download(start, part->start, (part->sequences + 1) * sizeof *start);
    assert_true(part->sequences > part->B && part->rows % BUCKET == 0);
    assert_int_equal(start[part->sequences], part->rows);
    for (size_t i = part->B; i < part->sequences; i++) {
        assert_true(start[i + 1] > start[i]);
        assert_true((size_t)(start[i + 1] - start[i]) <= m->config.context_length);
    }
    for (size_t i = (size_t)start[part->B]; i < part->rows; i++)
        ids[i] = (int32_t)(1 + (i * 7) % (m->config.vocab_size - 1));
    k->device->upload((int32_t *)(uintptr_t)part->ids, ids, part->rows * sizeof *ids);
    free(ids);
    free(start);
    return sent;
}

/* The largest magnitudes of x, w and (if `all`) dy are the same in both models; without amp_fp8
 * there are none. */
static void assert_scaling(const TestModel *a, const TestModel *b, bool all) {
    size_t n = a->p->fp8_factors;
    if (!n) return;
    double *x = host_copy(a->k, a->p->fp8, n), *y = host_copy(a->k, b->p->fp8, n);
    for (size_t i = 0; i < n; i++) {
        bool gradient = i % 3 == 2;
        assert_true(x[i] > 0 || gradient);
        assert_true(x[i] == y[i] || (gradient && !all));
    }
    free(x);
    free(y);
}

/* Batches of n captions, so that the padding differs in length; in 8 bits only the largest, with
 * numbers of rows that are multiplied so. */
static void check_padding(const Kernels *k, ClipConfig c, double tolerance) {
    uint64_t seed = test_seed();
    TestBatch b = random_batch(&c, B, seed);
    while (k->fp8 && b.start[B] % FP8_ROWS) {
        batch_free(&b);
        b = random_batch(&c, B, ++seed);
    }
    ClipOptions padded = options(BUCKET), not_padded = options(0);
    for (size_t n = k->fp8 ? B : 1; n <= B; n += 1 + n / 2 * 2) {
        Batch batch = loaded(&b, n);
        TestModel m[3];
        for (int i = 0; i < 3; i++)
            m[i] = model_new(k, &c, i < 2 ? &padded : &not_padded, LOSS_CLIP);
        size_t E = n * c.embed_dim;
        double *features[3], loss[3];
        const char *where = "";
        for (int i = 0; i < 3; i++) {
            features[i] = xcalloc(E, sizeof(double));
            loss[i] = sent_gradients(&m[i], &batch, i == 1 ? other_padding : NULL, features[i]);
        }
        assert_int_equal(kernel_fp8_products.in_act, 0);
        /* contents of the padding change no bit */
        assert_true(loss[0] == loss[1]);
        assert_memory_equal(features[0], features[1], E * sizeof(double));
        if (worst_gradient(&m[0], &m[1], &where) != 0)
            fail_msg("%s, %zu captions: padding shows in %s", k->name, n, where);
        assert_scaling(&m[0], &m[1], true);
        assert_scaling(&m[0], &m[2], false);
        /* without it, sums over rows may be cut elsewhere */
        assert_near(loss[0], loss[2], tolerance * fmax(1, loss[2]));
        assert_true(test_error_max(features[0], features[2], E) <= tolerance);
        double worst = worst_gradient(&m[0], &m[2], &where);
        if (!(worst <= tolerance))
            fail_msg("%s, %zu captions: without padding %s differs by %.3g", k->name, n, where,
                     worst);
        for (int i = 0; i < 3; i++) {
            free(features[i]);
            model_free(&m[i]);
        }
    }
    batch_free(&b);
}

#if defined TEST_CUDA
extern bool device_has_fp8(void);
static bool has_fp8(void) { return device_has_fp8(); }
#else
static bool has_fp8(void) { return false; }
#endif

static void test_shared(void **state) {
    (void)state;
    check_shared(kernels_open(TEST_DEVICE, PRECISION_FP32));
    check_shared(kernels_open(TEST_DEVICE, PRECISION_AMP_BF16));
}

static void test_padding(void **state) {
    (void)state;
    check_padding(kernels_open("ref", PRECISION_FP32), odd_config(), 1e-12);
    check_padding(kernels_open(TEST_DEVICE, PRECISION_FP32), odd_config(), 2e-6);
    check_padding(kernels_open(TEST_DEVICE, PRECISION_AMP_BF16), odd_config(), 1e-5);
    /* sizes that are multiples of 16, else nothing is computed in 8 bits */
    if (has_fp8())
        check_padding(kernels_open(TEST_DEVICE, PRECISION_AMP_FP8), golden_config(), 1e-5);
}

/* Counts of the layer that runs CUDA without a GPU: 0, calls that allocate or free memory; 1, those
 * that wait for the device. */
unsigned long cudaemuCount(int what) __attribute__((weak));
static unsigned long memory_calls, waits;

static void count_from(void) {
    memory_calls = cudaemuCount ? cudaemuCount(0) : 0;
    waits = cudaemuCount ? cudaemuCount(1) : 0;
}
static void count_to(unsigned long memory_most, unsigned long waits_most) {
    if (!cudaemuCount) return;
    assert_in_range(cudaemuCount(0) - memory_calls, 0, memory_most);
    assert_in_range(cudaemuCount(1) - waits, 0, waits_most);
}

/* The work of a validation between steps: forwards of other samples. */
static void validate(TestModel *m) {
    TestBatch b = random_batch(&m->config, B, test_seed() + 77);
    Batch batch = {.size = B, .pixels = b.u8, .ids = b.ids, .start = b.start};
    model_forward(m, &batch, false, NULL);
    batch_free(&b);
}

/* n steps of two micro-batches whose captions change in number of rows. Once every batch has
 * occurred, enqueuing a step allocates no memory and never waits; reading its result is one
 * wait. */
static void run_steps(const Kernels *k, ClipConfig c, bool graphs, bool validated, double *master,
                      double **scaling, StepResult *results, size_t n) {
    ClipOptions o = options(BUCKET);
    TestModel m = model_new(k, &c, &o, LOSS_CLIP);
    OptimOptions oo = {0.9, 0.98, 1e-6, 0.1, WD_HEAD, 1};
    Optim *optim = optim_new(m.state, &oo);
    Step *s = step_new(k, comm_self(k), m.clip, m.state, optim, LOSS_CLIP, B, 2, c.embed_dim,
                       1 << 20, NULL);
    TestBatch b[3];
    for (uint32_t i = 0; i < 3; i++) b[i] = random_batch(&c, B, test_seed() + i);
    Batch batch[2][2], *list[2][2];
    kernel_graphs_on = graphs;
    for (size_t t = 0; t < n; t++) {
        for (size_t j = 0; j < 2; j++) {
            batch[t % 2][j] = loaded(&b[(t + j) % 3], B);
            list[t % 2][j] = &batch[t % 2][j];
        }
        if (validated && t % 2) validate(&m);
        count_from();
        step_start(s, list[t % 2], 1e-2, t + 1);
        if (t > 2 && !validated) count_to(0, 0);
        if (t > 0) results[t - 1] = step_result(s);
        if (t > 2 && !validated) count_to(0, 1);
    }
    results[n - 1] = step_result(s);
    kernel_graphs_on = true;
    if (scaling) *scaling = host_copy(k, m.p->fp8, FP8_SCALING * m.p->fp8_factors);
    double *got = host_copy(k, m.p->master, m.p->size);
    memcpy(master, got, m.p->size * sizeof *got);
    free(got);
    for (uint32_t i = 0; i < 3; i++) batch_free(&b[i]);
    step_free(s);
    optim_free(optim);
    model_free(&m);
}

static size_t elements(const Kernels *k, const ClipConfig *c) {
    Params *p = params_declare(k, c);
    params_layout(p, 1);
    size_t size = p->size;
    params_free(p);
    return size;
}

static void test_recorded_steps(void **state) {
    (void)state;
    enum { STEPS = 6 };
    const Kernels *k = kernels_open(TEST_DEVICE, PRECISION_AMP_BF16);
    ClipConfig c = odd_config();
    size_t size = elements(k, &c);
    double *master[2] = {xcalloc(size, sizeof(double)), xcalloc(size, sizeof(double))};
    StepResult results[2][STEPS];
    for (int graphs = 0; graphs < 2; graphs++)
        run_steps(k, c, graphs, false, master[graphs], NULL, results[graphs], STEPS);
    for (size_t t = 0; t < STEPS; t++) {
        assert_true(results[0][t].loss == results[1][t].loss);
        assert_true(results[0][t].grad_norm == results[1][t].grad_norm);
        assert_true(results[0][t].logit_scale == results[1][t].logit_scale);
        assert_false(results[0][t].skipped);
    }
    assert_true(results[0][STEPS - 1].loss < results[0][0].loss);
    assert_memory_equal(master[0], master[1], size * sizeof(double));
    free(master[0]);
    free(master[1]);
}

/* Forwards outside steps change neither the weights nor the magnitudes behind the scales of
 * amp_fp8. */
static void test_validation_leaves_no_trace(void **state) {
    (void)state;
    enum { STEPS = 4 };
    Precision precision = has_fp8() ? PRECISION_AMP_FP8 : PRECISION_AMP_BF16;
    const Kernels *k = kernels_open(TEST_DEVICE, precision);
    ClipConfig c = golden_config();
    size_t size = elements(k, &c);
    double *master[2] = {xcalloc(size, sizeof(double)), xcalloc(size, sizeof(double))};
    double *scaling[2] = {NULL, NULL};
    StepResult results[STEPS];
    for (int validated = 0; validated < 2; validated++)
        run_steps(k, c, true, validated, master[validated], k->fp8 ? &scaling[validated] : NULL,
                  results, STEPS);
    assert_memory_equal(master[0], master[1], size * sizeof(double));
    size_t factors = 3 * 4 * (c.image.layers + c.text.layers);
    if (k->fp8) assert_memory_equal(scaling[0], scaling[1], FP8_SCALING * factors * sizeof(double));
    free(scaling[0]);
    free(scaling[1]);
    free(master[0]);
    free(master[1]);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_shared),
    cmocka_unit_test(test_padding),
    cmocka_unit_test(test_recorded_steps),
    cmocka_unit_test(test_validation_leaves_no_trace),
};

int main(void) {
#if defined TEST_CUDA
    setenv("CUDAEMU_ARCH", "90", 0); /* for runs without a GPU: an architecture with FP8 */
#endif
    return cmocka_run_group_tests_name("uploads", tests, NULL, NULL);
}
