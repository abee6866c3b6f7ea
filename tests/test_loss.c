/* The losses: golden values, tiles of any size, kept and walked twice, simulated ranks, finite
 * differences. */
#include "tests/support.h"
#include "tests/support_comm.h"
#include "train/loss.h"

#include <stdlib.h>
#include <string.h>
#include <math.h>
#include <pthread.h>

#include "kernels/rng.h"

static const Kernels *k;

/* ---- one run, host doubles in and out ---- */

typedef struct Result {
    double loss, dlog_scale, dbias, *dI, *dT;
} Result;

static acc *to_device(const double *x, size_t n) {
    acc *p = k->device->alloc(n * k->acc_size);
    k->acc_set(p, x, n);
    return p;
}

static double *to_host(const acc *p, size_t n) {
    double *x = malloc(n * sizeof *x);
    k->acc_get(x, p, n);
    return x;
}

/* Soft targets of the runs of this thread; NULL: none. teacher rows: [n,dim], dim 0: none. */
enum { SOFT = 2 }; /* bytes for logits with which check_ranks has soft targets */

typedef struct SoftCase {
    const uint64_t *group;
    const double *images, *texts;
    size_t dim;
    double log_scale;
} SoftCase;
static __thread const SoftCase *soft;

static size_t half = 1; /* of LOSS_NTXENT, whose views are I */
static bool narrow;     /* texts are gathered as bf16 */

/* dlog_scale and dbias start at 3: gradients of weights are added to. */
static Result run(const Comm *comm, LossKind kind, size_t memory, size_t capacity, const double *I,
                  const double *T, size_t n, size_t E, double log_scale, const double *bias,
                  bool gradients) {
    Loss *l = loss_new(k, comm, kind, capacity, E, memory);
    if (narrow) loss_gather_bf16(l);
    acc *images = to_device(I, n * E), *texts = to_device(T, n * E);
    acc *scale = to_device(&log_scale, 1), *b = bias ? to_device(bias, 1) : NULL;
    double three = 3, nan_value = NAN;
    acc *loss = to_device(&nan_value, 1), *ds = to_device(&three, 1), *db = to_device(&three, 1);
    double *garbage = malloc(n * E * sizeof *garbage);
    for (size_t i = 0; i < n * E; i++) garbage[i] = NAN;
    acc *dI = to_device(garbage, n * E), *dT = to_device(garbage, n * E);
    free(garbage);
    acc *teacher[3] = {NULL};
    if (soft) {
        loss_allow_soft(l, soft->dim);
        if (soft->dim) {
            teacher[0] = to_device(soft->images, n * soft->dim);
            teacher[1] = to_device(soft->texts, n * soft->dim);
            teacher[2] = to_device(&soft->log_scale, 1);
        }
        loss_soften(l, &(SoftTargets){soft->group, teacher[0], teacher[1], teacher[2]});
    }
    if (kind == LOSS_NTXENT) {
        loss_send_views(l, images, half, n);
        loss_run_views(l, loss, gradients ? dI : NULL, scale, 1, n);
        k->device->zero(dT, n * E * k->acc_size);
    } else if (gradients)
        loss_run(l, loss, dI, dT, ds, bias ? db : NULL, images, texts, scale, b, n);
    else
        loss_run(l, loss, NULL, NULL, NULL, NULL, images, texts, scale, b, n);
    Result r = {0};
    k->acc_get(&r.loss, loss, 1);
    k->acc_get(&r.dlog_scale, ds, 1);
    k->acc_get(&r.dbias, db, 1);
    r.dlog_scale -= 3;
    r.dbias -= 3;
    r.dI = to_host(dI, n * E);
    r.dT = to_host(dT, n * E);
    acc *all[] = {images, texts, scale, loss, ds, db, dI, dT};
    for (size_t i = 0; i < COUNT(all); i++) k->device->release(all[i]);
    if (b) k->device->release(b);
    for (size_t i = 0; i < COUNT(teacher); i++)
        if (teacher[i]) k->device->release(teacher[i]);
    loss_free(l);
    return r;
}

