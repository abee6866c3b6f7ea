/* weight_names: what checkpoints of several programs call the tensors of a CLIP, in open_clip's
 * words (docs/NUMERICS.md, 'Tensor names'), and back. */
#ifndef TRAIN_MODEL_WEIGHT_NAMES_H
#define TRAIN_MODEL_WEIGHT_NAMES_H
#include "kernels/base.h"

enum { WEIGHT_NAME = 96 };

typedef struct WeightName {
    char name[WEIGHT_NAME]; /* the parameter; of a foreign tensor, its own name, cut */
    int part;               /* 0, 1, 2: query, key, value of a stacked in_proj; -1: the whole */
    bool transposed;        /* stored as [out,in] where open_clip has [in,out] */
} WeightName;

/* Prefixes that training programs add are taken off (module., _orig_mod., text.), Hugging Face's
 * CLIPModel names translated. */
WeightName weight_name_in(const char *name);
/* Hugging Face's name of an open_clip parameter; part as above (of in_proj: 0, 1 or 2). False:
 * CLIPModel has no such parameter. */
bool weight_name_hf(const char *name, int part, char out[WEIGHT_NAME + 32], bool *transposed);
/* Buffers that some files carry and that are no parameters. */
bool weight_is_buffer(const char *name);
#endif
