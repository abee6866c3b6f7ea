/* Image towers that are ResNets: against open_clip (tests/golden/make_resnet.py), gradients against
 * difference quotients, the tested device against `ref`, checkpointing, batch normalisation. */
#include "tests/support.h"
#include "tests/support_data.h"
#include "tests/support_model.h"
#include "kernels/rng.h"
#include "train/model/params_resnet.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

static const RunHow bytes = {.u8 = true};
static const ClipOptions options = {.max_batch = 3, .training = true};

static const ConvKind kinds[] = {CONV_MODIFIED, CONV_BASIC, CONV_BOTTLENECK};

static ClipConfig config_of(ConvKind kind) {
    ClipConfig c = tiny_config();
    size_t wide = kind == CONV_BASIC ? 8 : 32;
    c.image_size = 64;
    c.patch_size = 32;
    c.image = (TowerConfig){.heads = 4, .eps = 1e-5, .pool = POOL_MEAN, .proj_bias = true};
    c.image.conv = (ConvNet){kind, 2, {1, 2, 1, 1}};
    c.image.width = wide * c.image.conv.width;
    c.image.layers = 5;
    c.image.class_token = kind == CONV_MODIFIED;
    return c;
}

static bool nothing(const char *name) {
    (void)name;
    return false;
}
static bool norms(const char *name) { return strstr(name, "bn") || strstr(name, "downsample.1"); }

/* ---- gradients ---- */

static double loss_at(TestModel *m, const TestBatch *b, const Param *q, size_t i, double value) {
    m->k->acc_set(acc_at(m->k, param_acc(m->p, q), i), &value, 1);
    return model_loss(m, b, bytes);
}

static void check_tensor(TestModel *m, const TestBatch *b, const Param *q) {
    const double h = 1e-7;
    double *grad = model_grad(m, q->name);
    size_t at[2] = {rng_below(test_seed(), RNG_TEST, q->offset, q->size), 0};
    for (size_t i = 0; i < q->size; i++)
        if (fabs(grad[i]) > fabs(grad[at[1]])) at[1] = i;
    for (size_t s = 0; s < COUNT(at); s++) {
        double *x = host_copy(m->k, acc_at(m->k, param_acc(m->p, q), at[s]), 1);
        double up = loss_at(m, b, q, at[s], *x + h), down = loss_at(m, b, q, at[s], *x - h);
        m->k->acc_set(acc_at(m->k, param_acc(m->p, q), at[s]), x, 1);
        double want = (up - down) / (2 * h);
        if (!(fabs(grad[at[s]] - want) <= 1e-7 + 1e-4 * fabs(want)))
            fail_msg("kind %d: %s[%zu]: gradient %.10g, difference quotient %.10g",
                     m->config.image.conv.kind, q->name, at[s], grad[at[s]], want);
        free(x);
    }
    free(grad);
}

/* learning: with the statistics of the batch; frozen norms have none. */
static void check_differences(ConvKind kind, bool learning, bool (*frozen)(const char *name)) {
    ClipConfig c = config_of(kind);
    TestModel m =
        model_new_frozen(kernels_open("ref", PRECISION_FP32), &c, &options, LOSS_CLIP, frozen);
    TestBatch b = random_batch(&c, options.max_batch, test_seed());
    clip_learning(m.clip, learning);
    model_gradients(&m, &b, bytes);
    for (size_t i = 0; i < m.p->count; i++) {
        const Param *q = &m.p->list[i];
        if (q->trainable && q->tower == TOWER_IMAGE) check_tensor(&m, &b, q);
    }
    batch_free(&b);
    model_free(&m);
}

static void test_differences(void **state) {
    (void)state;
    int threads = omp_get_max_threads();
    omp_set_num_threads(1); /* thousands of calls too short to share */
    for (size_t i = 0; i < COUNT(kinds); i++) {
        check_differences(kinds[i], true, nothing);
        check_differences(kinds[i], false, nothing);
        check_differences(kinds[i], true, norms);
    }
    omp_set_num_threads(threads);
}

/* Loss and gradients of two models, these relative to the whole gradient: a tensor of few elements
 * may have next to none. */
