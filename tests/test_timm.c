/* Small models with timm's image towers made by open_clip (tests/golden/make_timm.py): features,
 * whole gradients, files that open_clip opens, and configurations that are refused. */
#include "tests/support.h"
#include "tests/support_model.h"
#include "train/model/pretrained.h"
#include "train/model/weights.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define GOLDEN "tests/golden/timm/"

enum { PAIRS = 5, STEPS = 10 };
static const char *const names[] = {"eva", "eva02", "pe_core", "pe_core_g", "mci", "eva02_e"};

static char *file_of(const char *name, const char *file) {
    return xasprintf(GOLDEN "%s/%s", name, file);
}

static float *floats_of(const TensorFile *f, const char *name, size_t *n) {
    for (size_t i = 0; i < f->count; i++) {
        if (strcmp(f->tensors[i].name, name)) continue;
        *n = f->tensors[i].count;
        float *x = xmalloc(*n * sizeof *x);
        assert_true(tensor_read_f32(&f->tensors[i], 0, *n, x));
        return x;
    }
    fail_msg("no tensor %s", name);
    return NULL;
}

static TensorFile opened(const char *path) {
    TensorFile f;
    Error err;
    if (!tensorfile_open(&f, path, &err)) fail_msg("%s", err.text);
    return f;
}

static TestBatch stored_batch(const char *name, const ClipConfig *c) {
    char *path = file_of(strcmp(name, "mci") ? "." : "mci", "batch.safetensors");
    TensorFile f = opened(path);
    size_t pixels, ids, T = c->context_length;
    float *p = floats_of(&f, "pixels", &pixels), *t = floats_of(&f, "ids", &ids);
    assert_int_equal(pixels, PAIRS * 3 * c->image_size * c->image_size);
    assert_int_equal(ids, PAIRS * T);
    TestBatch b = {.B = PAIRS};
    b.u8 = xmalloc(pixels);
    b.ids = xmalloc(ids * sizeof *b.ids);
    b.start = xcalloc(PAIRS + 1, sizeof *b.start);
    for (size_t i = 0; i < pixels; i++) b.u8[i] = (uint8_t)p[i];
    for (size_t i = 0; i < PAIRS; i++) {
        int32_t at = b.start[i];
        for (size_t j = 0; j < T && t[i * T + j] > 0; j++) b.ids[at++] = (int32_t)t[i * T + j];
        b.start[i + 1] = at;
    }
    FREE_ALL(p, t, path);
    tensorfile_close(&f);
    return b;
}

static ClipConfig config_of(const char *name) {
    ClipConfig c;
    Error err;
    char *path = file_of(name, "open_clip_config.json");
    if (!clip_config_read(&c, path, &err)) fail_msg("%s", err.text);
    free(path);
    return c;
}

static TestModel model_of(const char *name, const Kernels *k, const ClipConfig *c) {
    ClipOptions o = {.max_batch = PAIRS, .training = true};
    TestModel m = model_new(k, c, &o, LOSS_CLIP);
    char *path = file_of(name, "open_clip_model.safetensors");
    pretrained_load(path, m.p, c);
    free(path);
    return m;
}

static void check_features(const char *name, const char *file, const TestModel *m, double loss,
                           double tolerance) {
    char *path = file_of(name, file);
    TensorFile f = opened(path);
    size_t n, one;
    float *images = floats_of(&f, "images", &n), *texts = floats_of(&f, "texts", &n);
    float *want_loss = floats_of(&f, "loss", &one);
    double *i = host_copy(m->k, m->images, n), *t = host_copy(m->k, m->texts, n), worst = 0;
    for (size_t j = 0; j < n; j++)
        worst = fmax(worst, fmax(fabs(i[j] - (double)images[j]), fabs(t[j] - (double)texts[j])));
    print_message("%s, %s: features %.2e, loss %.2e\n", name, m->k->name, worst,
                  fabs(loss - (double)*want_loss));
    assert_near(worst, 0, tolerance);
    assert_near(loss, (double)*want_loss, 10 * tolerance);
    free(images);
    free(texts);
    free(want_loss);
    free(i);
    free(t);
    free(path);
    tensorfile_close(&f);
}

