/* Image-image objectives: NT-Xent of two views through the projection head, alone (SimCLR) and
 * beside the loss of pairs (SLIP): ten steps against PyTorch (tests/golden/make_simclr.py),
 * micro-batches give the gradient of the one batch, gradients are difference quotients, devices
 * agree, the parts add up. */
#include "tests/support.h"
#include "tests/support_model.h"
#include "kernels/rng.h"
#include "train/step.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { B = 6, DIM = 7, HIDDEN = 10 };

typedef struct Case {
    bool alone, checkpoint, bf16;
    size_t head_layers;
    double share, patch_dropout;
} Case;
static const Case cases[] = {
    {.alone = true, .head_layers = 2, .share = 1},
    {.alone = true, .head_layers = 3, .share = 1, .checkpoint = true},
    {.head_layers = 2, .share = 0.7},
    {.head_layers = 3, .share = 1, .patch_dropout = 0.5},
};

/* A model with a head and its step, over micro-batches of `size`. */
typedef struct Trainer {
    const Kernels *k;
    Params *p;
    OptimState *state;
    Clip *clip;
    Optim *optim;
    Step *step;
    size_t size;
} Trainer;

static Trainer trainer_new(const Kernels *k, const ClipConfig *c, const Case *s, size_t size) {
    Trainer t = {.k = k, .size = size};
    HeadOptions head = {s->head_layers, HIDDEN, DIM};
    t.p = params_declare(k, c);
    projection_head_declare(t.p, &head, c->image.width);
    for (size_t i = 0; s->alone && i < t.p->tensors; i++)
        t.p->list[i].trainable &= t.p->list[i].tower == TOWER_IMAGE;
    params_layout(t.p, 1);
    t.state = optim_state_new(t.p, NULL, 1, MOMENTS_FP32);
    params_init(t.p, 11);
    ClipOptions o = {.max_batch = size,
                     .training = true,
                     .grad_checkpointing = s->checkpoint,
                     .patch_dropout = s->patch_dropout,
                     .frozen_text = s->alone,
                     .head = head,
                     .views = 2,
                     .views_only = s->alone,
                     .seed = 5};
    t.clip = clip_new(k, c, t.p, &o);
    OptimOptions oo = {0.9, 0.98, 1e-6, 0.1, WD_HEAD, 0};
    t.optim = optim_new(t.state, &oo);
    ViewsLoss views = {DIM, s->share, 0.2, s->alone};
    t.step = step_new(k, comm_self(k), t.clip, t.state, t.optim, LOSS_CLIP, size, B / size,
                      c->embed_dim, 1 << 20, &views);
    return t;
}

static void trainer_free(Trainer *t) {
    step_free(t->step);
    optim_free(t->optim);
    clip_free(t->clip);
    state_free(t->state);
}

/* The samples of all micro-batches: pictures, captions and views, [2,B,S,S,3]. */
typedef struct Samples {
    TestBatch pairs;
    uint8_t *views;
    size_t picture; /* bytes */
} Samples;

static Samples samples_new(const ClipConfig *c) {
    Samples s = {.pairs = random_batch(c, B, test_seed()),
                 .picture = 3 * c->image_size * c->image_size};
    s.views = xmalloc(2 * B * s.picture);
    for (size_t i = 0; i < 2 * B * s.picture; i++)
        s.views[i] = (uint8_t)rng_below(test_seed(), RNG_TEST, i, 256);
    return s;
}

static void samples_free(Samples *s) {
    batch_free(&s->pairs);
    free(s->views);
}

typedef struct Slices {
    Batch batch[B], *list[B];
} Slices;

static void slices_make(Slices *s, const Samples *all, const Trainer *t, bool alone) {
    size_t n = t->size;
    for (size_t j = 0; j < B / n; j++) {
        size_t first = j * n;
        Batch *b = s->list[j] = &s->batch[j];
        *b = (Batch){.size = n, .sample = all->pairs.sample + first, .epoch = 2};
        b->views = xmalloc(2 * n * all->picture);
        for (size_t v = 0; v < 2; v++)
            memcpy(b->views + v * n * all->picture, all->views + (v * B + first) * all->picture,
                   n * all->picture);
        if (alone) continue;
        b->pixels = all->pairs.u8 + first * all->picture;
        b->ids = all->pairs.ids + all->pairs.start[first];
        b->start = xmalloc((n + 1) * sizeof *b->start);
        for (size_t i = 0; i <= n; i++)
            b->start[i] = all->pairs.start[first + i] - all->pairs.start[first];
    }
}

