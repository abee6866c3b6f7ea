/* The golden model of docs/NUMERICS.md on every backend: features, loss, the gradient of every
 * tensor, five optimiser steps, QuickGELU and the SigLIP loss. */
#include "tests/support.h"
#include "tests/support_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* As in tests/golden/make_model.py. */
enum { BF16_BATCHES = 8 };

static const RunHow plain = {0};
static const ClipOptions options = {.max_batch = 4, .training = true};

typedef struct Gradient {
    const char *name;
    double norm, first;
} Gradient;

/* Nine digits each; computed by PyTorch in float64. */
static const Gradient gradients[] = {
    {"positional_embedding", 3.89943155, -0.11398055},
    {"text_projection", 5.99263966, -0.0686493074},
    {"visual.class_embedding", 3.62925787, -0.150097106},
    {"visual.positional_embedding", 3.62967087, -0.150097106},
    {"visual.proj", 5.15715856, -0.0106522359},
    {"visual.conv1.weight", 0.863677339, 0.0099462401},
    {"visual.ln_pre.weight", 0.269497347, -0.00273355858},
    {"visual.transformer.resblocks.0.attn.in_proj_weight", 0.737514756, 0.000223819718},
    {"visual.transformer.resblocks.0.attn.in_proj_bias", 0.171365401, 0.00207986339},
    {"visual.transformer.resblocks.1.mlp.c_fc.bias", 0.136958871, 0.0170687871},
    {"visual.ln_post.weight", 0.317567145, -0.00808296254},
    {"transformer.resblocks.0.attn.in_proj_weight", 4.91410204, 0.0118538153},
    {"transformer.resblocks.1.mlp.c_proj.weight", 3.09927906, -0.00575611415},
    {"token_embedding.weight", 3.35279045, 0},
    {"ln_final.bias", 0.0895019995, 0.00137000047},
};
static const double image_row0[] = {0.125741853, -0.224188820, -0.124598439, -0.196250545};
static const double text_row0[] = {0.022706764, 0.003087247, -0.341517958, -0.155367282};
static const double text_row2[] = {-0.064730820, -0.102019270, -0.141115113, -0.001043257};
static const double golden_loss = 1.693401002489, golden_norm = 16.326713850;

static void check_features(const TestModel *m, double tolerance) {
    size_t E = m->config.embed_dim;
    double *images = host_copy(m->k, m->images, 4 * E), *texts = host_copy(m->k, m->texts, 4 * E);
    for (size_t i = 0; i < 4; i++) {
        assert_near(images[i], image_row0[i], tolerance);
        assert_near(texts[i], text_row0[i], tolerance);
        assert_near(texts[2 * E + i], text_row2[i], tolerance);
    }
    free(images);
    free(texts);
}

/* relative: of the norm and, at the same scale, of the first element; half of the last printed
 * digit comes on top. */
static void check_gradients(const TestModel *m, double relative) {
    for (size_t i = 0; i < COUNT(gradients); i++) {
        const Gradient *g = &gradients[i];
        const Param *q = param_named(m->p, g->name);
        assert_non_null(q);
        double *v = model_grad(m, g->name), norm = l2(v, q->size);
        double scale = 5.1e-10 * pow(10, floor(log10(g->norm)) + 1);
        if (!(fabs(norm - g->norm) <= scale + relative * g->norm))
            fail_msg("%s: norm %.12g, not %.12g", g->name, norm, g->norm);
        double digit = g->first != 0 ? 5.1e-10 * pow(10, floor(log10(fabs(g->first))) + 1) : 0;
        if (!(fabs(v[0] - g->first) <= digit + relative * g->norm))
            fail_msg("%s: first %.12g, not %.12g", g->name, v[0], g->first);
        free(v);
    }
    double *all = host_copy(m->k, m->p->grad, m->p->size);
    assert_near(l2(all, m->p->size), golden_norm, 6e-9 + relative * golden_norm);
    free(all);
    double *scale = model_grad(m, "logit_scale");
    assert_near(fabs(scale[0]), 0.473883819, 6e-10 + relative * 0.473883819);
    free(scale);
}

static void test_formula(void **state) {
    (void)state;
    static const double zero[] = {-0.047014166, -0.615785709, -0.731641562};
    static const double image[] = {-0.250058528, -0.515261367, -0.452209476};
    for (uint32_t i = 0; i < 3; i++) {
        assert_near(golden_value(0, i + 1), zero[i], 6e-10);
        assert_near(golden_value(1000, i + 1), image[i], 6e-10);
    }
}