/* Gradients, and beside them running statistics. */
static void check_gradients(const char *name, const char *file, const TestModel *m,
                            double tolerance) {
    char *path = file_of(name, file);
    Weights w;
    Error err;
    if (!weights_open(&w, path, &err) ||
        !weights_fit(&w, m->p->list, m->p->tensors, TOWER_NONE, name, &err))
        fail_msg("%s", err.text);
    double worst = 0;
    const char *where = "";
    for (size_t i = 0; i < m->p->tensors; i++) {
        const Param *q = &m->p->list[i];
        if (!q->trainable && !param_is_statistic(q)) continue;
        float *x = xmalloc(q->size * sizeof *x);
        double *got = param_is_statistic(q) ? host_copy(m->k, param_acc(m->p, q), q->size)
                                            : model_grad(m, q->name);
        double *want = xmalloc(q->size * sizeof *want);
        weight_read(&w.list[i], 0, q->size, x);
        for (size_t j = 0; j < q->size; j++) want[j] = (double)x[j];
        double error = test_error_l2(got, want, q->size);
        if (error > worst) worst = error, where = q->name;
        free(x);
        free(got);
        free(want);
    }
    print_message("%s, %s: gradients %.2e (%s)\n", name, m->k->name, worst, where);
    assert_near(worst, 0, tolerance);
    weights_close(&w);
    free(path);
}

static bool is_batch_norm(const char *name) { return strstr(name, "stem.bn") != NULL; }

static void test_features_and_gradients(void **state) {
    (void)state;
    static const double features[] = {2e-6, 2e-5, 0.1}, gradients[] = {1e-5, 1e-3, 0.5};
    for (size_t i = 0; i < COUNT(names); i++) {
        ClipConfig c = config_of(names[i]);
        TestBatch b = stored_batch(names[i], &c);
        for (size_t j = 0; model_backend(j); j++) {
            TestModel m = model_of(names[i], model_backend(j), &c);
            double loss = model_gradients(&m, &b, (RunHow){.u8 = true});
            check_features(names[i], "features.safetensors", &m, loss, features[j]);
            check_gradients(names[i], "gradients.safetensors", &m, gradients[j]);
            model_free(&m);
        }
        batch_free(&b);
        clip_config_free(&c);
    }
}

/* A step's convolutional stem normalises by the batch and moves the running statistics; a frozen
 * one does neither. A forward without activations has the same features. */
static void test_batch_statistics(void **state) {
    (void)state;
    static const double features[] = {2e-6, 2e-5, 0.2}, gradients[] = {1e-5, 1e-3, 0.7};
    ClipConfig c = config_of("mci");
    TestBatch b = stored_batch("mci", &c);
    size_t n = PAIRS * c.embed_dim;
    for (size_t j = 0; model_backend(j); j++) {
        TestModel m = model_of("mci", model_backend(j), &c);
        clip_learning(m.clip, true);
        model_loss(&m, &b, (RunHow){.u8 = true});
        double *before = host_copy(m.k, m.images, n);
        double loss = model_gradients(&m, &b, (RunHow){.u8 = true});
        double *after = host_copy(m.k, m.images, n);
        assert_memory_equal(before, after, n * sizeof *after);
        check_features("mci", "features_of_batch.safetensors", &m, loss, features[j]);
        check_gradients("mci", "gradients_of_batch.safetensors", &m, gradients[j]);
        model_free(&m);

        ClipOptions o = {.max_batch = PAIRS, .training = true};
        m = model_new_frozen(model_backend(j), &c, &o, LOSS_CLIP, is_batch_norm);
        pretrained_load(GOLDEN "mci/open_clip_model.safetensors", m.p, &c);
        clip_learning(m.clip, true);
        loss = model_gradients(&m, &b, (RunHow){.u8 = true});
        check_features("mci", "features.safetensors", &m, loss, features[j]);
        check_gradients("mci", "gradients.safetensors", &m, gradients[j]);
        model_free(&m);
        FREE_ALL(before, after);
    }
    batch_free(&b);
    clip_config_free(&c);
}

/* Ten AdamW steps on one batch; the convolutional stem's normalisations use it. */
static void test_ten_steps(void **state) {
    (void)state;
    static const double tolerances[] = {1e-6, 1e-4, 0.1};
    static const OptimOptions adamw = {0.9, 0.98, 1e-6, 0.2, WD_LEGACY, 0};
    for (size_t i = 0; i < COUNT(names); i++) {
        ClipConfig c = config_of(names[i]);
        TestBatch b = stored_batch(names[i], &c);
        char *path = file_of(names[i], "steps.safetensors");
        TensorFile f = opened(path);
        const double *want = (const double *)f.tensors[0].data;
        assert_int_equal(f.tensors[0].dtype, DTYPE_F64);
        assert_int_equal(f.tensors[0].count, STEPS + 1);
        for (size_t j = 0; model_backend(j); j++) {
            TestModel m = model_of(names[i], model_backend(j), &c);
            Optim *o = optim_new(m.state, &adamw);
            double worst = 0;
            clip_learning(m.clip, true);
            for (uint64_t t = 0; t <= STEPS; t++) {
                double loss = model_gradients(&m, &b, (RunHow){.u8 = true});
                worst = fmax(worst, fabs(loss - want[t]) / want[0]);
                step_optim(m.k, o, 1e-3, t + 1);
            }
            print_message("%s, %s: ten steps %.2e\n", names[i], m.k->name, worst);
            assert_near(worst, 0, tolerances[j]);
            optim_free(o);
            model_free(&m);
        }
        tensorfile_close(&f);
        free(path);
        batch_free(&b);
        clip_config_free(&c);
    }
}

