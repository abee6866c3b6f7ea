/* rows: features on the host, one row a sample: f32 or f16, in memory or a mapped .npy. */
#pragma once
#include "data/tensors/npy.h"

typedef struct Rows {
    size_t count, dim;
    const float *f32; /* one of both: [count,dim] */
    const uint16_t *f16;
    float *scale; /* [count]: rows_load multiplies by it; NULL: ones */
    bool drop; /* mapped: pages are released after rows_load reads them, so that memory in use stays
                  small */
    NpyMap mapped; /* of rows_open */
} Rows;

Rows rows_of_floats(const float *x, size_t count, size_t dim);
/* Maps a .npy; exits with an error that names it if it cannot be read, is empty, or holds a value
 * that is not finite. Rows whose length is not 1 (to 2e-3: f16 rounds) are normalised when read. */
Rows rows_open(const char *path);
void rows_close(Rows *r);
/* Sets scale if a row is not of length 1. False: err names a row that is not finite. */
bool rows_normalise(Rows *r, Error *err);
/* out[n,stride], stride >= dim; columns after dim become 0. Uses all threads. */
void rows_load(const Rows *r, size_t first, size_t n, float *out, size_t stride);
