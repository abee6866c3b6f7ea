/* Descriptions of towers: for each that differs from CLIP's, whole gradients against difference
 * quotients, the tested device against `ref`, skipped work against none skipped. */
#include "tests/support.h"
#include "tests/support_model.h"
#include "kernels/rng.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

static const RunHow plain = {0};
static const ClipOptions three = {.max_batch = 3, .training = true};

static void clip(ClipConfig *c) { (void)c; }
static void quick_gelu(ClipConfig *c) {
    c->image.activation = c->text.activation = ACTIVATION_QUICK_GELU;
}
static void image_tanh(ClipConfig *c) { c->image.activation = ACTIVATION_GELU_TANH; }
static void text_tanh(ClipConfig *c) { c->text.activation = ACTIVATION_GELU_TANH; }
static void image_eps(ClipConfig *c) { c->image.eps = 0.02; }
static void text_eps(ClipConfig *c) { c->text.eps = 0.03; }
static void no_ln_pre(ClipConfig *c) { c->image.ln_pre = false; }
static void patch_bias(ClipConfig *c) { c->image.patch_bias = true; }
static void no_class_token(ClipConfig *c) {
    c->image.class_token = false;
    c->image.pool = POOL_MEAN;
}
static void image_mean(ClipConfig *c) { c->image.pool = POOL_MEAN; }
static void image_mean_then_norm(ClipConfig *c) {
    image_mean(c);
    c->image.norm_after_pool = true;
}

static void image_attention(ClipConfig *c) {
    c->image.pool = POOL_ATTENTION;
    c->image.pool_heads = 4;
}
/* SigLIP's (Zhai et al. 2023). */
static void siglip(ClipConfig *c) {
    image_attention(c);
    c->image.no_proj = true;
    c->embed_dim = c->image.width;
    c->image.class_token = c->image.ln_pre = false;
    c->image.patch_bias = true;
    c->image.eps = c->text.eps = 1e-6;
    c->text.causal = false;
    c->text.pool = POOL_LAST;
    c->text.proj_bias = true;
}

/* EVA-02's positions (Fang et al. 2024) and Perception Encoder's (Bolya et al. 2025). */
static void rotary(ClipConfig *c) { c->image.rotary = (Rotary){1e4, 0, 16, false}; }
static void rotary_x_first(ClipConfig *c) { c->image.rotary = (Rotary){50, 1, 14, true}; }
static void rotary_all_rows(ClipConfig *c) {
    rotary(c);
    no_class_token(c);
}
static void gated(ClipConfig *c) { c->image.gated = true; }
static void gated_norm(ClipConfig *c) { c->image.gated = c->image.ln_mlp = true; }
static void gated_text(ClipConfig *c) { c->text.gated = c->text.ln_mlp = c->text.ln_inner = true; }
static void inner_norm(ClipConfig *c) { c->image.ln_inner = true; }
static void image_proj_bias(ClipConfig *c) { c->image.proj_bias = true; }
static void post_norm(ClipConfig *c) { c->image.post_norm = true; }
static void post_norm_mean(ClipConfig *c) {
    post_norm(c);
    image_mean(c);
}
static void post_norm_text(ClipConfig *c) { c->text.post_norm = true; }
static void eva02(ClipConfig *c) {
    image_proj_bias(c);
    rotary(c);
    gated_norm(c);
    inner_norm(c);
    no_ln_pre(c);
    patch_bias(c);
    c->image.eps = 1e-6;
    c->image.no_key_bias = true;
}
static void pe_core(ClipConfig *c) {
    rotary_x_first(c);
    image_proj_bias(c);
    image_attention(c);
    c->image.pool_mlp = 50;
}

static void text_both_ways(ClipConfig *c) { c->text.causal = false; }
static void text_last(ClipConfig *c) { c->text.pool = POOL_LAST; }
static void text_both_ways_last(ClipConfig *c) {
    text_both_ways(c);
    text_last(c);
}
static void text_mean(ClipConfig *c) {
    text_both_ways(c);
    c->text.pool = POOL_MEAN;
}

