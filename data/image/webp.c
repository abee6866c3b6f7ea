#include "data/image/webp.h"

#include <stdlib.h>
#include <string.h>
#include <webp/decode.h>

static uint32_t le(const uint8_t *p, int bytes) {
    uint32_t v = 0;
    for (int i = 0; i < bytes; i++) v |= (uint32_t)p[i] << 8 * i;
    return v;
}

static bool broken(VP8StatusCode status, Error *err) {
    return error_set(err, "WebP: the file is %s",
                     status == VP8_STATUS_NOT_ENOUGH_DATA || status == VP8_STATUS_SUSPENDED
                         ? "truncated"
                         : "damaged");
}

/* Decodes one still picture of width × height pixels to its position in img. */
static bool decode_frame(Image *img, int x, int y, int width, int height, const uint8_t *bytes,
                         size_t size, Error *err) {
    WebPDecoderConfig config;
    if (!WebPInitDecoderConfig(&config)) return error_set(err, "WebP: another library version");
    VP8StatusCode status = WebPGetFeatures(bytes, size, &config.input);
    if (status != VP8_STATUS_OK) return broken(status, err);
    if (config.input.has_animation || config.input.width != width || config.input.height != height)
        return broken(VP8_STATUS_BITSTREAM_ERROR, err);
    size_t stride = (size_t)img->width * 3, wide = (size_t)width * 4;
    uint8_t *at = img->rgb + (size_t)y * stride + (size_t)x * 3, *rgba = NULL;
    bool composite = config.input.has_alpha && image_background != BACKGROUND_STORED;
    if (composite) rgba = xmalloc(size_mul(wide, (size_t)height));
    config.output.colorspace = composite ? MODE_RGBA : MODE_RGB;
    config.output.is_external_memory = 1;
    config.output.u.RGBA.rgba = composite ? rgba : at;
    config.output.u.RGBA.stride = (int)(composite ? wide : stride);
    config.output.u.RGBA.size =
        composite ? wide * (size_t)height : stride * (size_t)(height - 1) + (size_t)width * 3;
    status = WebPDecode(bytes, size, &config);
    WebPFreeDecBuffer(&config.output);
    bool ok = status == VP8_STATUS_OK;
    for (size_t row = 0; ok && composite && row < (size_t)height; row++)
        image_composite(at + row * stride, rgba + row * wide, (size_t)width);
    free(rgba);
    return ok || broken(status, err);
}

/* The first ANMF chunk (https://developers.google.com/speed/webp/docs/riff_container): 16 bytes of
 * position and size, then a picture; the rest of the canvas is transparent black. */
static bool decode_first_frame(Image *img, const uint8_t *bytes, size_t size, Error *err) {
    enum { RIFF_HEADER = 12, CHUNK_HEADER = 8, FRAME_HEADER = 16 };
    if (size < RIFF_HEADER || le(bytes + 4, 4) > size - CHUNK_HEADER)
        return broken(VP8_STATUS_NOT_ENOUGH_DATA, err);
    for (size_t at = RIFF_HEADER; at + CHUNK_HEADER <= size;) {
        size_t n = le(bytes + at + 4, 4);
        const uint8_t *p = bytes + at + CHUNK_HEADER;
        if (n > size - at - CHUNK_HEADER) break;
        if (memcmp(bytes + at, "ANMF", 4) == 0) {
            if (n < FRAME_HEADER) return broken(VP8_STATUS_BITSTREAM_ERROR, err);
            int x = 2 * (int)le(p, 3), y = 2 * (int)le(p + 3, 3);
            int width = 1 + (int)le(p + 6, 3), height = 1 + (int)le(p + 9, 3);
            if (x + width > img->width || y + height > img->height)
                return broken(VP8_STATUS_BITSTREAM_ERROR, err);
            memset(img->rgb, image_background_level(),
                   (size_t)img->width * (size_t)img->height * 3);
            return decode_frame(img, x, y, width, height, p + FRAME_HEADER, n - FRAME_HEADER, err);
        }
        at += CHUNK_HEADER + n + (n & 1);
    }
    return broken(VP8_STATUS_NOT_ENOUGH_DATA, err);
}

bool webp_decode(Image *img, const uint8_t *bytes, size_t size, size_t max_pixels, bool header_only,
                 Error *err) {
    WebPBitstreamFeatures f;
    VP8StatusCode status = WebPGetFeatures(bytes, size, &f);
    if (status != VP8_STATUS_OK) return broken(status, err);
    if (!image_set_size(img, (size_t)f.width, (size_t)f.height, 1, max_pixels, header_only, err))
        return false;
    if (header_only) return true;
    if (f.has_animation) return decode_first_frame(img, bytes, size, err);
    return decode_frame(img, 0, 0, f.width, f.height, bytes, size, err);
}
