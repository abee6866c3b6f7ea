/* Names, order, shapes and counts of the parameters; the initial values' statistics. */
#include "train/model/params.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <math.h>

/* A table that hands out no memory: the layout of a large model, without the model. */
static void *no_memory(size_t bytes) {
    (void)bytes;
    return NULL;
}
static void nothing(void *p, size_t bytes) { (void)p, (void)bytes; }
static void no_release(void *p) { assert_null(p); }

static Params *layout(const char *model, ClipConfig *c) {
    static Kernels k;
    static Device none;
    k = *kernels_open("ref", PRECISION_FP32);
    none = *k.device;
    none.alloc = no_memory;
    none.zero = nothing;
    none.release = no_release;
    k.device = &none;
    clip_config_load(c, model);
    return params_new(&k, c, true);
}

static void test_vit_b_32(void **state) {
    (void)state;
    ClipConfig c;
    Params *p = layout("ViT-B-32", &c);
    assert_int_equal(p->count, 302);
    assert_int_equal(params_learned(p), 151277313);
    static const char *const first[] = {"positional_embedding",
                                        "text_projection",
                                        "logit_scale",
                                        "visual.class_embedding",
                                        "visual.positional_embedding",
                                        "visual.proj",
                                        "visual.conv1.weight",
                                        "visual.ln_pre.weight",
                                        "visual.ln_pre.bias",
                                        "visual.transformer.resblocks.0.ln_1.weight",
                                        "visual.transformer.resblocks.0.ln_1.bias",
                                        "visual.transformer.resblocks.0.attn.in_proj_weight",
                                        "visual.transformer.resblocks.0.attn.in_proj_bias",
                                        "visual.transformer.resblocks.0.attn.out_proj.weight",
                                        "visual.transformer.resblocks.0.attn.out_proj.bias",
                                        "visual.transformer.resblocks.0.ln_2.weight",
                                        "visual.transformer.resblocks.0.ln_2.bias",
                                        "visual.transformer.resblocks.0.mlp.c_fc.weight",
                                        "visual.transformer.resblocks.0.mlp.c_fc.bias",
                                        "visual.transformer.resblocks.0.mlp.c_proj.weight",
                                        "visual.transformer.resblocks.0.mlp.c_proj.bias",
                                        "visual.transformer.resblocks.1.ln_1.weight"};
    for (size_t i = 0; i < COUNT(first); i++) assert_string_equal(p->list[i].name, first[i]);
    assert_string_equal(p->list[153].name, "visual.ln_post.weight");
    assert_string_equal(p->list[155].name, "transformer.resblocks.0.ln_1.weight");
    assert_string_equal(p->list[298].name, "transformer.resblocks.11.mlp.c_proj.bias");
    assert_string_equal(p->list[299].name, "token_embedding.weight");
    assert_string_equal(p->list[301].name, "ln_final.bias");
    const Param *q = params_find(p, "visual.conv1.weight");
    assert_int_equal(q->ndim, 4);
    assert_int_equal(q->shape[0], 768);
    assert_int_equal(q->shape[1], 3);
    assert_int_equal(q->shape[3], 32);
    assert_int_equal(params_find(p, "logit_scale")->ndim, 0);
    assert_int_equal(params_find(p, "logit_scale")->size, 1);
    assert_null(params_find(p, "logit_bias"));
    params_free(p);
    clip_config_free(&c);
}

static int by_offset(const void *a, const void *b) {
    size_t x = ((const Param *)a)->offset, y = ((const Param *)b)->offset;
    return (x > y) - (x < y);
}

static void test_no_overlap(void **state) {
    (void)state;
    ClipConfig c;
    Params *p = layout("small", &c);
    qsort(p->list, p->count, sizeof *p->list, by_offset);
    size_t end = 0;
    for (size_t i = 0; i < p->count; i++) {
        assert_true(p->list[i].offset >= end && p->list[i].offset - end < 32);
        assert_int_equal(p->list[i].offset % 32, 0);
        end = p->list[i].offset + p->list[i].size;
    }
    assert_true(p->size >= end && p->size - end < 32);
    params_free(p);
    clip_config_free(&c);
}

static const char model[] =
    "{\"embed_dim\": 96, \"init_logit_bias\": -10, \"vision_cfg\": {\"image_size\": 32, "
    "\"layers\": 2, \"width\": 128, \"head_width\": 32, \"patch_size\": 8}, \"text_cfg\": "
    "{\"context_length\": 64, \"vocab_size\": 500, \"width\": 64, \"heads\": 2, \"layers\": 3}}";

static Params *initialised(ClipConfig *c, uint64_t seed) {
    Error err;
    assert_true(clip_config_parse(c, "test", model, strlen(model), &err));
    Params *p = params_new(kernels_open("ref", PRECISION_FP32), c, false);
    params_init(p, c, seed);
    return p;
}

static double *values(const Params *p, const Param *q) {
    double *x = malloc(q->size * sizeof *x);
    p->k->acc_get(x, param_acc(p, q), q->size);
    return x;
}

/* Mean 0 and the deviation within 5 standard errors; a uniform's values stay within its bound and
 * come near it. */
