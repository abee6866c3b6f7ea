/* Ranks with several captions a picture, against plain loops; features of files; caption sets. */
#include "tests/support.h"
#include "data/caption_set.h"
#include "data/tensors/half.h"
#include "data/tensors/npy.h"
#include "eval/retrieval.h"
#include "eval/score_tiles.h"
#include "kernels/rng.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The rank's definition: sort by falling score, then rising index; the first positive's place. */
static size_t plain_rank(const float *query, const float *keys, size_t n, size_t E,
                         const bool *positive) {
    size_t best = n;
    for (size_t j = 0; j < n; j++) {
        if (!positive[j]) continue;
        if (best == n ||
            test_dot_f32(query, keys + j * E, E) > test_dot_f32(query, keys + best * E, E))
            best = j;
    }
    float score = test_dot_f32(query, keys + best * E, E);
    size_t rank = 0;
    for (size_t j = 0; j < n; j++) {
        float s = test_dot_f32(query, keys + j * E, E);
        rank += s > score || (s == score && j < best);
    }
    return rank;
}

static void check_ranks(size_t N, size_t M, size_t checked) {
    enum { E = 7 };
    const Kernels *k = kernels_open("cpu", PRECISION_FP32);
    float *x = test_tied_rows(N, E, 1), *y = test_tied_rows(M, E, 2);
    uint32_t *image_of = xcalloc(M, sizeof *image_of);
    /* every picture has one, the rest are anywhere */
    for (size_t j = 0; j < M; j++)
        image_of[j] = (uint32_t)(j < N ? N - 1 - j : rng_below(test_seed(), 3, j, N));
    size_t *to_text = xcalloc(N, sizeof *to_text), *to_image = xcalloc(M, sizeof *to_image);
    Rows images = rows_of_floats(x, N, E), texts = rows_of_floats(y, M, E);
    retrieval_ranks_of(k, to_text, to_image, &images, &texts, image_of, false);
    bool *positive = xcalloc(size_max(N, M), sizeof *positive);
    for (size_t c = 0; c < checked; c++) {
        size_t i = N * c / checked, j = M * c / checked;
        for (size_t t = 0; t < M; t++) positive[t] = image_of[t] == i;
        assert_int_equal(to_text[i], plain_rank(x + i * E, y, M, E, positive));
        for (size_t t = 0; t < N; t++) positive[t] = image_of[j] == t;
        assert_int_equal(to_image[j], plain_rank(y + j * E, x, N, E, positive));
    }
    free(positive);
    free(x);
    free(y);
    free(image_of);
    free(to_text);
    free(to_image);
}

static void test_grouped(void **state) {
    (void)state;
    check_ranks(1, 1, 1);
    check_ranks(101, 407, 101);
    check_ranks(SCORE_TILE_ROWS + 3, SCORE_TILE_COLS + 1000, 40); /* several tiles both ways */
}

/* The same numbers as f16 of a file, not of length 1: normalised when read. */
static void test_half_file(void **state) {
    (void)state;
    enum { N = 50, E = 12 };
    Error err;
    float *x = test_tied_rows(N, E, 4), got[E];
    for (size_t i = 0; i < N; i++) x[i * E] = 3;
    NpyWriter *w = npy_writer_open(test_path("h.npy"), NPY_F16, N, E, &err);
    assert_true(npy_writer_append(w, x, N, &err) && npy_writer_close(w, &err));
    Rows r = rows_open(test_path("h.npy"));
    assert_true(r.f16 && r.count == N && r.dim == E && r.scale);
    for (size_t i = 0; i < N; i++) {
        rows_load(&r, i, 1, got, E);
        float norm = sqrtf(test_dot_f32(x + i * E, x + i * E, E));
        for (size_t j = 0; j < E; j++) assert_near(got[j], x[i * E + j] / norm, 1e-6);
    }
    rows_close(&r);
    free(x);
}

static void test_half_values(void **state) {
    (void)state;
    const float in[] = {0,     -0.0f,      1,    -2,       65504,   65520, 1e-8f, 5.9604645e-8f,
                        1e-5f, 0.3333333f, 2049, INFINITY, 2051.0f, -1e9f};
    const uint16_t want[] = {0,      0x8000, 0x3c00, 0xc000, 0x7bff, 0x7c00, 0,
                             0x0001, 0x00a8, 0x3555, 0x6800, 0x7c00, 0x6802, 0xfc00};
    uint16_t half[COUNT(in)];
    float back[COUNT(in)];
    half_from_floats(half, in, COUNT(in));
    for (size_t i = 0; i < COUNT(in); i++) assert_int_equal(half[i], want[i]);
    half_to_floats(back, half, COUNT(in));
    assert_near(back[8], 168 * 0x1p-24, 0);
    assert_near(back[4], 65504, 0);
    assert_true(isinf(back[5]) && signbit(back[1]));
}

static void open_rows(void *path) { rows_open(path); }

static void test_bad_features(void **state) {
    (void)state;
    Error err;
    float x[] = {1, 0, NAN, 0, 0, 1};
    assert_true(npy_write_f32(test_path("nan.npy"), x, (size_t[]){3, 2}, 2, &err));
    assert_true(npy_write_f32(test_path("none.npy"), x, (size_t[]){0, 2}, 2, &err));
    test_dies(open_rows, (void *)test_path("nan.npy"), EXIT_ERROR, "row 1 (from 0) holds a NaN");
    test_dies(open_rows, (void *)test_path("none.npy"), EXIT_ERROR, "no features (0 x 2)");
    test_dies(open_rows, (void *)test_path("missing.npy"), EXIT_ERROR, "No such file");
}

