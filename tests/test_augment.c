/* Transforms: open_clip's evaluation input bit for bit, torchvision's training operations with our
 * draws. */
#include "data/image/augment.h"
#include "tests/support_picture.h"

#include <math.h>
#include <setjmp.h>
#include <cmocka.h>

#include "kernels/rng.h"

static Interpolation interpolation_of(const char *name) {
    return strcmp(name, "bicubic") == 0 ? INTERPOLATION_BICUBIC : INTERPOLATION_BILINEAR;
}

static void test_eval_is_open_clips(void **state) {
    (void)state;
    FILE *f = golden_table("eval.txt");
    char line[512], mode[16], filter[16];
    TransformScratch *scratch = NULL;
    int cases = 0;
    for (; golden_line(f, line); cases++) {
        int w, h, kind, size;
        uint32_t crc;
        assert_int_equal(
            sscanf(line, "%d %d %d %15s %15s %d %x", &w, &h, &kind, mode, filter, &size, &crc), 7);
        Transform t = transform_default(size, false);
        t.resize_mode = strcmp(mode, "shortest") == 0  ? RESIZE_SHORTEST
                        : strcmp(mode, "longest") == 0 ? RESIZE_LONGEST
                                                       : RESIZE_SQUASH;
        t.interpolation = interpolation_of(filter);
        memset(t.fill, 77, 3);
        size_t n = (size_t)size * (size_t)size;
        Image img = {.width = w, .height = h, .rgb = picture(w, h, kind)};
        uint8_t *out = xmalloc(3 * n);
        float *x = xmalloc(3 * n * sizeof *x);
        transform_apply(out, &img, &t, 1, &scratch);
        transform_normalise(x, out, &t);
        if (checksum(x, 3 * n * sizeof *x) != crc) fail_msg("not open_clip's: %s", line);
        free(img.rgb);
        free(out);
        free(x);
    }
    fclose(f);
    transform_scratch_free(&scratch);
    assert_null(scratch);
    assert_true(cases >= 100);
}

static void test_train_is_torchvisions(void **state) {
    (void)state;
    FILE *f = golden_table("train.txt");
    char line[512], filter[16];
    TransformScratch *scratch = NULL;
    int cases = 0;
    for (; golden_line(f, line); cases++) {
        int w, h, kind, size;
        unsigned long seed;
        uint32_t crc;
        double v[8];
        assert_int_equal(sscanf(line, "%d %d %d %lu %15s %d %lf %lf %lf %lf %lf %lf %lf %lf %x", &w,
                                &h, &kind, &seed, filter, &size, v, v + 1, v + 2, v + 3, v + 4,
                                v + 5, v + 6, v + 7, &crc),
                         15);
        Transform t = transform_default(size, true);
        t.interpolation = interpolation_of(filter);
        memcpy(t.scale, v, sizeof t.scale);
        memcpy(t.jitter, v + 2, sizeof t.jitter);
        t.jitter_prob = v[6];
        t.gray_prob = v[7];
        size_t n = (size_t)size * (size_t)size * 3;
        Image img = {.width = w, .height = h, .rgb = picture(w, h, kind)};
        uint8_t *out = xmalloc(n);
        transform_apply(out, &img, &t, seed, &scratch);
        if (checksum(out, n) != crc) fail_msg("not torchvision's: %s", line);
        free(img.rgb);
        free(out);
    }
    fclose(f);
    transform_scratch_free(&scratch);
    assert_true(cases >= 70);
}

/* The exact value of a blurred byte: the kernel of torchvision's gaussian_blur in double. */
static double blurred(const uint8_t *rgb, int size, int y, int x, int c, double sigma) {
    int half = size / 20, last = size - 1;
    double sum = 0, total = 0;
    for (int dy = -half; dy <= half; dy++)
        for (int dx = -half; dx <= half; dx++) {
            int v = abs(y + dy), u = abs(x + dx);
            if (v > last) v = 2 * last - v;
            if (u > last) u = 2 * last - u;
            double w = exp(-0.5 * (dy * dy + dx * dx) / (sigma * sigma));
            sum += w * rgb[(v * size + u) * 3 + c];
            total += w;
        }
    return sum / total;
}

/* SimCLR's strengths and crop, with mirrored and blurred pictures. Before the blur bytes are
 * torchvision's; its sums of floats, and ours, may round a byte near a half to the other side. */
