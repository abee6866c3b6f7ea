/* sample: one image with its caption as stored, in buffers that are reused. */
#pragma once
#include "kernels/base.h"

/* Limits of one sample. */
enum { SAMPLE_IMAGE_MAX = 256 << 20, SAMPLE_TEXT_MAX = 4 << 20 };

/* Buffers belong to the Sample; zero it before its first use, and free it with sample_free. */
typedef struct Sample {
    char *key; /* "shard.tar:000123" or the path: for messages */
    uint8_t *image;
    size_t image_size, image_capacity;
    char *text; /* NUL-terminated too */
    size_t text_size, text_capacity;
    char *json; /* its metadata, if requested and present: NUL-terminated */
    size_t json_size;
    int label; /* class folder's number in sorted order or .cls; -1 without */
} Sample;

/* Forgets the last sample, but keeps the memory. */
void sample_reset(Sample *s);
/* Reserves n bytes for an image; the caller fills them and sets the size. */
uint8_t *sample_reserve_image(Sample *s, size_t n);
void sample_set_text(Sample *s, const char *text, size_t n);
/* Sets the label to the class number in a .cls member; if the member holds a name, the label is
 * unchanged. */
bool sample_set_label(Sample *s, const char *digits, size_t n, Error *err);
void sample_free(Sample *s);
