#include "data/tensors/npy.h"
#include "data/io/file.h"
#include "data/tensors/half.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "arrays are stored little-endian");

/* FIXED: bytes before the header */
enum { FIXED = 10, MAX_HEADER = 4096, MAX_DIMS = 8, CONVERTED = 4096 };
const char *const npy_type_names[] = {NPY_TYPES(CHOICE_WORD)};
static const char *const descrs[] = {[NPY_F32] = "<f4", [NPY_F16] = "<f2"};
static const size_t type_size[] = {[NPY_F32] = 4, [NPY_F16] = 2};
static const unsigned char magic[8] = {0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0};

/* ---- writing ---- */

struct NpyWriter {
    FILE *f;
    char *path, *beside;
    NpyType type;
    size_t cols, left; /* rows still to come */
};

static void put_header(FILE *f, NpyType type, const size_t *shape, int ndim) {
    char text[512];
    int n = snprintf(text, sizeof text, "{'descr': '%s', 'fortran_order': False, 'shape': (",
                     descrs[type]);
    for (int i = 0; i < ndim; i++)
        n += snprintf(text + n, sizeof text - (size_t)n, i ? ", %zu" : "%zu", shape[i]);
    n += snprintf(text + n, sizeof text - (size_t)n, ndim == 1 ? ",), }" : "), }");
    /* the array starts at a multiple of 64; a line break ends the header */
    size_t total = round_up(sizeof magic + 2 + (size_t)n + 1, 64);
    uint16_t length = (uint16_t)(total - sizeof magic - 2);
    fwrite(magic, 1, sizeof magic, f);
    fwrite(&length, sizeof length, 1, f);
    fprintf(f, "%-*s\n", length - 1, text);
}

static bool writer_failed(NpyWriter *w, Error *err) {
    error_set(err, "%.300s: %s", w->path, strerror(errno));
    if (w->f) {
        fclose(w->f);
        if (w->beside) unlink(w->beside);
    }
    FREE_ALL(w->path, w->beside, w);
    return false;
}

static NpyWriter *create(const char *path, NpyType type, const size_t *shape, int ndim,
                         Error *err) {
    assert(ndim >= 0 && ndim <= MAX_DIMS);
    NpyWriter *w = xcalloc(1, sizeof *w);
    w->path = xstrdup(path);
    bool out = !strcmp(path, "-");
    w->beside = out ? NULL : file_temporary(path);
    int fd = out ? dup(STDOUT_FILENO) : file_create(w->beside);
    w->f = fd < 0 ? NULL : fdopen(fd, "wb");
    if (!w->f) return writer_failed(w, err), NULL;
    put_header(w->f, type, shape, ndim);
    w->type = type;
    return w;
}

NpyWriter *npy_writer_open_shape(const char *path, NpyType type, const size_t *shape, int ndim,
                                 Error *err) {
    NpyWriter *w = create(path, type, shape, ndim, err);
    if (!w) return NULL;
    w->cols = 1;
    for (int i = 1; i < ndim; i++) w->cols = size_mul(w->cols, shape[i]);
    w->left = shape[0];
    return w;
}

NpyWriter *npy_writer_open(const char *path, NpyType type, size_t rows, size_t cols, Error *err) {
    return npy_writer_open_shape(path, type, (size_t[]){rows, cols}, 2, err);
}

bool npy_writer_append(NpyWriter *w, const float *rows, size_t n, Error *err) {
    assert(n <= w->left);
    w->left -= n;
    size_t values = n * w->cols, written = 0;
    if (w->type == NPY_F32) {
        written = fwrite(rows, sizeof *rows, values, w->f);
    } else {
        uint16_t half[CONVERTED];
        for (size_t m = 1; m && written < values;) {
            m = size_min(CONVERTED, values - written);
            half_from_floats(half, rows + written, m);
            m = fwrite(half, sizeof *half, m, w->f);
            written += m;
        }
    }
    if (written == values) return true;
    return error_set(err, "%.300s: %s", w->path, strerror(errno));
}

bool npy_writer_close(NpyWriter *w, Error *err) {
    bool whole = !w->left && !ferror(w->f) && !fflush(w->f) && (!w->beside || !fsync(fileno(w->f)));
    if (!whole) {
        if (!errno) errno = EIO;
        return writer_failed(w, err);
    }
    FILE *f = w->f;
    w->f = NULL;
    if (fclose(f) || (w->beside && rename(w->beside, w->path))) {
        if (w->beside) unlink(w->beside);
        return writer_failed(w, err);
    }
    FREE_ALL(w->path, w->beside, w);
    return true;
}