static void slices_free(Slices *s, const Trainer *t) {
    for (size_t j = 0; j < B / t->size; j++) FREE_ALL(s->batch[j].views, s->batch[j].start);
}

static double gradients(Trainer *t, const Samples *all, bool alone) {
    Slices s;
    slices_make(&s, all, t, alone);
    t->k->device->zero(t->p->grad, t->p->learning * t->k->acc_size);
    double loss = step_gradients(t->step, s.list);
    slices_free(&s, t);
    return loss;
}

/* The gradients' largest relative difference of a tensor. */
static double worst(const Trainer *a, const Trainer *b, const char **where) {
    double most = 0;
    for (size_t i = 0; i < a->p->count; i++) {
        const Param *q = &a->p->list[i];
        if (!q->trainable) continue;
        double *x = host_copy(a->k, param_grad(a->p, q), q->size);
        double *y = host_copy(b->k, param_grad(b->p, &b->p->list[i]), q->size);
        double size = l2(y, q->size);
        for (size_t j = 0; j < q->size; j++) x[j] -= y[j];
        double error = l2(x, q->size) / fmax(size, 1e-9);
        if (error > most) most = error, *where = q->name;
        FREE_ALL(x, y);
    }
    return most;
}

static void test_micro_batches(void **state) {
    (void)state;
    const Kernels *k = kernels_open("ref", PRECISION_FP32);
    ClipConfig c = odd_config();
    Samples all = samples_new(&c);
    for (size_t i = 0; i < COUNT(cases); i++) {
        Trainer one = trainer_new(k, &c, &cases[i], B);
        double want = gradients(&one, &all, cases[i].alone);
        for (size_t size = 1; size < B; size++)
            if (B % size == 0) {
                const char *where = "";
                Trainer many = trainer_new(k, &c, &cases[i], size);
                assert_near(gradients(&many, &all, cases[i].alone), want, 1e-12 * want);
                double error = worst(&many, &one, &where);
                if (!(error < 1e-10)) fail_msg("case %zu, size %zu: %s: %g", i, size, where, error);
                trainer_free(&many);
            }
        trainer_free(&one);
    }
    samples_free(&all);
}

/* Slopes along one random direction of each fifth tensor, and of the head. */
static void test_differences(void **state) {
    (void)state;
    const Kernels *k = kernels_open("ref", PRECISION_FP32);
    ClipConfig c = odd_config();
    Samples all = samples_new(&c);
    for (size_t i = 0; i < COUNT(cases); i++) {
        Trainer t = trainer_new(k, &c, &cases[i], B / 2);
        gradients(&t, &all, cases[i].alone);
        size_t n = t.p->learning;
        double *grad = host_copy(k, t.p->grad, n), *was = host_copy(k, t.p->master, n);
        for (size_t j = 0; j < t.p->count; j++) {
            const Param *q = &t.p->list[j];
            const double h = 1e-6;
            if (!q->trainable || (j % 5 != i && q->role != ROLE_HEAD)) continue;
            double slope = 0, loss[2], *moved = host_copy(k, t.p->master, n);
            for (size_t e = 0; e < q->size; e++)
                slope += grad[q->offset + e] * rng_normal(j, RNG_TEST, e);
            for (int side = 0; side < 2; side++) {
                for (size_t e = 0; e < q->size; e++)
                    moved[q->offset + e] =
                        was[q->offset + e] + (side ? -h : h) * rng_normal(j, RNG_TEST, e);
                k->acc_set(t.p->master, moved, n);
                params_round(t.p);
                loss[side] = gradients(&t, &all, cases[i].alone);
            }
            double quotient = (loss[0] - loss[1]) / (2 * h);
            if (!(fabs(quotient - slope) <= 1e-6 * (1 + fabs(slope))))
                fail_msg("case %zu, %s: %.9g, slope %.9g", i, q->name, quotient, slope);
            k->acc_set(t.p->master, was, n);
            params_round(t.p);
            free(moved);
        }
        FREE_ALL(grad, was);
        trainer_free(&t);
    }
    samples_free(&all);
}

