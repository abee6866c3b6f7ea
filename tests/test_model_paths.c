/* Options that must not change the result, or change it in one way only: pruning, packing, gradient
 * checkpointing, patch dropout, frozen tensors. */
#include "tests/support.h"
#include "tests/support_model.h"
#include "kernels/rng.h"
#include "train/model/vit.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const RunHow plain = {0};

static const ClipOptions three = {.max_batch = 3, .training = true};

/* ---- the same numbers by another way ---- */

static void test_pruned_packed_is_full(void **state) {
    (void)state;
    ClipConfig configs[] = {golden_config(), odd_config()};
    for (size_t i = 0; i < COUNT(configs); i++)
        for (size_t j = 0; model_backend(j); j++) {
            ClipOptions o = {.max_batch = 5, .training = true};
            TestModel pruned = model_new(model_backend(j), &configs[i], &o, LOSS_CLIP);
            o.full_compute = true;
            TestModel full = model_new(model_backend(j), &configs[i], &o, LOSS_CLIP);
            TestBatch b = random_batch(&configs[i], 5, test_seed());
            double tolerance = j == 0 ? 1e-12 : j == 1 ? 1e-5 : 5e-2;
            assert_models_agree(&pruned, &full, &b, plain, plain, tolerance);
            batch_free(&b);
            model_free(&pruned);
            model_free(&full);
        }
}

/* A caption with the end token (10) as a literal, one without any, one that is the end token alone.
 */
static void test_captions_are_cut(void **state) {
    (void)state;
    enum { CAPTIONS = 3, CONTEXT = 8 };
    static const int32_t ids[] = {9, 1, 10, 3, 10, 0, 5, 1, 2, 10}, start[] = {0, 6, 9, 10};
    static const int32_t cut[] = {9, 1, 10, 5, 10}, cut_start[] = {0, 3, 4, 5};
    static const int32_t cut_pool[] = {2, 3, 4}, whole_pool[] = {2, 8, 16};
    ClipConfig c = odd_config();
    c.context_length = CONTEXT;
    for (int full = 0; full < 2; full++) {
        ClipOptions o = {.max_batch = CAPTIONS, .full_compute = full};
        TestModel m = model_new(model_backend(0), &c, &o, LOSS_CLIP);
        int32_t got[CAPTIONS * CONTEXT], got_start[CAPTIONS + 1], got_pool[CAPTIONS];
        TextRows to = {got, got_start, got_pool};
        size_t rows = clip_pack_texts(m.clip, to, ids, start, 0, CAPTIONS);
        assert_int_equal(rows, full ? CAPTIONS * CONTEXT : COUNT(cut));
        assert_memory_equal(got_pool, full ? whole_pool : cut_pool, sizeof got_pool);
        assert_int_equal(clip_text_length(m.clip, ids, 6, 0), full ? 6 : 3);
        if (!full) {
            assert_memory_equal(got, cut, sizeof cut);
            assert_memory_equal(got_start, cut_start, sizeof cut_start);
        }
        for (size_t b = 0; b < CAPTIONS && full; b++) {
            assert_int_equal(got_start[b + 1], (b + 1) * CONTEXT);
            size_t n = (size_t)(start[b + 1] - start[b]);
            for (size_t i = 0; i < CONTEXT; i++)
                assert_int_equal(got[b * CONTEXT + i], i < n ? ids[start[b] + (int32_t)i] : 0);
        }
        model_free(&m);
    }
}

static size_t activation_bytes(const Kernels *k, const ClipConfig *c, const ClipOptions *o) {
    k->device->plan_begin();
    TestModel m = model_new(k, c, o, LOSS_CLIP);
    size_t before = k->device->memory().taken;
    clip_free(clip_new(m.k, c, m.p, o));
    size_t bytes = k->device->memory().most - before;
    model_free(&m);
    k->device->plan_end(0);
    return bytes;
}

