#include "tests/support_data.h"
#include "data/tar.h"

#include <stdlib.h>
#include <string.h>
#include <zstd.h>

static void append(TarBytes *t, const void *data, size_t n) {
    t->bytes = xrealloc(t->bytes, t->size + n);
    if (n) memcpy(t->bytes + t->size, data, n);
    t->size += n;
}

void tar_bytes_add(TarBytes *t, const char *name, const void *data, size_t n) {
    static const uint8_t zeros[TAR_BLOCK];
    uint8_t block[TAR_BLOCK];
    tar_header(block, name, n);
    append(t, block, TAR_BLOCK);
    append(t, data, n);
    append(t, zeros, (TAR_BLOCK - n % TAR_BLOCK) % TAR_BLOCK);
}

void tar_bytes_text(TarBytes *t, const char *name, const char *text) {
    tar_bytes_add(t, name, text, strlen(text));
}

void tar_bytes_end(TarBytes *t) {
    static const uint8_t zeros[2 * TAR_BLOCK];
    append(t, zeros, sizeof zeros);
}

const char *tar_bytes_write(TarBytes *t, const char *name) {
    const char *path = test_path(name);
    tar_bytes_end(t);
    test_write_file(path, t->bytes, t->size);
    free(t->bytes);
    *t = (TarBytes){NULL, 0};
    return path;
}

uint8_t *zstd_frames(const uint8_t *bytes, size_t n, size_t frame, size_t *size) {
    uint8_t *out = NULL;
    *size = 0;
    for (size_t at = 0; at < n; at += frame) {
        size_t raw = n - at < frame ? n - at : frame, bound = ZSTD_compressBound(raw);
        out = xrealloc(out, *size + bound);
        size_t packed = ZSTD_compress(out + *size, bound, bytes + at, raw, 1);
        assert_false(ZSTD_isError(packed));
        *size += packed;
    }
    return out;
}

Dataset *open_data_set(const char *spec, const DatasetOptions *o) {
    Error err;
    Dataset *d = dataset_open(spec, o, &err);
    if (!d) fail_msg("%s", err.text);
    return d;
}

void refuse_data_set(const char *spec, const DatasetOptions *o, const char *needle) {
    Error err;
    assert_null(dataset_open(spec, o, &err));
    test_says(err.text, needle);
}
