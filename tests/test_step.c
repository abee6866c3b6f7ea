/* One optimisation step: accumulation gives the gradient of the one large batch, once for the logit
 * scale; a locked tower; skipped steps. */
#include "tests/support.h"
#include "tests/support_model.h"
#include "train/step.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

/* A model with its step, over `accum` micro-batches of `size`. */
typedef struct Trainer {
    TestModel m;
    Optim *optim;
    Step *step;
    size_t size, accum;
} Trainer;

typedef struct Setup {
    LossKind kind;
    bool checkpoint, lock_image, lock_text;
    double patch_dropout;
    size_t text_rows, text_bucket; /* of ClipOptions, rows of a micro-batch */
} Setup;

static Trainer trainer_new(const Kernels *k, const ClipConfig *c, const Setup *s, size_t size,
                           size_t accum) {
    ClipOptions o = {.max_batch = size,
                     .training = true,
                     .grad_checkpointing = s->checkpoint,
                     .patch_dropout = s->patch_dropout,
                     .max_text_rows = s->text_rows,
                     .text_bucket = s->text_bucket,
                     .frozen_image = s->lock_image,
                     .frozen_text = s->lock_text,
                     .seed = 5};
    Trainer t = {.m = model_new(k, c, &o, s->kind), .size = size, .accum = accum};
    OptimOptions oo = {0.9, 0.98, 1e-6, 0.1, WD_HEAD, 0};
    t.optim = optim_new(t.m.state, &oo);
    t.step = step_new(k, comm_self(k), t.m.clip, t.m.state, t.optim, s->kind, size, accum,
                      c->embed_dim, 1 << 20, NULL);
    return t;
}

static void trainer_free(Trainer *t) {
    step_free(t->step);
    optim_free(t->optim);
    model_free(&t->m);
}

/* Rows first … first+n-1 of a batch as the loader would give them. */
static Batch slice(const TestBatch *b, const ClipConfig *c, size_t first, size_t n) {
    Batch s = {.size = n,
               .pixels = b->u8 + first * 3 * c->image_size * c->image_size,
               .ids = b->ids + b->start[first],
               .start = xmalloc((n + 1) * sizeof *s.start),
               .sample = b->sample + first,
               .epoch = 2};
    for (size_t i = 0; i <= n; i++) s.start[i] = b->start[first + i] - b->start[first];
    return s;
}

typedef struct Slices {
    Batch batch[8], *list[8];
} Slices;

static void slices_make(Slices *s, const TestBatch *b, const ClipConfig *c, const Trainer *t) {
    for (size_t j = 0; j < t->accum; j++) {
        s->batch[j] = slice(b, c, j * t->size, t->size);
        s->list[j] = &s->batch[j];
    }
}

static void slices_free(Slices *s, size_t accum) {
    for (size_t j = 0; j < accum; j++) free(s->batch[j].start);
}

static double gradients(Trainer *t, const TestBatch *b) {
    Slices s;
    slices_make(&s, b, &t->m.config, t);
    double loss = step_gradients(t->step, s.list);
    slices_free(&s, t->accum);
    return loss;
}

/* The texts' features of the first micro-batch; to be freed. */
static double *step_features(Trainer *t, const TestBatch *b) {
    const Kernels *k = t->m.k;
    size_t n = t->size * t->m.config.embed_dim;
    acc *texts = k->device->alloc(n * k->acc_size);
    Slices s;
    slices_make(&s, b, &t->m.config, t);
    uploads_features(step_uploads(t->step), s.list[0], NULL, texts);
    double *got = host_copy(k, texts, n);
    slices_free(&s, t->accum);
    k->device->release(texts);
    return got;
}

static const Setup setups[] = {
    {.kind = LOSS_CLIP},
    {.kind = LOSS_SIGLIP},
    {.kind = LOSS_CLIP, .checkpoint = true},
    {.kind = LOSS_CLIP, .patch_dropout = 0.5},
    {.kind = LOSS_CLIP, .lock_image = true},
    {.kind = LOSS_CLIP, .lock_text = true},
    {.kind = LOSS_CLIP, .lock_image = true, .lock_text = true},
};