static void test_views_are_torchvisions(void **state) {
    (void)state;
    FILE *f = golden_table("views.txt");
    char line[512];
    TransformScratch *scratch = NULL;
    int cases = 0, blurs = 0, flips = 0;
    for (; golden_line(f, line); cases++) {
        int w, h, kind, size;
        unsigned long seed;
        uint32_t crc;
        double p[4], sigma, want, got = 0, error = 0;
        assert_int_equal(sscanf(line, "%d %d %d %lu %d %lf %lf %lf %lf %x %lf %lf", &w, &h, &kind,
                                &seed, &size, p, p + 1, p + 2, p + 3, &crc, &sigma, &want),
                         12);
        Transform t = transform_default(size, true);
        t.scale[0] = 0.08;
        t.jitter[0] = t.jitter[1] = t.jitter[2] = 0.8;
        t.jitter[3] = 0.2;
        t.jitter_prob = p[0];
        t.gray_prob = p[1];
        t.flip_prob = p[2];
        size_t n = (size_t)size * (size_t)size * 3;
        Image img = {.width = w, .height = h, .rgb = picture(w, h, kind)};
        uint8_t *sharp = xmalloc(n), *out = xmalloc(n);
        transform_apply(sharp, &img, &t, seed, &scratch);
        if (checksum(sharp, n) != crc) fail_msg("not torchvision's: %s", line);
        t.flip_prob = 0;
        transform_apply(out, &img, &t, seed, &scratch);
        flips += memcmp(out, sharp, n) != 0;
        t.flip_prob = p[2];
        t.blur_prob = p[3];
        t.blur_sigma[0] = 0.1;
        t.blur_sigma[1] = 2;
        transform_apply(out, &img, &t, seed, &scratch);
        blurs += memcmp(out, sharp, n) != 0;
        for (size_t i = 0; i < n; i++) got += out[i];
        for (int i = 0; i < (int)n; i += 7) {
            double exact = sigma > 0
                               ? blurred(sharp, size, i / 3 / size, i / 3 % size, i % 3, sigma)
                               : sharp[i];
            error = fmax(error, fabs(exact - out[i]));
        }
        if (!(error <= 0.5 + 1e-3 && fabs(got - want) <= 32))
            fail_msg("blur: error %g, sum off by %g: %s", error, got - want, line);
        FREE_ALL(img.rgb, sharp, out);
    }
    fclose(f);
    transform_scratch_free(&scratch);
    assert_true(cases == 24 && flips >= 6 && blurs >= 12);
}

static void test_defaults_are_open_clips(void **state) {
    (void)state;
    Transform t = transform_default(224, true);
    assert_true(t.size == 224 && t.train && t.resize_mode == RESIZE_SHORTEST);
    assert_true(t.interpolation == INTERPOLATION_BICUBIC);
    assert_true(t.scale[0] == 0.9 && t.scale[1] == 1.0);
    assert_true(t.jitter_prob == 0 && t.gray_prob == 0 && t.fill[0] == 0);
    assert_true(t.mean[0] == 0.48145466f && t.std[2] == 0.27577711f);
    assert_false(transform_default(224, false).train);
}

/* A seed gives the same bytes with any scratch; another seed gives others; evaluation has no seed.
 */
static void test_only_the_seed_matters(void **state) {
    (void)state;
    enum { S = 32, N = S * S * 3 };
    uint8_t a[N], b[N], c[N];
    Image img = {.width = 90, .height = 61, .rgb = picture(90, 61, 0)};
    Image big = {.width = 300, .height = 200, .rgb = picture(300, 200, 1)};
    Transform t = transform_default(S, true), e = transform_default(S, false);
    TransformScratch *one = NULL, *two = NULL;
    t.jitter[0] = t.jitter[3] = 0.4;
    t.jitter_prob = 1;
    transform_apply(a, &img, &t, 5, &one);
    transform_apply(b, &big, &t, 6, &two);
    transform_apply(b, &img, &t, 5, &two);
    transform_apply(c, &img, &t, 6, &two);
    assert_memory_equal(a, b, N);
    assert_true(memcmp(a, c, N) != 0);
    transform_apply(a, &img, &e, 5, &one);
    transform_apply(b, &img, &e, 6, &one);
    assert_memory_equal(a, b, N);
    transform_scratch_free(&one);
    transform_scratch_free(&two);
    free(img.rgb);
    free(big.rgb);
}

/* Every probability is 1; grey is last. */
static void test_probabilities(void **state) {
    (void)state;
    enum { S = 8, N = S * S * 3, SEEDS = 2000 };
    uint8_t plain[N], out[N];
    Image img = {.width = 8, .height = 8, .rgb = picture(8, 8, 0)};
    Transform t = transform_default(S, true);
    TransformScratch *scratch = NULL;
    int jittered = 0, grey = 0;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        Transform p = t, j = t, g = t;
        j.jitter[0] = 0.9;
        j.jitter_prob = 0.8;
        g.gray_prob = 0.2;
        transform_apply(plain, &img, &p, seed, &scratch);
        transform_apply(out, &img, &j, seed, &scratch);
        jittered += memcmp(plain, out, N) != 0;
        transform_apply(out, &img, &g, seed, &scratch);
        bool is_grey = true;
        for (int i = 0; i < N; i += 3)
            is_grey = is_grey && out[i] == out[i + 1] && out[i] == out[i + 2];
        grey += is_grey;
        if (!is_grey) assert_memory_equal(plain, out, N);
    }
    /* five standard deviations; a factor close to 1 may change nothing */
    assert_in_range(jittered, SEEDS * 8 / 10 - 90 - 20, SEEDS * 8 / 10 + 90);
    assert_in_range(grey, SEEDS * 2 / 10 - 90, SEEDS * 2 / 10 + 90);
    transform_scratch_free(&scratch);
    free(img.rgb);
}

