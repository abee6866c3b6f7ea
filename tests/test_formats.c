/* Checkpoints of other programs (tests/golden/make_formats.py, make_towers.py): one model gives
 * PyTorch's features and the same bits in every format; damaged and wrong files are refused by
 * name. */
#include "tests/support.h"
#include "tests/support_data.h"
#include "data/tensors/npy.h"
#include "train/model/pretrained.h"
#include "train/model/hf_config.h"
#include "train/model/weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define GOLDEN "tests/golden/formats/"
#define MODEL GOLDEN "model.json"

/* Every format of the golden model: its path, --model where it needs one. */
static const struct {
    const char *path, *model;
} formats[] = {
    {GOLDEN "open_clip", NULL},    {GOLDEN "prefixed_f16.safetensors", MODEL},
    {GOLDEN "hf", NULL},           {GOLDEN "hf/model.safetensors", NULL},
    {GOLDEN "hf_parts", NULL},     {GOLDEN "plain.pt", MODEL},
    {GOLDEN "training.pt", MODEL}, {GOLDEN "strided.pt", MODEL},
    {GOLDEN "script.pt", MODEL},
};

static float *features(const char *path, size_t *count) {
    size_t n, E;
    float *x = read_npy(path, &n, &E);
    *count = n * E;
    return x;
}

static void compare(const char *got, const char *want, double tolerance) {
    size_t n, m;
    float *x = features(got, &n), *y = features(want, &m);
    assert_int_equal(n, m);
    for (size_t i = 0; i < n; i++) assert_near((double)x[i], (double)y[i], tolerance);
    free(x);
    free(y);
}

/* Features of the golden pictures and captions, into NAME-images.npy and -texts.npy. */
static void embed(const char *checkpoint, const char *model, const char *name) {
    static const char *const what[] = {"images", "texts"};
    static const char *const inputs[] = {"--image tests/golden/openclip/0[0-2].jpg",
                                         "--text " GOLDEN "captions.txt"};
    for (size_t i = 0; i < COUNT(what); i++) {
        char out[64];
        snprintf(out, sizeof out, "%s-%s.npy", name, what[i]);
        free(test_clipc(0,
                        "embed --checkpoint %s%s%s --vocab " GOLDEN "vocab.txt --precision fp32 %s "
                        "--out %s",
                        checkpoint, model ? " --model " : "", model ? model : "", inputs[i],
                        test_path(out)));
    }
}

static void test_every_format_gives_the_same(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(formats); i++) {
        embed(formats[i].path, formats[i].model, i ? "other" : "first");
        if (i) {
            compare(test_path("other-images.npy"), test_path("first-images.npy"), 0);
            compare(test_path("other-texts.npy"), test_path("first-texts.npy"), 0);
        } else {
            compare(test_path("first-images.npy"), GOLDEN "images.npy", 1e-6);
            compare(test_path("first-texts.npy"), GOLDEN "texts.npy", 1e-6);
        }
    }
}

/* Towers that differ from CLIP's in all that open_clip's schema supports. */
static void test_described_towers(void **state) {
    (void)state;
    embed(GOLDEN "towers", NULL, "towers");
    compare(test_path("towers-images.npy"), GOLDEN "towers/images.npy", 1e-6);
    compare(test_path("towers-texts.npy"), GOLDEN "towers/texts.npy", 1e-6);
}

static void test_info(void **state) {
    (void)state;
    char *text = test_clipc(0, "ckpt info " GOLDEN "hf");
    test_says(text, "width 8, 1 layers, 2 heads, MLP 32, 8x8 in patches of 4");
    test_says(text, "QuickGELU");
    test_says(text, "vision_model.pre_layrnorm.weight");
    free(text);
    text = test_clipc(0, "ckpt info " GOLDEN "hf_parts");
    test_says(text, "BF16");
    test_says(text, "in 46 tensors");
    free(text);
}

