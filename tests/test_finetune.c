/* The parts that fine-tuning adds to a step, against formulas in float64: layer groups, rates,
 * LoRA's merged weights and gradients, the moving average, guards. */
#include "tests/support.h"
#include "tests/support_kernels.h"
#include "tests/support_model.h"
#include "train/guards.h"
#include "train/layers.h"
#include "train/step.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- layer groups ---- */

/* Groups of open_clip's lock functions for a tower of 2 layers: 1 projection, 2 last block and
 * final norm, 3 the block below, 4 embeddings. */
static const struct {
    const char *name;
    size_t group;
} expected[] = {{"visual.proj", 1},
                {"visual.ln_post.weight", 2},
                {"visual.transformer.resblocks.1.mlp.c_fc.bias", 2},
                {"visual.transformer.resblocks.0.ln_1.weight", 3},
                {"visual.conv1.weight", 4},
                {"visual.class_embedding", 4},
                {"visual.positional_embedding", 4},
                {"visual.ln_pre.bias", 4},
                {"text_projection", 1},
                {"ln_final.bias", 2},
                {"transformer.resblocks.1.attn.in_proj_weight", 2},
                {"transformer.resblocks.0.attn.in_proj_weight", 3},
                {"token_embedding.weight", 4},
                {"positional_embedding", 4},
                {"logit_scale", 0}};

static void groups(void **state) {
    (void)state;
    ClipConfig c = golden_config();
    Params *p = params_new(kernels_open("ref", PRECISION_FP32), &c);
    for (size_t i = 0; i < COUNT(expected); i++)
        assert_int_equal(layer_group(param_named(p, expected[i].name), &c), expected[i].group);
    layers_apply(p, &c,
                 &(LayerRules){.lock_image = true,
                               .image_unlocked = 2,
                               .lock_text = true,
                               .text_norms_locked = false,
                               .lr_decay = 0.5});
    for (size_t i = 0; i < COUNT(expected); i++) {
        const Param *q = param_named(p, expected[i].name);
        size_t g = expected[i].group;
        bool norm = strstr(q->name, "ln_") != NULL, image = !strncmp(q->name, "visual.", 7);
        assert_true(q->trainable == (g == 0 || (image ? g <= 2 : norm)));
        assert_near(q->lr_scale, g ? pow(0.5, (double)g - 1) : 1, 1e-15);
    }
    params_free(p);
}

/* ---- one step of AdamW with rates by layer ---- */

typedef struct Trainer {
    TestModel m;
    Optim *optim;
    Step *step;
    TestBatch batch;
    Batch one, *list;
} Trainer;

static void fill(Trainer *t, size_t n) {
    t->batch = random_batch(&t->m.config, n, test_seed());
    t->one = (Batch){.size = n,
                     .pixels = t->batch.u8,
                     .ids = t->batch.ids,
                     .start = t->batch.start,
                     .sample = t->batch.sample};
    OptimOptions o = {0.9, 0.98, 1e-6, 0.1, WD_HEAD, 0};
    t->optim = optim_new(t->m.state, &o);
    t->step = step_new(t->m.k, comm_self(t->m.k), t->m.clip, t->m.state, t->optim, LOSS_CLIP, n, 1,
                       t->m.config.embed_dim, 1 << 20, NULL);
}

/* The arguments of step_run; the trainer may have been copied since it was created. */
static Batch *const *batches(Trainer *t) {
    t->list = &t->one;
    return &t->list;
}

static void trainer_free(Trainer *t) {
    step_free(t->step);
    optim_free(t->optim);
    batch_free(&t->batch);
    model_free(&t->m);
}

static Trainer trainer_new(size_t n) {
    ClipConfig c = golden_config();
    Trainer t = {.m = model_new(kernels_open("ref", PRECISION_FP32), &c,
                                &(ClipOptions){.max_batch = n, .training = true}, LOSS_CLIP)};
    fill(&t, n);
    return t;
}

/* AdamW's first step moves an element by lr·g/(|g|+eps) and decays it: each tensor by its own rate.
 */
static void layer_rates(void **state) {
    (void)state;
    enum { N = 3 };
    Trainer t = trainer_new(N);
    const Params *p = t.m.p;
    layers_apply(t.m.p, &t.m.config, &(LayerRules){.lr_decay = 0.5});
    optim_free(t.optim);
    OptimOptions o = {0.9, 0.98, 1e-6, 0.1, WD_HEAD, 0};
    t.optim = optim_new(t.m.state, &o);
    step_gradients(t.step, batches(&t));
    double *before = host_copy(t.m.k, p->master, p->size), *g = host_copy(t.m.k, p->grad, p->size);
    step_optim(t.m.k, t.optim, 1e-2, 1);
    double *after = host_copy(t.m.k, p->master, p->size);
    for (size_t i = 0; i < COUNT(expected); i++) {
        const Param *q = param_named(p, expected[i].name);
        double lr = 1e-2 * (expected[i].group ? pow(0.5, (double)expected[i].group - 1) : 1);
        double decay = optim_decays(q, WD_HEAD) ? 0.1 : 0;
        for (size_t j = q->offset; j < q->offset + q->size; j++)
            assert_near(after[j], before[j] * (1 - lr * decay) - lr * g[j] / (fabs(g[j]) + 1e-6),
                        1e-12);
    }
    free(before);
    free(after);
    free(g);
    trainer_free(&t);
}

