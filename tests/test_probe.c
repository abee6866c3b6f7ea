/* Logistic regression against scikit-learn's optimum, the search for C, splits, neighbours. */
#include "tests/support.h"
#include "eval/knn.h"
#include "eval/probe_split.h"
#include "kernels/rng.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GOLDEN "tests/golden/probe/"

/* Features of a part with labels in sorted order of their names. */
static ProbeSet golden_set(const char *part, const char *kind) {
    char path[128];
    snprintf(path, sizeof path, GOLDEN "%s.npy", part);
    Rows r = rows_open(path);
    ProbeSet s = {r.count, r.dim, xmalloc(r.count * r.dim * sizeof(float)),
                  xcalloc(r.count, sizeof(int))};
    rows_load(&r, 0, r.count, s.x, r.dim);
    rows_close(&r);
    snprintf(path, sizeof path, GOLDEN "%s.%s", part, kind);
    char *text = test_read_file(path, NULL), *save, *line = strtok_r(text, "\n", &save);
    for (size_t i = 0; i < s.count; i++, line = strtok_r(NULL, "\n", &save)) {
        assert_non_null(line);
        s.labels[i] = strcmp(kind, "digit") == 0 ? atoi(line + 6) : strcmp(line, "odd") == 0;
    }
    free(text);
    return s;
}

static void test_scikit_learn(void **state) {
    (void)state;
    const Kernels *k = kernels_open("cpu", PRECISION_FP32);
    FILE *f = fopen(GOLDEN "results.txt", "r");
    char kind[16];
    double C, accuracy, objective;
    int lines = 0;
    assert_non_null(f);
    for (; fscanf(f, "%15s %lf %lf %lf", kind, &C, &accuracy, &objective) == 4; lines++) {
        ProbeSet train = golden_set("train", kind), test = golden_set("test", kind);
        size_t classes = strcmp(kind, "digit") ? 2 : 10;
        ProbeOptions o = PROBE_DEFAULTS;
        Probe p;
        probe_fit(&p, k, &train, classes, C, NULL, &o);
        assert_true(p.converged);
        assert_near(p.objective, objective, 1e-4 * objective);
        assert_near(probe_score(k, &p, &test, NULL).accuracy, accuracy, 1e-3);
        probe_free(&p);
        probe_set_free(&train);
        probe_set_free(&test);
    }
    fclose(f);
    assert_int_equal(lines, 8);
}

/* The gradient vanishes at the solution, by difference quotients of the objective in double. */
static double plain_objective(const Probe *p, const ProbeSet *s, double C) {
    double sum = 0, norm = 0;
    for (size_t i = 0; i < s->count; i++) {
        double z[16], total = 0;
        for (size_t c = 0; c < p->classes; c++) {
            const double *w = p->w + c * (p->dim + 1);
            z[c] = w[p->dim];
            for (size_t j = 0; j < p->dim; j++) z[c] += w[j] * s->x[i * p->dim + j];
            total += exp(z[c]);
        }
        sum += log(total) - z[s->labels[i]];
    }
    for (size_t i = 0; i < p->classes * (p->dim + 1); i++)
        if (i % (p->dim + 1) != p->dim) norm += p->w[i] * p->w[i];
    return C * sum + 0.5 * norm;
}

static void test_optimum(void **state) {
    (void)state;
    const Kernels *k = kernels_open("cpu", PRECISION_FP32);
    enum { N = 60, E = 3, K = 3 };
    ProbeSet s = {N, E, xmalloc(N * E * sizeof(float)), xcalloc(N, sizeof(int))};
    for (size_t i = 0; i < N * E; i++) s.x[i] = (float)rng_normal(test_seed(), RNG_TEST, i);
    for (size_t i = 0; i < N; i++) s.labels[i] = (int)rng_below(test_seed(), 9, i, K);
    ProbeOptions o = PROBE_DEFAULTS;
    Probe p, again;
    probe_fit(&p, k, &s, K, 2, NULL, &o);
    double best = plain_objective(&p, &s, 2);
    assert_near(p.objective, best, 1e-5 * best);
    for (size_t i = 0; i < K * (E + 1); i++) {
        for (int sign = -1; sign <= 1; sign += 2) {
            p.w[i] += sign * 0.01;
            assert_true(plain_objective(&p, &s, 2) > best - 1e-9);
            p.w[i] -= sign * 0.01;
        }
    }
    probe_fit(&again, k, &s, K, 2, &p, &o); /* from the solution: nothing left to do */
    assert_true(again.iterations <= 3);
    assert_near(again.objective, best, 1e-5 * best);
    o.max_iterations = 1;
    probe_free(&again);
    probe_fit(&again, k, &s, K, 2, NULL, &o);
    assert_true(!again.converged && again.iterations == 1);
    probe_free(&again);
    probe_free(&p);
    probe_set_free(&s);
}

/* The C found is no worse than any of a whole grid, within the guarantee of a search for one
 * peak. */
