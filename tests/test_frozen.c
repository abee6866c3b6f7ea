/* Frozen tensors have no gradient, no moments and no average, and trainable ones are updated as
 * with full gradients, bit for bit: locked towers and LoRA. */
#include "tests/support.h"
#include "tests/support_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- memory ---- */

static size_t taken;

static void *count_memory(size_t bytes) {
    taken += bytes;
    return NULL;
}
static void nothing(void *p, size_t bytes) { (void)p, (void)bytes; }
static void no_copy(void *dst, const void *src, size_t bytes) { (void)dst, (void)src, (void)bytes; }
static void no_release(void *p) { assert_null(p); }

static bool frozen_image(const Param *q) { return !strncmp(q->name, "visual.", 7); }
static bool frozen_all(const Param *q) { return strncmp(q->name, "logit_", 6) != 0; }
static bool frozen_none(const Param *q) { return !q; }

/* Bytes that training's parameters of ViT-B-32 take in bf16, with an average or not. */
static size_t memory(bool (*frozen)(const Param *), const LoraOptions *lora, Moments moments,
                     bool average, size_t *elements) {
    Kernels k = *kernels_open("cpu", PRECISION_AMP_BF16);
    Device none = *k.device;
    none.alloc = count_memory;
    none.zero = nothing;
    none.copy = no_copy;
    none.release = no_release;
    k.device = &none;
    ClipConfig c;
    clip_config_load(&c, "ViT-B-32");
    Params *p = params_declare(&k, &c);
    if (lora) lora_declare(p, lora);
    *elements = 0;
    for (size_t i = 0; i < p->count; i++) {
        p->list[i].trainable &= !frozen(&p->list[i]);
        if (!p->list[i].trainable) *elements += round_up(p->list[i].size, 32);
    }
    taken = 0;
    params_layout(p, 1);
    OptimState *s = optim_state_new(p, NULL, 1, moments);
    if (average) optim_state_track(s, 0.9);
    state_free(s);
    clip_config_free(&c);
    return taken;
}

enum { SPARE = 1 << 16 }; /* unused gradients of vectors, and rounding */

static void memory_of_what_learns(void **state) {
    (void)state;
    size_t frozen, all = memory(frozen_none, NULL, MOMENTS_FP32, true, &frozen);
    assert_int_equal(frozen, 0);
    /* master, gradient, two moments, average in f32, compute weight in bf16 */
    assert_true(all >= 22 * (size_t)151277313 && all < 22 * (size_t)151277313 + SPARE);
    size_t locked = memory(frozen_image, NULL, MOMENTS_FP32, true, &frozen);
    assert_true(frozen > 87000000 && frozen < 88000000);
    assert_true(all - 16 * frozen <= locked && locked < all - 16 * frozen + SPARE);
    size_t halves = memory(frozen_image, NULL, MOMENTS_BF16, false, &frozen);
    size_t learning = 151277313 - frozen; /* without average, moments of half the size */
    assert_true(locked - halves >= 8 * learning && locked - halves < 8 * learning + SPARE);
    size_t nothing_learns = memory(frozen_all, NULL, MOMENTS_FP32, true, &frozen);
    assert_true(nothing_learns - 6 * frozen < SPARE);
}

static void memory_of_lora(void **state) {
    (void)state;
    LoraOptions o = {.rank = 8, .alpha = 16, .image = true, .text = true};
    size_t frozen, model = 151277313,
                   rank_8 = memory(frozen_none, &o, MOMENTS_FP32, false, &frozen);
    /* master and compute weight; of the factors all; one matrix of 3072·768 */
    size_t factors = 8 * (12 * (3 * 2 * 768 + 2 * 768 + 2 * (768 + 3072)) +
                          12 * (3 * 2 * 512 + 2 * 512 + 2 * (512 + 2048)));
    size_t want = 6 * model + 18 * factors + 4 * (size_t)3072 * 768;
    assert_true(frozen >= model - 1 && rank_8 >= want && rank_8 < want + 8 * SPARE);
    assert_true(rank_8 < memory(frozen_none, NULL, MOMENTS_FP32, false, &frozen) / 2);
}

/* ---- bits ---- */