/* Pooled at an id that some captions have in their middle, some never. */
static void text_id(ClipConfig *c) {
    c->text.pool = POOL_ID;
    c->text.pool_id = 5;
}
static void text_both_ways_id(ClipConfig *c) {
    text_both_ways(c);
    text_id(c);
}
static void text_proj_bias(ClipConfig *c) { c->text.proj_bias = true; }

static const struct {
    void (*describe)(ClipConfig *c);
    bool image, text; /* the towers whose features differ from CLIP's */
    bool cut;         /* captions end at their pooled token */
    size_t pooled;    /* towers whose last block computes one row */
} rows[] = {
    {clip, false, false, true, 2},
    {quick_gelu, true, true, true, 2},
    {image_tanh, true, false, true, 2},
    {text_tanh, false, true, true, 2},
    {image_eps, true, false, true, 2},
    {text_eps, false, true, true, 2},
    {patch_bias, true, false, true, 2},
    {no_class_token, true, false, true, 1},
    {no_ln_pre, true, false, true, 2},
    {image_mean, true, false, true, 1},
    {image_mean_then_norm, true, false, true, 1},
    {image_attention, true, false, true, 2},
    {siglip, true, true, false, 2},
    {rotary, true, false, true, 2},
    {rotary_x_first, true, false, true, 2},
    {rotary_all_rows, true, false, true, 1},
    {gated, true, false, true, 2},
    {gated_norm, true, false, true, 2},
    {gated_text, false, true, true, 2},
    {inner_norm, true, false, true, 2},
    {post_norm, true, false, true, 2},
    {post_norm_mean, true, false, true, 1},
    {post_norm_text, false, true, true, 2},
    {image_proj_bias, true, false, true, 2},
    {eva02, true, false, true, 2},
    {pe_core, true, false, true, 2},
    {text_both_ways, false, true, false, 2},
    {text_last, false, true, false, 2},
    {text_both_ways_last, false, true, false, 2},
    {text_mean, false, true, false, 1},
    {text_id, false, true, true, 2},
    {text_both_ways_id, false, true, false, 2},
    {text_proj_bias, false, true, true, 2},
};

static ClipConfig described(ClipConfig c, size_t row) {
    rows[row].describe(&c);
    return c;
}

/* ---- finite differences ---- */

static double loss_at(TestModel *m, const TestBatch *b, RunHow how, const Param *q, size_t i,
                      double value) {
    m->k->acc_set(acc_at(m->k, param_acc(m->p, q), i), &value, 1);
    return model_loss(m, b, how);
}

static bool is_key(const Param *q, size_t i) {
    return q->no_key && i >= q->size / 3 && i < q->size / 3 * 2;
}

/* The tensor's largest gradient and three others. */
static void check_tensor(TestModel *m, const TestBatch *b, RunHow how, const Param *q,
                         const double *grad, size_t row) {
    size_t at[4] = {0, q->size / 2, /* of in_proj's bias a key's */
                    rng_below(test_seed(), RNG_TEST, q->offset, q->size), 0};
    for (size_t i = 0; i < q->size; i++)
        if (fabs(grad[i]) > fabs(grad[at[3]])) at[3] = i;
    for (size_t s = 0; s < COUNT(at); s++) {
        const double h = 3e-5;
        double *x = host_copy(m->k, acc_at(m->k, param_acc(m->p, q), at[s]), 1);
        double up = loss_at(m, b, how, q, at[s], *x + h);
        double down = loss_at(m, b, how, q, at[s], *x - h);
        loss_at(m, b, how, q, at[s], *x);
        double want = (up - down) / (2 * h);
        if (is_key(q, at[s])) want = 0; /* no bias is there to train */
        if (!(fabs(grad[at[s]] - want) <= 1e-8 + 1e-5 * fabs(want)))
            fail_msg("row %zu: %s[%zu]: gradient %.10g, finite differences %.10g", row, q->name,
                     at[s], grad[at[s]], want);
        free(x);
    }
}

