/* npy: NumPy's array files, version 1.0, little-endian, C order. */
#pragma once
#include "data/io/mapfile.h"

/* float32 of any number of dimensions; written under a temporary name and renamed. */
bool npy_write_f32(const char *path, const float *data, const size_t *shape, int ndim, Error *err);
/* A 2-D array mapped read-only, float32 or float16: one of f32, f16 is set. The file must not
 * shrink while it is mapped. */
typedef struct NpyMap {
    size_t rows, cols;
    const float *f32;
    const uint16_t *f16;
    MapFile file;
} NpyMap;
bool npy_map(NpyMap *m, const char *path, Error *err);
void npy_unmap(NpyMap *m);

#define NPY_TYPES(X) X(NPY_F32, "f32") X(NPY_F16, "f16")
typedef enum { NPY_TYPES(CHOICE_NAME) } NpyType;
extern const char *const npy_type_names[];
/* Writes row by row if the whole does not fit in memory: open with the final shape, append rows,
 * close (which renames). The path "-" is standard output. After a failed append, close frees the
 * writer, removes the file and fails. */
typedef struct NpyWriter NpyWriter;
NpyWriter *npy_writer_open(const char *path, NpyType type, size_t rows, size_t cols, Error *err);
/* The same of any number of dimensions from 1: shape[0] rows of all other elements. */
NpyWriter *npy_writer_open_shape(const char *path, NpyType type, const size_t *shape, int ndim,
                                 Error *err);
bool npy_writer_append(NpyWriter *w, const float *rows, size_t n, Error *err);
bool npy_writer_close(NpyWriter *w, Error *err);