static void check_golden(const Kernels *k, double loss, double feature, double gradient) {
    ClipConfig c = golden_config();
    TestBatch b = golden_batch(0);
    TestModel m = model_new(k, &c, &options, LOSS_CLIP);
    double got = model_gradients(&m, &b, plain);
    check_features(&m, feature);
    assert_near(got, golden_loss, loss);
    check_gradients(&m, gradient);
    assert_near(model_loss(&m, &b, plain), got, 0);
    model_free(&m);
    batch_free(&b);
}

static void test_golden_ref(void **state) {
    (void)state;
    check_golden(kernels_open("ref", PRECISION_FP32), 6e-13, 6e-10, 0);
}

static void test_golden_fp32(void **state) {
    (void)state;
    check_golden(kernels_open(TEST_DEVICE, PRECISION_FP32), 1e-5, 1e-6, 1e-5);
}

/* ---- every tensor against float64 ---- */

static double features_error(const TestModel *m, const acc *got, const TestModel *ref,
                             const acc *want) {
    size_t n = m->B * m->config.embed_dim;
    double *x = host_copy(m->k, got, n), *y = host_copy(ref->k, want, n);
    double e = test_error_l2(x, y, n);
    free(x);
    free(y);
    return e;
}

/* The K rows of in_proj_bias have no true gradient (a constant added to all scores of a query):
 * their values are rounding errors, measured against the rest of the tensor. */
static double tensor_error(const Param *q, double *got, double *want) {
    if (!strstr(q->name, "in_proj_bias")) return test_error_l2(got, want, q->size);
    size_t C = q->size / 3;
    double k = l2(got + C, C) / l2(want, q->size);
    memset(got + C, 0, C * sizeof *got);
    memset(want + C, 0, C * sizeof *want);
    return fmax(k, test_error_l2(got, want, q->size));
}

/* Root mean square over `batches` batches of the relative error against ref of the two features,
 * the loss and each tensor's gradient; check(name, error) for each. */
static void compare_gradients(Precision precision, uint32_t batches,
                              void (*check)(const char *name, double error)) {
    ClipConfig c = golden_config();
    TestModel m = model_new(kernels_open(TEST_DEVICE, precision), &c, &options, LOSS_CLIP);
    TestModel ref = model_new(kernels_open("ref", precision), &c, &options, LOSS_CLIP);
    const char *names[256] = {"image_features", "text_features", "loss"};
    double squares[256] = {0}, e;
    for (uint32_t i = 0; i < batches; i++) {
        TestBatch b = golden_batch(i);
        double got = model_gradients(&m, &b, plain), want = model_gradients(&ref, &b, plain);
        e = features_error(&m, m.images, &ref, ref.images);
        squares[0] += e * e;
        e = features_error(&m, m.texts, &ref, ref.texts);
        squares[1] += e * e;
        squares[2] += (got - want) * (got - want) / (want * want);
        for (size_t t = 0; t < m.p->count; t++) {
            const Param *q = &m.p->list[t];
            double *x = model_grad(&m, q->name), *y = model_grad(&ref, q->name);
            names[3 + t] = q->name;
            e = tensor_error(q, x, y);
            squares[3 + t] += e * e;
            free(x);
            free(y);
        }
        batch_free(&b);
    }
    for (size_t i = 0; i < 3 + m.p->count; i++) check(names[i], sqrt(squares[i] / batches));
    model_free(&m);
    model_free(&ref);
}

static void fp32_error(const char *name, double error) {
    if (!(error <= 1e-5)) fail_msg("%s: relative error %.2g", name, error);
}

/* Errors of PyTorch's amp_bf16 on the same batches. */
static double torch_error(const char *name) {
    FILE *f = fopen("tests/golden/model_bf16.txt", "r");
    assert_non_null(f);
    char line[256], found[128];
    double error = NAN, value;
    while (fgets(line, sizeof line, f))
        if (sscanf(line, "%127s %lf", found, &value) == 2 && !strcmp(found, name)) error = value;
    fclose(f);
    if (isnan(error)) fail_msg("tests/golden/model_bf16.txt lacks %s", name);
    return error;
}

static void bf16_error(const char *name, double error) {
    double torch = torch_error(name);
    if (!(error <= 2 * torch))
        fail_msg("%s: relative error %.3g, PyTorch's is %.3g", name, error, torch);
}

static void test_gradients_fp32(void **state) {
    (void)state;
    compare_gradients(PRECISION_FP32, 1, fp32_error);
}
static void test_gradients_bf16(void **state) {
    (void)state;
    compare_gradients(PRECISION_AMP_BF16, BF16_BATCHES, bf16_error);
}