/* Blocks between the first and the last are like them. */
static bool is_sampled(const ClipConfig *c, const Param *q) {
    size_t layers = q->tower == TOWER_IMAGE ? c->image.layers : c->text.layers;
    return q->layer <= 1 || q->layer >= layers;
}

static void check_differences(const ClipConfig *c, const ClipOptions *o, LossKind kind, RunHow how,
                              size_t row) {
    int threads = omp_get_max_threads();
    omp_set_num_threads(1); /* thousands of calls too short to share */
    TestModel m = model_new(kernels_open("ref", PRECISION_FP32), c, o, kind);
    TestBatch b = random_batch(c, o->max_batch, test_seed());
    model_gradients(&m, &b, how);
    for (size_t i = 0; i < m.p->count; i++) {
        const Param *q = &m.p->list[i];
        if (!is_sampled(c, q)) continue;
        double *grad = model_grad(&m, q->name);
        check_tensor(&m, &b, how, q, grad, row);
        free(grad);
    }
    batch_free(&b);
    model_free(&m);
    omp_set_num_threads(threads);
}

static void test_differences(void **state) {
    (void)state;
    for (size_t r = 0; r < COUNT(rows); r++) {
        ClipConfig c = described(tiny_config(), r);
        check_differences(&c, &three, LOSS_CLIP, (RunHow){.u8 = r % 2}, r);
    }
}

static void test_differences_siglip(void **state) {
    (void)state;
    ClipConfig c = tiny_config();
    c.has_logit_bias = true;
    c.init_logit_bias = -2;
    c.init_logit_scale = log(5);
    check_differences(&c, &three, LOSS_SIGLIP, plain, 0);
}

static void test_differences_patch_dropout(void **state) {
    (void)state;
    ClipOptions o = three;
    o.patch_dropout = 0.5;
    for (size_t r = 0; r < COUNT(rows); r++) {
        ClipConfig c = described(tiny_config(), r);
        if (rows[r].image)
            check_differences(&c, &o, LOSS_CLIP, (RunHow){.dropout = true, .draw = 3}, r);
    }
}

/* ---- the same numbers by another way ---- */

/* The device against ref, both skipping what each row allows. */
static void test_device_is_ref(void **state) {
    (void)state;
    static const double tolerances[] = {0, 2e-5, 0.1};
    for (size_t r = 0; r < COUNT(rows); r++) {
        ClipConfig c = described(odd_config(), r);
        TestBatch b = random_batch(&c, 3, test_seed());
        TestModel ref = model_new(model_backend(0), &c, &three, LOSS_CLIP);
        for (size_t j = 1; model_backend(j); j++) {
            TestModel m = model_new(model_backend(j), &c, &three, LOSS_CLIP);
            assert_models_agree(&m, &ref, &b, plain, plain, tolerances[j]);
            model_free(&m);
        }
        model_free(&ref);
        batch_free(&b);
    }
}

/* On a GPU the branches' last products add the residuals that no LayerNorm precedes, and LayerNorm
 * reads and writes one tensor each (it counts 8 FLOPs an element). */
static void test_residuals_in_products(void **state) {
    (void)state;
    for (size_t r = 0; r < COUNT(rows); r++) {
        ClipConfig c = described(odd_config(), r);
        TestBatch b = random_batch(&c, 3, test_seed());
        const Kernels *k = model_backend(1);
        TestModel m = model_new(k, &c, &three, LOSS_CLIP);
        kernel_stats_reset();
        kernel_stats_on = true;
        model_loss(&m, &b, plain);
        k->device->sync();
        kernel_stats_on = false;
        size_t blocks = (c.image.post_norm ? 0 : c.image.layers) +
                        (c.text.post_norm ? 0 : c.text.layers),
               pools = c.image.pool == POOL_ATTENTION;
        const KernelStat *norm = &kernel_stats[SLOT_layernorm_fwd];
        assert_int_equal(k->residual_in_product, k->device->gpu);
        assert_int_equal(kernel_stats[SLOT_linear_add_fwd].calls,
                         k->device->gpu ? 2 * blocks + pools : 0);
        if (k->device->gpu) assert_true(norm->bytes == 2 * (double)k->act_size * norm->flops / 8);
        model_free(&m);
        batch_free(&b);
    }
}