static void assert_agree(TestModel *a, TestModel *b, const TestBatch *batch, double tolerance) {
    double x = model_gradients(a, batch, bytes), y = model_gradients(b, batch, bytes);
    double *whole = host_copy(b->k, b->p->grad, b->p->learning);
    double norm = l2(whole, b->p->learning);
    assert_near(x, y, tolerance * fmax(1, fabs(y)));
    for (size_t i = 0; i < a->p->count; i++) {
        const Param *q = &a->p->list[i];
        if (!q->trainable) continue;
        double *g = model_grad(a, q->name), *h = model_grad(b, q->name);
        for (size_t j = 0; j < q->size; j++) g[j] -= h[j];
        double e = l2(g, q->size) / norm;
        if (!(e <= tolerance)) fail_msg("%s: gradient of %s: %.3g", a->k->name, q->name, e);
        FREE_ALL(g, h);
    }
    free(whole);
}

/* The device against ref; a checkpointed pass has the same bits. */
static void test_device_is_ref(void **state) {
    (void)state;
    static const double tolerances[] = {0, 1e-4, 0.6};
    for (size_t i = 0; i < 2 * COUNT(kinds); i++) {
        ClipConfig c = config_of(kinds[i / 2]);
        TestBatch b = random_batch(&c, options.max_batch, test_seed());
        TestModel ref = model_new(model_backend(0), &c, &options, LOSS_CLIP);
        clip_learning(ref.clip, i % 2);
        for (size_t j = 0; model_backend(j); j++) {
            ClipOptions o = options;
            TestModel m = model_new(model_backend(j), &c, &o, LOSS_CLIP);
            o.grad_checkpointing = true;
            TestModel again = model_new(model_backend(j), &c, &o, LOSS_CLIP);
            clip_learning(m.clip, i % 2);
            clip_learning(again.clip, i % 2);
            assert_agree(&m, &again, &b, 0);
            if (j) assert_agree(&m, &ref, &b, tolerances[j]);
            model_free(&m);
            model_free(&again);
        }
        model_free(&ref);
        batch_free(&b);
    }
}

/* ---- batch normalisation ---- */

static double *statistics_of(const TestModel *m) {
    return host_copy(m->k, acc_at(m->k, m->p->frozen, m->p->statistics - m->p->learning),
                     m->p->statistics_size);
}

/* Only a step's forward with activations moves the running statistics, and only of norms that
 * learn; with and without activations the features are the same bits. */
static void test_statistics(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(kinds); i++) {
        ClipConfig c = config_of(kinds[i]);
        TestBatch b = random_batch(&c, options.max_batch, test_seed());
        size_t n = options.max_batch * c.embed_dim;
        for (int frozen = 0; frozen < 2; frozen++) {
            TestModel m = model_new_frozen(model_backend(1), &c, &options, LOSS_CLIP,
                                           frozen ? norms : nothing);
            size_t size = m.p->statistics_size * sizeof(double);
            double *before = statistics_of(&m), *of_running, *of_batch, *after;
            model_loss(&m, &b, bytes);
            of_running = host_copy(m.k, m.images, n);
            clip_learning(m.clip, true);
            model_loss(&m, &b, bytes);
            of_batch = host_copy(m.k, m.images, n);
            after = statistics_of(&m);
            assert_memory_equal(before, after, size);
            free(after);
            model_gradients(&m, &b, bytes);
            double *kept = host_copy(m.k, m.images, n);
            assert_memory_equal(kept, of_batch, n * sizeof *kept);
            after = statistics_of(&m);
            assert_int_equal(memcmp(before, after, size) == 0, frozen);
            assert_int_equal(test_error_l2(of_running, of_batch, n) < 1e-6, frozen);
            FREE_ALL(before, after, of_running, of_batch, kept);
            model_free(&m);
        }
        batch_free(&b);
    }
}