static void test_checkpointing_same_bits(void **state) {
    (void)state;
    ClipConfig c = odd_config();
    for (size_t j = 0; model_backend(j); j++)
        for (int variant = 0; variant < 4; variant++) {
            c.image.pool = variant == 3 ? POOL_MEAN : POOL_CLASS;
            ClipOptions o = {.max_batch = 5,
                             .training = true,
                             .full_compute = variant == 1,
                             .patch_dropout = variant == 2 ? 0.4 : 0};
            TestModel kept = model_new(model_backend(j), &c, &o, LOSS_CLIP);
            size_t kept_bytes = j ? activation_bytes(model_backend(j), &c, &o) : 1;
            o.grad_checkpointing = true;
            TestModel recomputed = model_new(model_backend(j), &c, &o, LOSS_CLIP);
            TestBatch b = random_batch(&c, 5, test_seed());
            RunHow how = {.u8 = true, .dropout = variant == 2};
            assert_models_agree(&kept, &recomputed, &b, how, how, 0);
            size_t bytes = j ? activation_bytes(model_backend(j), &c, &o) : 0;
            assert_true(bytes < kept_bytes); /* ref has no dry run */
            o.kept_blocks = 1;
            TestModel most = model_new(model_backend(j), &c, &o, LOSS_CLIP);
            assert_models_agree(&kept, &most, &b, how, how, 0);
            size_t more = j ? activation_bytes(model_backend(j), &c, &o) : 1;
            assert_true(bytes < more && (!j || more < kept_bytes));
            o.kept_blocks = 99; /* all */
            assert_true(!j || activation_bytes(model_backend(j), &c, &o) == kept_bytes);
            batch_free(&b);
            model_free(&kept);
            model_free(&most);
            model_free(&recomputed);
        }
}

static void test_forward_alone_same_bits(void **state) {
    (void)state;
    ClipConfig c = odd_config();
    for (size_t j = 0; model_backend(j); j++) {
        ClipOptions o = {.max_batch = 5, .training = true};
        TestModel m = model_new(model_backend(j), &c, &o, LOSS_CLIP);
        o.training = false;
        TestModel inference = model_new(model_backend(j), &c, &o, LOSS_CLIP);
        TestBatch b = random_batch(&c, 5, test_seed());
        double kept = model_gradients(&m, &b, plain);
        assert_true(model_loss(&m, &b, plain) == kept);
        assert_true(model_loss(&inference, &b, plain) == kept);
        batch_free(&b);
        model_free(&m);
        model_free(&inference);
    }
}

static void test_bytes_are_pixels(void **state) {
    (void)state;
    ClipConfig c = odd_config();
    TestModel m = model_new(model_backend(0), &c, &three, LOSS_CLIP);
    TestBatch b = random_batch(&c, 3, test_seed());
    double floats = model_loss(&m, &b, plain), bytes = model_loss(&m, &b, (RunHow){.u8 = true});
    assert_near(bytes, floats, 1e-6);
    batch_free(&b);
    model_free(&m);
}

/* A smaller batch, and one of other lengths, after a large one. */
static void test_sizes_change_between_calls(void **state) {
    (void)state;
    ClipConfig c = odd_config();
    for (size_t j = 0; model_backend(j); j++) {
        TestModel used = model_new(model_backend(j), &c,
                                   &(ClipOptions){.max_batch = 6, .training = true}, LOSS_CLIP);
        TestModel fresh = model_new(model_backend(j), &c, &three, LOSS_CLIP);
        TestBatch large = random_batch(&c, 6, 1), small = random_batch(&c, 3, 2);
        model_gradients(&used, &large, plain);
        assert_models_agree(&used, &fresh, &small, plain, plain, 0);
        batch_free(&large);
        batch_free(&small);
        model_free(&used);
        model_free(&fresh);
    }
}

/* ---- patch dropout ---- */

static void test_patch_dropout_draw(void **state) {
    (void)state;
    enum { GRID = 49, KEEP = 24, DRAWS = 4000 };
    size_t counts[GRID] = {0}, differing = 0;
    int32_t keep[KEEP], again[KEEP], other[KEEP];
    for (uint64_t sample = 0; sample < DRAWS; sample++) {
        patch_dropout_draw(keep, KEEP, GRID, 7, sample, 1);
        patch_dropout_draw(again, KEEP, GRID, 7, sample, 1);
        patch_dropout_draw(other, KEEP, GRID, 7, sample, 2);
        assert_memory_equal(keep, again, sizeof keep);
        differing += memcmp(keep, other, sizeof keep) != 0;
        for (size_t i = 0; i < KEEP; i++) {
            assert_true(keep[i] >= 0 && keep[i] < GRID && (!i || keep[i] > keep[i - 1]));
            counts[keep[i]]++;
        }
    }
    assert_int_equal(differing, DRAWS);
    /* Five standard deviations of a binomial. */
    double p = (double)KEEP / GRID, sigma = sqrt(DRAWS * p * (1 - p));
    for (size_t g = 0; g < GRID; g++) assert_near((double)counts[g], DRAWS * p, 5 * sigma);
}

static void test_patch_dropout_training_only(void **state) {
    (void)state;
    ClipConfig c = odd_config();
    ClipOptions o = three;
    TestModel whole = model_new(model_backend(0), &c, &o, LOSS_CLIP);
    o.patch_dropout = 0.5;
    TestModel dropping = model_new(model_backend(0), &c, &o, LOSS_CLIP);
    TestBatch b = random_batch(&c, 3, test_seed());
    RunHow how = {.dropout = true, .draw = 1};
    double first = model_gradients(&dropping, &b, how);
    assert_true(model_loss(&dropping, &b, how) == first);
    assert_true(model_loss(&dropping, &b, (RunHow){.dropout = true, .draw = 2}) != first);
    assert_true(model_loss(&dropping, &b, plain) == model_loss(&whole, &b, plain));
    assert_true(model_loss(&whole, &b, how) == model_loss(&whole, &b, plain));
    batch_free(&b);
    model_free(&whole);
    model_free(&dropping);
}