/* A lone file needs --model, and the right one. */
static void test_architecture(void **state) {
    (void)state;
    char *text =
        test_clipc(1, "embed --checkpoint " GOLDEN "prefixed_f16.safetensors --text - --out x.npy");
    test_says(text, "has no architecture with it");
    test_says(text, "--model");
    free(text);
    text = test_clipc(1, "embed --checkpoint " GOLDEN
                         "prefixed_f16.safetensors --model ViT-S-32 --text - "
                         "--out x.npy");
    test_says(text, "the model needs");
    free(text);
    text = test_clipc(1, "embed --checkpoint tests/golden --text - --out x.npy");
    test_says(text, "has no architecture");
    free(text);
}

static const char gelu[] =
    "{\"embed_dim\": 6, \"vision_cfg\": {\"image_size\": 8, \"layers\": 1, \"width\": 8, "
    "\"head_width\": 4, \"patch_size\": 4}, \"text_cfg\": {\"context_length\": 12, "
    "\"vocab_size\": 515, \"width\": 4, \"heads\": 1, \"layers\": 1}}";

static void test_activation_is_watched(void **state) {
    (void)state;
    const char *model = test_path("gelu.json"), *out = test_path("x.npy");
    static const char vocab[] = "--vocab " GOLDEN "vocab.txt --text " GOLDEN "captions.txt --out";
    test_write_file(model, gelu, strlen(gelu));
    char *text =
        test_clipc(0, "embed --checkpoint " GOLDEN "hf --model %s %s %s", model, vocab, out);
    test_says(text, "was trained with QuickGELU");
    free(text);
    /* no config next to it: the name of the file decides */
    size_t n;
    char *bytes = test_read_file(GOLDEN "prefixed_f16.safetensors", &n);
    const char *openai = test_path("b32-OpenAI.safetensors"), *other = test_path("b32.safetensors");
    test_write_file(openai, bytes, n);
    test_write_file(other, bytes, n);
    free(bytes);
    text = test_clipc(0, "embed --checkpoint %s --model %s %s %s", openai, model, vocab, out);
    test_says(text, "was trained with QuickGELU");
    free(text);
    text = test_clipc(0, "embed --checkpoint %s --model %s %s %s", other, model, vocab, out);
    assert_null(strstr(text, "QuickGELU"));
    free(text);
    text = test_clipc(0, "embed --checkpoint %s --model " MODEL " %s %s", openai, vocab, out);
    assert_null(strstr(text, "QuickGELU"));
    free(text);
}

/* ---- Hugging Face's config ---- */

#define HF(top, vision, text)                                                                      \
    "{\"model_type\": \"clip\", \"projection_dim\": 64" top                                        \
    ", \"vision_config\": {\"image_size\": "                                                       \
    "64, \"patch_size\": 8, \"hidden_size\": 88, \"num_attention_heads\": 1, "                     \
    "\"intermediate_size\": 385" vision "}, \"text_config\": {\"hidden_size\": 32, "               \
    "\"intermediate_size\": 128, \"num_attention_heads\": 4, \"num_hidden_layers\": 3" text "}}"

