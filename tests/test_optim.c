/* AdamW and LARS over the flat block: the formula, decay groups, frozen tensors, clipping, a norm
 * that is not finite; the learning-rate schedules. */
#include "train/optim.h"
#include "tests/support_model.h"
#include "train/sched.h"

#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <math.h>

static const char model[] =
    "{\"embed_dim\": 6, \"init_logit_bias\": -10, \"vision_cfg\": {\"image_size\": 8, "
    "\"layers\": 1, \"width\": 10, \"head_width\": 5, \"patch_size\": 4}, \"text_cfg\": "
    "{\"context_length\": 5, \"vocab_size\": 11, \"width\": 6, \"heads\": 1, \"layers\": 2}}";

static ClipConfig config;

static bool is_frozen(const char *name, size_t i) { return !strncmp(name, "visual.", 7) && i % 3; }

static OptimState *new_state_of(bool freeze, Optimizer optimizer) {
    Error err;
    assert_true(clip_config_parse(&config, "test", model, strlen(model), &err));
    Params *p = params_declare(kernels_open("ref", PRECISION_FP32), &config);
    for (size_t i = 0; i < p->count; i++)
        p->list[i].trainable = !(freeze && is_frozen(p->list[i].name, i));
    params_layout(p, 1);
    OptimState *s = optim_state_of(p, NULL, 1, MOMENTS_FP32, optimizer);
    params_init(p, 1);
    return s;
}
static OptimState *new_state(bool freeze) { return new_state_of(freeze, OPTIMIZER_ADAMW); }

static void end(OptimState *s, Optim *o) {
    optim_free(o);
    state_free(s);
    clip_config_free(&config);
}

static double *get(const acc *x, const Params *p) {
    double *host = malloc(p->learning * sizeof *host);
    p->k->acc_get(host, x, p->learning);
    return host;
}

/* A gradient in every element of every tensor, none in the padding. */
static double grad_value(size_t offset, uint64_t t) {
    return sin((double)(offset + 1)) * (double)t;
}

static double fill_grads(Params *p, uint64_t t) {
    double squares = 0;
    for (size_t i = 0; i < p->count; i++) {
        const Param *q = &p->list[i];
        if (!q->trainable) continue;
        double *g = malloc(q->size * sizeof *g);
        for (size_t j = 0; j < q->size; j++) {
            g[j] = grad_value(q->offset + j, t);
            squares += g[j] * g[j];
        }
        p->k->acc_set(param_grad(p, q), g, q->size);
        free(g);
    }
    return sqrt(squares);
}

static const OptimOptions base = {.beta1 = .9, .beta2 = .98, .eps = 1e-6, .weight_decay = .2};

/* Names, not the function under test, decide which tensors decay. */
static bool should_decay(const char *name, WdGroups g) {
    bool position = strstr(name, "positional_embedding") != NULL;
    if (position) return g == WD_LEGACY;
    static const char *const matrices[] = {
        "text_projection", "visual.proj", "conv1.weight",  "in_proj_weight",
        "out_proj.weight", "c_fc.weight", "c_proj.weight", "token_embedding.weight"};
    for (size_t i = 0; i < COUNT(matrices); i++)
        if (strstr(name, matrices[i])) return true;
    return false;
}

static void check_formula(OptimOptions s, bool freeze) {
    OptimState *state = new_state(freeze);
    Params *p = state->p;
    assert_true((p->learning < p->size) == freeze);
    Optim *o = optim_new(state, &s);
    size_t n = p->learning, frozen = (p->size - n) * p->k->acc_size;
    acc *fixed = memcpy(malloc(frozen + 1), freeze ? (void *)p->frozen : "", frozen);
    double *want = get(p->master, p), *m = calloc(n, sizeof *m), *v = calloc(n, sizeof *v);
    const double lr = 1e-2;
    for (uint64_t t = 1; t <= 3; t++) {
        double norm = fill_grads(p, t), got_norm = step_optim(p->k, o, lr, t);
        assert_true(fabs(got_norm / norm - 1) < 1e-12);
        double factor = s.grad_clip_norm ? fmin(1, s.grad_clip_norm / (norm + 1e-6)) : 1;
        for (size_t i = 0; i < p->count; i++) {
            const Param *q = &p->list[i];
            if (!q->trainable) continue;
            for (size_t j = q->offset; j < q->offset + q->size; j++) {
                double g = grad_value(j, t) * factor, T = (double)t;
                if (should_decay(q->name, s.wd_groups)) want[j] *= 1 - lr * s.weight_decay;
                m[j] = s.beta1 * m[j] + (1 - s.beta1) * g;
                v[j] = s.beta2 * v[j] + (1 - s.beta2) * g * g;
                want[j] -= lr / (1 - pow(s.beta1, T)) * m[j] /
                           (sqrt(v[j]) / sqrt(1 - pow(s.beta2, T)) + s.eps);
            }
        }
    }
    double *got = get(p->master, p), *grad = get(p->grad, p);
    assert_true(!frozen || !memcmp(fixed, p->frozen, frozen));
    for (size_t i = 0; i < n; i++) {
        if (!(fabs(got[i] - want[i]) < 1e-13)) fail_msg("%zu: %.17g, %.17g", i, got[i], want[i]);
        assert_true(grad[i] == 0);
    }
    free(want), free(m), free(v), free(got), free(grad), free(fixed);
    end(state, o);
}