/* ---- moving average ---- */

static void average(void **state) {
    (void)state;
    Trainer t = trainer_new(3);
    Params *p = t.m.p;
    optim_state_track(t.m.state, 0.8);
    double *want = host_copy(t.m.k, p->master, p->size);
    for (uint64_t step = 1; step <= 4; step++) {
        step_run(t.step, batches(&t), 1e-2, step);
        double *now = host_copy(t.m.k, p->master, p->size);
        for (size_t i = 0; i < p->size; i++) want[i] = 0.8 * want[i] + 0.2 * now[i];
        free(now);
    }
    double *got = host_copy(t.m.k, t.m.state->ema, p->size);
    assert_true(test_error_max(got, want, p->size) < 1e-14);
    free(want);
    free(got);
    trainer_free(&t);
}

/* ---- LoRA ---- */

/* The golden model with factors in both towers, B no longer 0. */
static Trainer lora_trainer(size_t n) {
    Trainer t = trainer_new(n);
    const Kernels *k = t.m.k;
    step_free(t.step);
    optim_free(t.optim);
    batch_free(&t.batch);
    OptimState *plain = t.m.state;
    LoraOptions o = {.rank = 2, .alpha = 3, .image = true, .text = true};
    t.m.state = state_new(k, &t.m.config, &o);
    t.m.p = t.m.state->p;
    params_init(t.m.p, 7);
    for (size_t i = 0; i < t.m.p->count; i++) {
        Param *q = &t.m.p->list[i];
        const Param *old = param_named(plain->p, q->name);
        if (old)
            k->device->copy(param_acc(t.m.p, q), param_acc(plain->p, old), q->size * k->acc_size);
        if (strncmp(q->name, "lora_b.", 7)) continue;
        double *x = xmalloc(q->size * sizeof *x);
        for (size_t j = 0; j < q->size; j++)
            x[j] = 0.1 * golden_value((uint32_t)i, (uint32_t)j + 1);
        k->acc_set(param_acc(t.m.p, q), x, q->size);
        free(x);
    }
    params_round(t.m.p);
    lora_merge(t.m.p);
    clip_free(t.m.clip);
    t.m.clip = clip_new(k, &t.m.config, t.m.p, &(ClipOptions){.max_batch = n, .training = true});
    state_free(plain);
    fill(&t, n);
    return t;
}

static double *tensor(const Trainer *t, const char *name) {
    const Param *q = param_named(t->m.p, name);
    return host_copy(t->m.k, param_acc(t->m.p, q), q->size);
}

/* Compute weights and checkpoint weights: W + (3/2)·B·A, row block by row block. */
static void lora_weights(void **state) {
    (void)state;
    Trainer t = lora_trainer(2);
    static const char *const parts[] = {".q", ".k", ".v"};
    static const char name[] = "visual.transformer.resblocks.1.attn.in_proj_weight";
    const Param *q = param_named(t.m.p, name);
    size_t C = q->shape[1], rank = 2;
    double *w = tensor(&t, name), *used = xmalloc(q->size * sizeof *used);
    for (size_t part = 0; part < 3; part++) {
        char a_name[128], b_name[128];
        snprintf(a_name, sizeof a_name, "lora_a.%s%s", name, parts[part]);
        snprintf(b_name, sizeof b_name, "lora_b.%s%s", name, parts[part]);
        double *a = tensor(&t, a_name), *b = tensor(&t, b_name);
        for (size_t i = 0; i < C; i++)
            for (size_t j = 0; j < C; j++)
                for (size_t r = 0; r < rank; r++)
                    w[(part * C + i) * C + j] += 1.5 * b[i * rank + r] * a[r * C + j];
        free(a);
        free(b);
    }
    test_act_get(t.m.k, used, param_act(t.m.p, q), q->size);
    assert_true(test_error_max(used, w, q->size) < 1e-14);
    double *merged = host_copy(t.m.k, lora_merged(t.m.p, t.m.p->master, q), q->size);
    assert_true(test_error_max(merged, w, q->size) < 1e-14);
    free(w);
    free(used);
    free(merged);
    trainer_free(&t);
}

static double loss_of(void *context) {
    Trainer *t = context;
    params_round(t->m.p);
    lora_merge(t->m.p);
    double loss = step_gradients(t->step, batches(t));
    t->m.k->device->zero(t->m.p->grad, t->m.p->learning * t->m.k->acc_size);
    return loss;
}

