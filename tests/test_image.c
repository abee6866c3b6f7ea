/* Decoding: Pillow's pixels; truncated, damaged and hostile files; written files can be read. */
#include "data/image/image.h"
#include "tests/support_picture.h"

#include <math.h>
#include <setjmp.h>
#include <unistd.h>
#include <cmocka.h>

static bool decode(Image *img, const uint8_t *bytes, size_t size, Error *err) {
    return image_decode(img, bytes, size, IMAGE_MAX_PIXELS, err);
}

static void test_pixels_are_pillows(void **state) {
    (void)state;
    FILE *f = golden_table("decode.txt");
    char line[512], name[64];
    int files = 0;
    Image img = {0};
    for (; golden_line(f, line); files++) {
        int width, height, w = -1, h = -1;
        uint32_t crc;
        size_t size;
        Error err = {{0}};
        assert_int_equal(sscanf(line, "%63s %d %d %x", name, &width, &height, &crc), 4);
        uint8_t *bytes = golden_file(name, &size);
        bool ok = decode(&img, bytes, size, &err);
        if (ok != (width > 0)) fail_msg("%s: decoded %d, %s", name, ok, err.text);
        if (!ok) {
            assert_true(err.text[0] != 0);
        } else {
            if (img.width != width || img.height != height ||
                checksum(img.rgb, (size_t)width * (size_t)height * 3) != crc)
                fail_msg("%s: other pixels than Pillow's", name);
            assert_true(image_size(&w, &h, bytes, size, &err));
            assert_true(w == width && h == height);
        }
        free(bytes);
    }
    fclose(f);
    int w, h;
    Error err;
    assert_false(image_size(&w, &h, (const uint8_t *)"no picture at all", 17, &err));
    image_free(&img);
    assert_true(files > 40);
}

static void test_backgrounds_are_pillows(void **state) {
    (void)state;
    FILE *f = golden_table("background.txt");
    char line[512], name[64], colour[16];
    int files = 0;
    Image img = {0};
    for (; golden_line(f, line); files++) {
        uint32_t crc;
        size_t size;
        Error err = {{0}};
        assert_int_equal(sscanf(line, "%63s %15s %x", name, colour, &crc), 3);
        uint8_t *bytes = golden_file(name, &size);
        image_background = strcmp(colour, "white") ? BACKGROUND_BLACK : BACKGROUND_WHITE;
        bool ok = decode(&img, bytes, size, &err);
        image_background = BACKGROUND_STORED;
        if (!ok) fail_msg("%s: %s", name, err.text);
        if (checksum(img.rgb, (size_t)img.width * (size_t)img.height * 3) != crc)
            fail_msg("%s on %s: other pixels than Pillow's", name, colour);
        free(bytes);
    }
    fclose(f);
    image_free(&img);
    assert_true(files >= 12);
}

static void test_exif_is_pillows(void **state) {
    (void)state;
    FILE *f = golden_table("exif.txt");
    char line[512], name[64];
    int files = 0, turned = 0;
    Image img = {0}, stored = {0};
    for (; golden_line(f, line); files++) {
        int width, height, w, h;
        uint32_t crc;
        size_t size;
        Error err = {{0}};
        assert_int_equal(sscanf(line, "%63s %d %d %x", name, &width, &height, &crc), 4);
        uint8_t *bytes = golden_file(name, &size);
        assert_true(decode(&stored, bytes, size, &err));
        image_exif = true;
        bool ok = decode(&img, bytes, size, &err) && image_size(&w, &h, bytes, size, &err);
        for (size_t n = 0; n < size; n++) { /* in a separate allocation, for ASan */
            uint8_t *cut = memcpy(xmalloc(n + 1), bytes, n);
            (void)image_size(&w, &h, cut, n, &err);
            free(cut);
        }
        assert_true(image_size(&w, &h, bytes, size, &err));
        image_exif = false;
        if (!ok) fail_msg("%s: %s", name, err.text);
        if (img.width != width || img.height != height || w != width || h != height ||
            checksum(img.rgb, (size_t)width * (size_t)height * 3) != crc)
            fail_msg("%s: other pixels than Pillow's", name);
        turned += memcmp(img.rgb, stored.rgb, (size_t)width * (size_t)height * 3) != 0;
        free(bytes);
    }
    fclose(f);
    image_free(&img);
    image_free(&stored);
    assert_true(files == 30 && turned == 21);
}