static void check_spread(const Params *p, const char *name, double deviation, bool is_uniform) {
    const Param *q = params_find(p, name);
    assert_non_null(q);
    double *x = values(p, q), sum = 0, squares = 0, largest = 0, n = (double)q->size;
    for (size_t i = 0; i < q->size; i++) {
        sum += x[i];
        squares += x[i] * x[i];
        largest = fmax(largest, fabs(x[i]));
    }
    free(x);
    double s = sqrt(squares / n), bound = deviation * sqrt(3);
    if (fabs(sum / n) > 5 * deviation / sqrt(n)) fail_msg("%s: mean %g", name, sum / n);
    if (fabs(s / deviation - 1) > 5 / sqrt(2 * n)) fail_msg("%s: deviation %g", name, s);
    if (is_uniform && (largest > bound || largest < bound * (1 - 20 / n)))
        fail_msg("%s: largest %g, bound %g", name, largest, bound);
    if (!is_uniform && n > 1000 && largest < bound * 1.5) fail_msg("%s: no tails", name);
}

static void check_constant(const Params *p, const char *name, double value) {
    const Param *q = params_find(p, name);
    assert_non_null(q);
    double *x = values(p, q);
    for (size_t i = 0; i < q->size; i++) assert_true(x[i] == value);
    free(x);
}

static void test_initial_values(void **state) {
    (void)state;
    ClipConfig c;
    Params *p = initialised(&c, 7);
    const double d = 128, w = 64, h = 512, L = 3;
    check_spread(p, "visual.class_embedding", pow(d, -.5), false);
    check_spread(p, "visual.positional_embedding", pow(d, -.5), false);
    check_spread(p, "visual.proj", pow(d, -.5), false);
    check_spread(p, "visual.conv1.weight", sqrt(1. / (3 * 64) / 3), true);
    const char *b = "visual.transformer.resblocks.1.";
    char name[96];
#define NAME(part) (snprintf(name, sizeof name, "%s%s", b, part), name)
    check_spread(p, NAME("attn.in_proj_weight"), sqrt(6 / (4 * d) / 3), true);
    check_spread(p, NAME("attn.out_proj.weight"), sqrt(1 / d / 3), true);
    check_spread(p, NAME("mlp.c_fc.weight"), sqrt(1 / d / 3), true);
    check_spread(p, NAME("mlp.c_fc.bias"), sqrt(1 / d / 3), true);
    check_spread(p, NAME("mlp.c_proj.weight"), sqrt(1 / h / 3), true);
    check_spread(p, NAME("mlp.c_proj.bias"), sqrt(1 / h / 3), true);
    check_constant(p, NAME("attn.in_proj_bias"), 0);
    check_constant(p, NAME("attn.out_proj.bias"), 0);
    check_constant(p, NAME("ln_1.weight"), 1);
    check_constant(p, NAME("ln_2.bias"), 0);
    b = "transformer.resblocks.2.";
    check_spread(p, "positional_embedding", .01, false);
    check_spread(p, "token_embedding.weight", .02, false);
    check_spread(p, "text_projection", pow(w, -.5), false);
    check_spread(p, NAME("attn.in_proj_weight"), pow(w, -.5), false);
    check_spread(p, NAME("attn.out_proj.weight"), pow(w * 2 * L, -.5), false);
    check_spread(p, NAME("mlp.c_fc.weight"), pow(2 * w, -.5), false);
    check_spread(p, NAME("mlp.c_fc.bias"), sqrt(1 / w / 3), true);
    check_spread(p, NAME("mlp.c_proj.weight"), pow(w * 2 * L, -.5), false);
    check_spread(p, NAME("mlp.c_proj.bias"), sqrt(1 / (4 * w) / 3), true);
    check_constant(p, NAME("attn.in_proj_bias"), 0);
    check_constant(p, "visual.ln_pre.weight", 1);
    check_constant(p, "ln_final.weight", 1);
    check_constant(p, "ln_final.bias", 0);
    check_constant(p, "logit_scale", log(1 / .07));
    check_constant(p, "logit_bias", -10);
#undef NAME
    params_free(p);
    clip_config_free(&c);
}

static void test_seed_decides(void **state) {
    (void)state;
    ClipConfig c, c2;
    Params *a = initialised(&c, 7), *b = initialised(&c2, 7), *other;
    clip_config_free(&c);
    clip_config_free(&c2);
    other = initialised(&c, 8);
    clip_config_free(&c);
    const Param *q = params_find(a, "token_embedding.weight");
    double *x = values(a, q), *y = values(b, q), *z = values(other, q);
    assert_memory_equal(x, y, q->size * sizeof *x);
    assert_memory_not_equal(x, z, q->size * sizeof *x);
    free(x), free(y), free(z);
    params_free(a);
    params_free(b);
    params_free(other);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vit_b_32),
        cmocka_unit_test(test_no_overlap),
        cmocka_unit_test(test_initial_values),
        cmocka_unit_test(test_seed_decides),
    };
    return cmocka_run_group_tests_name("params", tests, NULL, NULL);
}
