/* Retrieval ranks, top-k search, zero-shot bookkeeping: against plain loops. */
#include "tests/support.h"
#include "eval/retrieval.h"
#include "eval/search.h"
#include "eval/zeroshot_report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void test_ranks(void **state) {
    (void)state;
    enum { N = 301, E = 5 };
    const Kernels *k = kernels_open("cpu", PRECISION_FP32);
    float *q = test_tied_rows(N, E, 1), *t = test_tied_rows(N, E, 2);
    size_t ranks[N];
    retrieval_ranks(k, ranks, q, t, N, E);
    for (size_t i = 0; i < N; i++) {
        size_t want = 0;
        float own = test_dot_f32(q + i * E, t + i * E, E);
        for (size_t j = 0; j < N; j++) {
            float s = test_dot_f32(q + i * E, t + j * E, E);
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
    float *rows = test_tied_rows(N, E, 3), *q = test_tied_rows(1, E, 4);
    Hit hits[K];
    Rows all = rows_of_floats(rows, N, E), few = rows_of_floats(rows, 3, E);
    Search *s = search_new(K, q, 1, E);
    search_add(s, &all, 0, NULL);
    assert_int_equal(search_finish(s, hits), K);
    bool *taken = xcalloc(N, sizeof *taken);
    for (size_t h = 0; h < K; h++) {
        size_t best = N;
        for (size_t i = 0; i < N; i++)
            if (!taken[i] && (best == N || test_dot_f32(q, rows + i * E, E) >
                                               test_dot_f32(q, rows + best * E, E)))
                best = i;
        taken[best] = true;
        assert_int_equal(hits[h].row, best);
        assert_near(hits[h].score, test_dot_f32(q, rows + best * E, E), 0);
    }
    s = search_new(K, q, 1, E);
    search_add(s, &few, 0, NULL);
    assert_int_equal(search_finish(s, hits), 3);
    free(taken);
    free(rows);
    free(q);
}

static void test_scorer(void **state) {
    (void)state;
    const Kernels *k = kernels_open("cpu", PRECISION_FP32);
    float weights[7 * 7] = {0};
    for (size_t c = 0; c < 7; c++) weights[c * 7 + c] = 1;
    /* the score of class c is the image's c-th number; ties go to the lower class */
    float images[3 * 7] = {9, 8, 7, 6, 5, 4, 3, 1, 2, 3, 4, 5, 6, 7, 1, 1, 2, 2, 2, 2, 3};
    static const int32_t want[3][5] = {{0, 1, 2, 3, 4}, {6, 5, 4, 3, 2}, {6, 2, 3, 4, 5}};
    Prediction p[3];
    Scorer *s = scorer_new(k, weights, 7, 7);
    scorer_run(s, images, 3, p);
    scorer_free(s);
    for (size_t i = 0; i < 3; i++) assert_memory_equal(p[i].top, want[i], sizeof want[i]);
    assert_near(p[0].score, 9, 0);
    s = scorer_new(k, weights, 2, 7); /* fewer classes than places */
    scorer_run(s, images, 3, p);
    scorer_free(s);
    assert_int_equal(p[1].top[0], 1);
    assert_int_equal(p[1].top[2], -1);
}

static void test_report(void **state) {
    (void)state;
    Prediction list[] = {
        {.label = 0, .top = {0, 1, 2, 3, 4}}, {.label = 6, .top = {6, 5, 4, 3, 2}},
        {.label = 4, .top = {0, 1, 2, 3, 4}}, {.label = 6, .top = {0, 1, 2, 3, 4}},
        {.label = 6, .top = {0, 6, 2, 3, 4}},
    };
    Predictions p = {.list = list, .count = COUNT(list)};
    ZeroshotReport r;
    zeroshot_report(&r, &p, 7);
    assert_near(r.top1, 2.0 / 5, 1e-12);
    assert_near(r.top5, 4.0 / 5, 1e-12);
    assert_near(r.mean_per_class, (1 + 0 + 1.0 / 3) / 3, 1e-12);
    assert_int_equal(r.occurring, 3);
    assert_int_equal(r.worst_first[0], 4);
    assert_int_equal(r.worst_first[1], 6);
    assert_int_equal(r.worst_first[2], 0);
    assert_int_equal(r.of_class[6].confused, 0);
    assert_int_equal(r.of_class[6].confused_images, 2);
    assert_int_equal(r.of_class[6].right5, 2);
    assert_int_equal(r.of_class[0].confused, -1);
    assert_int_equal(r.cell_count, 4);
    assert_int_equal(r.confusion_count, 2);
    assert_int_equal(r.confusions[0].truth, 6);
    assert_int_equal(r.confusions[0].images, 2);
    assert_int_equal(r.confusions[1].truth, 4);
    /* plus four: hits + 2 of images + 4, of the three classes */
    double v = 3.0 / 5 * 2 / 5 / 5 + 2.0 / 5 * 3 / 5 / 5 + 3.0 / 7 * 4 / 7 / 7;
    assert_near(r.mean_interval.high - r.mean_per_class, 1.959963984540054 * sqrt(v) / 3, 1e-12);
    assert_near(r.mean_interval.low, 0.4444444444444 - 1.959963984540054 * sqrt(v) / 3, 1e-9);
    zeroshot_report_free(&r);
}

/* Values of SciPy's binomtest(…).proportion_ci(method="wilson"). */
static void test_wilson(void **state) {
    (void)state;
    Interval i = interval_wilson(7, 10);
    assert_near(i.low, 0.3967781, 1e-6);
    assert_near(i.high, 0.8922087, 1e-6);
    i = interval_wilson(0, 10);
    assert_near(i.low, 0, 0);
    assert_near(i.high, 0.2775328, 1e-6);
    i = interval_wilson(10, 10);
    assert_near(i.low, 1 - 0.2775328, 1e-6);
    assert_near(i.high, 1, 0);
    i = interval_wilson(0, 0);
    assert_near(i.high - i.low, 1, 0);
}

static ClassSet load_classes(const char *json) {
    const char *path = test_path("classes.json");
    test_write_file(path, json, strlen(json));
    ClassSet s;
    Error err;
    if (!class_set_load(&s, path, &err)) fail_msg("%s", err.text);
    return s;
}

static void refuses_classes(const char *json, const char *why) {
    const char *path = test_path("classes.json");
    test_write_file(path, json, strlen(json));
    ClassSet s;
    Error err;
    assert_false(class_set_load(&s, path, &err));
    assert_non_null(strstr(err.text, "classes.json"));
    assert_non_null(strstr(err.text, why));
    assert_null(s.path);
}

static void check_map(const ClassSet *s, const char *const *folders, size_t n, const int *want) {
    int map[8];
    Error err;
    assert_true(class_set_map_folders(map, folders, n, s, &err));
    for (size_t i = 0; i < n; i++) assert_int_equal(map[i], want[i]);
}
#define MAPPED(s, n, a, b, x, y) check_map(s, (const char *const[]){a, b}, n, (const int[]){x, y})

static void test_class_sets(void **state) {
    (void)state;
    ClassSet s = load_classes(
        "{\"classes\": [\"red fox\", \"Cat\"], \"templates\": [\"a {}.\", \"x {c}\"]}");
    MAPPED(&s, 2, "cat", "Red_Fox", 1, 0);
    MAPPED(&s, 1, "cat", "", 1, 0);    /* some of the classes */
    MAPPED(&s, 2, "n01", "n02", 0, 1); /* nothing fits: in order */
    MAPPED(&s, 1, "001", "", 1, 0);    /* by number */
    char *caption = class_caption_of(&s, 0, 1);
    assert_string_equal(caption, "x red fox");
    free(caption);
    class_set_free(&s);
    s = load_classes("{\"classes\": [\"crane\", \"crane\", \"b\"], \"folders\": [\"n3\", "
                     "\"n1\", \"n2\"]}");
    MAPPED(&s, 2, "n1", "n2", 1, 2);
    MAPPED(&s, 1, "b", "", 2, 0);
    class_set_free(&s);
    refuses_classes("{\"classes\": []}", "classes");
    refuses_classes("{\"classes\": [\"a\"], \"templates\": [\"no hole\"]}", "no hole");
    refuses_classes("{\"classes\": [3]}", "no string");
    refuses_classes("{\"classes\"", "line 1");
    refuses_classes("{\"classes\": [\"a\", \"b\"], \"folders\": [\"x\"]}",
                    "1 \"folders\" for 2 \"classes\"");
    refuses_classes("{\"classes\": [\"a\", \"b\"], \"folders\": [\"x\", \"x\"]}",
                    "stands for two classes");
}

static void refuses_folders(const char *const *folders, const char *why) {
    ClassSet s = load_classes("{\"classes\": [\"a\", \"b\", \"a\"]}");
    size_t n = 0;
    while (folders[n]) n++;
    int map[8];
    Error err;
    assert_false(class_set_map_folders(map, folders, n, &s, &err));
    assert_non_null(strstr(err.text, why));
    class_set_free(&s);
}
#define REFUSES_FOLDERS(why, ...) refuses_folders((const char *const[]){__VA_ARGS__, NULL}, why)

static void test_wrong_folders_are_named(void **state) {
    (void)state;
    REFUSES_FOLDERS("'dog' is none of the 3 classes", "b", "dog");
    REFUSES_FOLDERS("no folder was matched", "x", "y");
    REFUSES_FOLDERS("'3'", "1", "2", "3");
    REFUSES_FOLDERS("more than once", "a", "b");
}

static void test_labels(void **state) {
    (void)state;
    ClassSet s = load_classes("{\"classes\": [\"zero\", \"Red Fox\", \"1\"], \"folders\": [\"n7\", "
                              "\"n8\", \"n9\"]}");
    Labels l = {.set = &s};
    static const struct {
        const char *text;
        int want;
    } cases[] = {{"2", 2},  {" 1\n", 1}, {"red_fox", 1}, {"n9", 2},
                 {"3", -1}, {"fox", -1}, {"", -1}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        Sample sample = {.key = (char *)"k7", .text = (char *)cases[i].text, .label = -1};
        Error err = {""};
        assert_int_equal(labels_class(&l, &sample, &err), cases[i].want);
        assert_true((cases[i].want < 0) == (strstr(err.text, "k7") != NULL));
    }
    class_set_free(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ranks),      cmocka_unit_test(test_recall),
        cmocka_unit_test(test_search),     cmocka_unit_test(test_scorer),
        cmocka_unit_test(test_report),     cmocka_unit_test(test_wilson),
        cmocka_unit_test(test_class_sets), cmocka_unit_test(test_wrong_folders_are_named),
        cmocka_unit_test(test_labels),
    };
    return cmocka_run_group_tests_name("eval", tests, NULL, NULL);
}