static void result_free(Result *r) {
    free(r->dI);
    free(r->dT);
}

static void normalise(double *x, size_t rows, size_t E) {
    for (size_t i = 0; i < rows; i++) {
        double s = 0;
        for (size_t e = 0; e < E; e++) s += x[i * E + e] * x[i * E + e];
        for (size_t e = 0; e < E; e++) x[i * E + e] /= sqrt(s);
    }
}

static double *random_rows(size_t rows, size_t E, uint64_t seed) {
    double *x = malloc(rows * E * sizeof *x);
    for (size_t i = 0; i < rows * E; i++) x[i] = rng_normal(seed, RNG_TEST, i);
    normalise(x, rows, E);
    return x;
}

static void check_near(double got, double want, double tolerance) {
    if (!(fabs(got - want) <= tolerance * fmax(1, fabs(want))))
        fail_msg("%.15g instead of %.15g", got, want);
}

static void check_same(const Result *a, const Result *b, size_t size, double tolerance) {
    check_near(a->loss, b->loss, tolerance);
    check_near(a->dlog_scale, b->dlog_scale, tolerance);
    check_near(a->dbias, b->dbias, tolerance);
    for (size_t i = 0; i < size; i++) {
        check_near(a->dI[i], b->dI[i], tolerance);
        check_near(a->dT[i], b->dT[i], tolerance);
    }
}

/* ---- golden values (float64, computed with PyTorch's autograd) ---- */

static void test_golden(void **state) {
    (void)state;
    double I[] = {1, 2, 3, -1, 0, 1, 2, -1, .5, .1, .2, -.3};
    double T[] = {1, 1, 1, -1, .5, 2, 3, -1, 0, 0, 1, -1};
    normalise(I, 4, 3);
    normalise(T, 4, 3);
    Result r = run(comm_self(k), LOSS_CLIP, 1 << 20, 4, I, T, 4, 3, log(1 / 0.07), NULL, true);
    check_near(r.loss, 0.009797976577643, 1e-14);
    check_near(r.dlog_scale, -0.031429646527159, 1e-14);
    static const double dI[] = {-.0991300348, -.0100186779, .0791178447};
    static const double dT[] = {-.0174203665, -.0372603298, -.0549235532};
    for (int i = 0; i < 3; i++) {
        check_near(r.dI[i], dI[i], 1e-10);
        check_near(r.dT[i], dT[i], 1e-10);
    }
    result_free(&r);
    double bias = -10;
    r = run(comm_self(k), LOSS_SIGLIP, 1 << 20, 4, I, T, 4, 3, log(10), &bias, true);
    check_near(r.loss, 1.049120488133190, 1e-13);
    check_near(r.dbias, -0.630857570916900, 1e-13);
    check_near(r.dlog_scale, -5.959832617088461, 1e-13);
    result_free(&r);
}

/* Groups of one and no teacher are the plain loss. With both, golden values of open_clip's
 * DistillClipLoss (teacher's scale 5) and of PyTorch's cross-entropy with soft targets (pairs 0 and
 * 2 have the same caption). */
