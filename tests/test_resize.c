/* The resampler: Pillow's result with every instruction set, exact bounds of memory accesses. */
#include "data/image/resize.h"
#include "tests/support_picture.h"

#include <setjmp.h>
#include <sys/mman.h>
#include <unistd.h>
#include <cmocka.h>

/* The file compiled again, for the instruction sets that this machine's runs do not take. */
#define resize_rgb again_resize_rgb
#define resize_rgb_scalar again_resize_rgb_scalar
#define resize_scratch_free again_resize_scratch_free
void again_resize_rgb(uint8_t *, size_t, const ResizeTarget *, const RgbView *, Interpolation,
                      ResizeScratch **);
void again_resize_rgb_scalar(uint8_t *, size_t, const ResizeTarget *, const RgbView *,
                             Interpolation, ResizeScratch **);
void again_resize_scratch_free(ResizeScratch **);
#include "data/image/resize.c"
#undef resize_rgb
#undef resize_rgb_scalar
#undef resize_scratch_free

static void narrow_resize(uint8_t *out, size_t stride, const ResizeTarget *t, const RgbView *in,
                          Interpolation f, ResizeScratch **scratch) {
    resize_by(&narrow_passes, out, stride, t, in, f, scratch);
}
static void best_resize(uint8_t *out, size_t stride, const ResizeTarget *t, const RgbView *in,
                        Interpolation f, ResizeScratch **scratch) {
    resize_by(best_passes(), out, stride, t, in, f, scratch);
}

typedef void Resize(uint8_t *, size_t, const ResizeTarget *, const RgbView *, Interpolation,
                    ResizeScratch **);
static const struct {
    const char *name;
    Resize *run;
} variants[] = {{"chosen", resize_rgb},
                {"narrow", narrow_resize},
                {"best", best_resize},
                {"scalar", resize_rgb_scalar}};

/* CRC of the target's pixels; checks that nothing around them is written. */
static uint32_t result(Resize *run, const ResizeTarget *t, const RgbView *in, Interpolation f,
                       ResizeScratch **scratch) {
    enum { GUARD = 19 };
    size_t row = (size_t)t->width * 3, stride = row + GUARD;
    size_t all = stride * (size_t)t->height + GUARD;
    uint8_t *out = xmalloc(all), *tight = xmalloc(row * (size_t)t->height);
    memset(out, 0xA5, all);
    run(out + GUARD, stride, t, in, f, scratch);
    for (int y = 0; y < t->height; y++) {
        for (int i = 0; i < GUARD; i++) assert_int_equal(out[(size_t)y * stride + (size_t)i], 0xA5);
        memcpy(tight + (size_t)y * row, out + GUARD + (size_t)y * stride, row);
    }
    for (size_t i = all - GUARD; i < all; i++) assert_int_equal(out[i], 0xA5);
    uint32_t crc = checksum(tight, row * (size_t)t->height);
    free(out);
    free(tight);
    return crc;
}

static void test_result_is_pillows(void **state) {
    (void)state;
    FILE *f = golden_table("resize.txt");
    char line[512], filter[16];
    ResizeScratch *scratch = NULL;
    int cases = 0;
    for (; golden_line(f, line); cases++) {
        int w, h, kind, nw, nh, x, y, ww, wh;
        uint32_t whole, part;
        assert_int_equal(sscanf(line, "%d %d %d %d %d %15s %x %d %d %d %d %x", &w, &h, &kind, &nw,
                                &nh, filter, &whole, &x, &y, &ww, &wh, &part),
                         12);
        Interpolation i =
            strcmp(filter, "bicubic") == 0 ? INTERPOLATION_BICUBIC : INTERPOLATION_BILINEAR;
        uint8_t *rgb = picture(w, h, kind);
        RgbView in = {rgb, (size_t)w * 3, w, h};
        ResizeTarget all = {nw, nh, 0, 0, nw, nh}, window = {nw, nh, x, y, ww, wh};
        for (size_t v = 0; v < COUNT(variants); v++) {
            if (result(variants[v].run, &all, &in, i, &scratch) != whole)
                fail_msg("%s: not Pillow's: %s", variants[v].name, line);
            if (result(variants[v].run, &window, &in, i, &scratch) != part)
                fail_msg("%s: another window: %s", variants[v].name, line);
        }
        free(rgb);
    }
    fclose(f);
    resize_scratch_free(&scratch);
    assert_null(scratch);
    assert_true(cases >= 60);
}