/* ---- other activation, other loss ---- */

static void check_quick_gelu(const Kernels *k, double loss, double feature) {
    ClipConfig c = golden_config();
    c.image.activation = c.text.activation = ACTIVATION_QUICK_GELU;
    TestBatch b = golden_batch(0);
    TestModel m = model_new(k, &c, &options, LOSS_CLIP);
    assert_near(model_loss(&m, &b, plain), 1.689072437002, loss);
    double *images = host_copy(k, m.images, 1);
    assert_near(images[0], 0.125582784, feature);
    free(images);
    model_free(&m);
    batch_free(&b);
}

static void check_siglip(const Kernels *k, double tolerance) {
    ClipConfig c = golden_config();
    c.has_logit_bias = true;
    c.init_logit_bias = -10;
    c.init_logit_scale = log(10);
    TestBatch b = golden_batch(0);
    TestModel m = model_new(k, &c, &options, LOSS_SIGLIP);
    assert_near(model_gradients(&m, &b, plain), 10.558047146153, 10 * tolerance);
    double *scale = model_grad(&m, "logit_scale"), *bias = model_grad(&m, "logit_bias");
    assert_near(bias[0], -0.999858613330, tolerance);
    assert_near(scale[0], 0.557899298105, tolerance);
    free(scale);
    free(bias);
    model_free(&m);
    batch_free(&b);
}

static void test_quick_gelu(void **state) {
    (void)state;
    check_quick_gelu(kernels_open("ref", PRECISION_FP32), 6e-13, 6e-10);
    check_quick_gelu(kernels_open(TEST_DEVICE, PRECISION_FP32), 1e-5, 1e-6);
    check_quick_gelu(kernels_open(TEST_DEVICE, PRECISION_AMP_BF16), 5e-3, 5e-3);
}

static void test_siglip(void **state) {
    (void)state;
    check_siglip(kernels_open("ref", PRECISION_FP32), 6e-13);
    check_siglip(kernels_open(TEST_DEVICE, PRECISION_FP32), 2e-6);
    check_siglip(kernels_open(TEST_DEVICE, PRECISION_AMP_BF16), 1e-2);
}

/* ---- five optimiser steps ---- */

typedef struct Trajectory {
    WdGroups groups;
    double loss[5], logit_scale;
} Trajectory;

static const Trajectory trajectories[] = {
    {WD_HEAD, {1.693401002, 2.396817992, 1.539829211, 1.274865932, 1.236202156}, 2.655346312},
    {WD_LEGACY, {1.693401002, 2.396802046, 1.539767191, 1.274861503, 1.236240713}, 2.655346407},
};

static void check_steps(const Kernels *k, double tolerance) {
    ClipConfig c = golden_config();
    TestBatch b = golden_batch(0);
    for (size_t i = 0; i < COUNT(trajectories); i++) {
        const Trajectory *t = &trajectories[i];
        TestModel m = model_new(k, &c, &options, LOSS_CLIP);
        OptimOptions o = {0.9, 0.98, 1e-6, 0.2, t->groups, 0};
        Optim *optim = optim_new(m.state, &o);
        for (uint64_t step = 0; step < 5; step++) {
            assert_near(model_gradients(&m, &b, plain), t->loss[step], tolerance);
            step_optim(k, optim, 1e-3, step + 1);
        }
        double *scale = host_copy(k, param_acc(m.p, param_named(m.p, "logit_scale")), 1);
        assert_near(scale[0], t->logit_scale, tolerance);
        free(scale);
        optim_free(optim);
        model_free(&m);
    }
    batch_free(&b);
}

/* Adam's first step turns a gradient of 1e-7 into a step near lr, rounding included: the same fp32
 * step from ref's gradients is 30 times nearer. */
static void test_steps(void **state) {
    (void)state;
    check_steps(kernels_open("ref", PRECISION_FP32), 6e-10);
    check_steps(kernels_open(TEST_DEVICE, PRECISION_FP32), 5e-6);
    check_steps(kernels_open(TEST_DEVICE, PRECISION_AMP_BF16), 3e-2);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_formula),        cmocka_unit_test(test_golden_ref),
    cmocka_unit_test(test_golden_fp32),    cmocka_unit_test(test_gradients_fp32),
    cmocka_unit_test(test_gradients_bf16), cmocka_unit_test(test_quick_gelu),
    cmocka_unit_test(test_siglip),         cmocka_unit_test(test_steps),
};

int main(void) { return cmocka_run_group_tests_name("model", tests, NULL, NULL); }