static void test_golden_soft(void **state) {
    (void)state;
    double I[] = {1, 2, 3, -1, 0, 1, 2, -1, .5, .1, .2, -.3};
    double T[] = {1, 1, 1, -1, .5, 2, 3, -1, 0, 0, 1, -1};
    double teacher_I[] = {1, -1, 2, 1, 0, 1, -1, .5}, teacher_T[] = {1, 0, 1, 1, -.5, 1, -1, -1};
    normalise(I, 4, 3);
    normalise(T, 4, 3);
    normalise(teacher_I, 4, 2);
    normalise(teacher_T, 4, 2);
    static const uint64_t each[] = {7, 3, 9, 5}, pair[] = {7, 3, 7, 5};
    const struct {
        SoftCase soft;
        double loss, dlog_scale, dI[3], dT[3];
    } cases[] = {
        {{each, NULL, NULL, 0, 0},
         0.009797976577643,
         -0.031429646527159,
         {-.0991300348, -.0100186779, .0791178447},
         {-.0174203665, -.0372603298, -.0549235532}},
        {{pair, NULL, NULL, 0, 0},
         2.562355091523658,
         2.521127468418857,
         {-0.7622247292, 1.5856563850, 1.1101004682},
         {-1.0988673648, 1.6965937136, 0.9871582959}},
        {{each, teacher_I, teacher_T, 2, log(5)},
         5.528041153272882,
         5.445585907063279,
         {0.6279481334, 0.5180498739, 1.1538712911},
         {1.7532046684, 0.6786203284, -0.4478787989}},
    };
    for (size_t c = 0; c < COUNT(cases); c++)
        for (size_t memory = 1; memory <= 1 << 20; memory *= 1 << 10) {
            soft = &cases[c].soft;
            Result r =
                run(comm_self(k), LOSS_CLIP, memory, 5, I, T, 4, 3, log(1 / 0.07), NULL, true);
            Result alone =
                run(comm_self(k), LOSS_CLIP, memory, 4, I, T, 4, 3, log(1 / 0.07), NULL, false);
            soft = NULL;
            check_near(r.loss, cases[c].loss, 1e-13);
            check_near(alone.loss, cases[c].loss, 1e-13);
            check_near(r.dlog_scale, cases[c].dlog_scale, 1e-13);
            for (int i = 0; i < 3; i++) {
                check_near(r.dI[i], cases[c].dI[i], 1e-10);
                check_near(r.dT[i], cases[c].dT[i], 1e-10);
            }
            result_free(&r);
            result_free(&alone);
        }
}

/* ---- tiles ---- */

/* 1100 × 1100 has partly filled tiles on both edges even if all of it is kept. */
static void check_tiles(LossKind kind, size_t n, size_t E, size_t larger) {
    double *I = random_rows(n, E, 1), *T = random_rows(n, E, 2), bias = kind == LOSS_CLIP ? 1 : -3;
    size_t whole = n * n * k->acc_size;
    Result kept = run(comm_self(k), kind, whole, n, I, T, n, E, 2, &bias, true);
    const size_t memory[] = {whole - 1, whole / 7, 1};
    for (size_t i = 0; i < (n > 1000 ? 1 : COUNT(memory)); i++) {
        Result tiled = run(comm_self(k), kind, memory[i], n + larger, I, T, n, E, 2, &bias, true);
        check_same(&tiled, &kept, n * E, 1e-12);
        result_free(&tiled);
    }
    Result alone = run(comm_self(k), kind, 1, n, I, T, n, E, 2, &bias, false);
    check_near(alone.loss, kept.loss, 1e-12);
    result_free(&alone);
    result_free(&kept);
    free(I);
    free(T);
}

static void test_tiles(void **state) {
    (void)state;
    check_tiles(LOSS_CLIP, 1, 3, 5);
    check_tiles(LOSS_CLIP, 37, 5, 0);
    check_tiles(LOSS_CLIP, 1100, 2, 0);
    check_tiles(LOSS_SIGLIP, 37, 5, 11);
    check_tiles(LOSS_SIGLIP, 1100, 2, 0);
    check_tiles(LOSS_NTXENT, 38, 5, 12);
    half = 19;
    check_tiles(LOSS_NTXENT, 38, 5, 0);
    half = 550;
    check_tiles(LOSS_NTXENT, 1100, 2, 0);
    half = 1;
}

