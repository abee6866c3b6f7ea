/* resize: Pillow's antialiased 8-bit resampler for RGB, bit for bit. */
#pragma once
#include "kernels/base.h"

#define INTERPOLATIONS(X) X(INTERPOLATION_BICUBIC, "bicubic") X(INTERPOLATION_BILINEAR, "bilinear")
typedef enum { INTERPOLATIONS(CHOICE_NAME) } Interpolation;

/* A rectangle of an RGB picture; rows are `stride` bytes apart. */
typedef struct RgbView {
    const uint8_t *rgb;
    size_t stride;
    int width, height;
} RgbView;

/* The target: of the picture resized to full_width × full_height, the rectangle of width × height
 * at (x, y). Nothing else is computed. */
typedef struct ResizeTarget {
    int64_t full_width, full_height, x, y;
    int width, height;
} ResizeTarget;

/* Memory kept between calls, one for each thread; NULL before the first call. */
typedef struct ResizeScratch ResizeScratch;

/* out: target height × width × 3, rows out_stride bytes apart. Every size ≥ 1. Per axis (in → out):
 * scale = in/out, fs = max(scale, 1), support = 2·fs (bicubic, a = -1/2) or fs (bilinear); the
 * sample at centre c = (x + 1/2)·scale reads [⌊c - support + 1/2⌋, ⌊c + support + 1/2⌋) with the
 * weights f((k - c + 1/2)/fs), normalised in double, then rounded to 22 bits; sums are rounded and
 * clipped to u8 after each pass. The horizontal pass comes first, except if the height shrinks by
 * more than twice as many pixels as the width (Pillow ≥ 13). */
void resize_rgb(uint8_t *out, size_t out_stride, const ResizeTarget *target, const RgbView *in,
                Interpolation interpolation, ResizeScratch **scratch);
/* The same without vector instructions, as reference for tests. */
void resize_rgb_scalar(uint8_t *out, size_t out_stride, const ResizeTarget *target,
                       const RgbView *in, Interpolation interpolation, ResizeScratch **scratch);
void resize_scratch_free(ResizeScratch **scratch);
