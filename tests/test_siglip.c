/* SigLIP against open_clip and transformers (tests/golden/make_siglip.py): one small model in the
 * folders of both, its features and gradients in float64, ten training steps; written folders; what
 * fine-tuning does with it; bad folders. */
#include "tests/support.h"
#include "tests/support_data.h"
#include "tests/support_model.h"
#include "train/model/pretrained.h"
#include "train/model/weights.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GOLDEN "tests/golden/siglip/"

/* ---- features ---- */

static void check_features(const char *folder, double tolerance) {
    const char *out = test_path("features.npy");
    free(test_clipc(0,
                    "embed --precision fp32 --checkpoint %s --images " GOLDEN "pairs.tsv --out %s",
                    folder, out));
    same_npy(out, GOLDEN "images.npy", tolerance);
    free(test_clipc(0,
                    "embed --precision fp32 --checkpoint %s --text " GOLDEN "captions.txt --out %s",
                    folder, out));
    same_npy(out, GOLDEN "texts.npy", tolerance);
}

static void test_features(void **state) {
    (void)state;
    check_features(GOLDEN "open_clip", 2e-6);
    check_features(GOLDEN "hf", 2e-6);
}

/* ---- gradients ---- */

static TestBatch stored_batch(const Weights *w) {
    const Weight *pixels = weights_find(w, "pixels"), *ids = weights_find(w, "ids");
    size_t B = ids->shape[0], T = ids->shape[1];
    TestBatch b = {.B = B, .f32 = xmalloc(pixels->count * sizeof *b.f32)};
    float *x = xmalloc(ids->count * sizeof *x);
    b.ids = xmalloc(ids->count * sizeof *b.ids);
    b.start = xcalloc(B + 1, sizeof *b.start);
    weight_read(pixels, 0, pixels->count, b.f32);
    weight_read(ids, 0, ids->count, x);
    for (size_t i = 0; i < ids->count; i++) b.ids[i] = (int32_t)x[i];
    for (size_t i = 0; i <= B; i++) b.start[i] = (int32_t)(i * T);
    free(x);
    return b;
}

static void test_gradients(void **state) {
    (void)state;
    Error err;
    Weights want;
    ClipConfig c;
    if (!weights_open(&want, GOLDEN "gradients.safetensors", &err)) fail_msg("%s", err.text);
    TestBatch b = stored_batch(&want);
    clip_config_load(&c, GOLDEN "open_clip");
    const ClipOptions o = {.max_batch = b.B, .training = true};
    for (size_t j = 0; j < 2; j++) {
        TestModel m = model_new(model_backend(j), &c, &o, LOSS_SIGLIP);
        pretrained_load(GOLDEN "open_clip", m.p, &c);
        model_gradients(&m, &b, (RunHow){.u8 = false});
        double worst = 0;
        for (size_t i = 0; i < m.p->count; i++) {
            const Param *q = &m.p->list[i];
            const Weight *w = weights_find(&want, q->name);
            assert_non_null(w);
            float *x = xmalloc(q->size * sizeof *x);
            double *y = xmalloc(q->size * sizeof *y), *got = model_grad(&m, q->name);
            weight_read(w, 0, q->size, x);
            for (size_t k = 0; k < q->size; k++) y[k] = (double)x[k];
            double e = test_error_l2(got, y, q->size);
            if (!(e <= (j ? 1e-4 : 1e-5))) fail_msg("%s: %s: %.3g", m.k->name, q->name, e);
            worst = fmax(worst, e);
            free(x);
            free(y);
            free(got);
        }
        print_message("%s: largest relative error of a gradient %.2e\n", m.k->name, worst);
        model_free(&m);
    }
    batch_free(&b);
    clip_config_free(&c);
    weights_close(&want);
}

/* ---- steps ---- */

#define TRAIN                                                                                      \
    "train --pretrained " GOLDEN "open_clip --train-data " GOLDEN                                  \
    "pairs.tsv --train-transform eval --siglip --precision fp32 --workers 1 --batch-size 8 "       \
    "--lr 1e-3 --logs %s --name %s "

static void test_ten_steps(void **state) {
    (void)state;
    free(test_clipc(0,
                    TRAIN "--no-shuffle --max-steps 12 --warmup 2 --wd 0.2 --beta1 0.9 --beta2 "
                          "0.98 --eps 1e-6 --grad-clip-norm 1 --wd-groups legacy",
                    test_path("logs"), "steps"));
    same_steps("steps", GOLDEN "steps.json");
}

