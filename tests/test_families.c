/* Families of models against open_clip (tests/golden/make_families.py), on every backend: the
 * features of a batch, the loss and its gradients, ten AdamW steps; and the families' weights in
 * the formats that have a place for them. */
#include "tests/support.h"
#include "tests/support_data.h"
#include "tests/support_model.h"
#include "train/model/pretrained.h"

#include <glob.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { STEPS = 10 };

/* ref's differences are those of weights and results that are stored as floats. */
static const struct {
    double features, gradient, loss, steps;
} tolerances[] = {{2e-7, 2e-7, 1e-7, 1e-6}, {5e-6, 2e-5, 5e-6, 1e-4}, {2e-2, 0.1, 2e-2, 0.1}};

typedef struct Golden {
    char *folder;
    ClipConfig config;
    Safetensors file;
    TestBatch batch;
    double *images, *texts;
    const double *losses; /* [STEPS+1], before each step */
} Golden;

static const Tensor *tensor_of(const Golden *g, const char *name, Dtype dtype) {
    const Tensor *t = safetensors_find(&g->file, name);
    assert_non_null(t);
    assert_int_equal(t->dtype, dtype);
    return t;
}

/* Captions as the tokenizer gives them: without the padding after them. */
static void read_captions(Golden *g) {
    size_t T = g->config.context_length;
    const Tensor *ids = tensor_of(g, "ids", DTYPE_I32);
    TestBatch *b = &g->batch;
    b->B = ids->shape[0];
    b->pad = *(const int32_t *)tensor_of(g, "pad", DTYPE_I32)->data;
    b->ids = xmalloc(ids->count * sizeof *b->ids);
    b->start = xcalloc(b->B + 1, sizeof *b->start);
    for (size_t i = 0; i < b->B; i++) {
        const int32_t *row = (const int32_t *)ids->data + i * T;
        size_t n = T;
        while (n > 1 && row[n - 1] == b->pad) n--;
        memcpy(b->ids + b->start[i], row, n * sizeof *row);
        b->start[i + 1] = b->start[i] + (int32_t)n;
    }
}

static double *features_of(const Golden *g, const char *name) {
    const Tensor *t = tensor_of(g, name, DTYPE_F64);
    assert_int_equal(t->count, g->batch.B * g->config.embed_dim);
    return memcpy(xmalloc(t->count * sizeof(double)), t->data, t->count * sizeof(double));
}

static Golden golden_open(const char *folder) {
    Golden g = {.folder = xstrdup(folder)};
    char *path = xasprintf("%s/batch.safetensors", folder);
    Error err;
    clip_config_load(&g.config, folder);
    if (!safetensors_open(&g.file, path, &err)) fail_msg("%s", err.text);
    read_captions(&g);
    const Tensor *pixels = tensor_of(&g, "pixels", DTYPE_U8);
    g.batch.u8 = memcpy(xmalloc(pixels->count), pixels->data, pixels->count);
    g.batch.f32 = NULL;
    g.images = features_of(&g, "images");
    g.texts = features_of(&g, "texts");
    g.losses = tensor_of(&g, "losses", DTYPE_F64)->data;
    free(path);
    return g;
}

static void golden_close(Golden *g) {
    clip_config_free(&g->config);
    safetensors_close(&g->file);
    FREE_ALL(g->batch.u8, g->batch.ids, g->batch.start, g->images, g->texts, g->folder);
}

static void check_features(const Golden *g, const TestModel *m, const acc *features,
                           const double *want, const char *what, double tolerance) {
    size_t n = g->batch.B * g->config.embed_dim;
    double *got = host_copy(m->k, features, n), worst = 0;
    for (size_t i = 0; i < n; i++) worst = fmax(worst, fabs(got[i] - want[i]));
    if (!(worst <= tolerance))
        fail_msg("%s, %s: %s differ by %.3g", g->folder, m->k->name, what, worst);
    free(got);
}