static ClipConfig config_for(const Setup *s) {
    ClipConfig c = odd_config();
    c.has_logit_bias = s->kind == LOSS_SIGLIP;
    if (c.has_logit_bias) c.init_logit_bias = -3;
    return c;
}

static void check_accumulation(const Kernels *k, double tolerance) {
    for (size_t i = 0; i < COUNT(setups); i++) {
        ClipConfig c = config_for(&setups[i]);
        TestBatch b = random_batch(&c, 6, test_seed());
        Trainer one = trainer_new(k, &c, &setups[i], 6, 1);
        double want = gradients(&one, &b);
        for (size_t accum = 2; accum <= 6; accum += accum == 2 ? 1 : 3) {
            Trainer many = trainer_new(k, &c, &setups[i], 6 / accum, accum);
            const char *where = "";
            assert_near(gradients(&many, &b), want, tolerance * want);
            double worst = worst_gradient(&many.m, &one.m, &where);
            if (!(worst <= tolerance))
                fail_msg("%s, setup %zu, %zu micro-batches: gradient of %s: %.3g", k->name, i,
                         accum, where, worst);
            trainer_free(&many);
        }
        trainer_free(&one);
        batch_free(&b);
    }
}

static void test_accumulation_ref(void **state) {
    (void)state;
    int threads = omp_get_max_threads();
    omp_set_num_threads(1); /* calls too short to share */
    check_accumulation(kernels_open("ref", PRECISION_FP32), 1e-12);
    omp_set_num_threads(threads);
}
static void test_accumulation_fp32(void **state) {
    (void)state;
    check_accumulation(kernels_open(TEST_DEVICE, PRECISION_FP32), 1e-5);
}

/* The step's gradients are the harness's: one forward, loss, backward. */
static void test_one_batch(void **state) {
    (void)state;
    const Kernels *k = kernels_open(TEST_DEVICE, PRECISION_FP32);
    ClipConfig c = odd_config();
    TestBatch b = random_batch(&c, 5, test_seed());
    Trainer t = trainer_new(k, &c, &setups[0], 5, 1);
    TestModel m = model_new(k, &c, &(ClipOptions){.max_batch = 5, .training = true}, LOSS_CLIP);
    const char *where = "";
    assert_true(gradients(&t, &b) == model_gradients(&m, &b, (RunHow){.u8 = true}));
    assert_true(worst_gradient(&t.m, &m, &where) == 0);
    model_free(&m);
    trainer_free(&t);
    batch_free(&b);
}

static void check_learning(const Kernels *k) {
    ClipConfig c = golden_config();
    TestBatch b = random_batch(&c, 6, test_seed());
    Trainer t = trainer_new(k, &c, &setups[0], 3, 2);
    Slices s;
    slices_make(&s, &b, &c, &t);
    StepResult first = step_run(t.step, s.list, 1e-3, 1), last = first;
    assert_near(first.logit_scale, 1 / 0.07, 1e-5);
    assert_true(first.grad_norm > 0 && !first.skipped);
    for (uint64_t step = 2; step <= 12; step++) last = step_run(t.step, s.list, 1e-3, step);
    assert_true(last.loss < 0.5 * first.loss);
    slices_free(&s, 2);
    trainer_free(&t);
    batch_free(&b);
}

static void test_learning(void **state) {
    (void)state;
    check_learning(kernels_open(TEST_DEVICE, PRECISION_FP32));
    check_learning(kernels_open(TEST_DEVICE, PRECISION_AMP_BF16));
}

/* Captions of one context and of few tokens, so that halves differ: a text tower with memory for
 * `rows` a caption gives the features and, in parts, the gradients of one with memory for all. */