/* All but one patch gone: max(1, int(9·0.05)). */
static void test_patch_dropout_keeps_one(void **state) {
    (void)state;
    ClipConfig c = odd_config();
    ClipOptions o = three;
    o.patch_dropout = 0.95;
    TestModel m = model_new(model_backend(1), &c, &o, LOSS_CLIP);
    TestBatch b = random_batch(&c, 3, test_seed());
    RunHow how = {.dropout = true};
    assert_true(isfinite(model_gradients(&m, &b, how)));
    double *grad = model_grad(&m, "visual.positional_embedding");
    size_t used = 0;
    for (size_t t = 1; t < clip_image_tokens(&c); t++)
        used += l2(grad + t * c.image.width, c.image.width) > 0;
    assert_true(used >= 1 && used <= 3);
    free(grad);
    batch_free(&b);
    model_free(&m);
}

/* ---- frozen tensors ---- */

static bool freeze_all_but_projection(const char *name) {
    return strcmp(name, "visual.proj") && strcmp(name, "text_projection");
}
static bool freeze_all_but_final(const char *name) {
    return freeze_all_but_projection(name) && !strstr(name, "ln_post") && !strstr(name, "ln_final");
}
static bool freeze_image(const char *name) { return !strncmp(name, "visual.", 7); }
static bool freeze_text_but_last(const char *name) {
    return !strncmp(name, "transformer.resblocks.0", 23) || !strcmp(name, "positional_embedding") ||
           !strcmp(name, "token_embedding.weight");
}
static bool freeze_norms(const char *name) { return strstr(name, "ln_") != NULL; }
static bool freeze_biases(const char *name) { return strstr(name, "bias") != NULL; }
static bool freeze_matrices(const char *name) {
    return strstr(name, "weight") && !strstr(name, "ln_") && !strstr(name, "embedding");
}
static bool freeze_matrices_and_biases(const char *name) {
    return freeze_matrices(name) || freeze_biases(name);
}
static bool freeze_positions(const char *name) {
    return !strcmp(name, "visual.class_embedding") ||
           !strcmp(name, "visual.positional_embedding") || !strcmp(name, "visual.conv1.weight");
}

static void test_frozen(void **state) {
    (void)state;
    static bool (*const patterns[])(const char *) = {
        freeze_all_but_projection,  freeze_all_but_final, freeze_image,
        freeze_text_but_last,       freeze_norms,         freeze_biases,
        freeze_matrices_and_biases, freeze_positions};
    ClipConfig c = odd_config();
    TestModel all = model_new(model_backend(1), &c, &three, LOSS_CLIP);
    TestBatch b = random_batch(&c, 3, test_seed());
    model_gradients(&all, &b, plain);
    for (size_t i = 0; i < COUNT(patterns); i++) {
        TestModel some = model_new_frozen(model_backend(1), &c, &three, LOSS_CLIP, patterns[i]);
        assert_true(some.p->learning < some.p->size);
        assert_int_equal(clip_image_trains(some.clip), patterns[i] != freeze_image);
        assert_true(clip_text_trains(some.clip));
        model_gradients(&some, &b, plain);
        for (size_t t = 0; t < some.p->count; t++) {
            const Param *q = &some.p->list[t];
            assert_true(q->trainable == (q->offset < some.p->learning));
            if (!q->trainable) continue;
            double *got = model_grad(&some, q->name), *want = model_grad(&all, q->name);
            if (memcmp(got, want, q->size * sizeof *got))
                fail_msg("pattern %zu: %s has another gradient", i, q->name);
            free(got);
            free(want);
        }
        model_free(&some);
    }
    batch_free(&b);
    model_free(&all);
}

