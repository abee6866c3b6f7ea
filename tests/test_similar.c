/* Pictures as queries among the others of their set, against float64 loops and by hand. */
#include "tests/support.h"
#include "eval/similar.h"
#include "kernels/rng.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* By the definitions: a row's place is the number of rows that are ranked before it. */
static SimilarScore plain_score(const float *x, const int *labels, size_t N, size_t E, size_t query,
                                size_t top) {
    SimilarScore s = {.relevant = 0};
    float *score = xcalloc(N, sizeof *score);
    for (size_t i = 0; i < N; i++) score[i] = test_dot_f32(x + query * E, x + i * E, E);
    for (size_t i = 0; i < N; i++) {
        if (i == query || labels[i] != labels[query]) continue;
        size_t before = 0, relevant = 0;
        for (size_t j = 0; j < N; j++) {
            if (j == query || j == i || !(score[j] > score[i] || (score[j] == score[i] && j < i)))
                continue;
            before++;
            relevant += labels[j] == labels[query];
        }
        s.relevant++;
        s.average += (double)(relevant + 1) / (double)(before + 1);
        s.precision += before < top;
    }
    s.precision /= (double)top;
    if (s.relevant) s.average /= (double)s.relevant;
    free(score);
    return s;
}

static void check_scores(size_t N, size_t E, size_t n, size_t classes, size_t top) {
    const Kernels *k = kernels_open("cpu", PRECISION_FP32);
    float *x = test_tied_rows(N, E, 1);
    int *labels = xcalloc(N, sizeof *labels);
    size_t *queries = n ? xcalloc(n, sizeof *queries) : NULL, count = n ? n : N;
    SimilarScore *got = xcalloc(count, sizeof *got);
    for (size_t i = 0; i < N; i++) labels[i] = (int)rng_below(test_seed(), 5, i, classes);
    for (size_t i = 0; i < n; i++) queries[i] = N - 1 - i * (N / n);
    Rows rows = rows_of_floats(x, N, E);
    similar_scores(k, got, &rows, labels, queries, count, top);
    for (size_t i = 0; i < count; i++) {
        SimilarScore want = plain_score(x, labels, N, E, queries ? queries[i] : i, top);
        assert_int_equal(got[i].relevant, want.relevant);
        assert_true(fabs(got[i].precision - want.precision) < 1e-12);
        assert_true(fabs(got[i].average - want.average) < 1e-12);
    }
    FREE_ALL(x, labels, queries, got);
}

static void test_scores(void **state) {
    (void)state;
    check_scores(60, 7, 0, 4, 10);
    check_scores(5000, 5, 9, 3, 10); /* several tiles */
    check_scores(7, 3, 0, 2, 10);    /* fewer rows than the precision is of */
}

static void test_by_hand(void **state) {
    (void)state;
    /* cosines with row 0: 0.9 (other), 0.8 (its), 0.7 (other), 0.6 (its) */
    const float c[] = {1, 0.9f, 0.8f, 0.7f, 0.6f};
    const int labels[] = {4, 0, 4, 0, 4};
    const size_t query = 0;
    float x[10];
    SimilarScore s;
    for (int i = 0; i < 5; i++) {
        x[2 * i] = c[i];
        x[2 * i + 1] = sqrtf(1 - c[i] * c[i]);
    }
    Rows rows = rows_of_floats(x, 5, 2);
    similar_scores(kernels_open("ref", PRECISION_FP32), &s, &rows, labels, &query, 1, 3);
    assert_int_equal(s.relevant, 2);
    assert_true(fabs(s.precision - 1. / 3) < 1e-12);
    assert_true(fabs(s.average - (1. / 2 + 2. / 4) / 2) < 1e-12);
    SimilarMean m = similar_mean((const double[]){1, 2, 6}, 3);
    assert_true(fabs(m.mean - 3) < 1e-12);
    assert_true(fabs(m.error - sqrt(14. / 2 / 3)) < 1e-12);
}

/* The mean over all orders of six rows. */
static void test_chance(void **state) {
    (void)state;
    for (size_t relevant = 1; relevant <= 6; relevant++)
        for (size_t top = 1; top <= 8; top += 7) {
            double precision = 0, average = 0, orders = 0;
            for (unsigned set = 0; set < 64; set++) { /* the places of the relevant ones */
                if ((size_t)__builtin_popcount(set) != relevant) continue;
                size_t found = 0;
                for (size_t i = 0; i < 6; i++) {
                    if (!(set >> i & 1)) continue;
                    average += (double)++found / (double)(i + 1) / (double)relevant;
                    precision += (i < top) / (double)top;
                }
                orders++;
            }
            SimilarScore got = similar_chance(6, relevant, top);
            assert_true(fabs(got.precision - precision / orders) < 1e-12);
            assert_true(fabs(got.average - average / orders) < 1e-12);
        }
    assert_true(similar_chance(1, 1, 10).average == 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_scores),
                                       cmocka_unit_test(test_by_hand),
                                       cmocka_unit_test(test_chance)};
    return cmocka_run_group_tests_name("similar", tests, NULL, NULL);
}
