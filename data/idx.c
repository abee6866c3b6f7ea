#include "data/idx.h"
#include "data/image/image.h"
#include "data/io/file.h"
#include "data/io/folder.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum { BYTE_TYPE = 8, SIDE_MAX = 1 << 16 };

/* ---- one array ---- */

/* Bytes of the file, decompressed if it is gzip. */
typedef struct Inflater {
    bool gzip, ended;
    z_stream z;
    const uint8_t *at;
    size_t left;
} Inflater;

static bool inflater_open(Inflater *s, const uint8_t *file, size_t n, Error *err) {
    *s = (Inflater){.gzip = n > 2 && file[0] == 0x1f && file[1] == 0x8b, .at = file, .left = n};
    if (!s->gzip) return true;
    s->z.next_in = (uint8_t *)file;
    s->z.avail_in = (unsigned)n;
    return inflateInit2(&s->z, 15 + 16) == Z_OK || error_set(err, "no memory to decompress it");
}

/* Up to n bytes; fewer only at the end. False: damaged. */
static bool inflater_read(Inflater *s, uint8_t *out, size_t n, size_t *got, Error *err) {
    if (!s->gzip) {
        *got = size_min(n, s->left);
        if (*got) memcpy(out, s->at, *got);
        s->at += *got;
        s->left -= *got;
        return true;
    }
    s->z.next_out = out;
    s->z.avail_out = (unsigned)n;
    while (s->z.avail_out && !s->ended) {
        int code = inflate(&s->z, Z_NO_FLUSH);
        if (code == Z_STREAM_END)
            s->ended = true;
        else if (code == Z_BUF_ERROR || (code == Z_OK && !s->z.avail_in && s->z.avail_out))
            break;
        else if (code != Z_OK)
            return error_set(err, "its gzip data are damaged");
    }
    *got = n - s->z.avail_out;
    return true;
}

static bool read_header(IdxArray *a, Inflater *s, Error *err) {
    uint8_t head[4], dim[4];
    size_t got;
    if (!inflater_read(s, head, 4, &got, err)) return false;
    if (got < 4 || head[0] || head[1]) return error_set(err, "not an IDX file");
    if (head[2] != BYTE_TYPE)
        return error_set(err, "an IDX file of type 0x%02x: only bytes (0x08) are read", head[2]);
    if (head[3] < 1 || head[3] > IDX_DIMS_MAX)
        return error_set(err, "an IDX file of %u dimensions", head[3]);
    a->ndim = head[3];
    a->size = 1;
    for (size_t d = 0; d < a->ndim; d++) {
        if (!inflater_read(s, dim, 4, &got, err)) return false;
        if (got < 4) return error_set(err, "it ends within its header");
        a->shape[d] = (size_t)dim[0] << 24 | (size_t)dim[1] << 16 | (size_t)dim[2] << 8 | dim[3];
        if (a->shape[d] && a->size > IDX_BYTES_MAX / a->shape[d])
            return error_set(err, "more than %zu MiB", IDX_BYTES_MAX >> 20);
        a->size *= a->shape[d];
    }
    return true;
}

static bool read_body(IdxArray *a, Inflater *s, Error *err) {
    size_t have = 0, room = 0, got;
    while (have < a->size) {
        room = size_min(a->size, size_max(1 << 16, 2 * room));
        a->bytes = xrealloc(a->bytes, room);
        if (!inflater_read(s, a->bytes + have, room - have, &got, err)) return false;
        have += got;
        if (have < room) return error_set(err, "cut: %zu of %zu bytes are there", have, a->size);
    }
    uint8_t more;
    if (!inflater_read(s, &more, 1, &got, err)) return false;
    if (got) return error_set(err, "it is longer than its header says");
    return !s->gzip || s->ended || error_set(err, "cut: its gzip data have no end");
}

bool idx_parse(IdxArray *a, const uint8_t *file, size_t n, Error *err) {
    Inflater s;
    *a = (IdxArray){.ndim = 0};
    if (n > UINT_MAX) return error_set(err, "a file of %zu bytes", n);
    if (!inflater_open(&s, file, n, err)) return false;
    bool ok = read_header(a, &s, err) && read_body(a, &s, err);
    if (s.gzip) inflateEnd(&s.z);
    if (!ok) idx_free(a);
    return ok;
}

void idx_free(IdxArray *a) {
    free(a->bytes);
    *a = (IdxArray){.ndim = 0};
}

/* ---- images with labels ---- */

static bool load(IdxArray *a, const char *path, Error *err) {
    uint8_t *bytes;
    size_t n;
    Error why;
    if (!file_read_all(path, &bytes, &n, IDX_BYTES_MAX, err)) return false;
    bool ok = idx_parse(a, bytes, n, &why);
    free(bytes);
    return ok || error_set(err, "%s: %s", path, why.text);
}

/* "x-images-idx3-ubyte" → "x-labels-idx1-ubyte" if that file exists; malloc'd, or NULL. */
static char *labels_beside(const char *images) {
    const char *word = strstr(path_base(images), "images");
    const char *dims = word ? strstr(word, "idx3") : NULL;
    if (word && !dims) dims = strstr(word, "idx4");
    if (!dims) return NULL;
    char *path = xasprintf("%.*slabels%.*sidx1%s", (int)(word - images), images,
                           (int)(dims - word - 6), word + 6, dims + 4);
    if (file_readable(path)) return path;
    free(path);
    return NULL;
}

static bool check_images(const IdxSet *s, const char *path, Error *err) {
    const IdxArray *a = &s->images;
    bool grey = a->ndim == 3, rgb = a->ndim == 4 && a->shape[3] == 3;
    if (!grey && !rgb)
        return error_set(err, "%s: no images: they have the form [N,H,W] or [N,H,W,3]", path);
    for (size_t d = 1; d < 3; d++)
        if (!a->shape[d] || a->shape[d] > SIDE_MAX)
            return error_set(err, "%s: images of %zu x %zu pixels", path, a->shape[2], a->shape[1]);
    return true;
}

bool idx_set_open(IdxSet *s, const char *files, Error *err) {
    const char *comma = strchr(files, ',');
    *s = (IdxSet){.name = NULL};
    char *images = comma ? xasprintf("%.*s", (int)(comma - files), files) : xstrdup(files);
    char *labels = comma ? xstrdup(comma + 1) : labels_beside(images);
    s->name = xstrdup(path_base(images));
    bool ok = load(&s->images, images, err) && check_images(s, images, err);
    if (ok && labels) {
        ok = load(&s->labels, labels, err);
        if (ok && (s->labels.ndim != 1 || s->labels.size != s->images.shape[0]))
            ok = error_set(err, "%s: %zu labels for %zu images of %s", labels, s->labels.size,
                           s->images.shape[0], images);
    }
    FREE_ALL(images, labels);
    return ok;
}

bool idx_picture(const IdxSet *s, size_t i, uint8_t **png, size_t *n, Error *err) {
    const IdxArray *a = &s->images;
    assert(i < a->shape[0]);
    size_t channels = a->ndim == 4 ? 3 : 1, pixels = a->shape[1] * a->shape[2] * channels;
    return image_encode_png(png, n, a->bytes + i * pixels, (int)a->shape[2], (int)a->shape[1],
                            (int)channels, err);
}

void idx_set_free(IdxSet *s) {
    idx_free(&s->images);
    idx_free(&s->labels);
    free(s->name);
}