static size_t packed_rows(const TestModel *m, const TestBatch *b) {
    size_t most = b->B * m->config.context_length;
    TextRows to = {xmalloc(most * sizeof *to.ids), xmalloc((b->B + 1) * sizeof *to.start),
                   xmalloc(b->B * sizeof *to.pool)};
    size_t n = clip_pack_texts(m->clip, to, b->ids, b->start, b->pad, b->B);
    free(to.ids);
    free(to.start);
    free(to.pool);
    return n;
}

/* Rows of captions that end at their pooled token: their largest id is their last one. */
static size_t cut_rows(const ClipConfig *c, const TestBatch *b) {
    size_t n = 0;
    for (size_t i = 0; i < b->B; i++) {
        const int32_t *at = b->ids + b->start[i], *end = b->ids + b->start[i + 1];
        const int32_t *id = at;
        while (id < end && *id != c->text.pool_id) id++;
        n += (size_t)(c->text.pool == POOL_END ? end - at : id < end ? id - at + 1 : 1);
    }
    return n;
}

/* What each row skips, and that it changes nothing. */
static void test_skipped_is_full(void **state) {
    (void)state;
    static const double tolerances[] = {1e-12, 1e-5, 5e-2};
    for (size_t r = 0; r < COUNT(rows); r++) {
        ClipConfig c = described(odd_config(), r);
        TestBatch b = random_batch(&c, 3, test_seed());
        for (size_t j = 0; model_backend(j); j++) {
            ClipOptions o = three;
            TestModel m = model_new(model_backend(j), &c, &o, LOSS_CLIP);
            o.full_compute = true;
            TestModel full = model_new(model_backend(j), &c, &o, LOSS_CLIP);
            assert_models_agree(&m, &full, &b, plain, plain, tolerances[j]);
            size_t whole = b.B * c.context_length, ids = (size_t)b.start[b.B];
            assert_true(ids < whole && packed_rows(&full, &b) == whole);
            assert_int_equal(packed_rows(&m, &b), rows[r].cut ? cut_rows(&c, &b) : whole);
            kernel_stats_reset();
            kernel_stats_on = true;
            model_loss(&m, &b, plain);
            kernel_stats_on = false;
            if (j) /* ref counts nothing */
                assert_int_equal(kernel_stats[SLOT_attention_pool_fwd].calls, rows[r].pooled);
            model_free(&m);
            model_free(&full);
        }
        batch_free(&b);
    }
}

/* The batch with the padding of its contexts as ids of its captions. */
static TestBatch written_out(const ClipConfig *c, const TestBatch *b) {
    TestBatch w = *b;
    size_t T = c->context_length;
    w.ids = xmalloc(b->B * T * sizeof *w.ids);
    w.start = xcalloc(b->B + 1, sizeof *w.start);
    for (size_t i = 0; i < b->B; i++) {
        size_t n = (size_t)(b->start[i + 1] - b->start[i]);
        for (size_t t = 0; t < T; t++)
            w.ids[i * T + t] = t < n ? b->ids[b->start[i] + (int32_t)t] : b->pad;
        w.start[i + 1] = w.start[i] + (int32_t)T;
    }
    return w;
}

/* The padding of a tokenizer, also one larger than a caption's ids, is what whole contexts with it
 * compute; towers that attend to it, or pool it, tell it from 0. */
