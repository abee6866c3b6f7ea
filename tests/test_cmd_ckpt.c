/* `clipc ckpt info` on a checkpoint, on a weights file, on other files. */
#include "tests/support.h"
#include "tests/support_model.h"
#include "data/tensors/safetensors.h"
#include "train/checkpoint.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char model[] =
    "{\"embed_dim\": 6, \"quick_gelu\": true, \"vision_cfg\": {\"image_size\": 8, \"layers\": 1, "
    "\"width\": 4, \"head_width\": 4, \"patch_size\": 4}, \"text_cfg\": {\"context_length\": 5, "
    "\"vocab_size\": 11, \"width\": 4, \"heads\": 1, \"layers\": 1}}";

static size_t count, learned;

static int setup(void **state) {
    (void)state;
    ClipConfig c;
    Error err;
    if (!clip_config_parse(&c, "small", model, strlen(model), &err)) fail_msg("%s", err.text);
    OptimState *o = state_new(kernels_open("ref", PRECISION_FP32), &c, NULL);
    params_init(o->p, 1);
    count = o->p->count;
    learned = params_elements(o->p);
    TrainState s = {.step = 42, .epoch = 2, .position = 640, .seed = UINT64_MAX};
    checkpoint_save(test_path("run"), "step_42", o, &c, &s, NULL);
    state_free(o);
    clip_config_free(&c);
    return 0;
}

static void test_table(void **state) {
    (void)state;
    char *text = test_clipc(EXIT_OK, "ckpt info %s", test_path("run/latest")), total[64];
    snprintf(total, sizeof total, "%zu in %zu tensors", learned, count);
    const char *const wants[] = {"image        width 4, 1 layers, ",
                                 "text         width 4, 1 layers, ",
                                 "8x8 in patches of 4",
                                 "QuickGELU",
                                 "42 steps; epoch 2, sample 640; seed 18446744073709551615",
                                 "visual.conv1.weight",
                                 "[4,3,4,4]",
                                 "F32",
                                 total};
    for (size_t i = 0; i < COUNT(wants); i++)
        if (!strstr(text, wants[i])) fail_msg("no '%s' in: %s", wants[i], text);
    free(text);
}

/* A tensor of more values than are read at a time. */
static void test_norm_of_a_large_tensor(void **state) {
    (void)state;
    char *text = test_clipc(0, "ckpt info tests/golden/openclip --json");
    Safetensors st;
    Error err;
    assert_true(safetensors_open(&st, "tests/golden/openclip/open_clip_model.safetensors", &err));
    json_t *root = json_loads(text, 0, NULL), *t;
    size_t i, seen = 0;
    json_array_foreach(json_object_get(root, "tensors"), i, t) {
        const char *name = json_string_value(json_object_get(t, "name"));
        if (strcmp(name, "token_embedding.weight")) continue;
        const Tensor *all = safetensors_find(&st, name);
        assert_true(all && all->count > 8192);
        float *x = xmalloc(all->count * sizeof *x);
        double squares = 0;
        assert_true(tensor_read_f32(all, 0, all->count, x));
        for (size_t j = 0; j < all->count; j++) squares += (double)x[j] * (double)x[j];
        assert_near(json_number_value(json_object_get(t, "norm")), sqrt(squares), 1e-6);
        free(x);
        seen++;
    }
    assert_int_equal(seen, 1);
    json_decref(root);
    free(text);
    safetensors_close(&st);
}

static void test_json(void **state) {
    (void)state;
    char *text = test_clipc(EXIT_OK, "ckpt info %s --json", test_path("run/step_42"));
    json_t *root = json_loads(text, 0, NULL);
    assert_non_null(root);
    assert_int_equal(json_integer_value(json_object_get(root, "parameters")), learned);
    json_t *s = json_object_get(root, "train_state"), *config = json_object_get(root, "config");
    assert_int_equal(json_integer_value(json_object_get(s, "step")), 42);
    assert_string_equal(json_string_value(json_object_get(s, "seed")), "18446744073709551615");
    json_t *model_cfg = json_object_get(config, "model_cfg");
    assert_int_equal(json_integer_value(json_object_get(model_cfg, "embed_dim")), 6);
    json_t *tensors = json_object_get(root, "tensors");
    assert_int_equal(json_array_size(tensors), count);
    size_t i;
    json_t *t;
    bool seen = false;
    json_array_foreach(tensors, i, t) {
        if (strcmp(json_string_value(json_object_get(t, "name")), "logit_scale")) continue;
        seen = true;
        assert_int_equal(json_array_size(json_object_get(t, "shape")), 0);
        assert_near(json_number_value(json_object_get(t, "norm")), log(1 / 0.07), 1e-6);
    }
    assert_true(seen);
    json_decref(root);
    free(text);
}

static void test_weights_alone(void **state) {
    (void)state;
    char *text =
        test_clipc(EXIT_OK, "ckpt info %s", test_path("run/step_42/open_clip_model.safetensors"));
    assert_null(strstr(text, "steps"));
    assert_non_null(strstr(text, "ln_final.bias"));
    free(text);
}

static void test_refused(void **state) {
    (void)state;
    char *text = test_clipc(EXIT_ERROR, "ckpt info %s", test_path("nothing"));
    assert_non_null(strstr(text, "no such file or folder"));
    free(text);
    test_write_file(test_path("text.safetensors"), "no tensors here", 15);
    text = test_clipc(EXIT_ERROR, "ckpt info %s", test_path("text.safetensors"));
    assert_non_null(strstr(text, "text.safetensors: not a safetensors file"));
    free(text);
    free(test_clipc(EXIT_USAGE, "ckpt"));
    free(test_clipc(EXIT_USAGE, "ckpt info"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_json),
        cmocka_unit_test(test_norm_of_a_large_tensor),
        cmocka_unit_test(test_weights_alone),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests_name("cmd_ckpt", tests, setup, NULL);
}
