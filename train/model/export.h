/* export: a model as a checkpoint of another program's format, written under a temporary name and
 * renamed into place; existing files are never overwritten. Formats: docs/FORMATS.md. */
#pragma once
#include "data/tensors/safetensors.h"
#include "train/model/params.h"

#define EXPORT_FORMATS(X)                                                                          \
    X(EXPORT_OPEN_CLIP, "open_clip")                                                               \
    X(EXPORT_HF, "hf")                                                                             \
    X(EXPORT_SAFETENSORS, "safetensors") X(EXPORT_PT, "pt") X(EXPORT_TORCHVISION, "torchvision")
typedef enum { EXPORT_FORMATS(CHOICE_NAME) } ExportFormat;

/* Values first … first+n-1 of parameter i. */
typedef void ExportRead(void *context, size_t i, size_t first, size_t n, float *out);

typedef struct Export {
    const char *out; /* a folder or, of the last three formats, a file; must not exist */
    ExportFormat format;
    Dtype dtype; /* F32, F16 or BF16 */
    const ClipConfig *config;
    const Param *list; /* the model's parameters, in order */
    size_t count;
    const char *vocab; /* NULL: without one */
    ExportRead *read;
    void *context;
} Export;

/* Checks before anything is read: `out` does not exist, and the format has a place for all of the
 * model. */
bool export_check(const Export *e, Error *err);
bool export_write(const Export *e, Error *err);