/* A tower that is frozen as a whole normalises by its running statistics in a step too. */
static void test_frozen_tower(void **state) {
    (void)state;
    ClipConfig c = config_of(CONV_MODIFIED);
    ClipOptions o = options;
    o.frozen_image = true;
    TestModel m = model_new(model_backend(1), &c, &o, LOSS_CLIP);
    TestBatch b = random_batch(&c, o.max_batch, test_seed());
    size_t n = o.max_batch * c.embed_dim;
    model_loss(&m, &b, bytes);
    double *want = host_copy(m.k, m.images, n);
    clip_learning(m.clip, true);
    model_gradients(&m, &b, bytes);
    double *got = host_copy(m.k, m.images, n);
    assert_memory_equal(got, want, n * sizeof *got);
    FREE_ALL(got, want);
    batch_free(&b);
    model_free(&m);
}

/* ---- tensors ---- */

/* Names and shapes of torchvision's ResNet-50 in a timm tower; elements as published. */
static void test_tensors(void **state) {
    (void)state;
    static const struct {
        const char *model;
        size_t elements; /* trainable ones of the trunk or the whole image tower */
    } rows[] = {{"resnet18", 11176512}, {"resnet34", 21284672}, {"resnet50", 23508032}};
    for (size_t i = 0; i < COUNT(rows); i++) {
        char *json = xasprintf("{\"embed_dim\": 16, \"vision_cfg\": {\"timm_model_name\": \"%s\", "
                               "\"image_size\": 64}, \"text_cfg\": {\"layers\": 1}}",
                               rows[i].model);
        ClipConfig c;
        Error err;
        if (!clip_config_parse(&c, "test", json, strlen(json), &err)) fail_msg("%s", err.text);
        size_t count, n = 0;
        Param *list = params_describe(&c, &count);
        for (size_t j = 0; j < count; j++)
            if (!strncmp(list[j].name, "visual.trunk.", 13) && !param_is_statistic(&list[j]))
                n += list[j].size;
        assert_int_equal(n, rows[i].elements);
        clip_config_free(&c);
        FREE_ALL(list, json);
    }
}

/* ---- open_clip ---- */

#if !defined TEST_CUDA
#define PAIRS "tests/golden/openclip"
#define GOLDEN "tests/golden/resnet"

static void embed(const char *checkpoint, const char *want, double tolerance) {
    const char *out = test_path("features.npy");
    free(test_clipc(0,
                    "embed --precision fp32 --checkpoint %s --vocab " PAIRS
                    "/vocab.txt --images " PAIRS "/pairs.tsv --out %s",
                    checkpoint, out));
    same_npy(out, want, tolerance);
}

/* Ten steps of a run, and features by the running statistics that these leave. */
static void train_ten(const char *name, const char *optimizer, const char *steps,
                      const char *features) {
    char *checkpoint = xasprintf("logs/%s/checkpoints/step_10", name);
    free(test_clipc(
        0,
        "train --pretrained " GOLDEN " --vocab " PAIRS "/vocab.txt --train-data " PAIRS
        "/pairs.tsv --train-transform eval --no-shuffle --batch-size 8 --max-steps 12 --warmup 2 "
        "%s --beta1 0.9 --grad-clip-norm 1 --wd-groups legacy --precision fp32 "
        "--save-frequency-steps 10 --keep-checkpoints 2 --logs %s --name %s",
        optimizer, test_path("logs"), name));
    same_steps(name, steps);
    embed(test_path(checkpoint), features, 1e-3);
    free(checkpoint);
}

static void test_open_clip(void **state) {
    (void)state;
    embed(GOLDEN, GOLDEN "/image_features.npy", 2e-6);
    train_ten("steps", "--lr 1e-3 --wd 0.2 --beta2 0.98 --eps 1e-6", GOLDEN "/steps.json",
              GOLDEN "/trained_image_features.npy");
}

/* LARS against PyTorch in float64. */
static void test_lars(void **state) {
    (void)state;
    train_ten("lars", "--optimizer lars --lr 1 --wd 1e-2", GOLDEN "/lars_steps.json",
              GOLDEN "/lars_image_features.npy");
}
#endif

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_differences), cmocka_unit_test(test_device_is_ref),
    cmocka_unit_test(test_statistics),  cmocka_unit_test(test_frozen_tower),
    cmocka_unit_test(test_tensors),
#if !defined TEST_CUDA
    cmocka_unit_test(test_open_clip),   cmocka_unit_test(test_lars),
#endif
};

int main(void) { return cmocka_run_group_tests_name("resnet", tests, NULL, NULL); }
