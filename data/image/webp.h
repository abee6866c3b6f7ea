/* webp: WebP pictures with libwebp. */
#pragma once
#include "data/image/image.h"

/* Decodes into img; with header_only, only width and height. Lossy and lossless, alpha dropped; of
 * an animation, the first frame. */
bool webp_decode(Image *img, const uint8_t *bytes, size_t size, size_t max_pixels, bool header_only,
                 Error *err);
