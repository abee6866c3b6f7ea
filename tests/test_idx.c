/* IDX arrays: plain and gzip, cut and damaged, as data set and through `clipc data pack`'s source.
 */
#include "tests/support_data.h"
#include "data/idx.h"
#include "data/image/image.h"
#include "data/dataset.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum { N = 5, H = 3, W = 4 };

static size_t array(uint8_t *out, uint8_t type, size_t ndim, const size_t *shape, uint8_t first) {
    size_t at = 4, size = 1;
    memcpy(out, (uint8_t[]){0, 0, type, (uint8_t)ndim}, 4);
    for (size_t d = 0; d < ndim; d++) {
        for (int b = 3; b >= 0; b--) out[at++] = (uint8_t)(shape[d] >> 8 * b);
        size *= shape[d];
    }
    for (size_t i = 0; i < size; i++) out[at++] = (uint8_t)(first + 7 * i);
    return at;
}

static size_t images(uint8_t *out) { return array(out, 8, 3, (const size_t[]){N, H, W}, 1); }
static size_t labels(uint8_t *out) { return array(out, 8, 1, (const size_t[]){N}, 2); }

static size_t packed(uint8_t *out, size_t room, const uint8_t *bytes, size_t n) {
    z_stream z = {.next_in = (uint8_t *)bytes,
                  .avail_in = (unsigned)n,
                  .next_out = out,
                  .avail_out = (unsigned)room};
    assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    deflateEnd(&z);
    return z.total_out;
}

static void check_array(const uint8_t *file, size_t n) {
    IdxArray a;
    Error err;
    if (!idx_parse(&a, file, n, &err)) fail_msg("%s", err.text);
    assert_int_equal(a.ndim, 3);
    assert_int_equal(a.shape[2], W);
    assert_int_equal(a.size, N * H * W);
    for (size_t i = 0; i < a.size; i++) assert_int_equal(a.bytes[i], (uint8_t)(1 + 7 * i));
    idx_free(&a);
}

static void test_plain_and_gzip(void **state) {
    (void)state;
    uint8_t plain[200], gzip[400];
    size_t n = images(plain), m = packed(gzip, sizeof gzip, plain, n);
    check_array(plain, n);
    check_array(gzip, m);
    IdxArray a;
    Error err;
    for (size_t cut = 0; cut < n; cut++) { /* at every byte */
        assert_false(idx_parse(&a, plain, cut, &err));
        assert_null(a.bytes);
    }
    for (size_t cut = 0; cut < m; cut++) assert_false(idx_parse(&a, gzip, cut, &err));
    plain[n] = 0;
    assert_false(idx_parse(&a, plain, n + 1, &err));
    assert_non_null(strstr(err.text, "longer"));
    gzip[m / 2] ^= 0x55;
    assert_false(idx_parse(&a, gzip, m, &err));
}

static void refused(uint8_t type, size_t ndim, const size_t *shape, const char *why) {
    static uint8_t bytes[1 << 16];
    IdxArray a;
    Error err;
    memset(bytes, 0, sizeof bytes);
    memcpy(bytes, (uint8_t[]){0, 0, type, (uint8_t)ndim}, 4);
    for (size_t d = 0; d < ndim; d++)
        for (size_t b = 0; b < 4; b++) bytes[4 + 4 * d + b] = (uint8_t)(shape[d] >> (24 - 8 * b));
    assert_false(idx_parse(&a, bytes, sizeof bytes, &err));
    assert_non_null(strstr(err.text, why));
    assert_null(a.bytes);
}

static void test_headers(void **state) {
    (void)state;
    refused(0x0d, 1, (const size_t[]){3}, "type 0x0d");
    refused(8, 0, NULL, "0 dimensions");
    refused(8, 5, (const size_t[]){1, 1, 1, 1, 1}, "5 dimensions");
    refused(8, 4, (const size_t[]){65535, 65535, 65535, 65535}, "MiB");
    refused(8, 2, (const size_t[]){60000, 30000}, "cut"); /* promises 1.7 GiB, has 64 KiB */
    IdxArray a;
    Error err;
    assert_false(idx_parse(&a, (const uint8_t *)"text", 4, &err));
    assert_non_null(strstr(err.text, "not an IDX file"));
}