static void test_padding_of_tokenizer(void **state) {
    (void)state;
    for (size_t r = 0; r < COUNT(rows); r++) {
        ClipConfig c = described(odd_config(), r);
        TestBatch b = random_batch(&c, 3, test_seed());
        size_t n = b.B * c.embed_dim;
        const int32_t pads[] = {0, 1, (int32_t)c.vocab_size - 1};
        ClipOptions o = three;
        TestModel m = model_new(model_backend(0), &c, &o, LOSS_CLIP);
        o.full_compute = true;
        TestModel full = model_new(model_backend(0), &c, &o, LOSS_CLIP);
        double *first = NULL;
        for (size_t i = 0; i < COUNT(pads); i++) {
            b.pad = pads[i];
            TestBatch whole = written_out(&c, &b);
            model_loss(&m, &b, plain);
            model_loss(&full, &whole, plain);
            double *got = host_copy(m.k, m.texts, n), *want = host_copy(m.k, full.texts, n);
            double error = test_error_l2(got, want, n);
            if (!(error <= 1e-12)) fail_msg("row %zu, padding %d: %.3g", r, b.pad, error);
            if (!first) first = host_copy(m.k, m.texts, n);
            if (b.pad == 1) assert_int_equal(test_error_l2(got, first, n) > 1e-5, !rows[r].cut);
            free(got);
            free(want);
            free(whole.ids);
            free(whole.start);
        }
        free(first);
        model_free(&m);
        model_free(&full);
        batch_free(&b);
    }
}

/* Tensors that both models have; the formula counts all that a model has. */
static void share_weights(TestModel *to, const TestModel *from) {
    for (size_t i = 0; i < to->p->count; i++) {
        const Param *q = &to->p->list[i];
        const Param *same = params_at(from->p, q->tower, q->layer, q->role, q->bias);
        if (!same || same->size != q->size) continue;
        double *x = host_copy(from->k, param_acc(from->p, same), q->size);
        to->k->acc_set(param_acc(to->p, q), x, q->size);
        free(x);
    }
    params_round(to->p);
}

/* Each tower reads its own description. */
static void test_features(void **state) {
    (void)state;
    ClipConfig clip_config = odd_config();
    TestModel m = model_new(model_backend(0), &clip_config, &three, LOSS_CLIP);
    TestBatch b = random_batch(&clip_config, 3, test_seed());
    size_t n = 3 * clip_config.embed_dim;
    model_loss(&m, &b, plain);
    double *images = host_copy(m.k, m.images, n), *texts = host_copy(m.k, m.texts, n);
    for (size_t r = 0; r < COUNT(rows); r++) {
        ClipConfig c = described(odd_config(), r);
        TestModel other = model_new(model_backend(0), &c, &three, LOSS_CLIP);
        share_weights(&other, &m);
        model_loss(&other, &b, plain);
        double *i = host_copy(m.k, other.images, n), *t = host_copy(m.k, other.texts, n);
        if ((test_error_l2(i, images, n) > 1e-5) != rows[r].image ||
            (test_error_l2(t, texts, n) > 1e-5) != rows[r].text)
            fail_msg("row %zu: image features differ by %.3g, text features by %.3g", r,
                     test_error_l2(i, images, n), test_error_l2(t, texts, n));
        free(i);
        free(t);
        model_free(&other);
    }
    free(images);
    free(texts);
    batch_free(&b);
    model_free(&m);
}

/* Only CLIP's own row is the same description. */
static void test_same(void **state) {
    (void)state;
    ClipConfig own = odd_config();
    for (size_t r = 0; r < COUNT(rows); r++) {
        ClipConfig c = described(odd_config(), r);
        bool same = tower_same(&c.image, &own.image) && tower_same(&c.text, &own.text);
        assert_int_equal(same, r == 0);
    }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_same),
    cmocka_unit_test(test_differences),
    cmocka_unit_test(test_differences_siglip),
    cmocka_unit_test(test_differences_patch_dropout),
    cmocka_unit_test(test_device_is_ref),
    cmocka_unit_test(test_residuals_in_products),
    cmocka_unit_test(test_skipped_is_full),
    cmocka_unit_test(test_padding_of_tokenizer),
    cmocka_unit_test(test_features),
};

int main(void) { return cmocka_run_group_tests_name("towers", tests, NULL, NULL); }
