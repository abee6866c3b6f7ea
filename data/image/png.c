#include "data/image/png.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <png.h>

enum { MAX_CHUNK = 1 << 20 }; /* bytes the library may allocate for one chunk other than pixels */

typedef struct PngBytes {
    const uint8_t *bytes;
    size_t left;
} PngBytes;

static void read_bytes(png_structp png, png_bytep to, size_t n) {
    PngBytes *s = png_get_io_ptr(png);
    if (n > s->left) png_error(png, "the file is truncated");
    memcpy(to, s->bytes, n);
    s->bytes += n;
    s->left -= n;
}

static void fail(png_structp png, png_const_charp text) {
    error_set(png_get_error_ptr(png), "PNG: %s", text);
    png_longjmp(png, 1);
}
static void be_silent(png_structp png, png_const_charp text) {
    (void)png;
    (void)text;
}

/* An index beyond the palette is black. */
static void palette_row(uint8_t *rgb, const uint8_t *index, int n, const png_color *palette,
                        int colours) {
    const png_color black = {0};
    for (int x = 0; x < n; x++) {
        const png_color *c = index[x] < colours ? &palette[index[x]] : &black;
        rgb[3 * x + 0] = c->red;
        rgb[3 * x + 1] = c->green;
        rgb[3 * x + 2] = c->blue;
    }
}

static void grey_row(uint8_t *rgb, const uint8_t *in, int n, size_t step) {
    for (int x = 0; x < n; x++) memset(rgb + 3 * x, in[(size_t)x * step], 3);
}

static void grey16_row(uint8_t *rgb, const uint8_t *in, int n) {
    for (int x = 0; x < n; x++) memset(rgb + 3 * x, in[2 * x] ? 255 : in[2 * x + 1], 3);
}

static void rgba_row(uint8_t *rgb, const uint8_t *in, int n) {
    for (int x = 0; x < n; x++) memcpy(rgb + 3 * x, in + 4 * x, 3);
}

typedef struct Reader {
    png_structp png;
    png_infop info;
    uint8_t *raw;   /* rows that are not RGB yet: one, or all if the file is interlaced */
    bool composite; /* they are RGBA, over a background */
} Reader;

static void convert_row(const Reader *r, uint8_t *rgb, const uint8_t *raw, int width, int type,
                        int depth) {
    png_colorp palette = NULL;
    int colours = 0;
    if (r->composite) {
        image_composite(rgb, raw, (size_t)width);
        return;
    }
    switch (type) {
    case PNG_COLOR_TYPE_PALETTE:
        png_get_PLTE(r->png, r->info, &palette, &colours);
        palette_row(rgb, raw, width, palette, colours);
        break;
    case PNG_COLOR_TYPE_GRAY:
        if (depth == 16)
            grey16_row(rgb, raw, width);
        else
            grey_row(rgb, raw, width, 1);
        break;
    case PNG_COLOR_TYPE_GRAY_ALPHA:
        grey_row(rgb, raw, width, 2);
        break;
    case PNG_COLOR_TYPE_RGB_ALPHA:
        rgba_row(rgb, raw, width);
        break;
    default:
        assert(!"RGB rows are read in place");
    }
}

static bool decode(Reader *r, Image *img, size_t max_pixels, bool header_only, Error *err) {
    png_read_info(r->png, r->info);
    uint32_t width, height;
    int depth, type, interlace;
    png_get_IHDR(r->png, r->info, &width, &height, &depth, &type, &interlace, NULL, NULL);
    if (!image_set_size(img, width, height, 1, max_pixels, header_only, err)) return false;
    if (header_only) return true;
    bool transparent = type & PNG_COLOR_MASK_ALPHA || png_get_valid(r->png, r->info, PNG_INFO_tRNS);
    r->composite = transparent && image_background != BACKGROUND_STORED;
    if (r->composite) {
        png_set_expand(r->png);
        if (depth == 16) png_set_strip_16(r->png);
        if (!(type & PNG_COLOR_MASK_COLOR)) png_set_gray_to_rgb(r->png);
    } else if (type == PNG_COLOR_TYPE_PALETTE)
        png_set_packing(r->png);
    else if (depth < 8)
        png_set_expand_gray_1_2_4_to_8(r->png);
    else if (depth == 16 && type != PNG_COLOR_TYPE_GRAY)
        png_set_strip_16(r->png);
    int passes = png_set_interlace_handling(r->png);
    png_read_update_info(r->png, r->info);
    size_t raw_stride = png_get_rowbytes(r->png, r->info), stride = (size_t)img->width * 3;
    bool in_place = type == PNG_COLOR_TYPE_RGB && !r->composite;
    if (!in_place) r->raw = xmalloc(size_mul(raw_stride, passes > 1 ? height : 1));
    for (int pass = 0; pass < passes; pass++)
        for (size_t y = 0; y < height; y++) {
            uint8_t *rgb = img->rgb + y * stride;
            uint8_t *raw = in_place ? rgb : r->raw + (passes > 1 ? y * raw_stride : 0);
            png_read_row(r->png, raw, NULL);
            if (!in_place && pass == passes - 1) convert_row(r, rgb, raw, img->width, type, depth);
        }
    return true;
}