static void test_hf_config(void **state) {
    (void)state;
    static const char good[] = HF("", "", ", \"eos_token_id\": 2, \"layer_norm_eps\": 1e-6");
    ClipConfig c;
    Error err;
    if (!clip_config_parse(&c, "hf", good, strlen(good), &err)) fail_msg("%s", err.text);
    assert_int_equal(c.embed_dim, 64);
    assert_int_equal(c.image.activation, ACTIVATION_QUICK_GELU); /* the default there */
    assert_int_equal(c.image.mlp, 385);                          /* no multiple of the width */
    assert_int_equal(c.image.layers, 12);
    assert_int_equal(c.image.heads, 1);
    assert_true(c.image.eps == 1e-5 && c.text.eps == 1e-6);
    assert_int_equal(c.text.heads, 4);
    assert_int_equal(c.text.layers, 3);
    assert_int_equal(c.context_length, 77);
    assert_int_equal(c.vocab_size, 49408);
    char *again = hf_config_out(&c, "float32", &err);
    assert_non_null(again);
    test_says(again, "\"bos_token_id\": 49406");
    test_says(again, "\"eos_token_id\": 49407");
    ClipConfig d;
    if (!clip_config_parse(&d, "again", again, strlen(again), &err)) fail_msg("%s", err.text);
    assert_memory_equal(&c.image, &d.image, sizeof c.image);
    assert_memory_equal(&c.text, &d.text, sizeof c.text);
    assert_string_equal(c.json, d.json);
    free(again);
    clip_config_free(&c);
    clip_config_free(&d);
    static const char narrow[] = "{\"model_type\": \"clip\", \"vision_config\": "
                                 "{\"intermediate_size\": 32}}"; /* 32 / 768 has no end */
    if (!clip_config_parse(&c, "narrow", narrow, strlen(narrow), &err)) fail_msg("%s", err.text);
    again = clip_config_to_json(&c);
    if (!clip_config_parse(&d, "again", again, strlen(again), &err)) fail_msg("%s", err.text);
    assert_int_equal(c.image.mlp, 32);
    assert_int_equal(d.image.mlp, 32);
    free(again);
    clip_config_free(&c);
    clip_config_free(&d);
    static const char half[] =
        "{\"model_type\": \"clip\", \"text_config\": {\"intermediate_size\": 1024}}";
    if (!clip_config_parse(&c, "half", half, strlen(half), &err)) fail_msg("%s", err.text);
    assert_true(c.text.mlp == 1024 && c.image.mlp == 3072);
    clip_config_free(&c);
    static const char dict[] = "{\"text_config_dict\": {\"hidden_act\": \"gelu\", \"hidden_size\": "
                               "64}, \"vision_config_dict\": {\"hidden_act\": \"gelu\"}, "
                               "\"text_config\": {\"hidden_size\": 128}}";
    if (!clip_config_parse(&c, "dict", dict, strlen(dict), &err)) fail_msg("%s", err.text);
    assert_int_equal(c.text.width, 64);
    assert_int_equal(c.image.activation, ACTIVATION_GELU);
    clip_config_free(&c);
}

/* The first eos_token_id is pooled: MetaClip2Model's always, CLIPModel's unless it is 2. */
static void test_hf_end_token(void **state) {
    (void)state;
    static const struct {
        const char *json;
        Pooling pool;
        int32_t id;
        const char *written;
    } rows[] = {
        {HF("", "", ", \"eos_token_id\": 2"), POOL_END, 0, "\"CLIPModel\""},
        {HF("", "", ", \"eos_token_id\": 49407"), POOL_END, 0, "\"CLIPModel\""},
        {HF("", "", ", \"eos_token_id\": 7"), POOL_ID, 7, "\"MetaClip2Model\""},
        {"{\"model_type\": \"metaclip_2\", \"text_config\": {\"eos_token_id\": 2, \"vocab_size\": "
         "901629}}",
         POOL_ID, 2, "\"model_type\": \"metaclip_2_text_model\""},
        {"{\"model_type\": \"metaclip_2\", \"text_config\": {}}", POOL_END, 0, "\"CLIPModel\""},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        ClipConfig c, d;
        Error err = {""};
        if (!clip_config_parse(&c, "hf", rows[i].json, strlen(rows[i].json), &err))
            fail_msg("%s", err.text);
        assert_int_equal(c.text.pool, rows[i].pool);
        assert_int_equal(c.text.pool_id, rows[i].id);
        char *again = hf_config_out(&c, "float32", &err);
        test_says(again, rows[i].written);
        if (!clip_config_parse(&d, "again", again, strlen(again), &err)) fail_msg("%s", err.text);
        assert_true(tower_same(&c.text, &d.text) && tower_same(&c.image, &d.image));
        free(again);
        clip_config_free(&c);
        clip_config_free(&d);
    }
}

