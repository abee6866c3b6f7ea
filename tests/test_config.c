/* The model config reader: every shipped file, refused files and their messages, writing. */
#include "train/model/config.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <glob.h>
#include <math.h>

static const char plain[] =
    "{\"embed_dim\": 32, \"vision_cfg\": {\"image_size\": 32, \"layers\": 2, \"width\": 64, "
    "\"head_width\": 32, \"patch_size\": 8}, \"text_cfg\": {\"context_length\": 16, "
    "\"vocab_size\": 64, \"width\": 64, \"heads\": 2, \"layers\": 2}}";

static void parse_good(ClipConfig *c, const char *json) {
    Error err = {""};
    if (!clip_config_parse(c, "test", json, strlen(json), &err)) fail_msg("%s", err.text);
}

/* Refused, with `names` in the message. */
static void parse_bad(const char *json, const char *names) {
    ClipConfig c;
    Error err = {""};
    assert_false(clip_config_parse(&c, "test", json, strlen(json), &err));
    if (!strstr(err.text, names)) fail_msg("'%s' does not name '%s'", err.text, names);
    assert_null(c.json);
}

/* `plain` with `what` inserted after the text `where`. */
static char *with(const char *where, const char *what) {
    const char *at = strstr(plain, where);
    assert_non_null(at);
    at += strlen(where);
    char *s = malloc(sizeof plain + strlen(what));
    sprintf(s, "%.*s%s%s", (int)(at - plain), plain, what, at);
    return s;
}

static void test_values(void **state) {
    (void)state;
    ClipConfig c;
    parse_good(&c, plain);
    assert_string_equal(c.name, "test");
    assert_int_equal(c.embed_dim, 32);
    assert_int_equal(c.image.activation, ACTIVATION_GELU);
    assert_int_equal(c.image.width, 64);
    assert_int_equal(c.image.heads, 2);
    assert_int_equal(c.image.mlp, 256);
    assert_int_equal(c.text.heads, 2);
    assert_int_equal(c.text.layers, 2);
    assert_int_equal(c.context_length, 16);
    assert_int_equal(c.vocab_size, 64);
    assert_int_equal(clip_image_tokens(&c), 17);
    assert_int_equal(c.image.pool, POOL_CLASS);
    assert_false(c.has_logit_bias);
    assert_true(fabs(c.init_logit_scale - log(1 / 0.07)) < 1e-12);
    assert_int_equal(c.eval_transform.size, 32);
    assert_true(c.eval_transform.mean[0] == 0.48145466f);
    clip_config_free(&c);
}

static void test_shipped_models(void **state) {
    (void)state;
    glob_t g;
    assert_int_equal(glob("configs/models/*.json", 0, NULL, &g), 0);
    assert_true(g.gl_pathc >= 24);
    for (size_t i = 0; i < g.gl_pathc; i++) {
        ClipConfig c;
        clip_config_load(&c, g.gl_pathv[i]);
        bool quick = strstr(g.gl_pathv[i], "quickgelu") != NULL;
        assert_int_equal(c.image.activation == ACTIVATION_QUICK_GELU, quick);
        assert_true(c.timm || c.image.activation != ACTIVATION_GELU_TANH);
        clip_config_free(&c);
    }
    globfree(&g);
    /* heads, hidden widths and grids of the table of published models */
    static const struct {
        const char *name;
        size_t embed, heads, mlp, layers, tokens, text_width;
    } want[] = {{"ViT-B-32", 512, 12, 3072, 12, 50, 512},
                {"ViT-B-16-plus-240", 640, 14, 3584, 12, 226, 640},
                {"ViT-L-14-336", 768, 16, 4096, 24, 577, 768},
                {"ViT-H-14", 1024, 16, 5120, 32, 257, 1024},
                {"ViT-g-14", 1024, 16, 6144, 40, 257, 1024},
                {"ViT-bigG-14", 1280, 16, 8192, 48, 257, 1280},
                {"ViT-e-14", 1280, 16, 15360, 56, 257, 1280}};
    for (size_t i = 0; i < COUNT(want); i++) {
        ClipConfig c;
        clip_config_load(&c, want[i].name);
        assert_int_equal(c.embed_dim, want[i].embed);
        assert_int_equal(c.image.heads, want[i].heads);
        assert_int_equal(c.image.mlp, want[i].mlp);
        assert_int_equal(c.image.layers, want[i].layers);
        assert_int_equal(clip_image_tokens(&c), want[i].tokens);
        assert_int_equal(c.text.width, want[i].text_width);
        assert_int_equal(c.text.mlp, 4 * want[i].text_width);
        clip_config_free(&c);
    }
}

