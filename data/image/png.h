/* png: PNG pictures with libpng. */
#pragma once
#include "data/image/image.h"

/* Decodes into img; with header_only, only width and height. Every colour type and depth; alpha and
 * transparent colours are dropped; 16-bit colour keeps its high byte, 16-bit grey is clipped at
 * 255. */
bool png_decode(Image *img, const uint8_t *bytes, size_t size, size_t max_pixels, bool header_only,
                Error *err);
