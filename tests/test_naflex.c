/* SigLIP 2 with pictures of their own sizes (NaFlex) against transformers
 * (tests/golden/make_naflex.py): one small model in the folders of transformers and open_clip, its
 * features and gradients in float64; numbers of patches; squares against the model of a fixed size;
 * written and bad folders. */
#include "tests/support.h"
#include "tests/support_data.h"
#include "tests/support_model.h"
#include "train/model/pretrained.h"
#include "train/model/weights.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GOLDEN "tests/golden/naflex/"
#define SIGLIP "tests/golden/siglip/"
enum { PAIRS = 8 };

/* ---- features ---- */

static void check_features(const char *folder, double tolerance) {
    const char *out = test_path("features.npy");
    free(test_clipc(0,
                    "embed --precision fp32 --batch-size 5 --checkpoint %s --images " SIGLIP
                    "pairs.tsv --out %s",
                    folder, out));
    same_npy(out, GOLDEN "images.npy", tolerance);
    free(test_clipc(0,
                    "embed --precision fp32 --checkpoint %s --text " SIGLIP "captions.txt --out %s",
                    folder, out));
    same_npy(out, GOLDEN "texts.npy", tolerance);
}

static void test_features(void **state) {
    (void)state;
    check_features(GOLDEN "hf", 2e-6);
    check_features(GOLDEN "open_clip", 2e-6);
}

/* The numbers of patches that transformers chooses, of pictures of a pixel and of thousands. */
static void test_shapes(void **state) {
    (void)state;
    FILE *f = fopen(GOLDEN "shapes.txt", "r");
    int h, w, patch, most, y, x, n = 0;
    assert_non_null(f);
    for (; fscanf(f, "%d %d %d %d %d %d", &h, &w, &patch, &most, &y, &x) == 6; n++) {
        const Transform t = {.patch_size = patch, .max_patches = most};
        int32_t shape[2];
        transform_shape(shape, w, h, &t);
        if (shape[0] != y || shape[1] != x)
            fail_msg("%d×%d, %d patches of %d: %d×%d instead of %d×%d", h, w, most, patch, shape[0],
                     shape[1], y, x);
    }
    assert_int_equal(n, 606);
    fclose(f);
}

/* A crop of everything is the evaluation's picture; mirrored, its pixels are; a smaller crop keeps
 * to the most patches. */
static void test_training_transform(void **state) {
    (void)state;
    enum { W = 61, H = 37, MOST = 20, P = 8, BYTES = MOST * P * P * 3 };
    Image img = {.width = W, .height = H, .rgb = xmalloc(W * H * 3)};
    for (size_t i = 0; i < W * H * 3; i++) img.rgb[i] = (uint8_t)(i * i % 251);
    Transform t = transform_default(32, false);
    t.patch_size = P;
    t.max_patches = MOST;
    TransformScratch *scratch = NULL;
    static uint8_t want[BYTES], got[BYTES];
    int32_t shape[2], other[2];
    transform_patches(want, shape, &img, &t, 0, &scratch);
    size_t bytes = (size_t)(shape[0] * shape[1]) * P * P * 3;
    assert_true(shape[1] > shape[0] && bytes <= BYTES);
    t.train = true;
    t.scale[0] = t.scale[1] = t.ratio[0] = t.ratio[1] = 1;
    transform_patches(got, other, &img, &t, 5, &scratch);
    assert_memory_equal(other, shape, sizeof shape);
    assert_memory_equal(got, want, bytes);
    t.flip_prob = 1;
    transform_patches(got, other, &img, &t, 5, &scratch);
    for (size_t i = 0; i < bytes / 3; i++) {
        size_t columns = (size_t)shape[1], patch = i / (P * P), x = i % P;
        size_t mirrored = patch / columns * columns + columns - 1 - patch % columns;
        size_t from = mirrored * P * P + i % (P * P) - x + P - 1 - x;
        assert_memory_equal(got + 3 * i, want + 3 * from, 3);
    }
    t.scale[0] = 0.1;
    t.ratio[0] = 0.5;
    t.ratio[1] = 2;
    t.jitter_prob = t.gray_prob = 1;
    t.jitter[0] = 0.4;
    for (uint64_t seed = 0; seed < 50; seed++) {
        transform_patches(got, other, &img, &t, seed, &scratch);
        assert_true(other[0] > 0 && other[1] > 0 && other[0] * other[1] <= MOST);
        for (int i = 0; i < other[0] * other[1] * P * P; i++)
            assert_true(got[3 * i] == got[3 * i + 1] && got[3 * i] == got[3 * i + 2]);
    }
    transform_scratch_free(&scratch);
    free(img.rgb);
}