static void test_refused(void **state) {
    (void)state;
    static const struct {
        const char *where, *what, *names;
    } bad[] = {
        {"\"vision_cfg\": {", "\"timm_model_name\": \"vit_base\", ", "vision_cfg.timm_model_name"},
        {"\"vision_cfg\": {", "\"no_ln_pre\": 1, ", "vision_cfg.no_ln_pre"},
        {"\"vision_cfg\": {", "\"qk_norm\": true, ", "vision_cfg.qk_norm"},
        {"\"vision_cfg\": {", "\"depth\": 3, ", "vision_cfg.depth"},
        {"\"vision_cfg\": {", "\"mlp_ratio\": -1, ", "vision_cfg.mlp_ratio"},
        {"\"vision_cfg\": {", "\"norm_kwargs\": {\"eps\": 0}, ", "vision_cfg.norm_kwargs.eps"},
        {"\"text_cfg\": {", "\"norm_kwargs\": {\"bias\": 1}, ", "text_cfg.norm_kwargs.bias"},
        {"\"text_cfg\": {", "\"act_kwargs\": {\"approximate\": \"sigmoid\"}, ",
         "text_cfg.act_kwargs.approximate"},
        {"\"text_cfg\": {", "\"norm_kwargs\": 1e-6, ", "text_cfg.norm_kwargs: expected an object"},
        {"\"vision_cfg\": {", "\"pool_type\": \"map\", ", "vision_cfg.pool_type"},
        {"\"text_cfg\": {", "\"hf_model_name\": \"roberta\", ", "text_cfg.hf_model_name"},
        {"\"text_cfg\": {", "\"no_causal_mask\": 1, ", "text_cfg.no_causal_mask"},
        {"\"text_cfg\": {", "\"pool_type\": \"first\", ", "text_cfg.pool_type"},
        {"\"text_cfg\": {", "\"pool_type\": \"eos\", \"eos_id\": 64, ", "text_cfg.eos_id"},
        {"\"text_cfg\": {", "\"proj_bias\": 1, ", "text_cfg.proj_bias"},
        {"\"text_cfg\": {", "\"tokenizer_kwargs\": {\"clean\": \"x\"}, ", "tokenizer_kwargs.clean"},
        {"{", "\"multimodal_cfg\": {}, ", "model.multimodal_cfg"},
        {"{", "\"quick_gelu\": 1, ", "model.quick_gelu"},
        {"{", "\"init_logit_bias\": \"x\", ", "model.init_logit_bias"},
        {"{", "\"embed_dim\": 32, ", "duplicate"},
    };
    for (size_t i = 0; i < COUNT(bad); i++) {
        char *json = with(bad[i].where, bad[i].what);
        parse_bad(json, bad[i].names);
        free(json);
    }
    parse_bad("[]", "object");
    parse_bad("{\"embed_dim\": 8, \"vision_cfg\": {}}", "text_cfg");
    parse_bad("{\"vision_cfg\": {}, \"text_cfg\": {}}", "embed_dim");
    parse_bad("{\"embed_dim\": 8, \"vision_cfg\": {\"layers\": [3,4,6]}, \"text_cfg\": {}}",
              "vision_cfg.layers");
    parse_bad("{\"embed_dim\": 8, \"vision_cfg\": {\"width\": 100}, \"text_cfg\": {}}",
              "head_width");
    parse_bad("{\"embed_dim\": 8, \"vision_cfg\": {\"image_size\": 230}, \"text_cfg\": {}}",
              "patch_size");
    parse_bad("{\"embed_dim\": 99999999999, \"vision_cfg\": {}, \"text_cfg\": {}}", "embed_dim");
    parse_bad("{\"embed_dim\": 8, \"vision_cfg\": {}, \"text_cfg\": {\"heads\": 7}}", "heads");
}

/* Each refusal names the field and the family that it belongs to, even if another field of that
 * family is out of CLIP's range too. */