bool png_decode(Image *img, const uint8_t *bytes, size_t size, size_t max_pixels, bool header_only,
                Error *err) {
    PngBytes source = {bytes, size};
    Reader reader = {0}, *r = &reader; /* accessed through memory: longjmp would lose registers */
    volatile bool ok = false;
    r->png = png_create_read_struct(PNG_LIBPNG_VER_STRING, err, fail, be_silent);
    if (!r->png) return error_set(err, "PNG: no memory for the decoder");
    r->info = png_create_info_struct(r->png);
    if (r->info && setjmp(png_jmpbuf(r->png)) == 0) {
        png_set_read_fn(r->png, &source, read_bytes);
        png_set_user_limits(r->png, PNG_UINT_31_MAX, PNG_UINT_31_MAX); /* max_pixels is the limit */
        png_set_chunk_malloc_max(r->png, MAX_CHUNK);
        /* texts, profiles and other chunks are not read into memory */
        png_set_keep_unknown_chunks(r->png, PNG_HANDLE_CHUNK_NEVER, NULL, -1);
        ok = decode(r, img, max_pixels, header_only, err);
    }
    free(r->raw);
    png_destroy_read_struct(&r->png, &r->info, NULL);
    return ok;
}

typedef struct Growing {
    uint8_t *bytes;
    size_t size, capacity;
} Growing;

static void append(png_structp png, png_bytep bytes, size_t n) {
    Growing *g = png_get_io_ptr(png);
    if (n > g->capacity - g->size) {
        g->capacity = size_add(g->size, size_max(n, g->capacity)) + 256;
        g->bytes = xrealloc(g->bytes, g->capacity);
    }
    memcpy(g->bytes + g->size, bytes, n);
    g->size += n;
}

static void flush_nothing(png_structp png) { (void)png; }

static void write_rows(png_structp png, png_infop info, const uint8_t *pixels, int width,
                       int height, int channels) {
    png_set_IHDR(png, info, (uint32_t)width, (uint32_t)height, 8,
                 channels == 1 ? PNG_COLOR_TYPE_GRAY : PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
                 PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    png_write_info(png, info);
    for (int y = 0; y < height; y++)
        png_write_row(png, pixels + (size_t)y * (size_t)width * (size_t)channels);
    png_write_end(png, NULL);
}

bool image_encode_png(uint8_t **bytes, size_t *size, const uint8_t *pixels, int width, int height,
                      int channels, Error *err) {
    Growing growing = {0}, *g = &growing; /* accessed through memory, as in png_decode */
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, err, fail, be_silent);
    png_infop info = png ? png_create_info_struct(png) : NULL;
    volatile bool ok = false;
    if (!info)
        error_set(err, "PNG: no memory for the encoder");
    else if (setjmp(png_jmpbuf(png)) == 0) {
        png_set_write_fn(png, g, append, flush_nothing);
        write_rows(png, info, pixels, width, height, channels);
        ok = true;
    }
    png_destroy_write_struct(&png, &info);
    if (!ok) free(g->bytes);
    *bytes = g->bytes;
    *size = g->size;
    return ok;
}

bool image_write_png(const char *path, const uint8_t *rgb, int width, int height, Error *err) {
    uint8_t *bytes;
    size_t size;
    if (!image_encode_png(&bytes, &size, rgb, width, height, 3, err)) return false;
    FILE *f = fopen(path, "wb");
    bool ok = f && fwrite(bytes, 1, size, f) == size, closed = f && fclose(f) == 0;
    free(bytes);
    if (ok && closed) return true;
    if (f) remove(path);
    return error_set(err, "%s: cannot be written", path);
}
