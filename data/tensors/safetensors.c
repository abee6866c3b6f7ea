#include "data/tensors/safetensors.h"

#include "data/tensors/half.h"
#include "data/io/crc32c.h"
#include "data/io/file.h"
#include "data/io/mapfile.h"
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "tensors are stored little-endian");

/* A header of thousands of tensors is far smaller; a parsed one may use about twenty times as much
 * memory. */
enum { MAX_HEADER = 8 << 20, VERIFIED_AT_ONCE = 32 << 20 };

static const struct {
    const char *name;
    size_t size;
} dtypes[] = {[DTYPE_F64] = {"F64", 8},   [DTYPE_F32] = {"F32", 4}, [DTYPE_F16] = {"F16", 2},
              [DTYPE_BF16] = {"BF16", 2}, [DTYPE_I64] = {"I64", 8}, [DTYPE_I32] = {"I32", 4},
              [DTYPE_U8] = {"U8", 1},     [DTYPE_OTHER] = {"?", 0}};

size_t dtype_size(Dtype d) { return dtypes[d].size; }
const char *dtype_name(Dtype d) { return dtypes[d].name; }

static Dtype dtype_of(const char *name) {
    for (Dtype d = 0; d < DTYPE_OTHER; d++)
        if (!strcmp(dtypes[d].name, name)) return d;
    return DTYPE_OTHER;
}

/* ---- reading ---- */

static bool parse_shape(Tensor *t, const json_t *shape) {
    if (!json_is_array(shape) || json_array_size(shape) > COUNT(t->shape)) return false;
    t->ndim = (int)json_array_size(shape);
    t->count = 1;
    for (int i = 0; i < t->ndim; i++) {
        const json_t *d = json_array_get(shape, (size_t)i);
        if (!json_is_integer(d) || json_integer_value(d) < 0) return false;
        t->shape[i] = (size_t)json_integer_value(d);
        if (__builtin_mul_overflow(t->count, t->shape[i], &t->count)) return false;
    }
    return true;
}

/* data_end is raised to the end of the last tensor. */
static bool parse_tensor(Tensor *t, const char *name, const json_t *entry,
                         const unsigned char *data, size_t data_size, size_t *data_end,
                         Error *err) {
    const json_t *dtype = json_object_get(entry, "dtype");
    const json_t *offsets = json_object_get(entry, "data_offsets");
    const json_t *first = json_array_get(offsets, 0), *last = json_array_get(offsets, 1);
    if (!json_is_string(dtype) || json_array_size(offsets) != 2 || !json_is_integer(first) ||
        !json_is_integer(last))
        return error_set(err, "tensor %.100s: dtype or data_offsets are not as they must be", name);
    if (!parse_shape(t, json_object_get(entry, "shape")))
        return error_set(err, "tensor %.100s: its shape is not usable", name);
    t->dtype = dtype_of(json_string_value(dtype));
    json_int_t a = json_integer_value(first), b = json_integer_value(last);
    if (a < 0 || b < a) return error_set(err, "tensor %.100s: data_offsets go backwards", name);
    if ((size_t)b > data_size)
        return error_set(err, "truncated: tensor %.100s ends at byte %lld of %zu", name,
                         (long long)b, data_size);
    size_t bytes = (size_t)(b - a), want;
    if (t->dtype != DTYPE_OTHER &&
        (__builtin_mul_overflow(t->count, dtype_size(t->dtype), &want) || want != bytes))
        return error_set(err, "tensor %.100s: %zu bytes do not fit its shape", name, bytes);
    t->data = data + a;
    *data_end = size_max(*data_end, (size_t)b);
    t->name = xstrdup(name);
    return true;
}

static bool parse_meta(Safetensors *st, json_t *meta, Error *err) {
    if (!json_is_object(meta)) return error_set(err, "__metadata__ is not an object");
    st->meta = xcalloc(2 * json_object_size(meta), sizeof *st->meta);
    const char *key;
    json_t *value;
    json_object_foreach(meta, key, value) {
        if (!json_is_string(value)) return error_set(err, "__metadata__ holds more than strings");
        st->meta[2 * st->meta_count] = xstrdup(key);
        st->meta[2 * st->meta_count + 1] = xstrdup(json_string_value(value));
        st->meta_count++;
    }
    return true;
}