/* What CLIPModel cannot say is named. */
static void test_hf_has_no_place(void **state) {
    (void)state;
    static const char good[] = HF("", "", "");
    for (size_t i = 0;; i++) {
        ClipConfig c;
        Error err = {""};
        if (!clip_config_parse(&c, "hf", good, strlen(good), &err)) fail_msg("%s", err.text);
        const struct {
            bool *field;
            const char *says;
        } beyond[] = {{&c.has_logit_bias, "a logit_bias"},
                      {&c.image.class_token, "class token"},
                      {&c.image.patch_bias, "bias of the patches"},
                      {&c.image.ln_pre, "no_ln_pre"},
                      {&c.image.norm_after_pool, "final_ln_after_pool"},
                      {&c.text.causal, "no_causal_mask"},
                      {&c.text.proj_bias, "proj_bias"}};
        if (i < COUNT(beyond)) *beyond[i].field = !*beyond[i].field;
        if (i == COUNT(beyond)) c.image.pool = POOL_MEAN;
        if (i == COUNT(beyond) + 1) c.text.pool = POOL_LAST;
        char *out = hf_config_out(&c, "float32", &err);
        bool written = out != NULL;
        clip_config_free(&c);
        free(out);
        assert_int_equal(written, i == COUNT(beyond) + 2); /* nothing changed */
        if (written) break;
        test_says(err.text, i < COUNT(beyond) ? beyond[i].says : "pool_type");
    }
}

static void test_hf_config_refused(void **state) {
    (void)state;
    static const struct {
        const char *json, *says;
    } bad[] = {
        {HF(", \"model_type\": \"siglip\"", "", ""), "duplicate"},
        {"{\"model_type\": \"siglip3\"}", "config.model_type"},
        {HF("", ", \"hidden_act\": \"gelu\"", ""), "both towers"},
        {HF("", ", \"hidden_act\": \"relu\"", ""), "vision_config.hidden_act"},
        {HF("", ", \"layer_norm_eps\": \"small\"", ""), "vision_config.layer_norm_eps"},
        {HF("", ", \"layer_norm_eps\": -1", ""), "vision_cfg.norm_kwargs.eps"},
        {HF("", ", \"num_channels\": 1", ""), "num_channels"},
        {HF("", "", ", \"eos_token_id\": 49408"), "text_config.eos_token_id"},
        {HF("", "", ", \"eos_token_id\": [2]"), "text_config.eos_token_id"},
        {HF("", "", ", \"vocab_size\": -1"), "text_config.vocab_size"},
        {HF("", "", ", \"max_position_embeddings\": 1.5"), "max_position_embeddings"},
        {HF("", ", \"num_hidden_layers\": 20000", ""), "layers"},
    };
    for (size_t i = 0; i < COUNT(bad); i++) {
        ClipConfig c;
        Error err = {""};
        assert_false(clip_config_parse(&c, "bad", bad[i].json, strlen(bad[i].json), &err));
        test_says(err.text, bad[i].says);
    }
}

static void copy(const char *from, const char *to) {
    size_t n;
    char *bytes = test_read_file(from, &n);
    test_write_file(to, bytes, n);
    free(bytes);
}

