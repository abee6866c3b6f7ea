/* idx: the arrays of MNIST and similar sets: IDX files of bytes, plain or gzip (Y. LeCun, C.
 * Cortes, C. Burges, The MNIST database: 0, 0, type 8, dimensions, each size as big-endian u32,
 * then the bytes). */
#pragma once
#include "kernels/base.h"

enum { IDX_DIMS_MAX = 4 };
#define IDX_BYTES_MAX ((size_t)2 << 30) /* decompressed */

typedef struct IdxArray {
    size_t ndim, shape[IDX_DIMS_MAX], size; /* size: bytes, the product of shape */
    uint8_t *bytes;                         /* malloc'd */
} IdxArray;

/* Reads a whole file. Memory grows with the bytes present, not with the size that the header
 * claims. */
bool idx_parse(IdxArray *a, const uint8_t *file, size_t n, Error *err);
void idx_free(IdxArray *a);

typedef struct IdxSet {
    IdxArray images; /* [N,H,W] grey or [N,H,W,3] */
    IdxArray labels; /* [N], or no bytes: without labels */
    char *name;      /* of the images' file, without its folder */
} IdxSet;

/* "IMAGES,LABELS"; with IMAGES alone, the labels are the file of the corresponding name in the same
 * folder ("x-images-idx3-ubyte.gz" and "x-labels-idx1-ubyte.gz"), if it exists. After either,
 * idx_set_free. */
bool idx_set_open(IdxSet *s, const char *files, Error *err);
/* Picture i as PNG, malloc'd. */
bool idx_picture(const IdxSet *s, size_t i, uint8_t **png, size_t *n, Error *err);
void idx_set_free(IdxSet *s);