static const struct {
    const char *name;
    Precision precision;
} backends[] = {{"ref", PRECISION_FP32}, {"cpu", PRECISION_FP32}, {"cpu", PRECISION_AMP_BF16}};

static bool is_image(const char *name) { return !strncmp(name, "visual.", 7); }
static bool is_text(const char *name) { return !is_image(name); }
static bool is_no_norm(const char *name) { return !strstr(name, "ln_"); }
static bool is_below(const char *name) { return !strstr(name, "proj") || strstr(name, "_proj"); }

static void compare_masters(const TestModel *a, const TestModel *b, const char *what) {
    for (size_t i = 0; i < a->p->tensors; i++) {
        const Param *q = &a->p->list[i], *r = &b->p->list[i];
        double *x = host_copy(a->k, param_acc(a->p, q), q->size);
        double *y = host_copy(b->k, param_acc(b->p, r), r->size);
        if (memcmp(x, y, q->size * sizeof *x))
            fail_msg("%s, %s: %s differs", a->k->name, what, q->name);
        free(x);
        free(y);
    }
}

/* A gradient of 0 without weight decay also leaves a tensor unchanged. */
static void locked_as_beside_full_gradients(void **state) {
    (void)state;
    static bool (*const patterns[])(const char *) = {is_image, is_text, is_no_norm, is_below};
    ClipConfig c = odd_config();
    ClipOptions o = {.max_batch = 4, .training = true};
    OptimOptions oo = {0.9, 0.98, 1e-6, 0, WD_HEAD, 0};
    for (size_t n = 0; n < COUNT(backends) * COUNT(patterns); n++) {
        const Kernels *k = kernels_open(backends[n % COUNT(backends)].name,
                                        backends[n % COUNT(backends)].precision);
        bool (*frozen)(const char *) = patterns[n / COUNT(backends)];
        TestModel full = model_new(k, &c, &o, LOSS_CLIP);
        TestModel locked = model_new_frozen(k, &c, &o, LOSS_CLIP, frozen);
        Optim *of = optim_new(full.state, &oo), *ol = optim_new(locked.state, &oo);
        for (uint64_t t = 1; t <= 3; t++) {
            TestBatch b = random_batch(&c, 4, test_seed() + t);
            double want = model_gradients(&full, &b, (RunHow){.u8 = true});
            assert_true(model_gradients(&locked, &b, (RunHow){.u8 = true}) == want);
            for (size_t i = 0; i < full.p->count; i++)
                if (!locked.p->list[i].trainable)
                    k->device->zero(param_grad(full.p, &full.p->list[i]),
                                    full.p->list[i].size * k->acc_size);
            step_optim(k, of, 1e-2, t);
            step_optim(k, ol, 1e-2, t);
            batch_free(&b);
        }
        compare_masters(&full, &locked, "locked");
        optim_free(of);
        optim_free(ol);
        model_free(&full);
        model_free(&locked);
    }
}

static double *gradient(const TestModel *m, const char *name) {
    assert_non_null(param_named(m->p, name));
    return model_grad(m, name);
}

/* The factors' gradients of `out` rows of a matrix from its whole one, dw [out,in]. */
static void check_factors(const TestModel *lora, const LoraOptions *o, const char *name,
                          const char *part, const acc *dw, size_t out, size_t in) {
    const Kernels *k = lora->k;
    char a_name[160], b_name[160];
    snprintf(a_name, sizeof a_name, "lora_a.%s%s", name, part);
    snprintf(b_name, sizeof b_name, "lora_b.%s%s", name, part);
    const acc *a = param_acc(lora->p, param_named(lora->p, a_name));
    const acc *b = param_acc(lora->p, param_named(lora->p, b_name));
    size_t r = o->rank;
    double scale = o->alpha / (double)r;
    acc *da = k->device->alloc(r * in * k->acc_size), *db = k->device->alloc(out * r * k->acc_size);
    acc *x = k->device->alloc(r * in * k->acc_size);
    k->device->zero(da, r * in * k->acc_size);
    k->gemm(x, in, b, r, true, dw, in, false, r, in, out, false);
    k->axpy(da, scale, x, r * in);
    k->device->zero(x, r * in * k->acc_size);
    k->axpy(x, scale, a, r * in);
    k->gemm(db, r, dw, in, false, x, in, true, out, r, in, false);
    double *want[] = {host_copy(k, da, r * in), host_copy(k, db, out * r)};
    double *got[] = {gradient(lora, a_name), gradient(lora, b_name)};
    assert_true(l2(want[0], r * in) > 0 && l2(want[1], out * r) > 0);
    for (size_t i = 0; i < r * in; i++) assert_true(got[0][i] == want[0][i]);
    for (size_t i = 0; i < out * r; i++) assert_true(got[1][i] == want[1][i]);
    for (int i = 0; i < 2; i++) free(want[i]), free(got[i]);
    k->device->release(da);
    k->device->release(db);
    k->device->release(x);
}

