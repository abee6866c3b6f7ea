#include "eval/rows.h"
#include "data/tensors/half.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* The relative rounding error of an f16 component is up to 2⁻¹¹. */
#define UNIT_TOLERANCE 2e-3
enum { BLOCK_ROWS = 1024, PAGE = 4096 };

Rows rows_of_floats(const float *x, size_t count, size_t dim) {
    return (Rows){.count = count, .dim = dim, .f32 = x};
}

/* Releases whole pages inside the rows; they are read from the file again when used. */
static void give_back(const Rows *r, size_t first, size_t n) {
    size_t width = r->dim * (r->f32 ? sizeof *r->f32 : sizeof *r->f16);
    const char *at = r->f32 ? (const char *)r->f32 : (const char *)r->f16;
    uintptr_t from = round_up((uintptr_t)(at + first * width), PAGE),
              to = (uintptr_t)(at + (first + n) * width) / PAGE * PAGE;
    if (from < to) madvise((void *)from, to - from, MADV_DONTNEED);
}

void rows_load(const Rows *r, size_t first, size_t n, float *out, size_t stride) {
    assert(first + n <= r->count && stride >= r->dim);
#pragma omp parallel for
    for (size_t i = 0; i < n; i++) {
        float *to = out + i * stride;
        size_t at = (first + i) * r->dim;
        if (r->f32)
            memcpy(to, r->f32 + at, r->dim * sizeof *to);
        else
            half_to_floats(to, r->f16 + at, r->dim);
        if (r->scale)
            for (size_t j = 0; j < r->dim; j++) to[j] *= r->scale[first + i];
        memset(to + r->dim, 0, (stride - r->dim) * sizeof *to);
    }
    if (r->drop) give_back(r, first, n);
}

bool rows_normalise(Rows *r, Error *err) {
    float *norm = xmalloc(size_mul(size_max(r->count, 1), sizeof *norm)),
          *block = xmalloc(size_mul(BLOCK_ROWS, r->dim * sizeof *block));
    size_t bad = r->count;
    bool unit = true;
    for (size_t first = 0; first < r->count && bad == r->count; first += BLOCK_ROWS) {
        size_t n = size_min(BLOCK_ROWS, r->count - first);
        rows_load(r, first, n, block, r->dim);
#pragma omp parallel for
        for (size_t i = 0; i < n; i++) {
            double sum = 0;
            for (size_t j = 0; j < r->dim; j++)
                sum += (double)block[i * r->dim + j] * block[i * r->dim + j];
            norm[first + i] = (float)sqrt(sum);
        }
        for (size_t i = first; i < first + n && bad == r->count; i++) {
            if (!isfinite(norm[i])) bad = i;
            unit &= fabs(norm[i] - 1) <= UNIT_TOLERANCE;
        }
    }
    free(block);
    if (bad < r->count) {
        free(norm);
        return error_set(err, "row %zu (from 0) holds a NaN or an infinite value", bad);
    }
    if (unit) {
        free(norm);
        return true;
    }
    for (size_t i = 0; i < r->count; i++) norm[i] = norm[i] > 0 ? 1 / norm[i] : 0;
    r->scale = norm;
    return true;
}

Rows rows_open(const char *path) {
    Rows r = {.drop = true};
    Error err;
    if (!npy_map(&r.mapped, path, &err)) die("%s", err.text);
    r.count = r.mapped.rows;
    r.dim = r.mapped.cols;
    r.f32 = r.mapped.f32;
    r.f16 = r.mapped.f16;
    if (!r.count || !r.dim) die("%s holds no features (%zu x %zu)", path, r.count, r.dim);
    if (!rows_normalise(&r, &err)) die("%s: %s", path, err.text);
    return r;
}

void rows_close(Rows *r) {
    npy_unmap(&r->mapped);
    free(r->scale);
    *r = (Rows){0};
}
