/* `clipc data image`: the file it writes, and the files it refuses. */
#include "data/image/augment.h"
#include "tests/support.h"
#include "tests/support_picture.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The float32 values of a .npy with this shape in its header. */
static float *npy(const char *path, const char *shape, size_t count) {
    size_t n;
    char *bytes = test_read_file(path, &n);
    size_t header = 10 + (size_t)(unsigned char)bytes[8] + 256 * (size_t)(unsigned char)bytes[9];
    assert_int_equal(n, header + count * sizeof(float));
    char *text = strndup(bytes + 10, header - 10);
    if (!strstr(text, shape)) fail_msg("the header is %s", text);
    float *x = xmalloc(count * sizeof *x);
    memcpy(x, bytes + header, count * sizeof *x);
    free(text);
    free(bytes);
    return x;
}

enum { S = 40, EACH = 3 * S * S };

static void expect_eval(const float *x, const char *name, const Transform *t) {
    size_t n;
    uint8_t *bytes = golden_file(name, &n), rgb[EACH];
    float want[EACH];
    Image img = {0};
    Error err;
    TransformScratch *scratch = NULL;
    assert_true(image_decode(&img, bytes, n, IMAGE_MAX_PIXELS, &err));
    transform_apply(rgb, &img, t, 0, &scratch);
    transform_normalise(want, rgb, t);
    assert_memory_equal(x, want, sizeof want);
    transform_scratch_free(&scratch);
    image_free(&img);
    free(bytes);
}

#define EVAL                                                                                       \
    "data image " IMAGE_GOLDEN "jpeg-420.jpg " IMAGE_GOLDEN                                        \
    "png-grey16.png --size 40 --transform eval "

static void test_eval_rows(void **state) {
    (void)state;
    const char *out = test_path("eval.npy");
    Transform t = transform_default(S, false);
    free(test_clipc(0, EVAL "--out %s", out));
    float *x = npy(out, "(2, 3, 40, 40)", 2 * EACH);
    expect_eval(x, "jpeg-420.jpg", &t);
    expect_eval(x + EACH, "png-grey16.png", &t);
    free(x);
    free(test_clipc(0,
                    "data image " IMAGE_GOLDEN "png-rgba.png --size 40 --transform eval "
                    "--background white --out %s",
                    out));
    image_background = BACKGROUND_WHITE;
    x = npy(out, "(1, 3, 40, 40)", EACH);
    expect_eval(x, "png-rgba.png", &t);
    image_background = BACKGROUND_STORED;
    free(x);
    free(test_clipc(0, EVAL "--image-resize-mode longest --image-interpolation bilinear --out %s",
                    out));
    t.resize_mode = RESIZE_LONGEST;
    t.interpolation = INTERPOLATION_BILINEAR;
    x = npy(out, "(2, 3, 40, 40)", 2 * EACH);
    expect_eval(x, "jpeg-420.jpg", &t);
    free(x);
}

static float *train_rows(const char *seed) {
    const char *out = test_path("train.npy");
    free(test_clipc(0,
                    "data image " IMAGE_GOLDEN "jpeg-420.jpg " IMAGE_GOLDEN
                    "jpeg-420.jpg --size 40 --transform train --seed %s --out %s",
                    seed, out));
    return npy(out, "(2, 3, 40, 40)", 2 * EACH);
}

static void test_train_follows_the_seed(void **state) {
    (void)state;
    float *a = train_rows("7"), *b = train_rows("7"), *c = train_rows("8");
    assert_memory_equal(a, b, 2 * EACH * sizeof *a);
    assert_true(memcmp(a, c, 2 * EACH * sizeof *a) != 0);
    assert_true(memcmp(a, a + EACH, EACH * sizeof *a) != 0);
    free(a);
    free(b);
    free(c);
}

static void test_refusals(void **state) {
    (void)state;
    const char *out = test_path("none.npy");
    const char *bad[] = {IMAGE_GOLDEN "png-damaged.png", IMAGE_GOLDEN "nothing-here.jpg",
                         "tests/golden/tar/make.py"};
    for (size_t i = 0; i < COUNT(bad); i++) {
        char *text = test_clipc(1, "data image " IMAGE_GOLDEN "png-rgb.png %s --size 8 --out %s",
                                bad[i], out);
        assert_int_not_equal(access(out, F_OK), 0);
        test_says(text, bad[i]);
        free(text);
    }
    free(test_clipc(2, "data image " IMAGE_GOLDEN "png-rgb.png"));
    free(test_clipc(2, "data image --out %s", out));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_eval_rows),
        cmocka_unit_test(test_train_follows_the_seed),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests_name("cmd_data_image", tests, NULL, NULL);
}
