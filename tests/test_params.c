/* Names, order, shapes and counts of the parameters; the initial values' statistics. */
#include "train/model/params.h"

#include "tests/support_model.h"
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <glob.h>
#include <math.h>

static const char model[] =
    "{\"embed_dim\": 96, \"init_logit_bias\": -10, \"vision_cfg\": {\"image_size\": 32, "
    "\"layers\": 2, \"width\": 128, \"head_width\": 32, \"patch_size\": 8}, \"text_cfg\": "
    "{\"context_length\": 64, \"vocab_size\": 500, \"width\": 64, \"heads\": 2, \"layers\": 3}}";

/* A table that only counts the requested memory: the layout of a large model without its memory. */
static size_t taken;
static void *no_memory(size_t bytes) {
    taken += bytes;
    return NULL;
}
static void nothing(void *p, size_t bytes) { (void)p, (void)bytes; }
static void no_release(void *p) { assert_null(p); }

static Params *layout(const char *name, Precision precision, ClipConfig *c) {
    static Kernels k;
    static Device none;
    k = *kernels_open("cpu", precision);
    none = *k.device;
    none.alloc = no_memory;
    none.zero = nothing;
    none.release = no_release;
    k.device = &none;
    taken = 0;
    clip_config_load(c, name);
    return params_new(&k, c);
}

static void test_vit_b_32(void **state) {
    (void)state;
    ClipConfig c;
    Params *p = layout("ViT-B-32", PRECISION_FP32, &c);
    assert_int_equal(p->count, 302);
    assert_int_equal(params_elements(p), 151277313);
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
    const Param *q = param_named(p, "visual.conv1.weight");
    assert_int_equal(q->ndim, 4);
    assert_int_equal(q->shape[0], 768);
    assert_int_equal(q->shape[1], 3);
    assert_int_equal(q->shape[3], 32);
    assert_int_equal(param_named(p, "logit_scale")->ndim, 0);
    assert_int_equal(param_named(p, "logit_scale")->size, 1);
    assert_null(param_named(p, "logit_bias"));
    params_free(p);
    clip_config_free(&c);
}

/* ---- fields of each tensor, against rules that read its name ---- */

static bool contains(const char *s, const char *part) { return strstr(s, part) != NULL; }
static bool ends(const char *s, const char *end) {
    size_t n = strlen(s), m = strlen(end);
    return n >= m && !strcmp(s + n - m, end);
}

static const struct {
    const char *part; /* the first row whose part is in the name counts */
    ParamRole role;
} roles[] = {{"lora_a.", ROLE_LORA_A},
             {"lora_b.", ROLE_LORA_B},
             {"conv1", ROLE_PATCHES},
             {"class_embedding", ROLE_CLASS},
             {"token_embedding", ROLE_TOKENS},
             {"positional_embedding", ROLE_POSITIONS},
             {"probe", ROLE_PROBE},
             {"ln_pre", ROLE_LN_PRE},
             {"attn.ln_inner", ROLE_LN_INNER},
             {"mlp.ln_inner", ROLE_LN_MLP},
             {"ln_1", ROLE_LN_1},
             {"ln_2", ROLE_LN_2},
             {"ln_post", ROLE_LN_FINAL},
             {"ln_final", ROLE_LN_FINAL},
             {"in_proj_", ROLE_IN_PROJ},
             {"out_proj.", ROLE_OUT_PROJ},
             {"c_fc.", ROLE_C_FC},
             {"c_proj.", ROLE_C_PROJ},
             {"logit_scale", ROLE_LOGIT_SCALE},
             {"logit_bias", ROLE_LOGIT_BIAS},
             {"proj", ROLE_PROJECTION}};

static ParamRole role_of(const char *name) {
    size_t i = 0;
    while (!contains(name, roles[i].part)) i++;
    return roles[i].role;
}

static size_t layer_of(const char *name, size_t layers) {
    const char *block = strstr(name, "resblocks.");
    if (block) return 1 + strtoull(block + 10, NULL, 10);
    if (contains(name, "ln_post") || contains(name, "ln_final")) return layers;
    if (contains(name, "attn_pool.") || contains(name, "text_projection")) return layers + 1;
    return contains(name, "visual.proj") ? layers + 1 : 0;
}

/* As in open_clip's modules and PyTorch's defaults; squares of bounds and deviations. */
static double init_of(const Param *q, const ClipConfig *c, int *kind) {
    const char *name = q->name;
    bool image = contains(name, "visual.");
    const TowerConfig *t = image ? &c->image : &c->text;
    double d = (double)t->width, h = (double)t->mlp, L = (double)t->layers,
           P = (double)c->patch_size;
    if (contains(name, "attn_pool.") && t->pool_mlp) h = (double)t->pool_mlp;
    *kind = INIT_CONSTANT;
    if (contains(name, "lora_b.")) return 0;
    if (contains(name, "ln_")) return ends(name, "weight");
    if (contains(name, "logit_scale")) return c->init_logit_scale;
    if (contains(name, "logit_bias")) return c->init_logit_bias;
    if (ends(name, "in_proj_bias") || ends(name, "out_proj.bias")) return 0;
    if (ends(name, "text_projection.bias") || ends(name, "visual.proj.bias")) return 0;
    *kind = INIT_UNIFORM;
    if (contains(name, "lora_a.")) return 1 / (double)q->shape[1];
    if (contains(name, "conv1.")) return 1 / (3 * P * P);
    if (ends(name, "c_fc.bias")) return 1 / d;
    if (ends(name, "c_proj.bias")) return 1 / h;
    if (image && ends(name, "in_proj_weight")) return 6 / (4 * d);
    if (image && (ends(name, "out_proj.weight") || ends(name, "c_fc.weight"))) return 1 / d;
    if (image && ends(name, "c_proj.weight")) return 1 / h;
    *kind = INIT_NORMAL;
    if (ends(name, "in_proj_weight")) return 1 / d;
    if (ends(name, "out_proj.weight") || ends(name, "c_proj.weight")) return 1 / (d * 2 * L);
    if (ends(name, "c_fc.weight")) return 1 / (2 * d);
    if (ends(name, "token_embedding.weight")) return 0.02 * 0.02;
    if (!strcmp(name, "positional_embedding")) return 0.01 * 0.01;
    return 1 / d; /* class and positions of images, projections */
}