static void use_state(TestModel *m, OptimState *s, const ClipOptions *o) {
    clip_free(m->clip);
    state_free(m->state);
    m->state = s;
    m->p = s->p;
    m->clip = clip_new(m->k, &m->config, m->p, o);
}

/* The tensors of `from`, and factors none of which is 0. */
static OptimState *adapted_state(const Kernels *k, const Params *from, const ClipConfig *c,
                                 const LoraOptions *o) {
    OptimState *s = state_new(k, c, o);
    Params *p = s->p;
    for (size_t i = 0; i < p->count; i++) {
        const Param *q = &p->list[i];
        if (!param_is_apart(q)) {
            k->device->copy(param_acc(p, q), param_acc(from, &from->list[i]),
                            q->size * k->acc_size);
            continue;
        }
        double *x = xmalloc(q->size * sizeof *x);
        for (size_t j = 0; j < q->size; j++)
            x[j] = 0.1 * golden_value((uint32_t)i, (uint32_t)j + 1);
        k->acc_set(param_acc(p, q), x, q->size);
        free(x);
    }
    params_round(p);
    lora_merge(p);
    return s;
}

static void lora_as_from_full_gradients(void **state) {
    (void)state;
    static const char *const parts[] = {".q", ".k", ".v"};
    ClipConfig c = odd_config();
    ClipOptions o = {.max_batch = 4, .training = true};
    LoraOptions lo = {.rank = 3, .alpha = 5, .image = true, .text = true};
    for (size_t n = 0; n < COUNT(backends); n++) {
        const Kernels *k = kernels_open(backends[n].name, backends[n].precision);
        TestModel full = model_new(k, &c, &o, LOSS_CLIP), lora = model_new(k, &c, &o, LOSS_CLIP);
        use_state(&lora, adapted_state(lora.k, full.p, &c, &lo), &o);
        for (size_t i = 0; i < full.p->count; i++) {
            const Param *q = &lora.p->list[i];
            if (q->adapted)
                k->device->copy(param_acc(full.p, &full.p->list[i]),
                                lora_merged(lora.p, lora.p->master, q), q->size * k->acc_size);
        }
        params_round(full.p);
        TestBatch b = random_batch(&c, 4, test_seed());
        double want = model_gradients(&full, &b, (RunHow){.u8 = true});
        assert_true(model_gradients(&lora, &b, (RunHow){.u8 = true}) == want);
        size_t checked = 0;
        for (size_t i = 0; i < full.p->count; i++) {
            const Param *q = &full.p->list[i];
            const acc *dw = param_grad(full.p, q);
            if (!lora.p->list[i].adapted) continue;
            size_t split = strstr(q->name, "in_proj_weight") ? 3 : 1, out = q->shape[0] / split;
            for (size_t j = 0; j < split; j++, checked++)
                check_factors(&lora, &lo, q->name, split == 3 ? parts[j] : "",
                              acc_at(k, dw, j * out * q->shape[1]), out, q->shape[1]);
        }
        assert_int_equal(checked, 6 * (c.image.layers + c.text.layers));
        batch_free(&b);
        model_free(&full);
        model_free(&lora);
    }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(memory_of_what_learns),
    cmocka_unit_test(memory_of_lora),
    cmocka_unit_test(locked_as_beside_full_gradients),
    cmocka_unit_test(lora_as_from_full_gradients),
};

int main(void) { return cmocka_run_group_tests_name("frozen", tests, NULL, NULL); }
