#include "data/image/jpeg.h"

#include <stdio.h>
#include <setjmp.h>
#include <stdlib.h>
#include <jpeglib.h>
#include <jerror.h>

enum {
    ROWS = 16,       /* rows decoded per call: at least an MCU row of most files */
    MAX_SCANS = 500, /* a progressive file has about ten; each costs a pass over the picture */
};

typedef struct Failure {
    struct jpeg_error_mgr mgr;
    jmp_buf jump;
    Error *err;
} Failure;

static _Noreturn void fail(j_common_ptr info) {
    Failure *f = (Failure *)info->err;
    char text[JMSG_LENGTH_MAX];
    info->err->format_message(info, text);
    error_set(f->err, "JPEG: %s", text);
    longjmp(f->jump, 1);
}

static void be_silent(j_common_ptr info) { (void)info; }

static void failure_init(Failure *f, Error *err) {
    jpeg_std_error(&f->mgr);
    f->mgr.error_exit = fail;
    f->mgr.output_message = be_silent;
    f->err = err;
}

/* A source that ends: if bytes are missing the decoder stops, whereas jpeg_mem_src would insert an
 * end of image. Damaged entropy-coded data is only a warning in the library and is kept, as Pillow
 * does. */
static void source_open(j_decompress_ptr d) { (void)d; }
static boolean source_more(j_decompress_ptr d) {
    (void)d;
    return FALSE;
}
static void source_skip(j_decompress_ptr d, long n) {
    if (n <= 0) return;
    size_t step = size_min((size_t)n, d->src->bytes_in_buffer);
    d->src->next_input_byte += step;
    d->src->bytes_in_buffer -= step;
}

static void limit_scans(j_common_ptr info) {
    j_decompress_ptr d = (j_decompress_ptr)info;
    if (d->input_scan_number <= MAX_SCANS) return;
    Failure *f = (Failure *)info->err;
    error_set(f->err, "JPEG: more than %d scans", MAX_SCANS);
    longjmp(f->jump, 1);
}

/* Stored values are inverted (Adobe's convention, assumed for every CMYK file as Pillow does): ink
 * c in [0, 255] is 255 - stored value. */
static void cmyk_to_rgb(uint8_t *rgb, const uint8_t *cmyk, int width) {
    for (int x = 0; x < width; x++) {
        int k = cmyk[4 * x + 3];
        for (int c = 0; c < 3; c++) {
            int t = (255 - cmyk[4 * x + c]) * k + 128;
            rgb[3 * x + c] = (uint8_t)(k - ((t + (t >> 8)) >> 8));
        }
    }
}

/* Reads every row; false if the bytes end too early. */
static bool read_rows(j_decompress_ptr d, uint8_t *rgb) {
    size_t stride = (size_t)d->output_width * 3;
    JSAMPARRAY cmyk = NULL; /* in the library's memory: freed with the decoder */
    if (d->out_color_space == JCS_CMYK)
        cmyk = d->mem->alloc_sarray((j_common_ptr)d, JPOOL_IMAGE, d->output_width * 4, ROWS);
    while (d->output_scanline < d->output_height) {
        unsigned y = d->output_scanline;
        JSAMPROW rows[ROWS];
        for (unsigned i = 0; i < ROWS; i++) {
            size_t at = size_min(y + i, d->output_height - 1);
            rows[i] = cmyk ? cmyk[i] : rgb + at * stride;
        }
        unsigned n = jpeg_read_scanlines(d, rows, ROWS);
        if (n == 0) return false;
        for (unsigned i = 0; cmyk && i < n; i++)
            cmyk_to_rgb(rgb + (y + i) * stride, rows[i], (int)d->output_width);
    }
    return true;
}

static bool truncated(Error *err) { return error_set(err, "JPEG: the file is truncated"); }

static bool decode(j_decompress_ptr d, Image *img, size_t max_pixels, bool header_only,
                   const ShrinkChoice *choice, Error *err) {
    int found;
    do found = jpeg_read_header(d, FALSE);
    while (found == JPEG_HEADER_TABLES_ONLY);
    if (found == JPEG_SUSPENDED) return truncated(err);
    int n = d->num_components;
    if (n != 1 && n != 3 && n != 4) return error_set(err, "JPEG: %d colour components", n);
    int shrink = 1;
    if (choice) shrink = choice->choose(choice->context, (int)d->image_width, (int)d->image_height);
    if (!image_set_size(img, d->image_width, d->image_height, shrink, max_pixels, header_only, err))
        return false;
    if (header_only) return true;
    d->scale_denom = (unsigned)shrink;
    d->out_color_space = n == 4 ? JCS_CMYK : JCS_RGB;
    d->dct_method = JDCT_ISLOW;
    if (!jpeg_start_decompress(d)) return truncated(err);
    assert(d->output_width == (unsigned)img->width && d->output_height == (unsigned)img->height);
    return read_rows(d, img->rgb) || truncated(err);
}

bool jpeg_decode(Image *img, const uint8_t *bytes, size_t size, size_t max_pixels, bool header_only,
                 const ShrinkChoice *choice, Error *err) {
    struct jpeg_decompress_struct d;
    struct jpeg_source_mgr source = {.next_input_byte = bytes,
                                     .bytes_in_buffer = size,
                                     .init_source = source_open,
                                     .fill_input_buffer = source_more,
                                     .skip_input_data = source_skip,
                                     .resync_to_restart = jpeg_resync_to_restart,
                                     .term_source = source_open};
    struct jpeg_progress_mgr progress = {.progress_monitor = limit_scans};
    Failure failure;
    volatile bool ok = false;
    failure_init(&failure, err);
    d.err = &failure.mgr;
    if (setjmp(failure.jump) == 0) {
        jpeg_create_decompress(&d);
        d.src = &source;
        d.progress = &progress;
        ok = decode(&d, img, max_pixels, header_only, choice, err);
    }
    jpeg_destroy_decompress(&d);
    return ok;
}

bool image_encode_jpeg(uint8_t **bytes, size_t *size, const uint8_t *rgb, int width, int height,
                       int quality, Error *err) {
    struct jpeg_compress_struct c;
    Failure failure;
    struct {
        unsigned char *bytes;
        unsigned long size;
    } out = {0};
    volatile bool ok = false;
    failure_init(&failure, err);
    c.err = &failure.mgr;
    if (setjmp(failure.jump) == 0) {
        jpeg_create_compress(&c);
        jpeg_mem_dest(&c, &out.bytes, &out.size);
        c.image_width = (JDIMENSION)width;
        c.image_height = (JDIMENSION)height;
        c.input_components = 3;
        c.in_color_space = JCS_RGB;
        jpeg_set_defaults(&c);
        jpeg_set_quality(&c, quality, TRUE);
        jpeg_start_compress(&c, TRUE);
        while (c.next_scanline < c.image_height) {
            JSAMPROW row = (JSAMPROW)(rgb + (size_t)c.next_scanline * (size_t)width * 3);
            jpeg_write_scanlines(&c, &row, 1);
        }
        jpeg_finish_compress(&c);
        ok = true;
    }
    jpeg_destroy_compress(&c);
    if (!ok) {
        free(out.bytes);
        return false;
    }
    *bytes = out.bytes;
    *size = out.size;
    return true;
}