/* Every prefix in a separate allocation, so that ASan detects a read past the end. */
static void test_truncated_at_every_byte(void **state) {
    (void)state;
    FILE *f = golden_table("truncated.txt");
    char line[512], name[64];
    Image img = {0};
    while (golden_line(f, line)) {
        size_t size, first, n;
        assert_int_equal(sscanf(line, "%63s %zu %zu", name, &n, &first), 3);
        uint8_t *bytes = golden_file(name, &size);
        assert_int_equal(n, size);
        for (n = 0; n <= size; n++) {
            Error err = {{0}};
            uint8_t *part = malloc(n);
            memcpy(part, bytes, n);
            bool ok = decode(&img, part, n, &err);
            if (ok != (n >= first) || ok == (err.text[0] != 0))
                fail_msg("%s cut at %zu: decoded %d, %s", name, n, ok, err.text);
            if (!ok && n >= 8 && !strstr(name, ".webp") && !strstr(err.text, "truncated"))
                fail_msg("%s cut at %zu: %s", name, n, err.text);
            free(part);
        }
        free(bytes);
    }
    fclose(f);
    image_free(&img);
}

static void test_damage_is_survived(void **state) {
    (void)state;
    FILE *f = golden_table("truncated.txt");
    char line[512], name[64];
    Image img = {0};
    uint32_t r = 12345;
    int decoded = 0, refused = 0;
    while (golden_line(f, line)) {
        size_t size;
        assert_int_equal(sscanf(line, "%63s", name), 1);
        uint8_t *bytes = golden_file(name, &size), *copy = xmalloc(size);
        for (int i = 0; i < 300; i++) {
            Error err;
            memcpy(copy, bytes, size);
            for (int k = 0; k <= i % 4; k++) {
                r = r * 1664525u + 1013904223u;
                copy[(r >> 8) % size] = (uint8_t)(r >> 24);
            }
            if (image_decode(&img, copy, size, 1 << 20, &err))
                decoded++;
            else
                refused++;
        }
        free(bytes);
        free(copy);
    }
    fclose(f);
    image_free(&img);
    assert_true(decoded > 100 && refused > 100);
}

static void put32(uint8_t *p, uint32_t v) {
    for (int i = 0; i < 4; i++) p[i] = (uint8_t)(v >> (24 - 8 * i));
}

/* The file's header rewritten to `side` × `side`. */
static uint8_t *bomb(const char *name, int side, size_t *size) {
    uint8_t *b = golden_file(name, size), *p = b;
    if (strstr(name, ".png")) {
        put32(b + 16, (uint32_t)side);
        put32(b + 20, (uint32_t)side);
        put32(b + 29, checksum(b + 12, 17));
    } else if (strstr(name, ".jpg")) {
        while (p[0] != 0xff || (p[1] != 0xc0 && p[1] != 0xc2)) p++;
        p[5] = p[7] = (uint8_t)(side >> 8);
        p[6] = p[8] = (uint8_t)side;
    } else {
        uint32_t bits = (uint32_t)(side - 1) | (uint32_t)(side - 1)
                                                   << 14; /* VP8L: two of 14 bits */
        while (memcmp(p, "VP8L", 4) != 0) p++;
        for (int i = 0; i < 4; i++)
            p[9 + i] = (uint8_t)((bits >> 8 * i & 0xff) | (i == 3 ? p[12] & 0xf0 : 0));
    }
    return b;
}

static void test_a_bomb_takes_no_memory(void **state) {
    (void)state;
    const struct {
        const char *name;
        int side;
    } bombs[] = {{"jpeg-420.jpg", 65500},           {"jpeg-progressive.jpg", 65500},
                 {"jpeg-cmyk.jpg", 65500},          {"png-rgb.png", 65500},
                 {"png-interlaced-rgb.png", 65500}, {"png-grey16.png", 2000000000},
                 {"webp-lossless.webp", 16383}};
    for (size_t i = 0; i < COUNT(bombs); i++) {
        size_t size;
        int w, h;
        Image img = {0};
        Error err = {{0}};
        uint8_t *b = bomb(bombs[i].name, bombs[i].side, &size);
        assert_false(decode(&img, b, size, &err));
        if (!strstr(err.text, "limit")) fail_msg("%s: %s", bombs[i].name, err.text);
        assert_true(img.capacity == 0 && img.rgb == NULL);
        assert_true(image_size(&w, &h, b, size, &err));
        assert_true(w == bombs[i].side && h == bombs[i].side);
        free(b);
    }
}