/* The sum of CLIP's and `share` times SimCLR's gradients; views leave the pairs alone. */
static void test_parts_add_up(void **state) {
    (void)state;
    const Kernels *k = kernels_open("ref", PRECISION_FP32);
    ClipConfig c = odd_config();
    Samples all = samples_new(&c);
    Case none = {.head_layers = 2, .share = 0}, all_of_it = {.head_layers = 2, .share = 0.7},
         half = {.head_layers = 2, .share = 0.35};
    Trainer t[3] = {trainer_new(k, &c, &none, B), trainer_new(k, &c, &all_of_it, B),
                    trainer_new(k, &c, &half, B)};
    double loss[3];
    for (int i = 0; i < 3; i++) loss[i] = gradients(&t[i], &all, false);
    assert_near(loss[1] - loss[0], 2 * (loss[2] - loss[0]), 1e-12 * loss[1]);
    for (size_t i = 0; i < t[0].p->learning; i++) {
        double g[3];
        for (int j = 0; j < 3; j++) k->acc_get(&g[j], acc_at(k, t[j].p->grad, i), 1);
        assert_near(g[1] - g[0], 2 * (g[2] - g[0]), 1e-12);
    }
    TestModel plain = model_new(k, &c, &(ClipOptions){.max_batch = B, .training = true}, LOSS_CLIP);
    params_init(plain.p, 11);
    double want = model_gradients(&plain, &all.pairs, (RunHow){.u8 = true});
    assert_near(loss[0], want, 1e-12 * want);
    model_free(&plain);
    for (int i = 0; i < 3; i++) trainer_free(&t[i]);
    samples_free(&all);
}

/* Gradients of the head's last bias are a sum over views that nearly cancels. */
static void check_device(Precision precision, double tolerance) {
    ClipConfig c = golden_config();
    Samples all = samples_new(&c);
    for (size_t i = 0; i < COUNT(cases); i++) {
        Trainer want = trainer_new(kernels_open("ref", PRECISION_FP32), &c, &cases[i], B / 2);
        Trainer got = trainer_new(kernels_open(TEST_DEVICE, precision), &c, &cases[i], B / 2);
        double loss = gradients(&want, &all, cases[i].alone);
        const char *where = "";
        assert_near(gradients(&got, &all, cases[i].alone), loss, tolerance * loss);
        double error = worst(&got, &want, &where);
        print_message("case %zu, %s: gradients within %.1e (%s)\n", i, got.k->name, error, where);
        if (!(error <= 20 * tolerance)) fail_msg("%s: %g", where, error);
        trainer_free(&got);
        trainer_free(&want);
    }
    samples_free(&all);
}

static void test_device_fp32(void **state) {
    (void)state;
    check_device(PRECISION_FP32, 1e-5);
}
static void test_device_bf16(void **state) {
    (void)state;
    check_device(PRECISION_AMP_BF16, 2e-2);
}

static void test_learning(void **state) {
    (void)state;
    ClipConfig c = golden_config();
    const Kernels *k = kernels_open(TEST_DEVICE, PRECISION_FP32);
    Samples all = samples_new(&c);
    for (size_t i = 0; i < COUNT(cases); i++) {
        Trainer t = trainer_new(k, &c, &cases[i], B / 2);
        Slices s;
        slices_make(&s, &all, &t, cases[i].alone);
        StepResult first = step_run(t.step, s.list, 1e-3, 1), last = first;
        for (uint64_t step = 2; step <= 30; step++) last = step_run(t.step, s.list, 1e-3, step);
        assert_false(last.skipped);
        assert_true(last.views_loss < 0.5 * first.views_loss && last.loss < 0.6 * first.loss);
        assert_true(cases[i].alone == (last.text_cosine == 0));
        slices_free(&s, &t);
        trainer_free(&t);
    }
    samples_free(&all);
}

/* ---- PyTorch ---- */