static void check_declared(const Param *q, const ClipConfig *c) {
    bool image = contains(q->name, "visual."), logit = contains(q->name, "logit_");
    int kind;
    double value = init_of(q, c, &kind);
    size_t layer = layer_of(q->name, image ? c->image.layers : c->text.layers);
    if (q->role != role_of(q->name) || q->bias != (ends(q->name, "bias") && !logit) ||
        q->tower != (logit   ? TOWER_NONE
                     : image ? TOWER_IMAGE
                             : TOWER_TEXT) ||
        q->layer != layer)
        fail_msg("%s, %s: role %d, bias %d, tower %d, layer %zu", c->name, q->name, q->role,
                 q->bias, q->tower, q->layer);
    if ((int)q->init.kind != kind || q->init.value != (kind == INIT_CONSTANT ? value : sqrt(value)))
        fail_msg("%s, %s: initial value %d, %.17g", c->name, q->name, q->init.kind, q->init.value);
    assert_true(param_is_norm(q) == contains(q->name, "ln_"));
    bool factor = contains(q->name, "lora_");
    assert_true(param_is_apart(q) == factor);
    bool block = contains(q->name, "resblocks.") || contains(q->name, "attn_pool.");
    bool matrix = q->ndim == 2 && block && !factor && q->role != ROLE_PROBE;
    assert_true(param_is_block_matrix(q) == matrix);
}

static void check_model(ClipConfig *c) {
    LoraOptions lora = {.rank = 4, .alpha = 8, .image = true, .text = true};
    Params *p = params_declare(kernels_open("ref", PRECISION_FP32), c);
    lora_declare(p, &lora);
    for (size_t i = 0; i < p->count; i++) {
        const Param *q = &p->list[i];
        if (!contains(q->name, "visual.stem.")) check_declared(q, c); /* tests/test_timm.c */
        if (i >= p->tensors) continue;
        assert_ptr_equal(params_at(p, q->tower, q->layer, q->role, q->bias), q);
        assert_ptr_equal(param_named(p, q->name), q);
    }
    assert_null(params_at(p, TOWER_TEXT, 0, ROLE_PATCHES, false));
    params_free(p);
    clip_config_free(c);
}

static void test_what_is_declared(void **state) {
    (void)state;
    glob_t files;
    Error err;
    ClipConfig c;
    assert_int_equal(glob("configs/models/*.json", 0, NULL, &files), 0);
    assert_true(files.gl_pathc > 20);
    for (size_t i = 0; i < files.gl_pathc; i++) {
        clip_config_load(&c, files.gl_pathv[i]);
        if (c.image.conv.kind) /* tests/test_resnet.c */
            clip_config_free(&c);
        else
            check_model(&c);
    }
    globfree(&files);
    assert_true(clip_config_parse(&c, "test", model, strlen(model), &err));
    check_model(&c);
}

/* A model for inference has its weights, and no byte for training. */
static void test_memory_for_inference(void **state) {
    (void)state;
    for (int rounded = 0; rounded < 2; rounded++) {
        ClipConfig c;
        Params *p = layout("ViT-B-32", rounded ? PRECISION_AMP_BF16 : PRECISION_FP32, &c);
        size_t elements = 0;
        for (size_t i = 0; i < p->count; i++) elements += round_up(p->list[i].size, PARAM_ALIGN);
        assert_int_equal(taken, elements * (rounded ? 4 + 2 : 4));
        assert_true(!p->grad && !p->unused_grad && !p->lora && !p->fp8);
        params_free(p);
        clip_config_free(&c);
    }
}

static int by_offset(const void *a, const void *b) {
    size_t x = ((const Param *)a)->offset, y = ((const Param *)b)->offset;
    return (x > y) - (x < y);
}

static void test_no_overlap(void **state) {
    (void)state;
    ClipConfig c;
    Params *p = layout("small", PRECISION_FP32, &c);
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

static Params *initialised(ClipConfig *c, uint64_t seed) {
    Error err;
    assert_true(clip_config_parse(c, "test", model, strlen(model), &err));
    Params *p = params_new(kernels_open("ref", PRECISION_FP32), c);
    params_init(p, seed);
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
    const Param *q = param_named(p, name);
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
    const Param *q = param_named(p, name);
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
    const Param *q = param_named(a, "token_embedding.weight");
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
        cmocka_unit_test(test_vit_b_32),       cmocka_unit_test(test_what_is_declared),
        cmocka_unit_test(test_no_overlap),     cmocka_unit_test(test_memory_for_inference),
        cmocka_unit_test(test_initial_values), cmocka_unit_test(test_seed_decides),
    };
    return cmocka_run_group_tests_name("params", tests, NULL, NULL);
}