static void check_parts(const Kernels *k, size_t bucket, double tolerance) {
    enum { PAIRS = 6 };
    static const Setup of[] = {
        {.kind = LOSS_CLIP},
        {.kind = LOSS_SIGLIP, .checkpoint = true},
        {.kind = LOSS_CLIP, .lock_text = true},
    };
    for (size_t i = 0; i < COUNT(of); i++)
        for (size_t accum = 1; accum <= 2; accum++) {
            ClipConfig c = config_for(&of[i]);
            c.context_length = 29;
            size_t size = PAIRS / accum, before = 0;
            TestBatch b = random_batch(&c, PAIRS, test_seed());
            Setup s = of[i];
            s.text_bucket = bucket;
            Trainer whole = trainer_new(k, &c, &s, size, accum);
            double want = gradients(&whole, &b);
            double *texts = step_features(&whole, &b);
            size_t rows[] = {size * c.context_length, 2 * c.context_length, c.context_length};
            for (size_t n = 0; n < COUNT(rows); n++) {
                s.text_rows = rows[n];
                Trainer t = trainer_new(k, &c, &s, size, accum);
                const char *where = "";
                assert_near(gradients(&t, &b), want, tolerance * want);
                double worst = worst_gradient(&t.m, &whole.m, &where), *got = step_features(&t, &b);
                if (!(worst <= tolerance))
                    fail_msg("%s, setup %zu, %zu rows: gradient of %s: %.3g", k->name, i,
                             s.text_rows, where, worst);
                assert_memory_equal(got, texts, size * c.embed_dim * sizeof *got);
                size_t parts = uploads_parts(step_uploads(t.step), 0, 0);
                assert_true(parts >= before && (before || parts == 1));
                before = parts;
                free(got);
                trainer_free(&t);
            }
            assert_true(before > 1 || (bucket && accum > 1)); /* three captions fit */
            free(texts);
            trainer_free(&whole);
            batch_free(&b);
        }
}

static void test_texts_in_parts(void **state) {
    (void)state;
    check_parts(kernels_open("ref", PRECISION_FP32), 0, 1e-12);
    check_parts(kernels_open(TEST_DEVICE, PRECISION_FP32), 0, 1e-5);
    check_parts(kernels_open(TEST_DEVICE, PRECISION_FP32), 16, 1e-5);
    check_parts(kernels_open(TEST_DEVICE, PRECISION_AMP_BF16), 16, 2e-2);
}

/* A step that meets a NaN changes nothing and the next one starts from zero gradients. */
static void test_not_finite(void **state) {
    (void)state;
    const Kernels *k = kernels_open(TEST_DEVICE, PRECISION_FP32);
    ClipConfig c = golden_config();
    TestBatch b = random_batch(&c, 4, test_seed());
    Trainer t = trainer_new(k, &c, &setups[0], 4, 1);
    Slices s;
    slices_make(&s, &b, &c, &t);
    const Param *bias = param_named(t.m.p, "ln_final.bias");
    double *before = host_copy(k, t.m.p->master, t.m.p->size), nan = NAN, was;
    k->acc_get(&was, param_acc(t.m.p, bias), 1);
    k->acc_set(param_acc(t.m.p, bias), &nan, 1);
    params_round(t.m.p);
    StepResult r = step_run(t.step, s.list, 1e-3, 1);
    assert_true(r.skipped);
    k->acc_set(param_acc(t.m.p, bias), &was, 1);
    params_round(t.m.p);
    double *after = host_copy(k, t.m.p->master, t.m.p->size);
    assert_memory_equal(after, before, t.m.p->size * sizeof *after);
    double *grad = host_copy(k, t.m.p->grad, t.m.p->size);
    assert_true(l2(grad, t.m.p->size) == 0);
    assert_false(step_run(t.step, s.list, 1e-3, 1).skipped);
    free(before);
    free(after);
    free(grad);
    slices_free(&s, 1);
    trainer_free(&t);
    batch_free(&b);
}