static void test_families(void **state) {
    (void)state;
    static const char pe[] = "\"patch_size\": 14, \"image_size\": 384, \"timm_model_name\": ";
    static const struct {
        const char *where, *before, *what, *message;
    } bad[] = {
        {"vision", "", "\"timm_model_name\": \"convnext_base\"",
         "vision_cfg.timm_model_name: \"convnext_base\" is not supported (ConvNeXt image towers)"},
        {"vision", "", "\"timm_model_name\": \"fastvit_mci2\"",
         "\"fastvit_mci2\" is not supported (MobileCLIP's FastViT image towers)"},
        {"vision", pe, "\"vitamin_large2_384\"", "(ViTamin image towers)"},
        {"vision", "", "\"timm_model_name\": \"tresnet_m\"", "(timm's image towers)"},
        {"vision", "", "\"layers\": [3, 4, 6]",
         "vision_cfg.layers: expected four numbers of blocks"},
        {"vision", "", "\"attentional_pool\": true",
         "vision_cfg.attentional_pool: true is not supported (CoCa models)"},
        {"text", "", "\"embed_cls\": true",
         "text_cfg.embed_cls: true is not supported (CoCa models)"},
        {"text", "", "\"hf_model_name\": \"xlm-roberta-base\"",
         "text_cfg.hf_model_name: \"xlm-roberta-base\" is not supported (XLM-RoBERTa text towers)"},
        {"text", "", "\"hf_model_name\": \"roberta-base\"", " (RoBERTa text towers)"},
        {"text", "", "\"hf_model_name\": \"facebook/nllb-200-distilled-600M\"",
         "(NLLB text towers)"},
        {"text", "", "\"hf_model_name\": \"arctic\"", "(Hugging Face's text towers)"},
        {"multimodal", "", "", "model.multimodal_cfg: this field is not supported (CoCa models)"},
        {"other", "", "", "model.other_cfg: this field is not supported"},
    };
    for (size_t i = 0; i < COUNT(bad); i++) {
        char json[512];
        bool vision = !strcmp(bad[i].where, "vision"), text = !strcmp(bad[i].where, "text");
        snprintf(json, sizeof json,
                 "{\"embed_dim\": 32, \"vision_cfg\": {%s%s}, \"text_cfg\": {%s}, \"%s\": {}}",
                 vision ? bad[i].before : "", vision ? bad[i].what : "", text ? bad[i].what : "",
                 vision || text           ? "unused"
                 : bad[i].where[0] == 'm' ? "multimodal_cfg"
                                          : "other_cfg");
        parse_bad(json, bad[i].message);
    }
}

static void test_harmless(void **state) {
    (void)state;
    char *json = with("{", "\"custom_text\": true, \"quick_gelu\": true, \"init_logit_scale\": "
                           "2.302585, \"init_logit_bias\": -10, ");
    ClipConfig c;
    parse_good(&c, json);
    assert_int_equal(c.image.activation, ACTIVATION_QUICK_GELU);
    assert_true(c.has_logit_bias && c.init_logit_bias == -10);
    assert_true(c.init_logit_scale == 2.302585);
    clip_config_free(&c);
    free(json);
    json = with("\"vision_cfg\": {", "\"timm_pool\": \"avg\", \"act_kwargs\": {}, \"qk_norm\": "
                                     "false, \"ls_init_value\": null, \"pool_type\": \"avg\", "
                                     "\"final_ln_after_pool\": true, \"patch_dropout\": 0.5, ");
    parse_good(&c, json);
    assert_int_equal(c.image.pool, POOL_MEAN);
    assert_true(c.image.norm_after_pool && c.patch_dropout == 0.5);
    clip_config_free(&c);
    free(json);
}

static void test_written_back(void **state) {
    (void)state;
    char json[2048];
    snprintf(json, sizeof json,
             "{\"model_cfg\": %s, \"preprocess_cfg\": {\"size\": [32, 32], \"mode\": \"RGB\", "
             "\"mean\": [0.5, 0.25, 0.48145466], \"std\": [0.5, 0.5, 0.26130258], "
             "\"interpolation\": \"bilinear\", \"resize_mode\": \"squash\", \"fill_color\": 7}}",
             plain);
    ClipConfig c, d;
    parse_good(&c, json);
    assert_int_equal(c.eval_transform.resize_mode, RESIZE_SQUASH);
    assert_int_equal(c.eval_transform.interpolation, INTERPOLATION_BILINEAR);
    assert_int_equal(c.eval_transform.fill[2], 7);
    assert_true(c.eval_transform.mean[1] == 0.25f);
    /* changes by a run's options must reach the file */
    c.has_logit_bias = true;
    c.init_logit_bias = -10;
    c.init_logit_scale = 2.302585;
    c.image.activation = c.text.activation = ACTIVATION_QUICK_GELU;
    c.image_size = 64;
    c.eval_transform.size = 64;
    char *text = clip_config_to_json(&c);
    assert_non_null(strstr(text, "0.48145467"));
    assert_null(strstr(text, "0.481454670"));
    assert_null(strstr(text, "0.481454669"));
    parse_good(&d, text);
    free(text);
    free(c.json);
    free(d.json);
    c.json = d.json = NULL;
    free(d.name);
    d.name = c.name;
    assert_memory_equal(&c.embed_dim, &d.embed_dim, sizeof d.embed_dim);
    assert_memory_equal(&c.image, &d.image, sizeof c.image);
    assert_memory_equal(&c.text, &d.text, sizeof c.text);
    assert_int_equal(c.image.activation, d.text.activation);
    assert_int_equal(c.image_size, d.image_size);
    assert_true(d.has_logit_bias && d.init_logit_bias == -10 && d.init_logit_scale == 2.302585);
    const Transform *s = &c.eval_transform, *t = &d.eval_transform;
    assert_int_equal(t->size, 64);
    assert_int_equal(s->resize_mode, t->resize_mode);
    assert_int_equal(s->interpolation, t->interpolation);
    assert_memory_equal(s->fill, t->fill, sizeof s->fill);
    assert_memory_equal(s->mean, t->mean, sizeof s->mean);
    assert_memory_equal(s->std, t->std, sizeof s->std);
    clip_config_free(&c);

    snprintf(json, sizeof json, "{\"model_cfg\": %s, \"preprocess_cfg\": {\"blur\": 1}}", plain);
    parse_bad(json, "preprocess_cfg.blur");
    snprintf(json, sizeof json, "{\"model_cfg\": %s, \"preprocess_cfg\": {\"std\": [1, 1]}}",
             plain);
    parse_bad(json, "preprocess_cfg.std");
}