/* NT-Xent of PyTorch: cross_entropy of s·ZZᵀ with a diagonal of -inf, targets the other views. */
static void test_golden_views(void **state) {
    (void)state;
    double Z[] = {1, 2, 3, -1, 0, 1, 2, -1, .5, .1, .2, -.3, 1, 1, 1, -1, .5, 2};
    static const struct {
        size_t half;
        double loss, dZ[3];
    } want[] = {{1, 1.742308319911742, {0.613388609210, 0.213649057671, -0.075103980070}},
                {3, 2.510570962839132, {-0.036190072856, -0.142699264879, 0.930823024546}}};
    normalise(Z, 6, 3);
    for (size_t i = 0; i < COUNT(want); i++)
        for (size_t memory = 1; memory <= 1 << 20; memory *= 1 << 10) {
            half = want[i].half;
            Result r = run(comm_self(k), LOSS_NTXENT, memory, 6, Z, Z, 6, 3, log(2), NULL, true);
            check_near(r.loss, want[i].loss, 1e-13);
            for (int e = 0; e < 3; e++) check_near(r.dI[e], want[i].dZ[e], 1e-10);
            result_free(&r);
        }
    half = 1;
}

/* The formula of the definition, without any tile. */
static void test_against_formula(void **state) {
    (void)state;
    enum { N = 1100, E = 2 };
    double *I = random_rows(N, E, 1), *T = random_rows(N, E, 2), *row = calloc(N, sizeof *row),
           *col = calloc(N, sizeof *col), loss = 0;
    const double s = exp(2);
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            double z = s * (I[i * E] * T[j * E] + I[i * E + 1] * T[j * E + 1]);
            row[i] += exp(z);
            col[j] += exp(z);
            if (i == j) loss -= 2 * z;
        }
    for (int i = 0; i < N; i++) loss += log(row[i]) + log(col[i]);
    Result r = run(comm_self(k), LOSS_CLIP, 1 << 24, N, I, T, N, E, 2, NULL, true);
    check_near(r.loss, loss / (2 * N), 1e-12);
    result_free(&r);
    free(I), free(T), free(row), free(col);
}

/* Of 4096 pairs on each of 8 ranks. */
static size_t bytes_of_loss(size_t logit_memory) {
    Comm comm = *comm_self(k);
    comm.size = 8;
    k->device->plan_begin();
    loss_free(loss_new(k, &comm, LOSS_CLIP, 4096, 64, logit_memory));
    return k->device->plan_end(0);
}

static void test_memory_is_bounded(void **state) {
    (void)state;
    size_t full = bytes_of_loss((size_t)1 << 40), small = bytes_of_loss(1 << 20);
    assert_true(full > (size_t)4096 * 8 * 4096 * k->acc_size);
    assert_true(full - small > (size_t)4096 * 8 * 4096 * k->acc_size - (1 << 20) - 64);
}

/* ---- ranks ---- */

typedef struct Rank {
    const SoftCase *soft;
    int rank;
    LossKind kind;
    size_t memory, n, E;
    const double *I, *T;
    double log_scale;
    const double *bias;
    Result result;
} Rank;

static void *rank_main(void *argument) {
    Rank *r = argument;
    soft = r->soft;
    Comm comm = comm_of_threads(r->rank);
    r->result =
        run(&comm, r->kind, r->memory, r->n, r->I, r->T, r->n, r->E, r->log_scale, r->bias, true);
    return NULL;
}

enum { RANKS_MOST = 4 };

/* `size` ranks of n pairs each, with their parts of the soft targets; *dlog_scale and *dbias become
 * their sums. */
static void run_ranks(Rank r[RANKS_MOST], int size, size_t n, LossKind kind, size_t memory,
                      const double *I, const double *T, size_t E, double log_scale,
                      const double *bias, double *dlog_scale, double *dbias) {
    SoftCase part[RANKS_MOST];
    comm_of_threads_begin(k, size);
    pthread_t thread[RANKS_MOST];
    for (int i = 0; i < size; i++) {
        size_t first = (size_t)i * n;
        if (soft) {
            part[i] = *soft;
            part[i].group += first;
            if (soft->dim) part[i].images += first * soft->dim;
            if (soft->dim) part[i].texts += first * soft->dim;
        }
        const double *mine = I + first * E, *my_texts = T + first * E;
        r[i] = (Rank){.soft = soft ? &part[i] : NULL,
                      .rank = i,
                      .kind = kind,
                      .memory = memory,
                      .n = n,
                      .E = E,
                      .I = mine,
                      .T = my_texts,
                      .log_scale = log_scale,
                      .bias = bias};
        assert_int_equal(pthread_create(&thread[i], NULL, rank_main, &r[i]), 0);
    }
    *dlog_scale = *dbias = 0;
    for (int i = 0; i < size; i++) {
        pthread_join(thread[i], NULL);
        *dlog_scale += r[i].result.dlog_scale;
        *dbias += r[i].result.dbias;
    }
    comm_of_threads_end();
}

