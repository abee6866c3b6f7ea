/* Weights of other programs: every name and type, tensors that do not fit, positional embeddings
 * resized as in PyTorch. */
#include "train/model/pretrained.h"

#include "data/io/folder.h"
#include "data/tensors/safetensors.h"
#include "tests/support.h"
#include "tests/support_data.h"
#include "tests/support_model.h"
#include "train/checkpoint.h"
#include "train/model/positions.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const Kernels *k;

static float value(size_t tensor, size_t i) { return (float)((tensor * 7 + i) % 64) / 32 - 1; }

/* bf16 and f16 hold these values exactly. */
static uint16_t half(float x, Dtype d) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if (d == DTYPE_BF16) return (uint16_t)(bits >> 16);
    if (x == 0) return 0;
    int exponent = (int)(bits >> 23 & 255) - 127 + 15;
    return (uint16_t)((bits >> 16 & 0x8000) | (uint32_t)exponent << 10 | (bits >> 13 & 1023));
}

enum Twist { NONE, MISSING, UNKNOWN, SHAPE, INTEGER, TWICE };

/* Every tensor of p in turn as F32, F16, BF16 and F64, the text tower with "text." in front,
 * logit_scale as [1], no logit_bias, buffers added. */
static void write_foreign(const char *path, const Params *p, enum Twist twist) {
    Tensor *t = calloc(p->count + 4, sizeof *t);
    size_t n = 0;
    for (size_t i = 0; i < p->count; i++) {
        const Param *q = &p->list[i];
        if (!strcmp(q->name, "logit_bias")) continue;
        if (twist == MISSING && !strcmp(q->name, "visual.proj")) continue;
        bool text = strncmp(q->name, "visual.", 7) && strncmp(q->name, "logit_", 6);
        Tensor *to = &t[n++];
        *to = (Tensor){.name = xasprintf("%s%s", text ? "text." : "", q->name),
                       .dtype = (Dtype[]){DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_F64}[i % 4],
                       .ndim = q->ndim ? q->ndim : 1,
                       .count = q->size};
        for (int d = 0; d < q->ndim; d++) to->shape[d] = q->shape[d];
        if (!q->ndim) to->shape[0] = 1;
        char *data = malloc(q->size * 8);
        for (size_t j = 0; j < q->size; j++) {
            float x = value(i, j);
            double y = (double)x;
            uint16_t h = half(x, to->dtype);
            size_t size = dtype_size(to->dtype);
            memcpy(data + j * size, size == 2 ? (void *)&h : size == 4 ? (void *)&x : &y, size);
        }
        to->data = data;
        if (twist == INTEGER && !strcmp(q->name, "ln_final.bias")) {
            to->dtype = DTYPE_I32;
            to->data = calloc(q->size, 4);
            free(data);
        }
        if (twist == SHAPE && !strcmp(q->name, "visual.proj")) {
            to->shape[0] *= 2;
            to->shape[1] /= 2;
        }
    }
    static const float one = 1;
    const char *const extra[] = {"text.attn_mask", "vocab_size",
                                 twist == UNKNOWN ? "visual.ln_mid.weight" : "context_length"};
    for (size_t i = 0; i < COUNT(extra); i++)
        t[n++] = (Tensor){.name = xstrdup(extra[i]), .dtype = DTYPE_F32, .data = &one};
    if (twist == TWICE)
        t[n++] = (Tensor){.name = xstrdup("text.logit_scale"), .dtype = DTYPE_F32, .data = &one};
    write_tensors(path, t, n);
    for (size_t i = 0; i < n; i++) {
        free((char *)t[i].name);
        if (t[i].data != &one) free((void *)t[i].data);
    }
    free(t);
}

static void test_foreign_names_and_types(void **state) {
    (void)state;
    ClipConfig c;
    OptimState *o = small_state(k, &c, 2, 5, true);
    Params *p = o->p;
    const char *path = test_path("foreign.safetensors");
    write_foreign(path, p, NONE);
    params_init(o->p, 1);
    pretrained_load(path, p, &c);
    for (size_t i = 0; i < p->count; i++) {
        float *x = param_floats(p, p->master, p->list[i].name);
        bool bias = !strcmp(p->list[i].name, "logit_bias");
        for (size_t j = 0; j < p->list[i].size; j++) assert_true(x[j] == (bias ? 0 : value(i, j)));
        free(x);
    }
    assert_false(checkpoint_load_state(test_dir(), o, &(TrainState){0}));
    small_end(o, &c);
}

