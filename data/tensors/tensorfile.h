/* tensorfile: named tensors of one checkpoint file: safetensors or PyTorch's, recognised by their
 * first bytes, or a JSON index over several of them (Hugging Face's `*.index.json`). */
#pragma once
#include "data/tensors/safetensors.h"

typedef struct TensorFile {
    Tensor *tensors; /* names and data belong to the parts */
    size_t count;
    size_t bytes; /* of all files */
    struct TensorPart *parts;
    size_t part_count;
} TensorFile;

bool tensorfile_open(TensorFile *f, const char *path, Error *err);
/* Returns true if the bytes match the checksums of the files that have any. */
bool tensorfile_verify(const TensorFile *f, Error *err);
/* The checksum stored in the file; NULL: it has none, or there are several files. */
const char *tensorfile_checksum(const TensorFile *f);
/* map_drop of its files. */
void tensorfile_drop(const TensorFile *f);
void tensorfile_close(TensorFile *f);

/* The index only: names of tensors and the file of each. */
typedef struct TensorIndex {
    char **tensors;
    size_t *file_of; /* of each tensor, in files */
    size_t count;
    char **files; /* plain names, without folders */
    size_t file_count;
} TensorIndex;
bool tensorindex_parse(TensorIndex *x, const char *json, size_t n, Error *err);
void tensorindex_free(TensorIndex *x);