/* ---- gradients ---- */

static float *floats_of(const Weights *w, const char *name, size_t *n) {
    const Weight *x = weights_find(w, name);
    assert_non_null(x);
    float *values = xmalloc(x->count * sizeof *values);
    weight_read(x, 0, *n = x->count, values);
    return values;
}

static TestBatch stored_batch(double *loss) {
    Weights w;
    Error err;
    if (!weights_open(&w, GOLDEN "batch.safetensors", &err)) fail_msg("%s", err.text);
    size_t pixels, shapes, ids, one;
    float *p = floats_of(&w, "pixels", &pixels), *s = floats_of(&w, "shapes", &shapes),
          *t = floats_of(&w, "ids", &ids), *l = floats_of(&w, "loss", &one);
    TestBatch b = {.B = PAIRS};
    b.u8 = xmalloc(pixels);
    b.shape = xmalloc(shapes * sizeof *b.shape);
    b.ids = xmalloc(ids * sizeof *b.ids);
    b.start = xcalloc(PAIRS + 1, sizeof *b.start);
    assert_int_equal(shapes, 2 * PAIRS);
    for (size_t i = 0; i < pixels; i++) b.u8[i] = (uint8_t)p[i];
    for (size_t i = 0; i < shapes; i++) b.shape[i] = (int32_t)s[i];
    for (size_t i = 0; i < ids; i++) b.ids[i] = (int32_t)t[i];
    for (size_t i = 0; i <= PAIRS; i++) b.start[i] = (int32_t)(i * ids / PAIRS);
    *loss = (double)*l;
    FREE_ALL(p, s, t, l);
    weights_close(&w);
    return b;
}

static void check_gradients(const TestModel *m, double tolerance) {
    Weights w;
    Error err;
    if (!weights_open(&w, GOLDEN "gradients.safetensors", &err) ||
        !weights_fit(&w, m->p->list, m->p->tensors, TOWER_NONE, "naflex", &err))
        fail_msg("%s", err.text);
    double worst = 0;
    for (size_t i = 0; i < m->p->tensors; i++) {
        const Param *q = &m->p->list[i];
        float *x = xmalloc(q->size * sizeof *x);
        double *got = model_grad(m, q->name), *want = xmalloc(q->size * sizeof *want);
        weight_read(&w.list[i], 0, q->size, x);
        for (size_t j = 0; j < q->size; j++) want[j] = (double)x[j];
        double error = test_error_l2(got, want, q->size);
        if (!(error <= tolerance)) fail_msg("%s: %s: %.3g", m->k->name, q->name, error);
        worst = fmax(worst, error);
        FREE_ALL(x, got, want);
    }
    print_message("%s: largest relative error of a gradient %.2e\n", m->k->name, worst);
    weights_close(&w);
}

static void test_gradients(void **state) {
    (void)state;
    static const double tolerance[] = {1e-5, 1e-4, 0.3};
    double want;
    ClipConfig c;
    clip_config_load(&c, GOLDEN "hf");
    TestBatch b = stored_batch(&want);
    const ClipOptions o = {.max_batch = b.B, .training = true};
    for (size_t j = 0; model_backend(j); j++) {
        TestModel m = model_new(model_backend(j), &c, &o, LOSS_SIGLIP);
        pretrained_load(GOLDEN "hf", m.p, &c);
        double loss = model_gradients(&m, &b, (RunHow){.u8 = true});
        assert_near(loss, want, j == 2 ? 0.1 : 2e-5);
        check_gradients(&m, tolerance[j]);
        model_free(&m);
    }
    batch_free(&b);
    clip_config_free(&c);
}

/* ---- squares, and pictures beside others ---- */