bool npy_write_f32(const char *path, const float *data, const size_t *shape, int ndim, Error *err) {
    NpyWriter *w = create(path, NPY_F32, shape, ndim, err);
    if (!w) return false;
    size_t n = 1;
    for (int i = 0; i < ndim; i++) n = size_mul(n, shape[i]);
    if (fwrite(data, sizeof *data, n, w->f) != n) return writer_failed(w, err);
    return npy_writer_close(w, err);
}

/* ---- reading ---- */

/* The text of the value after 'key': in the header's dictionary; NULL if absent. */
static const char *value_of(const char *header, const char *key) {
    const char *at = strstr(header, key);
    if (!at) return NULL;
    at += strlen(key);
    while (*at == ' ' || *at == ':') at++;
    return at;
}

static bool parse_header(const char *header, NpyType *type, size_t *rows, size_t *cols,
                         Error *err) {
    const char *descr = value_of(header, "'descr'"), *order = value_of(header, "'fortran_order'");
    const char *shape = value_of(header, "'shape'");
    if (!descr || !order || !shape) return error_set(err, "the header is not NumPy's");
    *type = strncmp(descr, "'<f2'", 5) ? NPY_F32 : NPY_F16;
    if (*type == NPY_F32 && strncmp(descr, "'<f4'", 5))
        return error_set(err, "not little-endian float32");
    if (strncmp(order, "False", 5)) return error_set(err, "stored in Fortran order");
    unsigned long long n[2];
    int end = 0;
    /* digits only, and too few of them to overflow */
    char text[2][16];
    if (sscanf(shape, "(%15[0-9], %15[0-9]%n", text[0], text[1], &end) != 2 || !end)
        return error_set(err, "not a two-dimensional array");
    while (shape[end] == ',' || shape[end] == ' ') end++;
    if (shape[end] != ')') return error_set(err, "not a two-dimensional array");
    for (int i = 0; i < 2; i++) n[i] = strtoull(text[i], NULL, 10);
    *rows = (size_t)n[0];
    *cols = (size_t)n[1];
    return true;
}

/* Parses a file's header. *at: offset of the array. The file's size is checked against the header.
 */
static bool read_header(const unsigned char *start, size_t size, NpyType *type, size_t *rows,
                        size_t *cols, size_t *at, Error *err) {
    char header[MAX_HEADER + 1];
    if (size < FIXED || memcmp(start, magic, 7))
        return error_set(err, "not a .npy file of version 1.0");
    size_t length = start[8] | (size_t)start[9] << 8;
    if (length > MAX_HEADER) return error_set(err, "a header of %zu bytes", length);
    if (size < FIXED + length) return error_set(err, "truncated in the header");
    memcpy(header, start + FIXED, length);
    header[length] = 0;
    if (!parse_header(header, type, rows, cols, err)) return false;
    *at = FIXED + length;
    size_t bytes, left = size - *at;
    if (__builtin_mul_overflow(*rows, *cols, &bytes) ||
        __builtin_mul_overflow(bytes, type_size[*type], &bytes) || bytes != left)
        return error_set(err, "%zu bytes do not make %zu x %zu floats", left, *rows, *cols);
    return true;
}

/* Sets err to the path followed by the text of `inner`. */
static bool done(const char *path, bool ok, const Error *inner, Error *err) {
    return ok || error_set(err, "%.200s: %.300s", path, inner->text);
}

static bool map_array(NpyMap *m, const char *path, Error *err) {
    NpyType type = NPY_F32;
    size_t at = 0;
    if (!map_file(&m->file, path, err) ||
        !read_header(m->file.bytes, m->file.size, &type, &m->rows, &m->cols, &at, err))
        return false;
    if (at % sizeof(float)) return error_set(err, "an array at %zu, no multiple of 4", at);
    const void *data = m->file.bytes + at;
    if (type == NPY_F32)
        m->f32 = data;
    else
        m->f16 = data;
    return true;
}

bool npy_map(NpyMap *m, const char *path, Error *err) {
    *m = (NpyMap){0};
    Error inner;
    bool ok = map_array(m, path, &inner);
    if (!ok) npy_unmap(m);
    return done(path, ok, &inner, err);
}

void npy_unmap(NpyMap *m) {
    unmap_file(&m->file);
    *m = (NpyMap){0};
}