static void load(void *path) {
    ClipConfig c;
    OptimState *o = small_state(k, &c, 2, 5, false);
    pretrained_load(path, o->p, &c);
}

static void test_wrong_tensors_are_named(void **state) {
    (void)state;
    ClipConfig c;
    OptimState *o = small_state(k, &c, 2, 5, false);
    const char *path = test_path("twisted.safetensors");
    static const char *const names[] = {[MISSING] = "visual.proj is missing",
                                        [UNKNOWN] = "visual.ln_mid.weight",
                                        [SHAPE] = "visual.proj is [8,3], the model needs [4,6]",
                                        [INTEGER] = "text.ln_final.bias is not a floating",
                                        [TWICE] = "logit_scale is there twice"};
    for (enum Twist t = MISSING; t <= TWICE; t++) {
        write_foreign(path, o->p, t);
        test_dies(load, (void *)path, EXIT_ERROR, names[t]);
    }
    small_end(o, &c);
    /* a bias that the model has no place for */
    o = small_state(k, &c, 2, 5, true);
    checkpoint_save(test_path("biased"), "step_0", o, &c, &(TrainState){0}, NULL);
    path = test_path("biased/step_0");
    test_dies(load, (void *)path, EXIT_ERROR, "logit_bias is no tensor of the model small-vit");
    path = test_path("no-such-file");
    test_dies(load, (void *)path, EXIT_ERROR, "no-such-file: No such file");
    small_end(o, &c);
}

/* ---- names ---- */

static void find(void *name) { free(pretrained_find(name)); }

static void found(const char *name, const char *want) {
    char *got = pretrained_find(name);
    assert_string_equal(got, want);
    free(got);
}

static void test_a_run_means_its_best(void **state) {
    (void)state;
    ClipConfig c;
    OptimState *o = small_state(k, &c, 2, 5, false);
    const char *run = test_path("named"), *checkpoints = test_path("named/checkpoints"),
               *best = test_path("named/checkpoints/best"),
               *latest = test_path("named/checkpoints/latest");
    folder_make_or_die(checkpoints);
    test_dies(find, (void *)run, EXIT_ERROR, "named/checkpoints: no checkpoint in it yet");
    checkpoint_save(checkpoints, "step_1", o, &c, &(TrainState){0}, NULL);
    found(run, latest);
    folder_make_or_die(best); /* nothing in it */
    found(run, latest);
    assert_int_equal(rmdir(best), 0);
    checkpoint_save(checkpoints, "best", o, &c, &(TrainState){0}, NULL);
    found(run, best);
    /* whatever is a checkpoint means itself */
    found(latest, latest);
    const char *file = test_path("named/checkpoints/best/open_clip_model.safetensors");
    found(file, file);
    const char *plain = test_path("named/plain");
    folder_make_or_die(plain);
    found(plain, plain);
    small_end(o, &c);
}

static void test_nothing_is_downloaded(void **state) {
    (void)state;
    test_dies(find, "laion2b_s34b_b79k", EXIT_ERROR,
              "laion2b_s34b_b79k: no such file or folder, and nothing is downloaded: fetch it with "
              "`hf download REPOSITORY --local-dir FOLDER`");
    test_dies(find, "hf-hub:laion/CLIP-ViT-B-32", EXIT_ERROR,
              "`hf download laion/CLIP-ViT-B-32 --local-dir FOLDER`");
    test_dies(find, "openai", EXIT_ERROR, "docs/CHECKPOINTS.md");
}

/* ---- resizing ---- */

