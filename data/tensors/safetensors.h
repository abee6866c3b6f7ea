/* safetensors: named tensors in one file (u64 header length, JSON, bytes). Reading maps the file;
 * writing is atomic. */
#pragma once
#include "data/io/mapfile.h"
#include "kernels/base.h"

typedef enum {
    DTYPE_F64,
    DTYPE_F32,
    DTYPE_F16,
    DTYPE_BF16,
    DTYPE_I64,
    DTYPE_I32,
    DTYPE_U8,
    DTYPE_OTHER
} Dtype;

typedef struct Tensor {
    const char *name;
    Dtype dtype;
    int ndim;
    size_t shape[8], count;
    const void *data; /* inside the mapping; count elements of dtype */
} Tensor;

typedef struct Safetensors {
    Tensor *tensors;
    size_t count;
    char **meta; /* "__metadata__": key, value, key, value …; meta_count pairs */
    size_t meta_count;
    MapFile map;
} Safetensors;

bool safetensors_open(Safetensors *st, const char *path, Error *err);
const Tensor *safetensors_find(const Safetensors *st, const char *name);
const char *safetensors_meta(const Safetensors *st, const char *key); /* NULL if absent */
/* Returns true if the checksum matches the bytes; files of other writers have no checksum and
 * pass. */
bool safetensors_verify(const Safetensors *st, Error *err);
void safetensors_close(Safetensors *st);
/* Elements first … first+n-1 of a floating tensor as f32 (F64, F32, F16, BF16). False for other
 * types. */
bool tensor_read_f32(const Tensor *t, size_t first, size_t n, float *out);
/* The reverse, rounded to nearest even: n floats as F32, F16 or BF16. False: a finite value is
 * beyond the type's range. */
bool dtype_from_f32(Dtype d, const float *x, size_t n, void *out);

size_t dtype_size(Dtype d);      /* bytes of one element; 0 for DTYPE_OTHER */
const char *dtype_name(Dtype d); /* "F32" */

/* Writes a new file `path`, fsynced; callers write into a temporary folder and rename. meta: pairs,
 * to which "crc32c" of all tensors' bytes is added. A writer keeps its first error until finish. */
typedef struct SafetensorsWriter SafetensorsWriter;
/* Writes the header; reads name, dtype, ndim and shape of each tensor. */
SafetensorsWriter *safetensors_create(const char *path, const Tensor *tensors, size_t count,
                                      const char *const *meta, size_t meta_count);
/* Appends the tensors' bytes, in order, in pieces of any size. */
void safetensors_append(SafetensorsWriter *w, const void *bytes, size_t n);
/* Frees the writer. False: the file is incomplete and was removed. */
bool safetensors_finish(SafetensorsWriter *w, Error *err);
/* Frees the writer and removes the file. */
void safetensors_abandon(SafetensorsWriter *w);