/* Nothing is computed below the lowest trainable tensor. */
static void test_frozen_costs_nothing(void **state) {
    (void)state;
    static const struct {
        bool (*frozen)(const char *);
        uint64_t input, weight; /* linear_bwd_input, linear_bwd_weight */
    } cases[] = {{freeze_all_but_projection, 0, 0},
                 {freeze_all_but_final, 0, 0},
                 /* text: the last block, pooled: 5 and 5; image: two whole blocks, the pooled one,
                  * conv1 */
                 {freeze_text_but_last, 5 + 8 + 5, 5 + 8 + 5 + 1},
                 {freeze_matrices_and_biases, 18 + 4, 0}};
    ClipConfig c = odd_config();
    TestBatch b = random_batch(&c, 3, test_seed());
    for (size_t i = 0; i < COUNT(cases); i++) {
        TestModel m = model_new_frozen(model_backend(1), &c, &three, LOSS_CLIP, cases[i].frozen);
        kernel_stats_reset();
        kernel_stats_on = true;
        model_gradients(&m, &b, plain);
        kernel_stats_on = false;
        assert_int_equal(kernel_stats[SLOT_linear_bwd_input].calls, cases[i].input);
        assert_int_equal(kernel_stats[SLOT_linear_bwd_weight].calls, cases[i].weight);
        model_free(&m);
    }
    batch_free(&b);
    ClipOptions o = three;
    size_t all = activation_bytes(model_backend(1), &c, &o);
    o.frozen_image = true;
    size_t text = activation_bytes(model_backend(1), &c, &o);
    o.frozen_text = true;
    assert_true(text < all / 2 && activation_bytes(model_backend(1), &c, &o) < text);
}

/* ---- sizes ---- */

/* The published profile of open_clip's models: GFLOP of a sample's forward pass. */
static void test_flops(void **state) {
    (void)state;
    ClipConfig b32 = {.embed_dim = 512,
                      .image = clip_image_tower(768, 12, 12, 3072),
                      .text = clip_text_tower(512, 12, 8, 2048),
                      .image_size = 224,
                      .patch_size = 32,
                      .context_length = 77,
                      .vocab_size = 49408};
    ClipConfig l14 = {.embed_dim = 768,
                      .image = clip_image_tower(1024, 24, 16, 4096),
                      .text = clip_text_tower(768, 12, 12, 3072),
                      .image_size = 224,
                      .patch_size = 14,
                      .context_length = 77,
                      .vocab_size = 49408};
    assert_near(clip_flops(&b32, 77, true) * 1e-9, 14.78, 0.01);
    assert_near(clip_flops(&l14, 77, true) * 1e-9, 175.33, 0.1);
    assert_true(clip_flops(&b32, 77, false) < clip_flops(&b32, 77, true));
    assert_true(clip_flops(&b32, 16, false) < 0.75 * clip_flops(&b32, 77, false));
    /* By hand: a grid of 1 patch, width 2, mlp 3, E 1; 1 image layer, 2 text layers, 2 tokens. */
    ClipConfig tiny = {.embed_dim = 1,
                       .image = clip_image_tower(2, 1, 1, 3),
                       .text = clip_text_tower(2, 2, 1, 3),
                       .image_size = 1,
                       .patch_size = 1,
                       .context_length = 2,
                       .vocab_size = 2};
    double patch = 3 * 2, head = 2, linear = 2 * (4 * 4 + 2 * 6), block = linear + 2 * 4 * 2;
    assert_near(clip_flops(&tiny, 2, true), 2 * (patch + 3 * block + 2 * head), 1e-9);
    double kv = 2 * 2 * 4, rest = 2 * 4 + 2 * 6, scores = 2 * 2 * 2, last = kv + rest + scores;
    double causal = linear + 2 * 3 * 2;
    assert_near(clip_flops(&tiny, 2, false), 2 * (patch + 2 * last + causal + 2 * head), 1e-9);
    /* SwiGLU's third matrix; the block of attention pooling is plain and has its own MLP. */
    double before = clip_flops(&tiny, 2, true);
    tiny.image.gated = true;
    assert_near(clip_flops(&tiny, 2, true) - before, 2 * (2 * 2 * 3), 1e-9);
    before = clip_flops(&tiny, 2, true);
    tiny.image.pool = POOL_ATTENTION;
    tiny.image.pool_heads = 1;
    tiny.image.pool_mlp = 5;
    double probe = 2 * 4 + 2 * 2 * 5 + 2 * 2 * 2;
    assert_near(clip_flops(&tiny, 2, true) - before, 2 * (kv + probe), 1e-9);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_pruned_packed_is_full),
    cmocka_unit_test(test_captions_are_cut),
    cmocka_unit_test(test_checkpointing_same_bits),
    cmocka_unit_test(test_forward_alone_same_bits),
    cmocka_unit_test(test_bytes_are_pixels),
    cmocka_unit_test(test_sizes_change_between_calls),
    cmocka_unit_test(test_patch_dropout_draw),
    cmocka_unit_test(test_patch_dropout_training_only),
    cmocka_unit_test(test_patch_dropout_keeps_one),
    cmocka_unit_test(test_frozen),
    cmocka_unit_test(test_frozen_costs_nothing),
    cmocka_unit_test(test_flops),
};

int main(void) { return cmocka_run_group_tests_name("model paths", tests, NULL, NULL); }