static void write_gzip(const char *name, const uint8_t *bytes, size_t n) {
    uint8_t gzip[1000];
    test_write_file(test_path(name), gzip, packed(gzip, sizeof gzip, bytes, n));
}

static void check_set(const char *spec, bool labelled) {
    DatasetOptions o = dataset_options_default();
    o.text_keys = labelled ? "cls" : NULL;
    Error err;
    Dataset *d = open_data_set(spec, &o);
    assert_int_equal(dataset_count(d), N);
    Sample s = {.key = NULL};
    Image img = {0};
    for (size_t i = N; i-- > 0;) {
        assert_true(dataset_read(d, i, &s, &err));
        char *key = dataset_key(d, i, &err);
        assert_string_equal(key, s.key);
        free(key);
        assert_int_equal(s.label, labelled ? (int)(2 + 7 * i) : -1);
        if (labelled) assert_int_equal(atoi(s.text), s.label);
        assert_true(image_decode(&img, s.image, s.image_size, 1000, &err));
        assert_int_equal(img.width, W);
        assert_int_equal(img.height, H);
        for (size_t p = 0; p < (size_t)H * W * 3; p++)
            assert_int_equal(img.rgb[p], (uint8_t)(1 + 7 * (i * H * W + p / 3)));
    }
    assert_non_null(strstr(s.key, "idx3:0"));
    image_free(&img);
    sample_free(&s);
    dataset_close(d);
}

static void test_data_set(void **state) {
    (void)state;
    uint8_t bytes[200];
    char spec[2100];
    write_gzip("a-images-idx3.gz", bytes, images(bytes));
    snprintf(spec, sizeof spec, "idx:%s", test_path("a-images-idx3.gz"));
    test_write_file(test_path("n-images-idx3"), bytes, images(bytes));
    char *name = xasprintf("idx:%s", test_path("n-images-idx3"));
    check_set(name, false);
    free(name);
    write_gzip("a-labels-idx1.gz", bytes, labels(bytes));
    test_write_file(test_path("b"), bytes, labels(bytes));
    char *both = xasprintf("idx:%s,%s", test_path("n-images-idx3"), test_path("b"));
    check_set(both, true);
    free(both);
    DatasetOptions o = dataset_options_default();
    o.text_keys = NULL;
    Error err;
    Dataset *d = dataset_open(spec, &o, &err); /* the labels next to the images */
    Sample s = {.key = NULL};
    assert_true(dataset_read(d, 4, &s, &err));
    assert_int_equal(s.label, 30);
    assert_string_equal(s.text, "");
    sample_free(&s);
    dataset_close(d);
    test_write_file(test_path("b"), bytes, array(bytes, 8, 1, (const size_t[]){N - 1}, 0));
    both = xasprintf("idx:%s,%s", test_path("n-images-idx3"), test_path("b"));
    refuse_data_set(both, &o, "4 labels for 5 images");
    free(both);
    both = xasprintf("idx:%s", test_path("b"));
    refuse_data_set(both, &o, "no images");
    free(both);
}

static void test_rgb(void **state) {
    (void)state;
    uint8_t bytes[200], *png;
    size_t n;
    IdxSet s = {.name = NULL};
    Image img = {0};
    Error err;
    assert_true(
        idx_parse(&s.images, bytes, array(bytes, 8, 4, (const size_t[]){2, H, W, 3}, 9), &err));
    assert_true(idx_picture(&s, 1, &png, &n, &err));
    assert_true(image_decode(&img, png, n, 1000, &err));
    assert_memory_equal(img.rgb, s.images.bytes + H * W * 3, H * W * 3);
    free(png);
    image_free(&img);
    idx_set_free(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_plain_and_gzip),
                                       cmocka_unit_test(test_headers),
                                       cmocka_unit_test(test_data_set), cmocka_unit_test(test_rgb)};
    return cmocka_run_group_tests_name("idx", tests, NULL, NULL);
}