/* A smooth picture as a JPEG file. */
static uint8_t *smooth_jpeg(size_t *size, int w, int h) {
    uint8_t *rgb = xmalloc((size_t)(w * h) * 3), *bytes;
    for (int i = 0; i < w * h; i++) {
        double x = i % w, y = i / (double)w;
        for (int c = 0; c < 3; c++)
            rgb[3 * i + c] = (uint8_t)(127.5 + 60 * sin(x / 23 + c) + 60 * cos(y / 31 - c));
    }
    Error err;
    assert_true(image_encode_jpeg(&bytes, size, rgb, w, h, 95, &err));
    free(rgb);
    return bytes;
}

/* With jpeg_scale a JPEG picture is decoded at a half or a quarter, and the transform's result is
 * nearly the same. Without it, and for evaluation, no bit changes. */
static void test_jpeg_scale(void **state) {
    (void)state;
    enum { N = 224 * 224 * 3, PICTURES = 4 };
    static uint8_t whole[N], part[N];
    const int sides[PICTURES][3] = {{500, 375, 1}, {640, 520, 2}, {521, 1203, 2}, {1400, 1100, 4}};
    Image img = {0};
    Error err;
    TransformScratch *scratch = NULL;
    for (int i = 0; i < PICTURES * 12; i++) {
        int w = sides[i / 12][0], h = sides[i / 12][1], shrink = sides[i / 12][2];
        bool train = i % 4 > 1, scale = i % 2;
        size_t size;
        uint8_t *bytes = smooth_jpeg(&size, w, h);
        Transform t = transform_default(224, train);
        t.resize_mode = i % 12 < 4 ? RESIZE_SHORTEST : i % 12 < 8 ? RESIZE_LONGEST : RESIZE_SQUASH;
        assert_true(image_decode(&img, bytes, size, IMAGE_MAX_PIXELS, &err));
        transform_apply(whole, &img, &t, (uint64_t)i, &scratch);
        memset(img.rgb, 255 * (i % 3 > 0), img.capacity);
        t.jpeg_scale = scale;
        assert_true(transform_decode(&img, bytes, size, IMAGE_MAX_PIXELS, &t, (uint64_t)i, &err));
        assert_int_equal(img.width, div_up((size_t)w, train && scale ? (size_t)shrink : 1));
        transform_apply(part, &img, &t, (uint64_t)i, &scratch);
        int most = 0;
        for (int j = 0; j < N; j++)
            most = abs(whole[j] - part[j]) > most ? abs(whole[j] - part[j]) : most;
        if (most > (img.full_width ? 8 : 0)) fail_msg("%d: %d x %d: off by %d", i, w, h, most);
        free(bytes);
    }
    image_free(&img);
    transform_scratch_free(&scratch);
}

/* A thread's scratch memory serves pictures of every size in any order. */
static void test_scratch_grows(void **state) {
    (void)state;
    const int sizes[] = {32, 224, 64};
    Image img = {.width = 90, .height = 70, .rgb = picture(90, 70, 0)};
    TransformScratch *kept = NULL;
    for (size_t i = 0; i < COUNT(sizes); i++) {
        Transform t = transform_default(sizes[i], true);
        size_t n = (size_t)sizes[i] * (size_t)sizes[i] * 3;
        uint8_t *got = xmalloc(n), *want = xmalloc(n);
        TransformScratch *fresh = NULL;
        t.blur_prob = 1;
        t.blur_sigma[0] = t.blur_sigma[1] = 1.5;
        transform_apply(got, &img, &t, i, &kept);
        transform_apply(want, &img, &t, i, &fresh);
        assert_memory_equal(got, want, n);
        transform_scratch_free(&fresh);
        FREE_ALL(got, want);
    }
    transform_scratch_free(&kept);
    free(img.rgb);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_eval_is_open_clips),
        cmocka_unit_test(test_train_is_torchvisions),
        cmocka_unit_test(test_scratch_grows),
        cmocka_unit_test(test_views_are_torchvisions),
        cmocka_unit_test(test_defaults_are_open_clips),
        cmocka_unit_test(test_only_the_seed_matters),
        cmocka_unit_test(test_probabilities),
        cmocka_unit_test(test_jpeg_scale),
    };
    return cmocka_run_group_tests_name("augment", tests, NULL, NULL);
}