/* The file of gradients has the names and forms of a file of weights. */
static void check_gradients(const Golden *g, const TestModel *m, double tolerance) {
    char *path = xasprintf("%s/gradients.safetensors", g->folder);
    Weights w;
    Error err;
    if (!weights_open(&w, path, &err) ||
        !weights_fit(&w, m->p->list, m->p->tensors, TOWER_NONE, "gradients", &err))
        fail_msg("%s", err.text);
    double total = 0;
    for (size_t i = 0; i < m->p->tensors; i++) {
        const Param *q = &m->p->list[i];
        float *want = xmalloc(q->size * sizeof *want);
        double *wide = xmalloc(q->size * sizeof *wide), *got = model_grad(m, q->name);
        weight_read(&w.list[i], 0, q->size, want);
        for (size_t j = 0; j < q->size; j++) wide[j] = (double)want[j];
        double size = l2(wide, q->size);
        for (size_t j = 0; j < q->size; j++) wide[j] -= got[j];
        /* the keys' bias has no gradient but rounding: it is compared with the others' */
        if (!(l2(wide, q->size) <= tolerance * fmax(size, 1e-3)))
            fail_msg("%s, %s: gradient of %s: %.3g of %.3g", g->folder, m->k->name, q->name,
                     l2(wide, q->size), size);
        total += size;
        FREE_ALL(want, wide, got);
    }
    assert_true(total > 1);
    weights_close(&w);
    free(path);
}

static void check_backend(const Golden *g, size_t backend) {
    ClipOptions o = {.max_batch = g->batch.B, .training = true};
    OptimOptions adamw = {0.9, 0.98, 1e-6, 0.2, WD_LEGACY, 0};
    RunHow bytes = {.u8 = true};
    TestModel m = model_new(model_backend(backend), &g->config, &o, LOSS_CLIP);
    pretrained_load(g->folder, m.p, &g->config);
    Optim *optim = optim_new(m.state, &adamw);
    for (uint64_t step = 0; step <= STEPS; step++) {
        double loss = model_gradients(&m, &g->batch, bytes);
        double most = step ? tolerances[backend].steps : tolerances[backend].loss;
        if (!(fabs(loss - g->losses[step]) <= most * g->losses[0]))
            fail_msg("%s, %s: loss %.9g after %d steps, PyTorch %.9g", g->folder, m.k->name, loss,
                     (int)step, g->losses[step]);
        if (!step) {
            check_features(g, &m, m.images, g->images, "image features",
                           tolerances[backend].features);
            check_features(g, &m, m.texts, g->texts, "text features", tolerances[backend].features);
            check_gradients(g, &m, tolerances[backend].gradient);
        }
        step_optim(m.k, optim, 1e-3, step + 1);
    }
    optim_free(optim);
    model_free(&m);
}

static void test_open_clip(void **state) {
    (void)state;
    glob_t g;
    assert_int_equal(glob("tests/golden/families/*", GLOB_ONLYDIR, NULL, &g), 0);
    for (size_t i = 0; i < g.gl_pathc; i++) {
        Golden golden = golden_open(g.gl_pathv[i]);
        for (size_t j = 0; model_backend(j); j++) check_backend(&golden, j);
        golden_close(&golden);
    }
    globfree(&g);
}

/* Through MetaClip2Model's names and back: the tensors' bits, and the configuration. */
static void test_metaclip_2(void **state) {
    (void)state;
    static const char golden[] = "tests/golden/families/metaclip2";
    char *hf = xstrdup(test_path("hf")), *back = xstrdup(test_path("back"));
    free(test_clipc(0, "ckpt convert %s --to hf --out %s", golden, hf));
    char *config = test_read_file(test_path("hf/config.json"), NULL);
    test_says(config, "\"metaclip_2\"");
    test_says(config, "\"eos_token_id\": 2\n");
    free(config);
    free(test_clipc(0, "ckpt convert %s --to open_clip --out %s", hf, back));
    ClipConfig a, b;
    clip_config_load(&a, golden);
    clip_config_load(&b, back);
    assert_true(tower_same(&a.text, &b.text) && tower_same(&a.image, &b.image));
    clip_config_free(&a);
    clip_config_free(&b);
    free(test_clipc(0, "ckpt diff %s %s", golden, back));
    FREE_ALL(hf, back);
}