/* A picture of side × side patches, cut as NaFlex has it. */
static void cut(uint8_t *patches, const uint8_t *rgb, size_t side, size_t P) {
    size_t S = side * P;
    for (size_t i = 0; i < side * side; i++)
        for (size_t y = 0; y < P; y++, patches += 3 * P)
            memcpy(patches, rgb + ((i / side * P + y) * S + i % side * P) * 3, 3 * P);
}

/* Squares as large as the positions: the features of the model of a fixed size to the last bit. */
static void test_squares(void **state) {
    (void)state;
    ClipConfig c, fixed;
    clip_config_load(&c, GOLDEN "hf");
    clip_config_load(&fixed, GOLDEN "hf");
    fixed.naflex = false;
    size_t B = 3, S = c.image_size, side = S / c.patch_size, most = clip_most_patches(&c),
           patch = 3 * c.patch_size * c.patch_size;
    const ClipOptions o = {.max_batch = B, .training = true};
    TestBatch plain = random_batch(&fixed, B, test_seed()), cutted = plain;
    cutted.u8 = xcalloc(B * most, patch);
    cutted.shape = xmalloc(2 * B * sizeof *cutted.shape);
    for (size_t i = 0; i < B; i++) {
        cut(cutted.u8 + i * most * patch, plain.u8 + i * S * S * 3, side, c.patch_size);
        cutted.shape[2 * i] = cutted.shape[2 * i + 1] = (int32_t)side;
    }
    for (size_t j = 0; j < 2; j++) {
        const Kernels *k = model_backend(j);
        TestModel a = model_new(k, &fixed, &o, LOSS_SIGLIP), b = model_new(k, &c, &o, LOSS_SIGLIP);
        model_gradients(&a, &plain, (RunHow){.u8 = true});
        model_gradients(&b, &cutted, (RunHow){.u8 = true});
        size_t n = B * c.embed_dim;
        double *x = host_copy(k, a.images, n), *y = host_copy(k, b.images, n);
        if (!j) assert_memory_equal(x, y, n * sizeof *x);
        assert_near(test_error_l2(y, x, n), 0, 1e-6);
        const char *where = "";
        double worst = worst_gradient(&b, &a, &where);
        if (!(worst <= (j ? 1e-5 : 1e-12))) fail_msg("%s: %s: %.3g", k->name, where, worst);
        FREE_ALL(x, y);
        model_free(&a);
        model_free(&b);
    }
    FREE_ALL(cutted.u8, cutted.shape);
    batch_free(&plain);
    clip_config_free(&c);
    clip_config_free(&fixed);
}

/* A picture's feature is the same alone and in a batch. */
static void test_packed(void **state) {
    (void)state;
    double loss;
    ClipConfig c;
    clip_config_load(&c, GOLDEN "hf");
    TestBatch b = stored_batch(&loss);
    size_t E = c.embed_dim, bytes = clip_most_patches(&c) * 3 * c.patch_size * c.patch_size;
    const ClipOptions o = {.max_batch = b.B};
    for (size_t j = 0; j < 2; j++) {
        TestModel m = model_new(model_backend(j), &c, &o, LOSS_SIGLIP);
        model_loss(&m, &b, (RunHow){.u8 = true});
        double *all = host_copy(m.k, m.images, b.B * E);
        for (size_t i = 0; i < b.B; i++) {
            TestBatch one = b;
            one.B = 1;
            one.u8 += i * bytes;
            one.shape += 2 * i;
            model_loss(&m, &one, (RunHow){.u8 = true});
            double *alone = host_copy(m.k, m.images, E);
            if (!j) assert_memory_equal(alone, all + i * E, E * sizeof *all);
            assert_near(test_error_l2(alone, all + i * E, E), 0, 1e-6);
            free(alone);
        }
        free(all);
        model_free(&m);
    }
    batch_free(&b);
    clip_config_free(&c);
}

/* ---- training ---- */

#define TRAIN                                                                                      \
    "train --pretrained " GOLDEN "hf --train-data " SIGLIP                                         \
    "pairs.tsv --siglip --precision fp32 --workers 2 --lr 1e-3 --logs %s --name %s "

