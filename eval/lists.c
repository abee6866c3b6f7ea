#include "eval/lists.h"
#include "data/io/file.h"
#include "data/io/folder.h"
#include "data/pdf.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define FILE_BYTES_MAX ((size_t)256 << 20)

static bool read_file(const char *path, uint8_t **bytes, size_t *size, Error *err) {
    Error why;
    size_t page, n = pdf_key_path(path, &page);
    if (n) {
        char *pdf = xasprintf("%.*s", (int)n, path);
        bool ok = pdf_page(pdf, page, bytes, size, err);
        free(pdf);
        return ok;
    }
    if (pdf_is(path)) {
        *bytes = NULL;
        return error_set(err, "%.300s: which page? %.100s#1 is its first", path, path_base(path));
    }
    if (!file_read_first(path, bytes, size, FILE_BYTES_MAX + 1, &why))
        return error_set(err, "%.300s: %s", path, why.text);
    return *size <= FILE_BYTES_MAX ||
           error_set(err, "%.300s: more than %zu MiB", path, FILE_BYTES_MAX >> 20);
}

typedef struct ImageFiles {
    char *const *paths;
    size_t named;
    atomic_size_t bad;
} ImageFiles;

static bool fetch_file(void *context, size_t i, Image *img, Error *err) {
    ImageFiles *f = context;
    size_t size;
    uint8_t *bytes;
    bool read = read_file(f->paths[i], &bytes, &size, err);
    bool ok = read && image_decode(img, bytes, size, (size_t)image_max_pixels, err);
    if (!ok && read) {
        Error why = *err;
        error_set(err, "%.200s: %.250s", f->paths[i], why.text);
    }
    if (!ok && atomic_fetch_add(&f->bad, 1) >= f->named) err->text[0] = 0;
    free(bytes);
    return ok;
}

/* Every rank's share is the same number of rows (the last ranks use fewer, or none), so that
 * gathered rows are in order. */
typedef struct Share {
    size_t rows, first, n;
} Share;

static Share share_of(const Encoder *e, const Comm *c, size_t n) {
    size_t batch = encoder_batch(e);
    Share s = {.rows = div_up(div_up(n, batch), (size_t)c->size) * batch};
    s.first = size_min(n, s.rows * (size_t)c->rank);
    s.n = size_min(s.rows, n - s.first);
    return s;
}

/* Takes ownership of `own`, a share of elements of `size` bytes. */
static void *gather(const Comm *c, void *own, const Share *s, size_t size) {
    if (c->size == 1) return own;
    size_t bytes = size_mul(s->rows, size);
    void *all = xmalloc(size_mul(bytes, (size_t)c->size));
    c->gather_bytes(all, own, bytes);
    free(own);
    return all;
}

float *features_of_files(Encoder *e, const Comm *c, char *const *paths, size_t n, bool *ok,
                         size_t named) {
    size_t E = encoder_dim(e);
    Share s = share_of(e, c, n);
    float *own = xcalloc(size_mul(s.rows, E) + 1, sizeof *own);
    bool *own_ok = xcalloc(s.rows + 1, sizeof *own_ok);
    ImageFiles files = {.paths = paths + s.first, .named = named};
    encoder_images(e, fetch_file, &files, s.n, own, own_ok);
    bool *all_ok = gather(c, own_ok, &s, sizeof *own_ok);
    memcpy(ok, all_ok, n * sizeof *ok);
    free(all_ok);
    return gather(c, own, &s, E * sizeof *own);
}

float *features_of_texts(Encoder *e, const Comm *c, char *const *texts, size_t n) {
    size_t E = encoder_dim(e);
    Share s = share_of(e, c, n);
    float *own = xcalloc(size_mul(s.rows, E) + 1, sizeof *own);
    encoder_texts(e, (const char *const *)(texts + s.first), NULL, s.n, own);
    return gather(c, own, &s, E * sizeof *own);
}