/* The array of a .npy file of this shape; malloc'd file, *values inside it. */
static char *read_array(const char *path, const char *shape, const float **values) {
    size_t n;
    char *bytes = test_read_file(path, &n);
    assert_non_null(memmem(bytes, n, shape, strlen(shape)));
    *values = (const float *)((const char *)memchr(bytes, '\n', n) + 1);
    return bytes;
}

/* Rows of pictures' patches, without the class token. */
static void test_patches(void **state) {
    (void)state;
    static const struct {
        const char *option, *name;
    } rows[] = {{"--tokens", "tokens"}, {"--layer 1", "layer1"}, {"--layer 2 --tokens", NULL}};
    Safetensors file;
    Error err;
    if (!safetensors_open(&file, "tests/golden/families/clipa/patches.safetensors", &err))
        fail_msg("%s", err.text);
    for (size_t i = 0; i < COUNT(rows); i++) {
        free(test_clipc(0,
                        "embed --precision fp32 --batch-size 2 --checkpoint "
                        "tests/golden/families/clipa --image tests/golden/openclip/00.jpg "
                        "tests/golden/openclip/01.jpg tests/golden/openclip/02.jpg %s --out %s",
                        rows[i].option, test_path("x.npy")));
        const float *got;
        char *bytes = read_array(test_path("x.npy"), "(3, 9, 24)", &got);
        const Tensor *t = safetensors_find(&file, rows[i].name ? rows[i].name : "tokens");
        const float *want = t->data;
        double worst = 0;
        for (size_t j = 0; j < t->count; j++)
            worst = fmax(worst, fabs((double)got[j] - (double)want[j]));
        if (rows[i].name ? !(worst <= 2e-5) : !(worst > 0.1))
            fail_msg("%s: differs by %.3g", rows[i].option, worst);
        free(bytes);
    }
    safetensors_close(&file);
    char *text = test_clipc(2, "embed --checkpoint tests/golden/families/clipa --layer 3 --image "
                               "tests/golden/openclip/00.jpg --out x.npy");
    test_says(text, "--layer: the image tower of tests/golden/families/clipa has 2 blocks");
    free(text);
    text = test_clipc(2, "embed --checkpoint tests/golden/families/clipa --tokens --text - "
                         "--out x.npy");
    test_says(text, "--tokens and --layer go with pictures and --out");
    free(text);
    text = test_clipc(2, "embed --checkpoint tests/golden/resnet --tokens --image "
                         "tests/golden/openclip/00.jpg --out x.npy");
    test_says(text, "--tokens: the image tower of tests/golden/resnet is a ResNet");
    free(text);
}

/* The same, of a tower whose last block computes the class token alone. */
static void test_patches_of_pooled_tower(void **state) {
    (void)state;
    static const char call[] = "embed --precision fp32 --checkpoint tests/golden/openclip "
                               "--images tests/golden/openclip/pairs.tsv --dtype f32 %s --out %s";
    free(test_clipc(0, call, "--layer 2", test_path("a.npy")));
    free(test_clipc(0, call, "--layer 1", test_path("b.npy")));
    free(test_clipc(0, call, "--tokens", test_path("c.npy")));
    const float *x[3];
    char *bytes[3];
    static const char *const names[] = {"a.npy", "b.npy", "c.npy"};
    for (int i = 0; i < 3; i++) bytes[i] = read_array(test_path(names[i]), "(24, 25, 48)", &x[i]);
    for (int i = 0; i < 3; i++) {
        double sum = 0;
        for (size_t j = 0; j < 24 * 25 * 48; j++)
            sum += fabs((double)x[i][j] - (double)x[(i + 1) % 3][j]);
        assert_true(isfinite(sum) && sum > 24);
    }
    for (int i = 0; i < 3; i++) free(bytes[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_open_clip),
        cmocka_unit_test(test_metaclip_2),
        cmocka_unit_test(test_patches),
        cmocka_unit_test(test_patches_of_pooled_tower),
    };
    return cmocka_run_group_tests_name("families", tests, NULL, NULL);
}