static void test_preprocessor(void **state) {
    (void)state;
    mkdir(test_path("hf"), 0777);
    copy(GOLDEN "hf/config.json", test_path("hf/config.json"));
    static const char json[] = "{\"image_mean\": [0.5, 0.25, 0.125], \"image_std\": [1, 2, 3], "
                               "\"resample\": 2, \"size\": {\"height\": 8, \"width\": 8}}";
    test_write_file(test_path("hf/preprocessor_config.json"), json, strlen(json));
    ClipConfig c;
    clip_config_load(&c, test_path("hf"));
    assert_near((double)c.eval_transform.mean[1], 0.25, 0);
    assert_near((double)c.eval_transform.std[2], 3, 0);
    assert_int_equal(c.eval_transform.interpolation, INTERPOLATION_BILINEAR);
    assert_int_equal(c.eval_transform.resize_mode, RESIZE_SQUASH);
    clip_config_free(&c);
    pretrained_config(&c, test_path("hf"), MODEL); /* --model does not change it */
    assert_near((double)c.eval_transform.mean[1], 0.25, 0);
    assert_int_equal(c.eval_transform.size, 8);
    clip_config_free(&c);
    pretrained_config(&c, GOLDEN "plain.pt", MODEL); /* none next to it */
    assert_near((double)c.eval_transform.mean[0], 0.48145466, 1e-7);
    clip_config_free(&c);
    clip_config_load(&c, GOLDEN "hf"); /* has none: CLIP's */
    assert_near((double)c.eval_transform.mean[0], 0.48145466, 1e-7);
    assert_int_equal(c.eval_transform.interpolation, INTERPOLATION_BICUBIC);
    clip_config_free(&c);
}

/* ---- parts ---- */

static void index_refused(const char *json, const char *needle) {
    TensorIndex x;
    Error err = {""};
    assert_false(tensorindex_parse(&x, json, strlen(json), &err));
    test_says(err.text, needle);
}

static void test_index(void **state) {
    (void)state;
    index_refused("{}", "no weight_map");
    index_refused("{\"weight_map\": {\"a\": \"../../etc/passwd\"}}", "plain name");
    index_refused("{\"weight_map\": {\"a\": \"/etc/passwd\"}}", "plain name");
    index_refused("{\"weight_map\": {\"a\": 1}}", "plain name");
    index_refused("{\"weight_map\": {\"a\": \"x\"}", "line 1");
    /* a part that is not there, and one that lacks a tensor the index promises */
    mkdir(test_path("parts"), 0777);
    copy(GOLDEN "hf_parts/model.safetensors.index.json",
         test_path("parts/model.safetensors.index.json"));
    Weights w;
    Error err;
    assert_false(weights_open(&w, test_path("parts"), &err));
    test_says(err.text, "-of-00003.safetensors: No such file");
    for (int i = 1; i <= 3; i++) {
        char from[128], to[64];
        snprintf(from, sizeof from, GOLDEN "hf_parts/model-0000%d-of-00003.safetensors",
                 i == 3 ? 1 : i);
        snprintf(to, sizeof to, "parts/model-0000%d-of-00003.safetensors", i);
        copy(from, test_path(to));
    }
    assert_false(weights_open(&w, test_path("parts"), &err));
    test_says(err.text, "as it says");
}

/* ---- wrong tensors ---- */

static void open_refused(const Tensor *t, size_t n, const char *needle) {
    Weights w;
    Error err = {""};
    const char *path = test_path("wrong.safetensors");
    write_tensors(path, t, n);
    assert_false(weights_open(&w, path, &err));
    test_says(err.text, needle);
}

static void test_wrong_tensors(void **state) {
    (void)state;
    static const float x[16];
#define ATTENTION "text_model.encoder.layers.0.self_attn."
#define T(n, v)                                                                                    \
    { .name = n, .dtype = DTYPE_F32, .ndim = 2, .shape = {4, v}, .data = x }
    const Tensor q = T(ATTENTION "q_proj.weight", 4), k = T(ATTENTION "k_proj.weight", 4),
                 v = T(ATTENTION "v_proj.weight", 4), v3 = T(ATTENTION "v_proj.weight", 3),
                 whole = T("transformer.resblocks.0.attn.in_proj_weight", 4),
                 again = T("module." ATTENTION "k_proj.weight", 4);
    open_refused((Tensor[]){q, v}, 2, "the key projection is missing");
    open_refused((Tensor[]){k, v}, 2, "the query projection is missing");
    open_refused((Tensor[]){q, k, v3}, 3, "differ in shape");
    open_refused((Tensor[]){q, k, v, whole}, 4, "attn.in_proj_weight is there twice");
    open_refused((Tensor[]){q, k, v, again}, 4, "attn.in_proj_weight is there twice");
    Weights w;
    Error err;
    assert_false(weights_open(&w, "tests/golden/tok", &err));
    test_says(err.text, "no weights in this folder");
    char *text =
        test_clipc(1,
                   "embed --checkpoint " GOLDEN "hf --vocab "
                   "tests/golden/openclip/vocab.txt --text " GOLDEN "captions.txt --out %s",
                   test_path("x.npy"));
    test_says(text, "hf has 515: give the --vocab");
    free(text);
}