static void test_ten_steps(void **state) {
    (void)state;
    free(test_clipc(0,
                    TRAIN "--train-transform eval --batch-size 8 --no-shuffle --max-steps 12 "
                          "--warmup 2 --wd 0.2 --beta1 0.9 --beta2 0.98 --eps 1e-6 "
                          "--grad-clip-norm 1 --wd-groups legacy",
                    test_path("logs"), "steps"));
    same_steps("steps", GOLDEN "steps.json");
}

/* Crops, micro-batches, recomputed blocks, a locked tower whose features are kept, a teacher; the
 * run's folder opens, and keeps the number of patches. */
static void test_training(void **state) {
    (void)state;
    static const char *const how[] = {
        "--batch-size 8",
        "--batch-size 4 --accum-freq 2",
        "--batch-size 8 --grad-checkpointing",
        "--batch-size 8 --lock-image --train-transform eval",
        "--batch-size 8 --lora-rank 2 --ema 0.9 --color-jitter 0.3,0.3,0.3,0.1",
        "--batch-size 8 --no-siglip --distill-pretrained " GOLDEN "hf",
    };
    double loss[COUNT(how)];
    for (size_t i = 0; i < COUNT(how); i++) {
        char name[16];
        snprintf(name, sizeof name, "how%zu", i);
        free(test_clipc(0, TRAIN "--max-steps 4 --seed 3 %s", test_path("logs"), name, how[i]));
        loss[i] = run_last_loss(name);
        assert_true(isfinite(loss[i]));
    }
    assert_near(loss[1], loss[0], 1e-4);
    assert_true(loss[2] == loss[0]);
    /* the locked tower is in the run's checkpoint as it was */
    free(test_clipc(
        0, "embed --precision fp32 --checkpoint %s/how3 --images " SIGLIP "pairs.tsv --out %s",
        test_path("logs"), test_path("locked.npy")));
    same_npy(test_path("locked.npy"), GOLDEN "images.npy", 2e-6);
    char *info = test_clipc(0, "ckpt info %s/how0/checkpoints/latest", test_path("logs"));
    test_says(info, "up to 20 patches of 8");
    free(info);
    static const char *const refused[][2] = {{"--force-patch-dropout 0.5", "no patch dropout"},
                                             {"--objective simclr", "no --objective simclr"},
                                             {"--jpeg-scale", "no --jpeg-scale"}};
    for (size_t i = 0; i < COUNT(refused); i++) {
        char *says = test_clipc(2, TRAIN "--max-steps 4 --batch-size 8 %s", test_path("logs"),
                                "refused", refused[i][0]);
        test_says(says, refused[i][1]);
        free(says);
    }
}

/* ---- written folders ---- */

static void test_written(void **state) {
    (void)state;
    static const char *const kinds[] = {"open_clip", "hf"};
    static const char *const file[] = {"open_clip_model.safetensors", "model.safetensors"};
    for (size_t i = 0; i < 4; i++) {
        const char *from = kinds[i / 2], *to = kinds[i % 2], *out;
        char name[32], ours[600], golden[128];
        Safetensors a, b;
        Error err;
        snprintf(name, sizeof name, "%s_%zu", to, i);
        out = test_path(name);
        free(test_clipc(0, "ckpt convert " GOLDEN "%s --to %s --out %s", from, to, out));
        char *diff = test_clipc(0, "ckpt diff " GOLDEN "%s %s", from, out);
        test_says(diff, "0 of 72 tensors differ");
        free(diff);
        check_features(out, 2e-6);
        /* the tensors are those that each program reads */
        snprintf(ours, sizeof ours, "%s/%s", out, file[i % 2]);
        snprintf(golden, sizeof golden, GOLDEN "%s/%s", to, file[i % 2]);
        assert_true(safetensors_open(&a, ours, &err) && safetensors_open(&b, golden, &err));
        assert_int_equal(a.count, b.count);
        for (size_t t = 0; t < b.count; t++) {
            const Tensor *x = safetensors_find(&a, b.tensors[t].name), *y = &b.tensors[t];
            if (!x) fail_msg("%s is missing", y->name);
            assert_int_equal(x->ndim, y->ndim);
            assert_memory_equal(x->shape, y->shape, (size_t)x->ndim * sizeof *x->shape);
            assert_memory_equal(x->data, y->data, x->count * sizeof(float));
        }
        safetensors_close(&a);
        safetensors_close(&b);
    }
    char *info = test_clipc(0, "ckpt info " GOLDEN "hf");
    test_says(info, "up to 20 patches of 8");
    free(info);
}

