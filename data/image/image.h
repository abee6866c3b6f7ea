/* image: compressed bytes → RGB pixels. The result equals Pillow's Image.open(f).convert("RGB") bit
 * for bit, unless an option names a background or has EXIF turn pictures. */
#pragma once
#include "kernels/base.h"

typedef struct Image {
    int width, height;
    uint8_t *rgb;    /* [height, width, 3] */
    size_t capacity; /* bytes that rgb can hold; an Image that is reused keeps its memory */
    int full_width, full_height; /* of the file's picture if it was shrunk, else 0 */
} Image;

/* Chooses how many times smaller a picture of width × height may be decoded: 1, 2, 4 or 8. */
typedef struct ShrinkChoice {
    int (*choose)(const void *context, int width, int height);
    const void *context;
} ShrinkChoice;

/* Larger images are refused before pixel memory is allocated, 3 bytes a pixel in each thread that
 * decodes. The default admits photographs of 48 megapixels and A4 at 600 dpi. Set by options before
 * the first image is decoded. */
#define IMAGE_MAX_PIXELS (50 * 1000 * 1000)
extern int64_t image_max_pixels;
/* The longest side allowed whatever max_pixels is; it bounds the resampler's tables. */
#define IMAGE_MAX_SIDE (1u << 20)

/* What transparent pixels show: their stored colours, as convert("RGB") does, or a background.
 * Set by options before the first image is decoded. */
#define BACKGROUNDS(X)                                                                             \
    X(BACKGROUND_STORED, "stored") X(BACKGROUND_WHITE, "white") X(BACKGROUND_BLACK, "black")
typedef enum { BACKGROUNDS(CHOICE_NAME) } Background;
extern Background image_background;
/* Pictures are turned as their EXIF orientation says, in a second copy of their pixels; false, as
 * convert("RGB"): not. An option as well. */
extern bool image_exif;

/* Decodes JPEG, PNG or WebP, recognised by the first bytes. `img` must be zeroed before its first
 * use. False: err has the reason. */
bool image_decode(Image *img, const uint8_t *bytes, size_t size, size_t max_pixels, Error *err);
/* The same, but a JPEG picture is shrunk as chosen, by the inverse DCT; others are not. */
bool image_decode_shrunk(Image *img, const uint8_t *bytes, size_t size, size_t max_pixels,
                         const ShrinkChoice *choice, Error *err);
/* Reads only the header: size of the picture. */
bool image_size(int *width, int *height, const uint8_t *bytes, size_t size, Error *err);
void image_free(Image *img);
/* Used by the decoders: sets the size and, unless header_only, allocates the pixels of the shrunk
 * picture. False: empty, or more than max_pixels before it is shrunk. */
bool image_set_size(Image *img, size_t width, size_t height, int shrink, size_t max_pixels,
                    bool header_only, Error *err);

/* Used by the decoders: n pixels with alpha over the background, with Pillow's rounding
 * (Image.alpha_composite). */
void image_composite(uint8_t *rgb, const uint8_t *rgba, size_t n);
/* The background's level in all three channels. */
uint8_t image_background_level(void);

/* RGB → PNG file, for thumbnails and reports. */
bool image_write_png(const char *path, const uint8_t *rgb, int width, int height, Error *err);
/* Grey (1 channel) or RGB (3) → PNG bytes, malloc'd. */
bool image_encode_png(uint8_t **bytes, size_t *size, const uint8_t *pixels, int width, int height,
                      int channels, Error *err);
/* RGB → JPEG bytes (4:2:0), malloc'd; for `data pack` with a maximal size. */
bool image_encode_jpeg(uint8_t **bytes, size_t *size, const uint8_t *rgb, int width, int height,
                       int quality, Error *err);
