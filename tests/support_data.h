/* support_data: archives and pictures for the tests of data/. */
#ifndef TESTS_SUPPORT_DATA_H
#define TESTS_SUPPORT_DATA_H
#include "data/dataset.h"
#include "tests/support.h"

/* A tar that grows in memory; zeroed before use, bytes are malloc'd. */
typedef struct TarBytes {
    uint8_t *bytes;
    size_t size;
} TarBytes;

void tar_bytes_add(TarBytes *t, const char *name, const void *data, size_t n);
void tar_bytes_text(TarBytes *t, const char *name, const char *text);
void tar_bytes_end(TarBytes *t);
/* Ends the archive, writes it to test_path(name), frees it; returns the path. */
const char *tar_bytes_write(TarBytes *t, const char *name);
/* Opens a data set; one that cannot be opened fails the test. */
Dataset *open_data_set(const char *spec, const DatasetOptions *o);
/* It must be refused with a line that contains `needle`. */
void refuse_data_set(const char *spec, const DatasetOptions *o, const char *needle);

/* bytes as zstd frames of `frame` bytes each, malloc'd. */
uint8_t *zstd_frames(const uint8_t *bytes, size_t n, size_t frame, size_t *size);
#endif