static void test_formula(void **unused) {
    (void)unused;
    OptimOptions s = base;
    s.wd_groups = WD_LEGACY;
    check_formula(s, false);
    s.wd_groups = WD_HEAD;
    check_formula(s, false);
}

static void test_frozen(void **unused) {
    (void)unused;
    check_formula(base, true);
}

static void test_clipping(void **unused) {
    (void)unused;
    OptimOptions s = base;
    s.grad_clip_norm = .5;
    check_formula(s, false);
    check_formula(s, true);
    s.grad_clip_norm = 1e9;
    check_formula(s, false);
}

/* Each matrix by its own two norms, the rest without. */
static void check_lars(OptimOptions s, bool freeze) {
    OptimState *state = new_state_of(freeze, OPTIMIZER_LARS);
    Params *p = state->p;
    assert_null(state->v);
    Optim *o = optim_new(state, &s);
    double *want = get(p->master, p), *m = calloc(p->learning, sizeof *m);
    const double lr = 5;
    for (uint64_t t = 1; t <= 3; t++) {
        double norm = fill_grads(p, t), got_norm = step_optim(p->k, o, lr, t);
        assert_true(fabs(got_norm / norm - 1) < 1e-12);
        double factor = s.grad_clip_norm ? fmin(1, s.grad_clip_norm / (norm + 1e-6)) : 1;
        for (size_t i = 0; i < p->count; i++) {
            const Param *q = &p->list[i];
            if (!q->trainable) continue;
            bool scaled = should_decay(q->name, s.wd_groups);
            double wd = scaled ? s.weight_decay : 0, weights = 0, gradients = 0;
            for (size_t j = q->offset; j < q->offset + q->size; j++) {
                weights += want[j] * want[j];
                gradients += pow(grad_value(j, t) * factor + wd * want[j], 2);
            }
            double ratio = scaled && weights > 0 ? 1e-3 * sqrt(weights / gradients) : 1;
            for (size_t j = q->offset; j < q->offset + q->size; j++) {
                m[j] = s.beta1 * m[j] + lr * ratio * (grad_value(j, t) * factor + wd * want[j]);
                want[j] -= m[j];
                if (!strcmp(q->name, "logit_scale")) want[j] = fmin(fmax(want[j], 0), log(100));
            }
        }
    }
    double *got = get(p->master, p);
    for (size_t i = 0; i < p->learning; i++)
        if (!(fabs(got[i] - want[i]) < 1e-11 * fmax(1, fabs(want[i]))))
            fail_msg("%zu: %.17g, %.17g", i, got[i], want[i]);
    FREE_ALL(want, m, got);
    end(state, o);
}

static void test_lars(void **unused) {
    (void)unused;
    OptimOptions s = base;
    for (int i = 0; i < 8; i++) {
        s.wd_groups = i & 1 ? WD_HEAD : WD_LEGACY;
        s.grad_clip_norm = i & 2 ? .5 : 0;
        check_lars(s, i & 4);
    }
}

static void *no_memory(size_t bytes) {
    (void)bytes;
    return NULL;
}
static void nothing(void *p, size_t bytes) { (void)p, (void)bytes; }

static void test_groups_of_vit_b_32(void **unused) {
    (void)unused;
    Kernels k = *kernels_open("ref", PRECISION_FP32);
    Device none = *k.device;
    none.alloc = no_memory;
    none.zero = nothing;
    k.device = &none;
    ClipConfig c;
    clip_config_load(&c, "ViT-B-32");
    Params *p = params_new(&k, &c);
    size_t head = 0, legacy = 0;
    for (size_t i = 0; i < p->count; i++) {
        head += optim_decays(&p->list[i], WD_HEAD);
        legacy += optim_decays(&p->list[i], WD_LEGACY);
    }
    assert_int_equal(head, 100);
    assert_int_equal(p->count - head, 202);
    assert_int_equal(legacy, 102);
    params_free(p);
    clip_config_free(&c);
}