/* ---- commands ---- */

static void test_commands(void **state) {
    (void)state;
    const char *index = test_path("index");
    free(test_clipc(0, "embed --checkpoint " GOLDEN "hf --images " SIGLIP "pairs.tsv --index %s",
                    index));
    char *found = test_clipc(0, "search %s --image tests/golden/openclip/07.jpg --top 1", index);
    test_says(found, "1.0000");
    test_says(found, "07.jpg");
    free(found);
    found = test_clipc(0, "search %s --texts 'a red circle' --top 2", index);
    test_says(found, "%  row ");
    free(found);
    found = test_clipc(0, "score --checkpoint " GOLDEN
                          "open_clip --image tests/golden/openclip/00.jpg --texts 'a red circle' "
                          "'a blue square'");
    test_says(found, "a blue square");
    free(found);
    found = test_clipc(0, "eval retrieval --checkpoint " GOLDEN "hf --data " SIGLIP "pairs.tsv");
    test_says(found, "R@1");
    free(found);
    found = test_clipc(
        2, "embed --tokens --checkpoint " GOLDEN "hf --image tests/golden/openclip/00.jpg --out %s",
        test_path("none.npy"));
    test_says(found, "different numbers of patches");
    free(found);
}

/* A folder whose file has `new` for `old` is refused. */
static void test_bad_folders(void **state) {
    (void)state;
    static const struct {
        const char *file, *old, *new, *says;
    } rows[] = {
        {"config.json", "\"num_patches\": 16", "\"num_patches\": 17",
         "vision_config.num_patches: is not the square"},
        {"config.json", "\"num_patches\": 16", "\"num_patches\": 0", "num_patches: expected"},
        {"config.json", "\"num_patches\": 16", "\"num_patches\": 40000",
         "vision_cfg.image_size: has more than 128"},
        {"config.json", "\"patch_size\": 8", "\"patch_size\": 9",
         "preprocessor.patch_size: is not"},
        {"config.json", "\"vision_use_head\": true", "\"vision_use_head\": false",
         "vision_config.vision_use_head: only true is supported"},
        {"preprocessor_config.json", "\"max_num_patches\": 20", "\"max_num_patches\": 0",
         "max_num_patches: expected"},
        {"preprocessor_config.json", "\"resample\": 2", "\"resample\": 0", "preprocessor.resample"},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        char name[16];
        snprintf(name, sizeof name, "bad%zu", i);
        const char *folder = test_path(name);
        char *command = xasprintf("cp -r " GOLDEN "hf %s && chmod -R u+w %s", folder, folder);
        assert_int_equal(system(command), 0);
        free(command);
        char *path = xasprintf("%s/%s", folder, rows[i].file), *text = test_read_file(path, NULL);
        char *at = strstr(text, rows[i].old);
        if (!at) fail_msg("%s has no %s", path, rows[i].old);
        char *edited =
            xasprintf("%.*s%s%s", (int)(at - text), text, rows[i].new, at + strlen(rows[i].old));
        test_write_file(path, edited, strlen(edited));
        char *says = test_clipc(1,
                                "embed --checkpoint %s --image tests/golden/openclip/00.jpg "
                                "--out %s",
                                folder, test_path("none.npy"));
        test_says(says, rows[i].says);
        FREE_ALL(path, text, edited, says);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shapes),      cmocka_unit_test(test_training_transform),
        cmocka_unit_test(test_features),    cmocka_unit_test(test_squares),
        cmocka_unit_test(test_packed),      cmocka_unit_test(test_gradients),
        cmocka_unit_test(test_ten_steps),   cmocka_unit_test(test_training),
        cmocka_unit_test(test_written),     cmocka_unit_test(test_commands),
        cmocka_unit_test(test_bad_folders),
    };
    return cmocka_run_group_tests_name("naflex", tests, NULL, NULL);
}