static void test_select_c(void **state) {
    (void)state;
    const Kernels *k = kernels_open("cpu", PRECISION_FP32);
    ProbeSet all = golden_set("train", "digit"), train, val;
    probe_hold_out(&all, 10, 3, &train, &val);
    ProbeOptions o = PROBE_DEFAULTS;
    double accuracy, c = probe_select_c(k, &train, &val, 10, &o, &accuracy), coarse = 0;
    assert_near(log10(c) * 8, round(log10(c) * 8), 1e-9);
    for (int e = -6; e <= 6; e += 2) {
        Probe p;
        probe_fit(&p, k, &train, 10, pow(10, e), NULL, &o);
        coarse = fmax(coarse, probe_score(k, &p, &val, NULL).accuracy);
        probe_free(&p);
    }
    assert_true(accuracy >= coarse && accuracy > 0.9);
    Probe p;
    probe_fit(&p, k, &train, 10, c, NULL, &o);
    assert_near(probe_score(k, &p, &val, NULL).accuracy, accuracy, 0.02);
    probe_free(&p);
    probe_set_free(&all);
    probe_set_free(&train);
    probe_set_free(&val);
}

static size_t of_class(const ProbeSet *s, int class) {
    size_t n = 0;
    for (size_t i = 0; i < s->count; i++) n += s->labels[i] == class;
    return n;
}

static bool has_row(const ProbeSet *s, const float *row) {
    for (size_t i = 0; i < s->count; i++)
        if (s->x[i * s->dim] == *row) return true;
    return false;
}

static void test_splits(void **state) {
    (void)state;
    enum { N = 30 }; /* of class 0: 20, 1: 9, 2: 1 */
    ProbeSet all = {N, 1, xmalloc(N * sizeof(float)), xcalloc(N, sizeof(int))}, a, b, c, d;
    for (size_t i = 0; i < N; i++) {
        all.x[i] = (float)i;
        all.labels[i] = i % 3 == 0 && i ? 1 : i == 1 ? 2 : 0;
    }
    assert_true(of_class(&all, 0) == 20 && of_class(&all, 1) == 9);
    probe_draw_shots(&all, 3, 4, 3, 7, &a, &b);
    assert_true(of_class(&a, 0) == 4 && of_class(&a, 1) == 4 && of_class(&a, 2) == 1);
    assert_true(of_class(&b, 0) == 3 && of_class(&b, 1) == 3 && of_class(&b, 2) == 0);
    for (size_t i = 0; i < b.count; i++) assert_false(has_row(&a, &b.x[i]));
    for (size_t i = 0; i < a.count; i++) assert_int_equal(a.labels[i], all.labels[(size_t)a.x[i]]);
    probe_draw_shots(&all, 3, 4, 3, 7, &c, &d);
    assert_memory_equal(a.x, c.x, a.count * sizeof *a.x);
    probe_set_free(&c);
    probe_set_free(&d);
    probe_draw_shots(&all, 3, 4, 3, 8, &c, &d);
    assert_memory_not_equal(a.x, c.x, a.count * sizeof *a.x);
    probe_set_free(&a);
    probe_set_free(&b);
    probe_hold_out(&all, 3, 7, &a, &b);
    assert_true(of_class(&b, 0) == 4 && of_class(&b, 1) == 1 && of_class(&b, 2) == 0);
    assert_int_equal(a.count + b.count, N);
    ProbeSet both = probe_set_join(&a, &b);
    for (size_t i = 0; i < N; i++) assert_true(has_row(&both, &all.x[i]));
    probe_set_free(&both);
    probe_set_free(&a);
    probe_set_free(&b);
    probe_set_free(&c);
    probe_set_free(&d);
    probe_set_free(&all);
}

static void test_knn(void **state) {
    (void)state;
    /* one near row of class 1, two further ones of class 0, far ones of class 2 */
    float x[] = {1, 0, 0.8f, 0.6f, 0.8f, -0.6f, -1, 0, -1, 0, -1, 0}, q[] = {1, 0};
    int labels[] = {1, 0, 0, 2, 2, 2}, predicted, truth = 1;
    ProbeSet train = {6, 2, x, labels}, test = {1, 2, q, &truth};
    knn_predict(&predicted, &train, &test, 3, 1, KNN_MAJORITY);
    assert_int_equal(predicted, 1);
    knn_predict(&predicted, &train, &test, 3, 3, KNN_MAJORITY);
    assert_int_equal(predicted, 0);
    knn_predict(&predicted, &train, &test, 3, 3, KNN_WEIGHTED); /* e^(0.2/0.07) > 2 */
    assert_int_equal(predicted, 1);
    knn_predict(&predicted, &train, &test, 3, 2, KNN_MAJORITY); /* one each: the nearest */
    assert_int_equal(predicted, 1);
    knn_predict(&predicted, &train, &test, 3, 100, KNN_MAJORITY); /* all of them */
    assert_int_equal(predicted, 2);
    ProbeScore s = probe_score_predictions((int[]){0, 1, 1, 2, 0, 2}, &train, 4);
    assert_near(s.accuracy, 2.0 / 6, 1e-12);
    assert_near(s.mean_per_class, (0 + 0 + 2.0 / 3) / 3, 1e-12);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scikit_learn), cmocka_unit_test(test_optimum),
        cmocka_unit_test(test_select_c),     cmocka_unit_test(test_splits),
        cmocka_unit_test(test_knn),
    };
    return cmocka_run_group_tests_name("probe", tests, NULL, NULL);
}