/* dA and dB are derivatives of the loss; after a step nothing else except the scale has changed. */
static void lora_gradients_are_derivatives(void **state) {
    (void)state;
    Trainer t = lora_trainer(2);
    const Kernels *k = t.m.k;
    Params *p = t.m.p;
    static const char *const names[] = {
        "lora_a.visual.transformer.resblocks.0.mlp.c_fc.weight",
        "lora_b.visual.transformer.resblocks.1.attn.in_proj_weight.v",
        "lora_a.transformer.resblocks.1.attn.out_proj.weight",
        "lora_b.transformer.resblocks.0.mlp.c_proj.weight"};
    step_gradients(t.step, batches(&t));
    double *g = host_copy(k, p->grad, p->learning);
    double *before = host_copy(k, p->master, p->learning);
    double *fixed = host_copy(k, p->frozen, p->size - p->learning);
    k->device->zero(p->grad, p->learning * k->acc_size);
    for (size_t n = 0; n < COUNT(names); n++) {
        const Param *q = param_named(p, names[n]);
        for (size_t i = 0; i < q->size; i += q->size / 3) {
            const double h = 1e-5;
            double was = before[q->offset + i], loss[2];
            for (int up = 0; up < 2; up++) {
                double x = was + (up ? h : -h);
                k->acc_set(acc_at(k, p->master, q->offset + i), &x, 1);
                loss[up] = loss_of(&t);
            }
            k->acc_set(acc_at(k, p->master, q->offset + i), &was, 1);
            double want = (loss[1] - loss[0]) / (2 * h), got = g[q->offset + i];
            assert_near(got, want, 1e-7 * fmax(1, fabs(want)));
        }
    }
    params_round(p);
    lora_merge(p);
    step_run(t.step, batches(&t), 1e-2, 1);
    double *after = host_copy(k, p->master, p->learning);
    double *then = host_copy(k, p->frozen, p->size - p->learning);
    for (size_t i = 0; i < p->count; i++) {
        const Param *q = &p->list[i];
        bool learns = param_is_apart(q) || !strcmp(q->name, "logit_scale");
        assert_true(learns == (q->offset < p->learning));
        if (learns)
            assert_memory_not_equal(after + q->offset, before + q->offset, q->size * sizeof *after);
    }
    assert_memory_equal(then, fixed, (p->size - p->learning) * sizeof *then);
    free(g);
    free(before);
    free(fixed);
    free(then);
    free(after);
    trainer_free(&t);
}

/* ---- guards ---- */

static void median_limit(void **state) {
    (void)state;
    RecentLosses r = {.seen = 0};
    for (int i = 0; i < RECENT_LEAST - 1; i++) guard_remember(&r, 1);
    assert_true(isinf(guard_limit(&r, 3)));
    guard_remember(&r, 100);
    assert_near(guard_limit(&r, 3), 3, 0); /* one outlier does not move the median */
    assert_true(isinf(guard_limit(&r, 0)));
    for (int i = 0; i < RECENT_LOSSES; i++) guard_remember(&r, i); /* the old ones are forgotten */
    assert_near(guard_limit(&r, 2), 2 * (RECENT_LOSSES - 1) / 2.0, 1e-12);
}

static void spike_changes_nothing(void **state) {
    (void)state;
    Trainer t = trainer_new(3);
    Params *p = t.m.p;
    double *before = host_copy(t.m.k, p->master, p->size);
    step_limit_loss(t.step, 1e-3);
    assert_true(step_run(t.step, batches(&t), 1e-2, 1).skipped);
    double *after = host_copy(t.m.k, p->master, p->size);
    assert_memory_equal(before, after, p->size * sizeof *after);
    step_limit_loss(t.step, INFINITY);
    assert_false(step_run(t.step, batches(&t), 1e-2, 1).skipped);
    free(before);
    free(after);
    trainer_free(&t);
}

/* The cosine between different samples: of this batch's features, pair by pair. */
static void cosines(void **state) {
    (void)state;
    enum { N = 4 };
    Trainer t = trainer_new(N);
    size_t E = t.m.config.embed_dim;
    StepResult r = step_run(t.step, batches(&t), 0, 1);
    model_forward(&t.m, batches(&t)[0], false, NULL);
    double *f = host_copy(t.m.k, t.m.images, N * E), sum = 0;
    for (size_t i = 0; i < N; i++)
        for (size_t j = 0; j < N; j++)
            for (size_t e = 0; i != j && e < E; e++) sum += f[i * E + e] * f[j * E + e];
    assert_near(r.image_cosine, sum / (N * (N - 1)), 1e-12);
    free(f);
    trainer_free(&t);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(groups),
    cmocka_unit_test(layer_rates),
    cmocka_unit_test(average),
    cmocka_unit_test(lora_weights),
    cmocka_unit_test(lora_gradients_are_derivatives),
    cmocka_unit_test(median_limit),
    cmocka_unit_test(spike_changes_nothing),
    cmocka_unit_test(cosines),
};

int main(void) { return cmocka_run_group_tests_name("finetune", tests, NULL, NULL); }
