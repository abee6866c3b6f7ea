/* image: compressed bytes → RGB pixels. Decodes what Pillow's Image.open(f).convert("RGB") would
 * give, bit for bit. */
#ifndef DATA_IMAGE_IMAGE_H
#define DATA_IMAGE_IMAGE_H
#include "kernels/base.h"

typedef struct Image {
    int width, height;
    uint8_t *rgb;    /* [height, width, 3] */
    size_t capacity; /* bytes rgb can hold: an Image that is decoded into again keeps its memory */
} Image;

/* The default of max_pixels: larger images are refused before any pixel memory is taken. */
#define IMAGE_MAX_PIXELS (25u * 1000 * 1000)
/* No side may be longer, whatever max_pixels says: it bounds the resampler's tables. */
#define IMAGE_MAX_SIDE (1u << 20)

/* Decodes JPEG, PNG or WebP, told by its first bytes. `img` must be zeroed before its first use.
 * False: err says why. */
bool image_decode(Image *img, const uint8_t *bytes, size_t size, size_t max_pixels, Error *err);
/* Only the header: size of the picture. */
bool image_size(int *width, int *height, const uint8_t *bytes, size_t size, Error *err);
void image_free(Image *img);
/* For the decoders: sets the size and, unless header_only, provides the pixel memory. False: empty,
 * or more than max_pixels. */
bool image_set_size(Image *img, size_t width, size_t height, size_t max_pixels, bool header_only,
                    Error *err);

/* Thumbnails and pages for people: RGB → PNG file. */
bool image_write_png(const char *path, const uint8_t *rgb, int width, int height, Error *err);
/* Grey (1 channel) or RGB (3) → PNG bytes, malloc'd. */
bool image_encode_png(uint8_t **bytes, size_t *size, const uint8_t *pixels, int width, int height,
                      int channels, Error *err);
/* RGB → JPEG bytes (4:2:0), malloc'd; for `data pack` with a maximal size. */
bool image_encode_jpeg(uint8_t **bytes, size_t *size, const uint8_t *rgb, int width, int height,
                       int quality, Error *err);
#endif