static void check_ranks(LossKind kind, int size, size_t n, size_t memory, size_t teacher_dim) {
    enum { E = 5 };
    size_t N = n * (size_t)size;
    double *I = random_rows(N, E, 3), *T = random_rows(N, E, 4), bias = -1, dlog_scale, dbias;
    uint64_t *group = malloc(N * sizeof *group);
    for (size_t i = 0; i < N; i++) group[i] = i * i % 7; /* groups across ranks */
    double *teacher_I = teacher_dim ? random_rows(N, teacher_dim, 7) : NULL;
    double *teacher_T = teacher_dim ? random_rows(N, teacher_dim, 8) : NULL;
    SoftCase whole = {group, teacher_I, teacher_T, teacher_dim, 1};
    soft = memory == SOFT ? &whole : NULL;
    Result one = run(comm_self(k), kind, 1 << 24, N, I, T, N, E, 2, &bias, true);
    Rank r[RANKS_MOST];
    run_ranks(r, size, n, kind, memory, I, T, E, 2, &bias, &dlog_scale, &dbias);
    for (int i = 0; i < size; i++) {
        Result want = one, *got = &r[i].result;
        want.dI += (size_t)i * n * E;
        want.dT += (size_t)i * n * E;
        got->dlog_scale = dlog_scale;
        got->dbias = dbias;
        check_same(got, &want, n * E, 1e-12);
        result_free(got);
    }
    soft = NULL;
    free(group);
    free(teacher_I);
    free(teacher_T);
    result_free(&one);
    free(I);
    free(T);
}

static void test_ranks(void **state) {
    (void)state;
    check_ranks(LOSS_CLIP, 2, 1, 1, 0);
    check_ranks(LOSS_CLIP, 4, 9, 1 << 20, 0);
    check_ranks(LOSS_CLIP, 3, 30, 1, 0);
    check_ranks(LOSS_SIGLIP, 4, 9, 1 << 20, 0);
    check_ranks(LOSS_SIGLIP, 3, 30, 1, 0);
    check_ranks(LOSS_CLIP, 4, 9, SOFT, 0);
    check_ranks(LOSS_SIGLIP, 4, 9, SOFT, 0);
    check_ranks(LOSS_CLIP, 3, 30, SOFT, 4);
    check_ranks(LOSS_NTXENT, 4, 10, 1 << 20, 0);
    half = 5;
    check_ranks(LOSS_NTXENT, 3, 30, 1, 0);
    half = 1;
}

/* Pairs that are hard to tell, cosine 0.1, at CLIP's largest scale. Everything except the rounding
 * of the texts is float64. */
static void test_gather_bf16(void **state) {
    (void)state;
    enum { E = 512, SIZE = 4, n = 64, N = SIZE * n };
    double *I = random_rows(N, E, 3), *T = random_rows(N, E, 4), dlog_scale, dbias;
    for (size_t i = 0; i < N * E; i++) T[i] = 0.1 * I[i] + sqrt(1 - 0.1 * 0.1) * T[i];
    normalise(T, N, E);
    Result one = run(comm_self(k), LOSS_CLIP, 1 << 24, N, I, T, N, E, log(100), NULL, true);
    Rank r[RANKS_MOST];
    narrow = true;
    run_ranks(r, SIZE, n, LOSS_CLIP, 1 << 24, I, T, E, log(100), NULL, &dlog_scale, &dbias);
    narrow = false;
    double worst[2] = {0};
    for (int i = 0; i < SIZE; i++) {
        Result *got = &r[i].result;
        size_t first = (size_t)i * n * E;
        worst[0] = fmax(worst[0], test_error_l2(got->dI, one.dI + first, n * E));
        worst[1] = fmax(worst[1], test_error_l2(got->dT, one.dT + first, n * E));
        assert_near(got->loss, one.loss, 2e-3 * one.loss);
        assert_true(got->loss == r[0].result.loss);
        if (i == SIZE - 1)
            print_message("loss %.6f, bf16 texts: error %.1e, of gradients %.1e (images) and "
                          "%.1e (texts), of the scale's %.1e\n",
                          one.loss, fabs(got->loss / one.loss - 1), worst[0], worst[1],
                          fabs(dlog_scale / one.dlog_scale - 1));
        result_free(got);
    }
    for (int i = 0; i < 2; i++) assert_true(worst[i] > 1e-4 && worst[i] < 2e-2);
    result_free(&one);
    free(I);
    free(T);
}