/* Training starts from any of them, and its output can be read. */
static void test_training_starts_from_it(void **state) {
    (void)state;
    free(test_clipc(0,
                    "train --pretrained " GOLDEN "script.pt --model " MODEL " --vocab " GOLDEN
                    "vocab.txt --train-data tests/golden/openclip/pairs.tsv --batch-size 8 "
                    "--max-steps 1 --lr 0 --warmup 0 --wd 0 --precision fp32 --logs %s --name run",
                    test_path("logs")));
    char *text =
        test_clipc(0, "ckpt diff " GOLDEN "script.pt %s", test_path("logs/run/checkpoints/latest"));
    test_says(text, "0 of 38 tensors differ");
    free(text);
}

/* ---- damage ---- */

static void cut_everywhere(const char *golden, const char *model) {
    ClipConfig c;
    size_t n, count;
    clip_config_load(&c, model);
    Params *p = params_new(kernels_open("ref", PRECISION_FP32), &c);
    char *bytes = test_read_file(golden, &n);
    const char *path = test_path("cut");
    count = 0;
    test_write_file(path, bytes, n);
    for (size_t cut = n; cut-- > 0;) {
        assert_int_equal(truncate(path, (off_t)cut), 0);
        Weights w;
        Error err = {""};
        bool ok = weights_open(&w, path, &err);
        if (ok && weights_fit(&w, p->list, p->count, TOWER_NONE, "cut", &err)) {
            fail_msg("%s cut to %zu of %zu bytes was taken", golden, cut, n);
        }
        assert_true(strlen(err.text) > 10);
        if (ok) weights_close(&w);
        count++;
    }
    assert_int_equal(count, n);
    free(bytes);
    params_free(p);
    clip_config_free(&c);
}

static void test_truncated_anywhere(void **state) {
    (void)state;
    cut_everywhere(GOLDEN "prefixed_f16.safetensors", MODEL);
    cut_everywhere(GOLDEN "strided.pt", MODEL);
    cut_everywhere(GOLDEN "script.pt", MODEL);
}

/* One changed bit in a tensor's bytes, in each format that has checksums. */
static void test_changed_bytes(void **state) {
    (void)state;
    size_t n;
    char *bytes = test_read_file(GOLDEN "plain.pt", &n);
    static const float one = 0.5f;
    char *at = memmem(bytes + 8192, n - 8192, &one, 4);
    assert_non_null(at);
    at[1] ^= 4;
    const char *path = test_path("changed.pt");
    test_write_file(path, bytes, n);
    free(bytes);
    Weights w;
    Error err;
    assert_false(weights_open(&w, path, &err));
    test_says(err.text, "damaged: plain/data/");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_format_gives_the_same),
        cmocka_unit_test(test_described_towers),
        cmocka_unit_test(test_info),
        cmocka_unit_test(test_architecture),
        cmocka_unit_test(test_activation_is_watched),
        cmocka_unit_test(test_hf_config),
        cmocka_unit_test(test_hf_end_token),
        cmocka_unit_test(test_hf_has_no_place),
        cmocka_unit_test(test_hf_config_refused),
        cmocka_unit_test(test_preprocessor),
        cmocka_unit_test(test_index),
        cmocka_unit_test(test_wrong_tensors),
        cmocka_unit_test(test_training_starts_from_it),
        cmocka_unit_test(test_truncated_anywhere),
        cmocka_unit_test(test_changed_bytes),
    };
    return cmocka_run_group_tests_name("formats", tests, NULL, NULL);
}
