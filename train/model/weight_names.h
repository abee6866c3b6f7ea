/* weight_names: maps the tensor names in checkpoints of several programs to open_clip's names
 * (docs/NUMERICS.md, 'Tensor names'), and back. */
#pragma once
#include "kernels/base.h"

enum { WEIGHT_NAME = 96 };

typedef struct WeightName {
    char name[WEIGHT_NAME]; /* the parameter's name; of an unknown tensor, its name, truncated */
    int part;               /* 0, 1, 2: query, key, value of a stacked in_proj; -1: the whole */
    bool transposed;        /* stored as [out,in], while open_clip has [in,out] */
} WeightName;

/* Removes prefixes that training programs add (module., _orig_mod., text.) and translates names of
 * Hugging Face's CLIPModel. */
WeightName weight_name_in(const char *name);
/* Hugging Face's name of an open_clip parameter; part as above (of in_proj: 0, 1 or 2). False:
 * CLIPModel has no such parameter. */
bool weight_name_hf(const char *name, int part, char out[WEIGHT_NAME + 32], bool *transposed);
/* Returns true for buffers in some files that are not parameters. */
bool weight_is_buffer(const char *name);
