/* jpeg: JPEG pictures with libjpeg(-turbo). */
#pragma once
#include "data/image/image.h"

/* Decodes into img; with header_only, only width and height. Exact for grey, YCbCr, RGB, CMYK and
 * YCCK, sequential and progressive; slow-integer DCT, triangle upsampling, EXIF ignored. choice:
 * NULL: not shrunk. */
bool jpeg_decode(Image *img, const uint8_t *bytes, size_t size, size_t max_pixels, bool header_only,
                 const ShrinkChoice *choice, Error *err);