static void test_the_limit_is_the_callers(void **state) {
    (void)state;
    size_t size;
    Image img = {0};
    Error err;
    uint8_t *b = golden_file("png-rgb.png", &size); /* 21 x 13 */
    assert_false(image_decode(&img, b, size, 21 * 13 - 1, &err));
    assert_true(image_decode(&img, b, size, 21 * 13, &err));
    free(b);
    image_free(&img);
}

/* A text chunk that says it is 2 GB, and a palette of 16 MB. */
static void test_a_png_chunk_is_bounded(void **state) {
    (void)state;
    size_t size, before = peak_rss();
    uint8_t *b = golden_file("png-rgb.png", &size);
    const char *names[] = {"tEXt", "iCCP", "PLTE", "zzZz"};
    for (size_t i = 0; i < COUNT(names); i++) {
        size_t n = 16u << 20;
        Image img = {0};
        Error err;
        uint8_t *big = xcalloc(1, size + 12 + n);
        memcpy(big, b, 33);
        put32(big + 33, (uint32_t)n);
        memcpy(big + 37, names[i], 4);
        memcpy(big + 41, "a\0\0", 3);
        put32(big + 41 + n, checksum(big + 37, n + 4));
        memcpy(big + 45 + n, b + 33, size - 33);
        if (image_decode(&img, big, size + 12 + n, 1000, &err)) assert_int_equal(img.width, 21);
        image_free(&img);
        put32(big + 33, 0x7fffffff);
        assert_false(image_decode(&img, big, size + 12 + n, 1000, &err));
        image_free(&img);
        free(big);
    }
    free(b);
    assert_true(peak_rss() - before < 40u << 20);
}

/* The last scan of a progressive file 600 times over. */
static void test_scans_are_bounded(void **state) {
    (void)state;
    size_t size, at = 0;
    uint8_t *b = golden_file("jpeg-progressive.jpg", &size);
    for (size_t i = 0; i + 1 < size; i++)
        if (b[i] == 0xff && b[i + 1] == 0xda) at = i;
    size_t scan = size - 2 - at, total = at + 600 * scan + 2;
    uint8_t *many = xmalloc(total);
    memcpy(many, b, at);
    for (size_t i = 0; i < 600; i++) memcpy(many + at + i * scan, b + at, scan);
    memcpy(many + total - 2, "\xff\xd9", 2);
    Image img = {0};
    Error err = {{0}};
    assert_false(decode(&img, many, total, &err));
    assert_non_null(strstr(err.text, "scans"));
    free(many);
    free(b);
    image_free(&img);
}

static int by_eight(const void *context, int width, int height) {
    assert_true(!context && width > 0 && height > 0);
    return 8;
}

/* Every kind of file; only JPEG pictures are shrunk. */
static void test_a_picture_is_shrunk(void **state) {
    (void)state;
    const char *const names[] = {"jpeg-420.jpg",  "jpeg-422.jpg",         "jpeg-grey.jpg",
                                 "jpeg-cmyk.jpg", "jpeg-progressive.jpg", "jpeg-2x3.jpg",
                                 "png-rgb.png",   "webp-lossy.webp"};
    Image img = {0}, whole = {0};
    ShrinkChoice choice = {by_eight, NULL};
    for (size_t i = 0; i < COUNT(names); i++) {
        size_t size, n;
        Error err;
        uint8_t *bytes = golden_file(names[i], &size);
        assert_true(decode(&whole, bytes, size, &err) && !whole.full_width);
        assert_true(image_decode_shrunk(&img, bytes, size, IMAGE_MAX_PIXELS, &choice, &err));
        bool jpeg = strstr(names[i], ".jpg") != NULL;
        int by = jpeg ? 8 : 1;
        assert_true(img.width == (whole.width + by - 1) / by);
        assert_true(img.height == (whole.height + by - 1) / by);
        assert_true(img.full_width == (jpeg ? whole.width : 0));
        assert_true(img.full_height == (jpeg ? whole.height : 0));
        double mean[2] = {0, 0};
        n = (size_t)(img.width * img.height * 3);
        for (size_t j = 0; j < n; j++) mean[0] += img.rgb[j] / (double)n;
        n = (size_t)(whole.width * whole.height * 3);
        for (size_t j = 0; j < n; j++) mean[1] += whole.rgb[j] / (double)n;
        if (fabs(mean[0] - mean[1]) > 30) /* of small pictures much is padding */
            fail_msg("%s: mean %g, whole %g", names[i], mean[0], mean[1]);
        assert_false(image_decode_shrunk(&img, bytes, size,
                                         (size_t)(whole.width * whole.height - 1), &choice, &err));
        free(bytes);
    }
    image_free(&img);
    image_free(&whole);
}