/* A file with the golden embedding in a model of its size, loaded into one of another size. */
static void check_resize(const Safetensors *golden, const char *kind, size_t from, size_t to) {
    bool image = !strcmp(kind, "image");
    const char *name = image ? "visual.positional_embedding" : "positional_embedding";
    ClipConfig c, d;
    OptimState *o = small_state(k, &c, image ? from : 2, image ? 5 : from, false);
    OptimState *r = small_state(k, &d, image ? to : 2, image ? 5 : to, false);
    params_init(o->p, 3);
    char key[64];
    snprintf(key, sizeof key, "%s.%zu.%zu.old", kind, from, to);
    const Tensor *old = safetensors_find(golden, key);
    assert_non_null(old);
    float values[512];
    assert_true(old->count <= COUNT(values) && tensor_read_f32(old, 0, old->count, values));
    assert_int_equal(old->count, param_named(o->p, name)->size);
    k->acc_set_f32(param_acc(o->p, param_named(o->p, name)), values, old->count);
    checkpoint_save(test_path("resize"), "step_1", o, &c, &(TrainState){0}, NULL);
    pretrained_load(test_path("resize/step_1"), r->p, &d);
    snprintf(key, sizeof key, "%s.%zu.%zu.new", kind, from, to);
    const Tensor *new = safetensors_find(golden, key);
    assert_non_null(new);
    assert_int_equal(new->count, param_named(r->p, name)->size);
    assert_true(new->count <= COUNT(values) && tensor_read_f32(new, 0, new->count, values));
    float *got = param_floats(r->p, r->p->master, name);
    for (size_t i = 0; i < new->count; i++)
        assert_near((double)got[i], (double)values[i], 2e-7 * fmax(1, fabs((double)values[i])));
    free(got);
    small_end(o, &c);
    small_end(r, &d);
}

static void test_resize(void **state) {
    (void)state;
    Safetensors golden;
    Error err;
    if (!safetensors_open(&golden, "tests/golden/resize.safetensors", &err))
        fail_msg("%s", err.text);
    log_quiet(true);
    static const size_t image[][2] = {{3, 5}, {7, 4}, {4, 4}, {2, 9}};
    static const size_t text[][2] = {{5, 9}, {9, 4}, {1, 3}, {6, 6}};
    for (size_t i = 0; i < COUNT(image); i++)
        check_resize(&golden, "image", image[i][0], image[i][1]);
    for (size_t i = 0; i < COUNT(text); i++) check_resize(&golden, "text", text[i][0], text[i][1]);
    log_quiet(false);
    safetensors_close(&golden);
}

/* Without a class token the grid's rows are those that it has behind one. */
static void test_resize_without_class(void **state) {
    (void)state;
    enum { G = 3, TO = 5, C = 2 };
    float from[(1 + G * G) * C];
    for (size_t i = 0; i < COUNT(from); i++) from[i] = (float)(i * i % 17);
    float *with = positions_resize(from, 1 + G * G, 1 + TO * TO, C, true, 0);
    float *without = positions_resize(from + C, G * G, TO * TO, C, true, 0);
    assert_non_null(with);
    assert_non_null(without);
    assert_memory_equal(with, from, C * sizeof *from);
    assert_memory_equal(with + C, without, TO * TO * C * sizeof *from);
    assert_null(positions_resize(from, 1 + G * G, TO * TO, C, true, 0));
    assert_null(positions_resize(from, G * G, 1 + TO * TO, C, true, 0));
    free(with);
    free(without);
}

/* Of captions the first rows may stay; the others are stretched as if they were alone. */
static void test_kept_positions(void **state) {
    (void)state;
    enum { FROM = 7, TO = 17, KEPT = 2, C = 3 };
    float from[FROM * C];
    for (size_t i = 0; i < COUNT(from); i++) from[i] = (float)(i * i % 17);
    float *whole = positions_resize(from, FROM, TO, C, false, KEPT);
    float *rest = positions_resize(from + KEPT * C, FROM - KEPT, TO - KEPT, C, false, 0);
    assert_memory_equal(whole, from, sizeof(float[KEPT * C]));
    assert_memory_equal(whole + KEPT * C, rest, sizeof(float[(TO - KEPT) * C]));
    FREE_ALL(whole, rest);
    assert_null(positions_resize(from, FROM, TO, C, false, FROM));
    assert_null(positions_resize(from, FROM, KEPT, C, false, KEPT));
}

static int setup(void **state) {
    (void)state;
    k = kernels_open("ref", PRECISION_FP32);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_foreign_names_and_types),
        cmocka_unit_test(test_wrong_tensors_are_named),
        cmocka_unit_test(test_a_run_means_its_best),
        cmocka_unit_test(test_nothing_is_downloaded),
        cmocka_unit_test(test_resize),
        cmocka_unit_test(test_resize_without_class),
        cmocka_unit_test(test_kept_positions),
    };
    return cmocka_run_group_tests_name("pretrained", tests, setup, NULL);
}