/* Steps train queries' and values' biases and leave those of the keys, which do not exist, at 0. */
static void test_no_key_bias(void **state) {
    (void)state;
    ClipConfig c = config_of("eva02");
    TestBatch b = stored_batch("eva02", &c);
    for (size_t j = 0; model_backend(j); j++) {
        TestModel m = model_of("eva02", model_backend(j), &c);
        Optim *o = optim_new(m.state, &(OptimOptions){0.9, 0.98, 1e-6, 0.2, WD_LEGACY, 1.0});
        const Param *q = param_named(m.p, "visual.transformer.resblocks.1.attn.in_proj_bias");
        double *before = host_copy(m.k, param_acc(m.p, q), q->size);
        for (uint64_t t = 1; t <= 3; t++) {
            model_gradients(&m, &b, (RunHow){.u8 = true});
            step_optim(m.k, o, 1e-2, t);
        }
        double *after = host_copy(m.k, param_acc(m.p, q), q->size);
        for (size_t i = 0; i < q->size; i++)
            assert_true(i / (q->size / 3) == 1 ? after[i] == 0 : after[i] != before[i]);
        free(before);
        free(after);
        optim_free(o);
        model_free(&m);
    }
    batch_free(&b);
    clip_config_free(&c);
}

/* The written file has the names, shapes and values of open_clip's. */
static void test_written(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(names); i++) {
        const char *out = test_path("written.safetensors");
        free(test_clipc(0, "ckpt convert " GOLDEN "%s --to safetensors --out %s", names[i], out));
        char *path = file_of(names[i], "open_clip_model.safetensors");
        TensorFile want = opened(path), got = opened(out);
        assert_int_equal(got.count, want.count);
        for (size_t t = 0; t < want.count; t++) {
            const Tensor *a = &want.tensors[t], *b = NULL;
            for (size_t u = 0; u < got.count && !b; u++)
                if (!strcmp(got.tensors[u].name, a->name)) b = &got.tensors[u];
            if (!b) fail_msg("%s: no tensor %s", names[i], a->name);
            assert_int_equal(b->ndim, a->ndim);
            for (int d = 0; d < a->ndim; d++) assert_int_equal(b->shape[d], a->shape[d]);
            float *x = xmalloc(a->count * sizeof *x), *y = xmalloc(a->count * sizeof *y);
            assert_true(tensor_read_f32(a, 0, a->count, x) && tensor_read_f32(b, 0, a->count, y));
            assert_memory_equal(x, y, a->count * sizeof *x);
            free(x);
            free(y);
        }
        tensorfile_close(&want);
        tensorfile_close(&got);
        free(path);
        unlink(out);
    }
}

static void refused(const char *name, const char *from, const char *to, const char *says) {
    char *path = file_of(name, "open_clip_config.json"), *json = test_read_file(path, NULL);
    char *at = strstr(json, from);
    assert_non_null(at);
    char *changed = xasprintf("%.*s%s%s", (int)(at - json), json, to, at + strlen(from));
    ClipConfig c;
    Error err;
    assert_false(clip_config_parse(&c, name, changed, strlen(changed), &err));
    test_says(err.text, says);
    free(changed);
    free(json);
    free(path);
}

static void test_refused(void **state) {
    (void)state;
    refused("eva02", "\"token\"", "\"avg\"", "vision_cfg.timm_pool: only \"token\"");
    refused("eva02", "\"timm_proj\": null", "\"timm_proj\": \"none\"",
            "vision_cfg.timm_proj: only null");
    refused("pe_core", "\"map\"", "\"token\"", "vision_cfg.timm_pool: only \"map\"");
    refused("pe_core", "\"head_width\": 8", "\"head_width\": 2", "vision_cfg.head_width");
    refused("mci", "\"patch_size\": 16", "\"patch_size\": 8",
            "vision_cfg.patch_size: is 16 behind a convolutional stem");
    char *text =
        test_clipc(1,
                   "ckpt convert " GOLDEN "eva02/open_clip_model.safetensors --model " GOLDEN
                   "eva/open_clip_config.json --to safetensors --out %s",
                   test_path("no.safetensors"));
    test_says(text, "is this another --model?");
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_features_and_gradients),
        cmocka_unit_test(test_batch_statistics),
        cmocka_unit_test(test_ten_steps),
        cmocka_unit_test(test_no_key_bias),
        cmocka_unit_test(test_written),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests_name("timm", tests, NULL, NULL);
}