static bool parse_header(Safetensors *st, json_t *header, size_t header_size, Error *err) {
    if (!json_is_object(header)) return error_set(err, "the header is not a JSON object");
    const unsigned char *data = st->map.bytes + 8 + header_size;
    size_t data_size = st->map.size - 8 - header_size, data_end = 0;
    st->tensors = xcalloc(json_object_size(header), sizeof *st->tensors);
    const char *key;
    json_t *value;
    json_object_foreach(header, key, value) {
        if (!strcmp(key, "__metadata__")) {
            if (!parse_meta(st, value, err)) return false;
        } else {
            if (!parse_tensor(&st->tensors[st->count], key, value, data, data_size, &data_end, err))
                return false;
            st->count++;
        }
    }
    if (data_end != data_size)
        return error_set(err, "%zu bytes after the last tensor", data_size - data_end);
    return true;
}

static bool parse(Safetensors *st, Error *err) {
    if (st->map.size < 8) return error_set(err, "truncated: no safetensors header");
    uint64_t header_size;
    memcpy(&header_size, st->map.bytes, 8);
    if (header_size > MAX_HEADER)
        return error_set(err, "not a safetensors file (its header would have %llu bytes)",
                         (unsigned long long)header_size);
    if (header_size > st->map.size - 8) return error_set(err, "truncated inside the header");
    json_error_t where;
    json_t *header = json_loadb((const char *)st->map.bytes + 8, (size_t)header_size,
                                JSON_REJECT_DUPLICATES, &where);
    if (!header) return error_set(err, "header: %.200s", where.text);
    bool ok = parse_header(st, header, (size_t)header_size, err);
    json_decref(header);
    return ok;
}

bool safetensors_open(Safetensors *st, const char *path, Error *err) {
    *st = (Safetensors){0};
    Error inner;
    if (map_file(&st->map, path, &inner) && parse(st, &inner)) return true;
    safetensors_close(st);
    return error_set(err, "%.200s: %.300s", path, inner.text);
}

bool safetensors_verify(const Safetensors *st, Error *err) {
    const char *want = safetensors_meta(st, "crc32c");
    uint64_t header_size;
    if (!want) return true;
    memcpy(&header_size, st->map.bytes, 8);
    const size_t start = 8 + (size_t)header_size;
    uint32_t crc = 0;
    for (size_t at = start; at < st->map.size; at += VERIFIED_AT_ONCE) {
        crc = crc32c(crc, st->map.bytes + at, size_min(VERIFIED_AT_ONCE, st->map.size - at));
        map_drop(&st->map);
    }
    char got[12];
    snprintf(got, sizeof got, "%08x", crc);
    if (!strcmp(want, got)) return true;
    return error_set(err, "damaged: its bytes have the checksum %s instead of %.8s", got, want);
}

const Tensor *safetensors_find(const Safetensors *st, const char *name) {
    for (size_t i = 0; i < st->count; i++)
        if (!strcmp(st->tensors[i].name, name)) return &st->tensors[i];
    return NULL;
}

const char *safetensors_meta(const Safetensors *st, const char *key) {
    for (size_t i = 0; i < st->meta_count; i++)
        if (!strcmp(st->meta[2 * i], key)) return st->meta[2 * i + 1];
    return NULL;
}

void safetensors_close(Safetensors *st) {
    for (size_t i = 0; i < st->count; i++) free((char *)st->tensors[i].name);
    for (size_t i = 0; i < 2 * st->meta_count; i++) free(st->meta[i]);
    FREE_ALL(st->tensors, st->meta);
    unmap_file(&st->map);
    *st = (Safetensors){0};
}

static float f32_of_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static uint16_t bf16_of_f32(uint32_t bits) {
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 64); /* NaN stays NaN */
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

bool dtype_from_f32(Dtype d, const float *x, size_t n, void *out) {
    assert(d == DTYPE_F32 || d == DTYPE_F16 || d == DTYPE_BF16);
    bool fits = true;
    if (d == DTYPE_F32) memcpy(out, x, n * sizeof *x);
    for (size_t i = 0; i < n && d != DTYPE_F32; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], 4);
        uint16_t h = bf16_of_f32(bits);
        if (d == DTYPE_F16) half_from_floats(&h, &x[i], 1);
        uint16_t infinite = d == DTYPE_F16 ? 0x7c00 : 0x7f80;
        if ((h & 0x7fff) == infinite && isfinite(x[i])) fits = false;
        memcpy((unsigned char *)out + 2 * i, &h, 2);
    }
    return fits;
}

bool tensor_read_f32(const Tensor *t, size_t first, size_t n, float *out) {
    assert(first <= t->count && n <= t->count - first);
    /* the file's offsets need not be aligned */
    const unsigned char *at = (const unsigned char *)t->data + first * dtype_size(t->dtype);
    if (t->dtype == DTYPE_F32) {
        memcpy(out, at, n * sizeof *out);
    } else if (t->dtype == DTYPE_F64) {
        for (size_t i = 0; i < n; i++) {
            double x;
            memcpy(&x, at + 8 * i, 8);
            out[i] = (float)x;
        }
    } else if (t->dtype == DTYPE_F16 || t->dtype == DTYPE_BF16) {
        for (size_t i = 0; i < n; i++) {
            uint16_t h;
            memcpy(&h, at + 2 * i, 2);
            out[i] = f32_of_bits((uint32_t)h << 16);
            if (t->dtype == DTYPE_F16) half_to_floats(&out[i], &h, 1);
        }
    } else {
        return false;
    }
    return true;
}

