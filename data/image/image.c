#include "data/image/image.h"

#include <stdlib.h>
#include <string.h>

#include "data/image/exif.h"
#include "data/image/jpeg.h"
#include "data/image/png.h"
#include "data/image/webp.h"

int64_t image_max_pixels = IMAGE_MAX_PIXELS;
Background image_background = BACKGROUND_STORED;
bool image_exif;

uint8_t image_background_level(void) { return image_background == BACKGROUND_WHITE ? 255 : 0; }

/* In 7 fractional bits; x/255 is (x + x/256)/256. */
void image_composite(uint8_t *rgb, const uint8_t *rgba, size_t n) {
    enum { BITS = 7 };
    uint32_t level = image_background_level();
    for (size_t i = 0; i < n; i++)
        for (size_t c = 0; c < 3; c++) {
            uint32_t own = (uint32_t)rgba[4 * i + 3] << BITS, rest = (255u << BITS) - own;
            uint32_t sum = rgba[4 * i + c] * own + level * rest + (0x80u << BITS);
            rgb[3 * i + c] = (uint8_t)(((sum >> 8) + sum) >> 8 >> BITS);
        }
}

bool image_set_size(Image *img, size_t width, size_t height, int shrink, size_t max_pixels,
                    bool header_only, Error *err) {
    assert(width <= INT32_MAX && height <= INT32_MAX && shrink > 0);
    if (width == 0 || height == 0) return error_set(err, "an image of %zu x %zu", width, height);
    img->width = (int)div_up(width, (size_t)shrink);
    img->height = (int)div_up(height, (size_t)shrink);
    img->full_width = shrink > 1 ? (int)width : 0;
    img->full_height = shrink > 1 ? (int)height : 0;
    if (header_only) return true;
    if (width > IMAGE_MAX_SIDE || height > IMAGE_MAX_SIDE || height > max_pixels / width)
        return error_set(err, "an image of %zu x %zu pixels: the limit is %zu", width, height,
                         max_pixels);
    size_t need = size_mul(size_mul((size_t)img->width, (size_t)img->height), 3);
    if (need > img->capacity) {
        free(img->rgb);
        img->capacity = 0;
        img->rgb = xmalloc(need);
        img->capacity = need;
    }
    return true;
}

/* choice: NULL: not shrunk. */
static bool decode(Image *img, const uint8_t *bytes, size_t size, size_t max_pixels,
                   bool header_only, const ShrinkChoice *choice, Error *err) {
    if (size >= 3 && memcmp(bytes, "\xff\xd8\xff", 3) == 0)
        return jpeg_decode(img, bytes, size, max_pixels, header_only, choice, err);
    if (size >= 8 && memcmp(bytes, "\x89PNG\r\n\x1a\n", 8) == 0)
        return png_decode(img, bytes, size, max_pixels, header_only, err);
    if (size >= 12 && memcmp(bytes, "RIFF", 4) == 0 && memcmp(bytes + 8, "WEBP", 4) == 0)
        return webp_decode(img, bytes, size, max_pixels, header_only, err);
    return error_set(err, "not a JPEG, PNG or WebP file");
}

/* Chooses by the width and height of the turned picture. */
static int choose_turned(const void *context, int width, int height) {
    const ShrinkChoice *c = context;
    return c->choose(c->context, height, width);
}

static bool decode_turned(Image *img, const uint8_t *bytes, size_t size, size_t max_pixels,
                          bool header_only, const ShrinkChoice *choice, Error *err) {
    int orientation = image_exif ? exif_orientation(bytes, size) : 1;
    ShrinkChoice turned = {choose_turned, choice};
    if (choice && exif_turns(orientation)) choice = &turned;
    if (!decode(img, bytes, size, max_pixels, header_only, choice, err)) return false;
    if (!header_only) {
        exif_orient(img, orientation);
    } else if (exif_turns(orientation)) {
        int width = img->width;
        img->width = img->height;
        img->height = width;
    }
    return true;
}

bool image_decode(Image *img, const uint8_t *bytes, size_t size, size_t max_pixels, Error *err) {
    return decode_turned(img, bytes, size, max_pixels, false, NULL, err);
}

bool image_decode_shrunk(Image *img, const uint8_t *bytes, size_t size, size_t max_pixels,
                         const ShrinkChoice *choice, Error *err) {
    return decode_turned(img, bytes, size, max_pixels, false, choice, err);
}

bool image_size(int *width, int *height, const uint8_t *bytes, size_t size, Error *err) {
    Image header = {0};
    if (!decode_turned(&header, bytes, size, 0, true, NULL, err)) return false;
    *width = header.width;
    *height = header.height;
    return true;
}

void image_free(Image *img) {
    free(img->rgb);
    *img = (Image){0};
}
