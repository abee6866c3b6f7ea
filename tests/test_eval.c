/* Retrieval ranks, top-k search, zero-shot bookkeeping: against plain loops. */
#include "tests/support.h"
#include "eval/retrieval.h"
#include "eval/search.h"
#include "eval/zeroshot.h"
#include "kernels/rng.h"

#include <stdlib.h>
#include <string.h>

/* Small whole numbers: scores are exact and tie often. */
static float *random_rows(size_t n, size_t E, uint64_t stream) {
    float *x = xmalloc(n * E * sizeof *x);
    for (size_t i = 0; i < n * E; i++) x[i] = (float)rng_below(test_seed(), stream, i, 3) - 1;
    return x;
}

static float dot(const float *a, const float *b, size_t E) {
    float s = 0;
    for (size_t j = 0; j < E; j++) s += a[j] * b[j];
    return s;
}

static void test_ranks(void **state) {
    (void)state;
    enum { N = 301, E = 5 };
    const Kernels *k = kernels_open("cpu", PRECISION_FP32);
    float *q = random_rows(N, E, 1), *t = random_rows(N, E, 2);
    size_t ranks[N];
    retrieval_ranks(k, ranks, q, t, N, E);
    for (size_t i = 0; i < N; i++) {
        size_t want = 0;
        float own = dot(q + i * E, t + i * E, E);
        for (size_t j = 0; j < N; j++) {
            float s = dot(q + i * E, t + j * E, E);
            want += s > own || (s == own && j < i);
        }
        assert_int_equal(ranks[i], want);
    }
    free(q);
    free(t);
}

static void test_recall(void **state) {
    (void)state;
    size_t ranks[] = {0, 4, 9, 10};
    Recall r = retrieval_recall(ranks, 4);
    assert_near(r.at1, 0.25, 0);
    assert_near(r.at5, 0.5, 0);
    assert_near(r.at10, 0.75, 0);
    assert_near(r.mean_rank, 6.75, 1e-12);
    assert_near(r.median_rank, 7, 0); /* floor(6.5) + 1 */
}

static void test_search(void **state) {
    (void)state;
    enum { N = 500, E = 19, K = 40 };
    float *rows = random_rows(N, E, 3), *q = random_rows(1, E, 4);
    Hit hits[K];
    assert_int_equal(search_top(hits, K, q, rows, N, E), K);
    bool *taken = xcalloc(N, sizeof *taken);
    for (size_t h = 0; h < K; h++) {
        size_t best = N;
        for (size_t i = 0; i < N; i++)
            if (!taken[i] && (best == N || dot(q, rows + i * E, E) > dot(q, rows + best * E, E)))
                best = i;
        taken[best] = true;
        assert_int_equal(hits[h].row, best);
        assert_near(hits[h].score, dot(q, rows + best * E, E), 0);
    }
    assert_int_equal(search_top(hits, K, q, rows, 3, E), 3);
    free(taken);
    free(rows);
    free(q);
}

static void test_zeroshot_score(void **state) {
    (void)state;
    const Kernels *k = kernels_open("cpu", PRECISION_FP32);
    float weights[7 * 7] = {0};
    for (size_t c = 0; c < 7; c++) weights[c * 7 + c] = 1;
    /* the score of class c is the image's c-th number */
    float images[4 * 7] = {
        9, 8, 7, 6, 5, 4, 3, /* label 0: first */
        1, 2, 3, 4, 5, 6, 7, /* label 6: first */
        9, 8, 7, 6, 5, 4, 3, /* label 4: fifth */
        9, 8, 7, 6, 5, 4, 3, /* label 6: seventh */
    };
    int labels[] = {0, 6, 4, 6};
    ZeroshotResult r = zeroshot_score(k, images, labels, 4, weights, 7, 7);
    assert_near(r.top1, 0.5, 1e-12);
    assert_near(r.top5, 0.75, 1e-12);
    assert_near(r.mean_per_class, (1 + 0.5 + 0) / 3, 1e-12);
}

static ClassSet load_classes(const char *json) {
    const char *path = test_path("classes.json");
    test_write_file(path, json, strlen(json));
    ClassSet s;
    class_set_load(&s, path);
    return s;
}

static void load_and_free(void *json) {
    ClassSet s = load_classes(json);
    class_set_free(&s);
}

static void test_class_sets(void **state) {
    (void)state;
    ClassSet s = load_classes(
        "{\"classes\": [\"red fox\", \"Cat\"], \"templates\": [\"a {}.\", \"x {c}\"]}");
    int map[2];
    zeroshot_map_folders(map, (const char *const[]){"cat", "Red_Fox"}, 2, &s);
    assert_int_equal(map[0], 1);
    assert_int_equal(map[1], 0);
    zeroshot_map_folders(map, (const char *const[]){"n01", "n02"}, 2, &s);
    assert_int_equal(map[0], 0);
    assert_int_equal(map[1], 1);
    class_set_free(&s);
    test_dies(load_and_free, "{\"classes\": []}", EXIT_ERROR, "classes");
    test_dies(load_and_free, "{\"classes\": [\"a\"], \"templates\": [\"no hole\"]}", EXIT_ERROR,
              "no hole");
    test_dies(load_and_free, "{\"classes\": [3]}", EXIT_ERROR, "no string");
    test_dies(load_and_free, "{\"classes\"", EXIT_ERROR, "classes.json");
}

static void map_wrong(void *arg) {
    (void)arg;
    ClassSet s = load_classes("{\"classes\": [\"a\", \"b\"]}");
    int map[2];
    zeroshot_map_folders(map, (const char *const[]){"a", "dog"}, 2, &s);
}

static void test_wrong_folder_is_named(void **state) {
    (void)state;
    test_dies(map_wrong, NULL, EXIT_ERROR, "'dog'");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ranks),      cmocka_unit_test(test_recall),
        cmocka_unit_test(test_search),     cmocka_unit_test(test_zeroshot_score),
        cmocka_unit_test(test_class_sets), cmocka_unit_test(test_wrong_folder_is_named),
    };
    return cmocka_run_group_tests_name("eval", tests, NULL, NULL);
}