/* ---- writing ---- */

struct SafetensorsWriter {
    char *path;
    int fd;
    size_t left; /* bytes still to be written */
    uint32_t crc;
    off_t crc_at; /* offset of its digits in the header */
    bool failed;
    Error err;
};

static void writer_fail(SafetensorsWriter *w, const char *what) {
    if (!w->failed) error_set(&w->err, "%.200s: %s", w->path, what);
    w->failed = true;
}

static void put(SafetensorsWriter *w, const void *bytes, size_t n) {
    const char *p = bytes;
    while (n && !w->failed) {
        ssize_t done = write(w->fd, p, n);
        if (done < 0 && errno == EINTR) continue;
        if (done < 0) {
            writer_fail(w, strerror(errno));
            return;
        }
        p += done;
        n -= (size_t)done;
    }
}

static json_t *header_entry(const Tensor *t, size_t *offset) {
    assert(t->dtype < DTYPE_OTHER && t->ndim >= 0 && (size_t)t->ndim <= COUNT(t->shape));
    json_t *shape = json_array();
    size_t bytes = dtype_size(t->dtype);
    for (int i = 0; i < t->ndim; i++) {
        json_array_append_new(shape, json_integer((json_int_t)t->shape[i]));
        bytes = size_mul(bytes, t->shape[i]);
    }
    size_t end = size_add(*offset, bytes);
    json_t *entry = json_pack("{s:s, s:o, s:[I, I]}", "dtype", dtype_name(t->dtype), "shape", shape,
                              "data_offsets", (json_int_t)*offset, (json_int_t)end);
    *offset = end;
    return entry;
}

SafetensorsWriter *safetensors_create(const char *path, const Tensor *tensors, size_t count,
                                      const char *const *meta, size_t meta_count) {
    SafetensorsWriter *w = xcalloc(1, sizeof *w);
    w->path = xstrdup(path);
    json_t *header = json_object(), *pairs = json_pack("{s:s}", "crc32c", "00000000");
    for (size_t i = 0; i < meta_count; i++)
        json_object_set_new(pairs, meta[2 * i], json_string(meta[2 * i + 1]));
    json_object_set_new(header, "__metadata__", pairs);
    for (size_t i = 0; i < count; i++) {
        json_t *entry = header_entry(&tensors[i], &w->left);
        int rc = json_object_set_new(header, tensors[i].name, entry);
        assert(rc == 0); /* fails for a name that is not UTF-8 */
    }
    assert(json_object_size(header) == count + 1); /* fails for a duplicate name */
    char *text = json_dumps(header, JSON_COMPACT);
    json_decref(header);
    assert(text);
    w->crc_at = 8 + (off_t)(strstr(text, "00000000") - text);
    /* the bytes start at a multiple of 8 */
    size_t length = strlen(text);
    uint64_t padded = round_up(length, 8);
    static const char blanks[8] = "       ";
    w->fd = file_create(path);
    if (w->fd < 0) writer_fail(w, strerror(errno));
    put(w, &padded, 8);
    put(w, text, length);
    put(w, blanks, (size_t)padded - length);
    free(text);
    return w;
}

void safetensors_append(SafetensorsWriter *w, const void *bytes, size_t n) {
    assert(n <= w->left);
    w->left -= n;
    w->crc = crc32c(w->crc, bytes, n);
    put(w, bytes, n);
}

bool safetensors_finish(SafetensorsWriter *w, Error *err) {
    assert(w->failed || !w->left);
    char digits[12];
    snprintf(digits, sizeof digits, "%08x", w->crc);
    if (!w->failed && pwrite(w->fd, digits, 8, w->crc_at) != 8) writer_fail(w, strerror(errno));
    if (!w->failed && fsync(w->fd)) writer_fail(w, strerror(errno));
    if (w->fd >= 0) {
        if (close(w->fd)) writer_fail(w, strerror(errno));
        if (w->failed) unlink(w->path);
    }
    bool ok = !w->failed;
    if (!ok) *err = w->err;
    FREE_ALL(w->path, w);
    return ok;
}

void safetensors_abandon(SafetensorsWriter *w) {
    Error ignored;
    writer_fail(w, "abandoned");
    safetensors_finish(w, &ignored);
}