#if !defined TEST_CUDA
static uint32_t number_of(const char *name) {
    uint32_t n = 0;
    for (; *name; name++) n = (n * 31 + (uint8_t)*name) & 0xFFFFFFF;
    return n;
}

/* fill() of the script. */
static void fill_by_formula(Params *p) {
    for (size_t t = 0; t < p->count; t++) {
        const Param *q = &p->list[t];
        const char *end = strrchr(q->name, '.');
        bool one = q->ndim == 1 && end && (!strcmp(end, ".weight") || !strcmp(end, ".running_var"));
        double *v = xmalloc(q->size * sizeof *v);
        for (size_t i = 0; i < q->size; i++)
            v[i] = (float)(0.1 * golden_value(number_of(q->name), (uint32_t)i + 1) + one);
        p->k->acc_set(param_acc(p, q), v, q->size);
        free(v);
    }
    params_round(p);
}

static Samples samples_by_formula(const ClipConfig *c) {
    Samples s = samples_new(c);
    for (size_t i = 0; i < 2 * B * s.picture; i++)
        s.views[i] = (uint8_t)fmin(255, (golden_value(1000, (uint32_t)i + 1) + 1) * 128);
    return s;
}

static ClipConfig config_named(const char *model) {
    ClipConfig c = golden_config();
    if (!strcmp(model, "vit")) return c;
    c.patch_size = 32;
    c.image = (TowerConfig){.eps = 1e-5, .pool = POOL_MEAN, .proj_bias = true};
    c.image.conv = (ConvNet){CONV_BASIC, 8, {2, 2, 2, 2}};
    c.image.width = 64;
    c.image.layers = 8;
    return c;
}

/* The next ten lines of the file: losses and gradient norms of a run. */
static void check_steps(FILE *f, const Kernels *k, const char *model, size_t head_layers,
                        double of_loss, double of_norm) {
    ClipConfig c = config_named(model);
    Case how = {.alone = true, .head_layers = head_layers, .share = 1};
    Trainer t = trainer_new(k, &c, &how, B);
    Samples all = samples_by_formula(&c);
    Slices s;
    fill_by_formula(t.p);
    slices_make(&s, &all, &t, true);
    for (uint64_t i = 1; i <= 10; i++) {
        char name[16];
        size_t layers, step;
        double loss, norm;
        assert_int_equal(fscanf(f, "%15s %zu %zu %lf %lf", name, &layers, &step, &loss, &norm), 5);
        assert_true(!strcmp(name, model) && layers == head_layers && step == i);
        StepResult got = step_run(t.step, s.list, 1e-3, i);
        assert_near(got.loss, loss, of_loss * loss);
        assert_near(got.grad_norm, norm, of_norm * norm);
    }
    slices_free(&s, &t);
    samples_free(&all);
    trainer_free(&t);
}

/* Of float32 the bounds are wide: a ReLU's input near 0 takes the other branch. */
static void test_ten_steps(void **state) {
    (void)state;
    static const struct {
        const char *device;
        double loss, norm;
    } devices[] = {{"ref", 1e-11, 1e-8}, {TEST_DEVICE, 1e-2, 0.1}};
    for (size_t d = 0; d < COUNT(devices); d++) {
        const Kernels *k = kernels_open(devices[d].device, PRECISION_FP32);
        FILE *f = fopen("tests/golden/simclr.txt", "r");
        char heading[128];
        assert_non_null(f);
        assert_non_null(fgets(heading, sizeof heading, f));
        for (int run = 0; run < 4; run++)
            check_steps(f, k, run < 2 ? "basic" : "vit", 2 + run % 2, devices[d].loss,
                        devices[d].norm);
        fclose(f);
    }
}

#endif

/* Its calls are too short to share. */
static int one_thread(void **state) {
    (void)state;
    omp_set_num_threads(1);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_micro_batches),
        cmocka_unit_test(test_differences),
        cmocka_unit_test(test_parts_add_up),
        cmocka_unit_test(test_device_fp32),
        cmocka_unit_test(test_device_bf16),
        cmocka_unit_test(test_learning),
#if !defined TEST_CUDA
        cmocka_unit_test(test_ten_steps),
#endif
    };
    return cmocka_run_group_tests_name("views", tests, one_thread, NULL);
}