/* The same view inside a larger picture, whatever surrounds it. */
static void test_a_view_has_a_stride(void **state) {
    (void)state;
    const int w = 50, h = 41;
    uint8_t *tight = picture(w, h, 0), *wide = picture(w + 7, h + 5, 1);
    for (int y = 0; y < h; y++)
        memcpy(wide + (size_t)((y + 2) * (w + 7) + 3) * 3, tight + (size_t)(y * w) * 3,
               (size_t)w * 3);
    RgbView a = {tight, (size_t)w * 3, w, h};
    RgbView b = {wide + (size_t)(2 * (w + 7) + 3) * 3, (size_t)(w + 7) * 3, w, h};
    ResizeTarget t = {20, 33, 0, 0, 20, 33}, tall = {40, 9, 0, 0, 40, 9},
                 part = {60, 60, 20, 30, 30, 20};
    ResizeScratch *scratch = NULL;
    for (size_t v = 0; v < COUNT(variants); v++) {
        assert_int_equal(result(variants[v].run, &t, &a, INTERPOLATION_BICUBIC, &scratch),
                         result(variants[v].run, &t, &b, INTERPOLATION_BICUBIC, &scratch));
        assert_int_equal(result(variants[v].run, &tall, &a, INTERPOLATION_BICUBIC, &scratch),
                         result(variants[v].run, &tall, &b, INTERPOLATION_BICUBIC, &scratch));
    }
    for (size_t v = 0; v < COUNT(variants); v++)
        assert_int_equal(result(variants[v].run, &part, &a, INTERPOLATION_BICUBIC, &scratch),
                         result(variants[v].run, &part, &b, INTERPOLATION_BICUBIC, &scratch));
    resize_scratch_free(&scratch);
    free(tight);
    free(wide);
}

/* The picture ends where a page ends that is followed by one that must not be read; and begins
 * where a page begins. */
static void test_nothing_outside_is_read(void **state) {
    (void)state;
    size_t page = (size_t)sysconf(_SC_PAGESIZE), room = 8 * page;
    uint8_t *map = mmap(NULL, room + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(map != MAP_FAILED);
    assert_int_equal(mprotect(map + page, room, PROT_READ | PROT_WRITE), 0);
    ResizeScratch *scratch = NULL;
    for (int w = 1; w < 40; w += w < 20 ? 1 : 7)
        for (int h = 1; h < 40; h += h < 8 ? 1 : 9) {
            size_t n = (size_t)w * (size_t)h * 3;
            uint8_t *rgb = picture(w, h, 0), *last = map + page + room - n;
            memcpy(last, rgb, n);
            memcpy(map + page, rgb, n);
            RgbView at_end = {last, (size_t)w * 3, w, h},
                    at_start = {map + page, (size_t)w * 3, w, h},
                    free_view = {rgb, (size_t)w * 3, w, h};
            ResizeTarget t = {11, 9, 0, 0, 11, 9}, part = {30, 4, 13, 1, 17, 2};
            for (size_t v = 0; v < COUNT(variants); v++) {
                Resize *run = variants[v].run;
                uint32_t want = result(run, &t, &free_view, INTERPOLATION_BICUBIC, &scratch);
                assert_int_equal(result(run, &t, &at_end, INTERPOLATION_BICUBIC, &scratch), want);
                assert_int_equal(result(run, &t, &at_start, INTERPOLATION_BICUBIC, &scratch), want);
                want = result(run, &part, &free_view, INTERPOLATION_BILINEAR, &scratch);
                assert_int_equal(result(run, &part, &at_end, INTERPOLATION_BILINEAR, &scratch),
                                 want);
            }
            free(rgb);
        }
    resize_scratch_free(&scratch);
    munmap(map, room + 2 * page);
}

/* Odd sizes at random: all variants agree. */
static void test_variants_agree(void **state) {
    (void)state;
    ResizeScratch *scratch = NULL;
    uint32_t r = 99;
    for (int i = 0; i < 300; i++) {
        int s[4];
        for (int k = 0; k < 4; k++) {
            r = r * 1664525u + 1013904223u;
            s[k] = 1 + (int)(r >> 16) % (i % 3 ? 40 : 130);
        }
        uint8_t *rgb = picture(s[0], s[1], i % 2);
        RgbView in = {rgb, (size_t)s[0] * 3, s[0], s[1]};
        ResizeTarget t = {s[2], s[3], 0, 0, s[2], s[3]};
        Interpolation f = i % 5 ? INTERPOLATION_BICUBIC : INTERPOLATION_BILINEAR;
        uint32_t want = result(resize_rgb_scalar, &t, &in, f, &scratch);
        for (size_t v = 0; v < COUNT(variants); v++)
            if (result(variants[v].run, &t, &in, f, &scratch) != want)
                fail_msg("%s differs: %d x %d to %d x %d", variants[v].name, s[0], s[1], s[2],
                         s[3]);
        free(rgb);
    }
    resize_scratch_free(&scratch);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_result_is_pillows),
        cmocka_unit_test(test_a_view_has_a_stride),
        cmocka_unit_test(test_nothing_outside_is_read),
        cmocka_unit_test(test_variants_agree),
    };
    return cmocka_run_group_tests_name("resize", tests, NULL, NULL);
}