/* A description that differs from CLIP's wherever the schema lets it, and again from what is
 * written back. */
static void test_described(void **state) {
    (void)state;
    static const char json[] =
        "{\"embed_dim\": 32, \"vision_cfg\": {\"act_kwargs\": {\"approximate\": \"tanh\"}, "
        "\"norm_kwargs\": {\"eps\": 1e-6}, "
        "\"no_ln_pre\": true, \"pool_type\": \"avg\", \"final_ln_after_pool\": true}, "
        "\"text_cfg\": {\"no_causal_mask\": true, \"pool_type\": \"last\", \"norm_kwargs\": "
        "{\"eps\": 2e-6}, \"proj_bias\": true}}";
    ClipConfig c[2];
    parse_good(&c[0], json);
    char *text = clip_config_to_json(&c[0]);
    parse_good(&c[1], text);
    for (int i = 0; i < 2; i++) {
        const TowerConfig *image = &c[i].image, *words = &c[i].text;
        assert_true(image->eps == 1e-6 && words->eps == 2e-6);
        assert_int_equal(image->pool, POOL_MEAN);
        assert_true(image->norm_after_pool && !image->ln_pre);
        assert_int_equal(words->pool, POOL_LAST);
        assert_int_equal(image->activation, ACTIVATION_GELU_TANH);
        assert_int_equal(words->activation, ACTIVATION_GELU);
        assert_false(words->causal);
        assert_true(words->proj_bias);
        clip_config_free(&c[i]);
    }
    free(text);
}

static void test_every_truncation(void **state) {
    (void)state;
    for (size_t n = 0; n < sizeof plain - 1; n++) {
        ClipConfig c;
        Error err;
        assert_false(clip_config_parse(&c, "cut", plain, n, &err));
    }
}

/* MobileCLIP2-L-14's: a plain ViT under a name of timm's, with a bias in its projection alone, and
 * a text tower that attends in both directions. */
static void test_plain_timm_vit(void **state) {
    (void)state;
    ClipConfig c;
    parse_good(&c, "{\"embed_dim\": 768, \"vision_cfg\": {\"timm_model_name\": "
                   "\"vit_large_patch14_clip_224\", \"timm_model_pretrained\": false, "
                   "\"timm_pool\": \"token\", \"timm_proj\": null, \"image_size\": 224}, "
                   "\"text_cfg\": {\"context_length\": 77, \"vocab_size\": 49408, \"width\": 768, "
                   "\"heads\": 12, \"layers\": 12, \"no_causal_mask\": true}}");
    const TowerConfig *t = &c.image;
    assert_true(c.timm && c.patch_size == 14 && c.image_size == 224);
    assert_true(t->width == 1024 && t->layers == 24 && t->heads == 16 && t->mlp == 4096);
    assert_true(t->class_token && t->ln_pre && t->pool == POOL_CLASS && t->eps == 1e-5);
    assert_true(t->proj_bias && !t->no_proj && !t->patch_bias && !t->gated && !t->no_key_bias);
    assert_true(t->activation == ACTIVATION_GELU && t->rotary.theta == 0 && !c.text.causal);
    clip_config_free(&c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain_timm_vit),   cmocka_unit_test(test_values),
        cmocka_unit_test(test_shipped_models),   cmocka_unit_test(test_refused),
        cmocka_unit_test(test_families),         cmocka_unit_test(test_harmless),
        cmocka_unit_test(test_written_back),     cmocka_unit_test(test_described),
        cmocka_unit_test(test_every_truncation),
    };
    return cmocka_run_group_tests_name("config", tests, NULL, NULL);
}
