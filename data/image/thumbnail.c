#include "data/image/thumbnail.h"

#include <stdlib.h>

enum { QUALITY = 85 };

static int scaled(int length, int longest, int side) {
    int out = (int)(((int64_t)length * side + longest / 2) / longest);
    return out > 0 ? out : 1;
}

bool thumbnail_jpeg(uint8_t **bytes, size_t *size, const Image *img, int side,
                    ResizeScratch **scratch, Error *err) {
    int longest = img->width > img->height ? img->width : img->height;
    if (longest <= side)
        return image_encode_jpeg(bytes, size, img->rgb, img->width, img->height, QUALITY, err);
    int w = scaled(img->width, longest, side), h = scaled(img->height, longest, side);
    uint8_t *small = xmalloc(size_mul(3 * (size_t)w, (size_t)h));
    ResizeTarget target = {.full_width = w, .full_height = h, .width = w, .height = h};
    RgbView view = {img->rgb, (size_t)img->width * 3, img->width, img->height};
    resize_rgb(small, (size_t)w * 3, &target, &view, INTERPOLATION_BICUBIC, scratch);
    bool ok = image_encode_jpeg(bytes, size, small, w, h, QUALITY, err);
    free(small);
    return ok;
}

char *base64_text(const uint8_t *bytes, size_t n) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char *out = xmalloc(size_add(size_mul(div_up(n, 3), 4), 1)), *at = out;
    for (size_t i = 0; i < n; i += 3) {
        size_t have = size_min(3, n - i);
        uint32_t x = (uint32_t)bytes[i] << 16;
        if (have > 1) x |= (uint32_t)bytes[i + 1] << 8;
        if (have > 2) x |= bytes[i + 2];
        for (size_t d = 0; d < 4; d++) *at++ = d <= have ? digits[x >> (18 - 6 * d) & 63] : '=';
    }
    *at = 0;
    return out;
}