/* ---- finite differences ---- */

static double loss_at(LossKind kind, const double *I, const double *T, size_t n, size_t E,
                      double log_scale, double bias) {
    Result r = run(comm_self(k), kind, 1, n, I, T, n, E, log_scale, &bias, false);
    result_free(&r);
    return r.loss;
}

static void check_differences(LossKind kind) {
    enum { n = 6, E = 4 };
    const double h = 1e-5, log_scale = 1.5, bias = -.7;
    double *I = random_rows(n, E, 5), *T = random_rows(n, E, 6);
    Result r = run(comm_self(k), kind, 1, n, I, T, n, E, log_scale, &bias, true);
#define DIFFERENCE(up, down) (((up) - (down)) / (2 * h))
    bool learned = kind != LOSS_NTXENT; /* its temperature is a constant */
    check_near(learned ? DIFFERENCE(loss_at(kind, I, T, n, E, log_scale + h, bias),
                                    loss_at(kind, I, T, n, E, log_scale - h, bias))
                       : 0,
               r.dlog_scale, 1e-8);
    check_near(DIFFERENCE(loss_at(kind, I, T, n, E, log_scale, bias + h),
                          loss_at(kind, I, T, n, E, log_scale, bias - h)),
               r.dbias, 1e-8);
    for (size_t i = 0; i < 2 * n * E; i++) {
        double *x = i < n * E ? I + i : T + i - n * E, was = *x;
        *x = was + h;
        double up = loss_at(kind, I, T, n, E, log_scale, bias);
        *x = was - h;
        double down = loss_at(kind, I, T, n, E, log_scale, bias);
        *x = was;
        check_near(DIFFERENCE(up, down), i < n * E ? r.dI[i] : r.dT[i - n * E], 1e-8);
    }
    result_free(&r);
    free(I);
    free(T);
}

static void test_finite_differences(void **state) {
    (void)state;
    check_differences(LOSS_CLIP);
    check_differences(LOSS_SIGLIP);
    half = 3;
    check_differences(LOSS_NTXENT);
    half = 1;
    double *teacher_I = random_rows(6, 3, 9), *teacher_T = random_rows(6, 3, 10);
    static const uint64_t group[] = {1, 2, 1, 3, 1, 2};
    soft = &(SoftCase){group, teacher_I, teacher_T, 3, 0.5};
    check_differences(LOSS_CLIP);
    soft = &(SoftCase){group, NULL, NULL, 0, 0};
    check_differences(LOSS_SIGLIP);
    soft = NULL;
    free(teacher_I);
    free(teacher_T);
}

static int setup(void **state) {
    (void)state;
    k = kernels_open("ref", PRECISION_FP32);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_tiles),
        cmocka_unit_test(test_golden_soft),
        cmocka_unit_test(test_golden_views),
        cmocka_unit_test(test_against_formula),
        cmocka_unit_test(test_memory_is_bounded),
        cmocka_unit_test(test_ranks),
        cmocka_unit_test(test_gather_bf16),
        cmocka_unit_test(test_finite_differences),
    };
    return cmocka_run_group_tests_name("loss", tests, setup, NULL);
}