/* ---- written folders ---- */

static void convert(const char *from, const char *to, const char *out, const char *says) {
    char *text = test_clipc(0, "ckpt convert %s --to %s --out %s", from, to, out);
    test_says(text, says);
    free(text);
}

static void test_written(void **state) {
    (void)state;
    static const char *const from[] = {GOLDEN "open_clip", GOLDEN "hf"};
    static const char *const to[] = {"open_clip", "hf"};
    for (size_t i = 0; i < 2; i++)
        for (size_t j = 0; j < 2; j++) {
            char name[32];
            snprintf(name, sizeof name, "to_%s_%zu", to[j], i);
            convert(from[i], to[j], test_path(name), "written");
            char *diff = test_clipc(0, "ckpt diff %s %s", from[1 - i], test_path(name));
            test_says(diff, "0 of 72 tensors differ");
            free(diff);
            check_features(test_path(name), 2e-6);
        }
    /* the files' tensors are those that each program reads */
    Safetensors a, b;
    Error err;
    for (size_t j = 0; j < 2; j++) {
        static const char *const file[] = {"open_clip_model.safetensors", "model.safetensors"};
        char ours[600], golden[128];
        snprintf(ours, sizeof ours, "%s/%s", test_path(j ? "to_hf_0" : "to_open_clip_1"), file[j]);
        snprintf(golden, sizeof golden, GOLDEN "%s/%s", to[j], file[j]);
        assert_true(safetensors_open(&a, ours, &err) && safetensors_open(&b, golden, &err));
        assert_int_equal(a.count, b.count);
        for (size_t i = 0; i < b.count; i++) {
            const Tensor *t = safetensors_find(&a, b.tensors[i].name);
            if (!t) fail_msg("%s is missing", b.tensors[i].name);
            assert_int_equal(t->ndim, b.tensors[i].ndim);
            assert_memory_equal(t->shape, b.tensors[i].shape, (size_t)t->ndim * sizeof *t->shape);
            assert_memory_equal(t->data, b.tensors[i].data, t->count * sizeof(float));
        }
        safetensors_close(&a);
        safetensors_close(&b);
    }
}

/* ---- probabilities ---- */

/* score and search: the sigmoid of the scaled cosine and the bias, here exp(ln 10) and -10. */
static void test_probabilities(void **state) {
    (void)state;
    const char *index = test_path("index");
    free(test_clipc(0, "embed --checkpoint " GOLDEN "hf --images " GOLDEN "pairs.tsv --index %s",
                    index));
    char *found = test_clipc(0, "search %s --texts 'a red circle' --top 3 --json", index);
    json_error_t err;
    json_t *root = json_loads(strchr(found, '{'), 0, &err);
    assert_non_null(root);
    json_t *hits = json_object_get(json_array_get(json_object_get(root, "results"), 0), "hits"),
           *hit;
    size_t i;
    assert_int_equal(json_array_size(hits), 3);
    json_array_foreach(hits, i, hit) {
        double cosine = json_number_value(json_object_get(hit, "score"));
        double p = json_number_value(json_object_get(hit, "probability"));
        assert_near(p, 1 / (1 + exp(10 - 10 * cosine)), 1e-6);
    }
    json_decref(root);
    free(found);
    char *scored = test_clipc(0, "score --checkpoint " GOLDEN
                                 "hf --image tests/golden/openclip/00.jpg --texts 'a red circle' "
                                 "'a blue square' --json");
    root = json_loads(strchr(scored, '{'), 0, &err);
    json_array_foreach(json_object_get(root, "scores"), i, hit) {
        double cosine = json_number_value(json_object_get(hit, "cosine"));
        assert_near(json_number_value(json_object_get(hit, "probability")),
                    1 / (1 + exp(10 - 10 * cosine)), 1e-6);
    }
    assert_int_equal(i, 2);
    json_decref(root);
    free(scored);
}

/* ---- fine-tuning ---- */