static void test_skips_what_is_not_finite(void **unused) {
    (void)unused;
    const double bad[] = {NAN, INFINITY};
    for (size_t b = 0; b < COUNT(bad); b++) {
        OptimState *state = new_state(false);
        Params *p = state->p;
        Optim *o = optim_new(state, &base);
        fill_grads(p, 1);
        const Param *q = param_named(p, "ln_final.bias");
        p->k->acc_set(acc_at(p->k, param_grad(p, q), 2), &bad[b], 1);
        double *before = get(p->master, p);
        assert_false(isfinite(step_optim(p->k, o, 1e-2, 1)));
        double *after = get(p->master, p), *m = get(state->m, p), *grad = get(p->grad, p);
        assert_memory_equal(before, after, p->size * sizeof *before);
        for (size_t i = 0; i < p->size; i++) assert_true(m[i] == 0 && grad[i] == 0);
        free(before), free(after), free(m), free(grad);
        end(state, o);
    }
}

static void test_logit_scale_is_clamped(void **unused) {
    (void)unused;
    const double start[] = {log(100), 0}, direction[] = {-1, 1};
    for (int i = 0; i < 2; i++) {
        OptimState *state = new_state(false);
        Params *p = state->p;
        Param *q = param_named(p, "logit_scale");
        Optim *o = optim_new(state, &base);
        p->k->acc_set(param_acc(p, q), &start[i], 1);
        p->k->acc_set(param_grad(p, q), &direction[i], 1);
        step_optim(p->k, o, 1e-2, 1);
        double x;
        p->k->acc_get(&x, param_acc(p, q), 1);
        assert_true(x == start[i]);
        end(state, o);
    }
}

static void check_lr(const Sched *s, uint64_t step, double want) {
    double got = sched_lr(s, step);
    if (!(fabs(got - want) <= 1e-15)) fail_msg("step %lu: %.17g", (unsigned long)step, got);
}

static void test_schedules(void **unused) {
    (void)unused;
    Sched s = {SCHED_COSINE, 5e-4, 2000, 100000, 0, 1, 0, 0};
    check_lr(&s, 0, 2.5e-7);
    check_lr(&s, 1999, 5e-4);
    check_lr(&s, 2000, 5e-4);
    check_lr(&s, 51000, 2.5e-4);
    check_lr(&s, 99999, .5 * 5e-4 * (1 + cos(M_PI * 97999 / 98000)));
    check_lr(&s, 100000, 0);
    check_lr(&s, 150000, 0);
    s.kind = SCHED_CONST;
    check_lr(&s, 0, 2.5e-7);
    check_lr(&s, 99999, 5e-4);
    s = (Sched){SCHED_CONST_COOLDOWN, 5e-4, 2000, 100000, 10000, 1, 0, 0};
    check_lr(&s, 1000, 5e-4 * 1001 / 2000);
    check_lr(&s, 89999, 5e-4);
    check_lr(&s, 90000, 5e-4);
    check_lr(&s, 95000, 2.5e-4);
    s.cooldown_power = 2;
    s.cooldown_end = 1e-4;
    check_lr(&s, 95000, .25 * 4e-4 + 1e-4);
    /* no step is left after the warm-up */
    s = (Sched){SCHED_COSINE, 1, 10, 10, 0, 1, 0, 0};
    check_lr(&s, 10, 1);
    s = (Sched){SCHED_COSINE, 1, 0, 2, 0, 1, 0, 0};
    check_lr(&s, 0, 1);
    /* steps of other batches before, which an epoch has more or fewer of */
    s.shift = 7;
    check_lr(&s, 8, .5);
    s.shift = -1;
    check_lr(&s, 0, .5);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_formula),
        cmocka_unit_test(test_frozen),
        cmocka_unit_test(test_clipping),
        cmocka_unit_test(test_lars),
        cmocka_unit_test(test_groups_of_vit_b_32),
        cmocka_unit_test(test_skips_what_is_not_finite),
        cmocka_unit_test(test_logit_scale_is_clamped),
        cmocka_unit_test(test_schedules),
    };
    return cmocka_run_group_tests_name("optim", tests, NULL, NULL);
}