/* Two ranks of the same data. The texts are sent when they are complete and no image has run. */
static const Kernels *sender;
static size_t sends, texts_before, images_before;
static void gather_both(const CommPiece *pieces, size_t count) {
    sends += count;
    sender->device->sync(); /* counts of a GPU are booked then */
    texts_before = kernel_stats[SLOT_text_embed_fwd].calls;
    images_before = kernel_stats[SLOT_patches_u8].calls;
    for (size_t i = 0; i < count; i++)
        for (size_t r = 0; r < 2; r++)
            sender->device->copy((char *)pieces[i].all + r * pieces[i].bytes, pieces[i].part,
                                 pieces[i].bytes);
}
static void test_texts_are_sent_early(void **state) {
    (void)state;
    ClipConfig c = config_for(&setups[0]);
    const Kernels *k = sender = kernels_open(TEST_DEVICE, PRECISION_FP32);
    for (size_t accum = 1; accum <= 2; accum++) {
        Trainer t = trainer_new(k, &c, &setups[0], 6 / accum, accum);
        TestBatch b = random_batch(&c, 6, test_seed());
        double alone = gradients(&t, &b);
        Comm two = *comm_self(k);
        two.size = 2;
        two.gather_start = gather_both;
        t.m.state->comm = &two;
        step_free(t.step);
        t.step = step_new(k, &two, t.m.clip, t.m.state, t.optim, LOSS_CLIP, 6 / accum, accum,
                          c.embed_dim, 1 << 20, NULL);
        sends = 0;
        kernel_stats_on = true;
        kernel_graphs_on = false; /* a replay calls no kernel */
        kernel_stats_reset();
        double loss = gradients(&t, &b);
        kernel_stats_on = false;
        kernel_graphs_on = true;
        assert_int_equal(sends, 1);
        assert_int_equal(texts_before, accum);
        assert_int_equal(images_before, accum - 1);
        /* of rank 0: its share of the mean; each text is there twice, in the rows alone */
        assert_near(loss, (alone + log(2) / 2) / 2, 1e-4);
        trainer_free(&t);
        batch_free(&b);
    }
}

#if defined TEST_CUDA
/* On a GPU the logits are one tile as far as the memory allows: as many launches for 1,100 pairs as
 * for 100. The layer without a GPU counts them (cuda_on_cpu/runtime.h). */
unsigned long cudaemuCount(int what) __attribute__((weak));
static unsigned long launches_of_loss(const Kernels *k, size_t n) {
    enum { E = 16 };
    double *random = xmalloc(n * E * sizeof *random), scale = 1;
    for (size_t i = 0; i < n * E; i++) random[i] = i % 7 == i / E % 7 ? 0.5 : 0;
    acc *x = k->device->alloc(n * E * k->acc_size), *scalars = k->device->alloc(3 * k->acc_size);
    acc *dx = k->device->alloc(2 * n * E * k->acc_size);
    k->acc_set(x, random, n * E);
    for (size_t i = 0; i < 3; i++) k->acc_set(acc_at(k, scalars, i), &scale, 1);
    Loss *l = loss_new(k, comm_self(k), LOSS_CLIP, n, E, 1 << 30);
    unsigned long before = cudaemuCount ? cudaemuCount(2) : 0;
    loss_run(l, scalars, dx, acc_at(k, dx, n * E), acc_at(k, scalars, 1), NULL, x, x,
             acc_at(k, scalars, 2), NULL, n);
    unsigned long after = cudaemuCount ? cudaemuCount(2) : 0;
    k->device->sync();
    loss_free(l);
    k->device->release(x);
    k->device->release(dx);
    k->device->release(scalars);
    free(random);
    return after - before;
}
static void test_logits_of_one_tile(void **state) {
    (void)state;
    const Kernels *k = kernels_open(TEST_DEVICE, PRECISION_FP32);
    unsigned long few = launches_of_loss(k, 100), many = launches_of_loss(k, 1100);
    print_message("launches of a loss: %lu of 100 pairs, %lu of 1,100\n", few, many);
    assert_int_equal(many, few);
}
#endif

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_accumulation_ref),
    cmocka_unit_test(test_accumulation_fp32),
    cmocka_unit_test(test_one_batch),
    cmocka_unit_test(test_texts_in_parts),
    cmocka_unit_test(test_learning),
    cmocka_unit_test(test_not_finite),
    cmocka_unit_test(test_texts_are_sent_early),
#if defined TEST_CUDA
    cmocka_unit_test(test_logits_of_one_tile),
#endif
};

int main(void) { return cmocka_run_group_tests_name("step", tests, NULL, NULL); }