static void test_finetuning(void **state) {
    (void)state;
    static const char *const how[] = {"--lora-rank 4",
                                      "--lock-image",
                                      "--lock-text --lock-image --lock-image-unlocked-groups 1",
                                      "--ema 0.9 --lr-layer-decay 0.7",
                                      "--force-patch-dropout 0.5",
                                      "--grad-checkpointing"};
    for (size_t i = 0; i < COUNT(how); i++) {
        char name[16];
        snprintf(name, sizeof name, "how%zu", i);
        free(test_clipc(0, TRAIN "--max-steps 4 %s", test_path("logs"), name, how[i]));
        char *lines = run_metrics(name);
        double first = 0, loss = 0;
        int steps = 0;
        char *save;
        for (char *line = strtok_r(lines, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
            json_t *step = json_loads(line, 0, NULL), *value = json_object_get(step, "loss");
            loss = json_number_value(value);
            if (value && !steps++) first = loss;
            json_decref(step);
        }
        if (steps != 4 || !isfinite(loss) || !(first > 1))
            fail_msg("%s: %d steps, loss %g to %g", how[i], steps, first, loss);
        free(lines);
        /* the run's folder opens as it was written */
        char *folder = xasprintf("%s/%s", test_path("logs"), name);
        free(test_clipc(
            0, "embed --precision fp32 --checkpoint %s --text " GOLDEN "captions.txt --out %s",
            folder, test_path("trained.npy")));
        free(folder);
    }
}

/* A batch of 8 at once and in two halves, and a resumed run. */
static void test_same_steps(void **state) {
    (void)state;
    const char *logs = test_path("logs");
    free(test_clipc(0, TRAIN "--max-steps 4 --seed 3", logs, "whole"));
    free(test_clipc(0,
                    "train --pretrained " GOLDEN "open_clip --train-data " GOLDEN
                    "pairs.tsv --train-transform eval --siglip --precision fp32 --workers 1 "
                    "--batch-size 4 --accum-freq 2 --lr 1e-3 --logs %s --name halves --max-steps 4 "
                    "--seed 3",
                    logs));
    assert_near(run_last_loss("halves"), run_last_loss("whole"), 1e-4);
}

static void copy_folder(const char *name, const char *of) {
    char *command =
        xasprintf("cp -r " GOLDEN "%s %s && chmod -R u+w %s", of, test_path(name), test_path(name));
    assert_int_equal(system(command), 0);
    free(command);
}

static void edit(const char *folder, const char *file, const char *old, const char *new) {
    char *path = xasprintf("%s/%s", folder, file), *text = test_read_file(path, NULL);
    char *at = strstr(text, old);
    if (!at) fail_msg("%s has no %s", path, old);
    FILE *f = fopen(path, "w");
    fprintf(f, "%.*s%s%s", (int)(at - text), text, new, at + strlen(old));
    fclose(f);
    free(path);
    free(text);
}

/* A model of larger pictures and longer captions. */
static void test_positions_resized(void **state) {
    (void)state;
    copy_folder("larger", "open_clip");
    edit(test_path("larger"), "open_clip_config.json", "\"image_size\": 36", "\"image_size\": 52");
    edit(test_path("larger"), "open_clip_config.json", "\"context_length\": 24",
         "\"context_length\": 30");
    char *model = xasprintf("--model %s/open_clip_config.json", test_path("larger"));
    char *text = test_clipc(0, TRAIN "--max-steps 2 %s", test_path("logs"), "resized", model);
    test_says(text, "resized from 16 to 36 positions");
    test_says(text, "resized from 24 to 30 positions");
    free(text);
    free(model);
    char *folder = xasprintf("%s/resized", test_path("logs"));
    free(test_clipc(0,
                    "embed --precision fp32 --checkpoint %s --images " GOLDEN "pairs.tsv --out %s",
                    folder, test_path("resized.npy")));
    free(folder);
}

/* ---- bad folders ---- */

static void test_bad_folders(void **state) {
    (void)state;
    static const struct {
        const char *of, *file, *old, *new, *says;
    } rows[] = {
        {"open_clip", "open_clip_config.json", "\"map\"", "\"avg\"",
         "vision_cfg.timm_pool: only \"map\" are supported"},
        {"open_clip", "open_clip_config.json", "\"none\"", "\"linear\"", "vision_cfg.timm_proj"},
        {"open_clip", "open_clip_config.json", "\"width\": 32", "\"width\": 48",
         "embed_dim must be the tower's width"},
        {"open_clip", "open_clip_config.json", "\"patch_size\": 8", "\"patch_size\": 6",
         "visual.trunk.patch_embed.proj.weight is [32,3,8,8], the model needs [32,3,6,6]"},
        {"open_clip", "open_clip_config.json", "\"vocab_size\": 64", "\"vocab_size\": 40",
         "text.token_embedding.weight is [64,24], the model needs [40,24]"},
        {"hf", "config.json", "\"vision_use_head\": true", "\"vision_use_head\": false",
         "vision_config.vision_use_head: only true is supported"},
        {"hf", "config.json", "\"gelu_pytorch_tanh\"", "\"relu\"", "hidden_act: only"},
        {"hf", "config.json", "\"model_type\": \"siglip\"", "\"model_type\": \"siglip3\"",
         "config.model_type: only"},
        {"hf", "spiece.model", NULL, NULL, "give --vocab"},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        char name[16];
        snprintf(name, sizeof name, "bad%zu", i);
        const char *folder = test_path(name);
        copy_folder(name, rows[i].of);
        if (rows[i].old) {
            edit(folder, rows[i].file, rows[i].old, rows[i].new);
        } else {
            char *path = xasprintf("%s/%s", folder, rows[i].file);
            assert_int_equal(remove(path), 0);
            free(path);
        }
        char *text = test_clipc(1, "embed --checkpoint %s --text " GOLDEN "captions.txt --out %s",
                                folder, test_path("none.npy"));
        test_says(text, rows[i].says);
        free(text);
    }
    /* another vocabulary */
    char *text = test_clipc(1,
                            "embed --checkpoint " GOLDEN "hf --vocab "
                            "tests/golden/tokenizers/unigram_bytes.model --text " GOLDEN
                            "captions.txt --out %s",
                            test_path("none.npy"));
    test_says(text, "give the --vocab that belongs to the model");
    free(text);
}

/* The published sizes: every configuration of the family is laid out by its own name. */
static void test_published(void **state) {
    (void)state;
    static const struct {
        const char *name;
        size_t width, layers, head, mlp, tokens;
        Activation image;
    } rows[] = {
        {"ViT-B-16-SigLIP", 768, 12, 64, 3072, 196, ACTIVATION_GELU},
        {"ViT-B-32-SigLIP2-256", 768, 12, 64, 3072, 64, ACTIVATION_GELU_TANH},
        {"ViT-L-16-SigLIP2-512", 1024, 24, 64, 4096, 1024, ACTIVATION_GELU_TANH},
        {"ViT-SO400M-14-SigLIP-384", 1152, 27, 72, 4304, 729, ACTIVATION_GELU},
        {"ViT-gopt-16-SigLIP2-384", 1536, 40, 96, 6144, 576, ACTIVATION_GELU_TANH},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        ClipConfig c;
        clip_config_load(&c, rows[i].name);
        const TowerConfig *t = &c.image;
        assert_int_equal(t->width, rows[i].width);
        assert_int_equal(t->layers, rows[i].layers);
        assert_int_equal(t->width / t->heads, rows[i].head);
        assert_int_equal(t->mlp, rows[i].mlp);
        assert_int_equal(t->activation, rows[i].image);
        assert_int_equal(clip_image_tokens(&c), rows[i].tokens);
        assert_true(t->pool == POOL_ATTENTION && t->no_proj && t->patch_bias && !t->class_token &&
                    !t->ln_pre && t->eps == 1e-6 && c.text.eps == 1e-6 && !c.text.causal &&
                    c.text.pool == POOL_LAST && c.text.proj_bias && c.has_logit_bias);
        assert_true(c.eval_transform.mean[0] == 0.5f &&
                    c.eval_transform.resize_mode == RESIZE_SQUASH);
        clip_config_free(&c);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_published),         cmocka_unit_test(test_features),
        cmocka_unit_test(test_gradients),         cmocka_unit_test(test_ten_steps),
        cmocka_unit_test(test_written),           cmocka_unit_test(test_probabilities),
        cmocka_unit_test(test_finetuning),        cmocka_unit_test(test_same_steps),
        cmocka_unit_test(test_positions_resized), cmocka_unit_test(test_bad_folders),
    };
    return cmocka_run_group_tests_name("siglip", tests, NULL, NULL);
}
