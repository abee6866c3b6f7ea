#include "data/image/exif.h"

#include <stdlib.h>
#include <string.h>

static uint32_t number(const uint8_t *p, int bytes, bool big) {
    uint32_t v = 0;
    for (int i = 0; i < bytes; i++) v |= (uint32_t)p[i] << 8 * (big ? bytes - 1 - i : i);
    return v;
}

/* The first directory of a TIFF structure. */
static int of_tiff(const uint8_t *p, size_t n) {
    enum { HEADER = 8, ENTRY = 12, ORIENTATION = 0x112, SHORT = 3 };
    if (n < HEADER || (memcmp(p, "MM\0*", 4) && memcmp(p, "II*\0", 4))) return 1;
    bool big = *p == 'M';
    size_t at = number(p + 4, 4, big);
    if (at > n - 2) return 1;
    size_t entries = number(p + at, 2, big);
    for (at += 2; entries-- && n - at >= ENTRY; at += ENTRY) {
        if (number(p + at, 2, big) != ORIENTATION || number(p + at + 2, 2, big) != SHORT) continue;
        uint32_t value = number(p + at + 8, 2, big);
        return value >= 1 && value <= 8 ? (int)value : 1;
    }
    return 1;
}

static const uint8_t mark[6] = "Exif\0";

/* With or without the mark that JPEG has before it. */
static int of_block(const uint8_t *p, size_t n) {
    bool marked = n >= sizeof mark && !memcmp(p, mark, sizeof mark);
    return marked ? of_tiff(p + sizeof mark, n - sizeof mark) : of_tiff(p, n);
}

/* Segments up to the first scan. */
static int of_jpeg(const uint8_t *p, size_t n) {
    enum { APP1 = 0xe1, SCAN = 0xda, END = 0xd9 };
    for (size_t at = 2; n - at >= 4 && p[at] == 0xff; at += 2 + number(p + at + 2, 2, true)) {
        while (n - at > 4 && p[at + 1] == 0xff) at++; /* fill bytes */
        size_t length = number(p + at + 2, 2, true);
        if (p[at + 1] == SCAN || p[at + 1] == END || length < 2 || length > n - at - 2) return 1;
        if (p[at + 1] == APP1 && length >= 2 + sizeof mark &&
            !memcmp(p + at + 4, mark, sizeof mark))
            return of_block(p + at + 4, length - 2);
    }
    return 1;
}

/* PNG's and RIFF's chunks: a length and a name, in this order or the other. */
static int of_chunks(const uint8_t *p, size_t n, size_t first, bool png) {
    enum { HEADER = 8, CRC = 4 };
    for (size_t at = first; at <= n && n - at >= HEADER;) {
        size_t length = number(p + at + (png ? 0 : 4), 4, png);
        if (length > n - at - HEADER) return 1;
        if (!memcmp(p + at + (png ? 4 : 0), png ? "eXIf" : "EXIF", 4))
            return of_block(p + at + HEADER, length);
        at += HEADER + length + (png ? CRC : length & 1);
    }
    return 1;
}

int exif_orientation(const uint8_t *bytes, size_t size) {
    enum { PNG_SIGNATURE = 8, RIFF_HEADER = 12 };
    if (size < RIFF_HEADER) return 1;
    if (bytes[0] == 0xff) return of_jpeg(bytes, size);
    return bytes[0] == 0x89 ? of_chunks(bytes, size, PNG_SIGNATURE, true)
                            : of_chunks(bytes, size, RIFF_HEADER, false);
}

bool exif_turns(int orientation) { return orientation >= 5; }

void exif_orient(Image *img, int orientation) {
    if (orientation == 1) return;
    bool turns = exif_turns(orientation);
    bool up = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
    bool left = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
    size_t W = (size_t)img->width, H = (size_t)img->height;
    size_t width = turns ? H : W, height = turns ? W : H;
    uint8_t *to = xmalloc(size_mul(W * H, 3));
    for (size_t y = 0; y < height; y++)
        for (size_t x = 0; x < width; x++) {
            size_t row = turns ? x : y, col = turns ? y : x;
            memcpy(to + (y * width + x) * 3,
                   img->rgb + ((up ? H - 1 - row : row) * W + (left ? W - 1 - col : col)) * 3, 3);
        }
    free(img->rgb);
    img->rgb = to;
    img->capacity = W * H * 3;
    img->width = (int)width;
    img->height = (int)height;
    if (!turns) return;
    int full = img->full_width;
    img->full_width = img->full_height;
    img->full_height = full;
}