static void test_memory_is_kept(void **state) {
    (void)state;
    size_t large, small;
    Image img = {0};
    Error err;
    uint8_t *a = golden_file("jpeg-420.jpg", &large), *b = golden_file("png-rgb.png", &small);
    assert_true(decode(&img, a, large, &err));
    uint8_t *rgb = img.rgb;
    assert_true(decode(&img, b, small, &err));
    assert_ptr_equal(img.rgb, rgb);
    assert_int_equal(img.width, 21);
    assert_true(img.capacity >= 45 * 37 * 3);
    free(a);
    free(b);
    image_free(&img);
    assert_null(img.rgb);
}

static void test_png_is_written(void **state) {
    (void)state;
    const char *folder = getenv("TMPDIR");
    char *path = xasprintf("%s/test_image.png", folder ? folder : "/tmp");
    uint8_t *rgb = picture(37, 19, 0), bytes[8192];
    Error err = {{0}};
    assert_true(image_write_png(path, rgb, 37, 19, &err));
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    size_t size = fread(bytes, 1, sizeof bytes, f);
    fclose(f);
    Image img = {0};
    assert_true(decode(&img, bytes, size, &err));
    assert_true(img.width == 37 && img.height == 19);
    assert_memory_equal(img.rgb, rgb, 37 * 19 * 3);
    unlink(path);
    assert_false(image_write_png("/nonexistent/x.png", rgb, 37, 19, &err));
    assert_non_null(strstr(err.text, "/nonexistent/x.png"));
    image_free(&img);
    free(rgb);
    free(path);
}

static double jpeg_error(const uint8_t *rgb, int w, int h, int quality, size_t *size) {
    uint8_t *bytes;
    Error err = {{0}};
    Image img = {0};
    double sum = 0;
    assert_true(image_encode_jpeg(&bytes, size, rgb, w, h, quality, &err));
    assert_true(decode(&img, bytes, *size, &err));
    assert_true(img.width == w && img.height == h);
    for (int i = 0; i < w * h * 3; i++) sum += (img.rgb[i] - rgb[i]) * (img.rgb[i] - rgb[i]);
    free(bytes);
    image_free(&img);
    return sqrt(sum / (w * h * 3));
}

static void test_jpeg_is_encoded(void **state) {
    (void)state;
    uint8_t *rgb = xmalloc(60 * 40 * 3);
    for (int i = 0; i < 60 * 40 * 3; i++) rgb[i] = (uint8_t)(i / 3 % 60 * 3 + i / 180);
    size_t fine, coarse;
    double fine_error = jpeg_error(rgb, 60, 40, 95, &fine);
    double coarse_error = jpeg_error(rgb, 60, 40, 20, &coarse);
    assert_true(fine_error < 2 && fine_error < coarse_error && coarse_error < 20);
    assert_true(coarse < fine);
    Error err = {{0}};
    uint8_t *bytes;
    assert_false(image_encode_jpeg(&bytes, &fine, rgb, 70000, 1, 90, &err));
    assert_true(err.text[0] != 0);
    free(rgb);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pixels_are_pillows),
        cmocka_unit_test(test_backgrounds_are_pillows),
        cmocka_unit_test(test_exif_is_pillows),
        cmocka_unit_test(test_truncated_at_every_byte),
        cmocka_unit_test(test_damage_is_survived),
        cmocka_unit_test(test_a_bomb_takes_no_memory),
        cmocka_unit_test(test_the_limit_is_the_callers),
        cmocka_unit_test(test_a_png_chunk_is_bounded),
        cmocka_unit_test(test_scans_are_bounded),
        cmocka_unit_test(test_a_picture_is_shrunk),
        cmocka_unit_test(test_memory_is_kept),
        cmocka_unit_test(test_png_is_written),
        cmocka_unit_test(test_jpeg_is_encoded),
    };
    return cmocka_run_group_tests_name("image", tests, NULL, NULL);
}