/* ---- caption sets ---- */

static const char karpathy[] =
    "{\"images\": ["
    "{\"filepath\": \"val\", \"filename\": \"a.jpg\", \"split\": \"test\", \"sentences\": "
    "[{\"raw\": \"one\"}, {\"raw\": \"two\"}, {\"raw\": \" \"}, {\"raw\": \"three\"}]},"
    "{\"filename\": \"b.jpg\", \"split\": \"train\", \"sentences\": [{\"raw\": \"four\"}]},"
    "{\"filename\": \"d.jpg\", \"split\": \"test\", \"sentences\": []},"
    "{\"filename\": \"c.jpg\", \"split\": \"test\", \"sentences\": [{\"raw\": \"five\"}]}]}";

static void test_karpathy(void **state) {
    (void)state;
    Error err;
    CaptionSet s;
    CaptionSetOptions o = {.split = "test", .root = "r"};
    if (!caption_set_parse_karpathy(&s, karpathy, strlen(karpathy), &o, &err))
        fail_msg("%s", err.text);
    assert_true(s.image_count == 2 && s.text_count == 4 && s.dropped == 1);
    assert_string_equal(s.images[0], "r/val/a.jpg");
    assert_string_equal(s.images[1], "r/c.jpg");
    assert_string_equal(s.texts[2], "three");
    assert_true(s.image_of[2] == 0 && s.image_of[3] == 1);
    caption_set_keep(&s, (const bool[]){false, true});
    assert_true(s.image_count == 1 && s.text_count == 1 && s.image_of[0] == 0);
    assert_string_equal(s.texts[0], "five");
    caption_set_free(&s);
    o.most = 2;
    assert_true(caption_set_parse_karpathy(&s, karpathy, strlen(karpathy), &o, &err));
    assert_int_equal(s.text_count, 3);
    caption_set_free(&s);
    o.split = "val";
    assert_false(caption_set_parse_karpathy(&s, karpathy, strlen(karpathy), &o, &err));
    assert_string_equal(strstr(err.text, "there are: "), "there are: test, train");
    const char *parts =
        "{\"images\": [{\"filename\": \"a\", \"sentences\": [], \"split\": \"restval\"},"
        "{\"filename\": \"b\", \"sentences\": [], \"split\": \"val\"},"
        "{\"filename\": \"c\", \"sentences\": [], \"split\": \"\"},"
        "{\"filename\": \"d\", \"sentences\": [], \"split\": \"val\"}]}";
    o.split = "test";
    assert_false(caption_set_parse_karpathy(&s, parts, strlen(parts), &o, &err));
    assert_string_equal(strstr(err.text, "there are: "), "there are: restval, val");
    o.split = "val";
    for (size_t cut = 0; cut < strlen(karpathy); cut++)
        assert_false(caption_set_parse_karpathy(&s, karpathy, cut, &o, &err));
    const char *bad[] = {"[]", "{\"images\": 3}", "{\"images\": [{\"filename\": 3}]}",
                         "{\"images\": [{\"filename\": \"a\", \"sentences\": 1}]}",
                         ("{\"images\": [{\"filename\": \"a\", \"split\": \"val\", \"sentences\": "
                          "[{\"raw\": 1}]}]}")};
    for (size_t i = 0; i < COUNT(bad); i++)
        assert_false(caption_set_parse_karpathy(&s, bad[i], strlen(bad[i]), &o, &err));
}

/* Thousands of rows: the table of paths grows. */
static void test_csv_groups(void **state) {
    (void)state;
    enum { ROWS = 3000, PICTURES = 700 };
    char *text = xmalloc(ROWS * 40 + 40);
    size_t at = (size_t)sprintf(text, "title,filepath\n");
    for (size_t i = 0; i < ROWS; i++)
        at += (size_t)sprintf(text + at, "words %zu,%zu.jpg\n", i, i * 3 % PICTURES);
    test_write_file(test_path("many.csv"), text, at);
    free(text);
    Error err;
    CaptionSet s;
    DatasetOptions csv = dataset_options_default();
    CaptionSetOptions o = {.root = "/pictures"};
    if (!caption_set_load(&s, test_path("many.csv"), &o, &csv, &err)) fail_msg("%s", err.text);
    assert_true(s.image_count == PICTURES && s.text_count == ROWS);
    for (size_t i = 0; i < ROWS; i++) {
        char want[64];
        snprintf(want, sizeof want, "/pictures/%zu.jpg", i * 3 % PICTURES);
        assert_string_equal(s.images[s.image_of[i]], want);
    }
    caption_set_free(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        /* first: a child of a process that has OpenMP threads cannot use them */
        cmocka_unit_test(test_bad_features), cmocka_unit_test(test_grouped),
        cmocka_unit_test(test_half_file),    cmocka_unit_test(test_half_values),
        cmocka_unit_test(test_karpathy),     cmocka_unit_test(test_csv_groups),
    };
    return cmocka_run_group_tests_name("retrieval", tests, NULL, NULL);
}
