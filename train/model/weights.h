/* weights: opens any checkpoint for reading. This module alone handles the location of its files,
 * the names of its tensors and their storage. Formats: docs/FORMATS.md. */
#pragma once
#include "data/tensors/tensorfile.h"
#include "train/model/params.h"

/* One parameter. Read through weight_read: it may be stored in parts, transposed, in half
 * precision. */
typedef struct Weight {
    char name[sizeof((Param *)0)->name]; /* open_clip's */
    const Tensor *part[3]; /* of split parts, stacked by rows: thirds, of which two may be in one
                              tensor, and a bias of keys may be absent; or halves; else [0] alone */
    int split;             /* 3, 2; 0: in one tensor */
    bool transposed;
    bool channels_last; /* the patches' matrix as [C,P·P·3] */
    int ndim;
    size_t shape[8], count;
    float *own; /* computed here (a resized embedding, a missing bias), not read */
} Weight;

typedef struct Weights {
    char *path; /* the file that was opened */
    TensorFile file;
    Weight *list;
    size_t count;
    bool openai; /* trained by OpenAI or in the same way: QuickGELU */
} Weights;

/* The file of weights that `path` means: for a folder, the first existing of open_clip's and
 * Hugging Face's files; NULL: none. malloc'd. */
char *weights_find_file(const char *path);
/* Opens the files and names the tensors. False: unreadable, damaged, or a duplicate tensor. */
bool weights_open(Weights *w, const char *path, Error *err);
void weights_close(Weights *w);
const Weight *weights_find(const Weights *w, const char *name);
/* Makes w->list the model's parameters, in their order: resizes positional embeddings, adds a
 * logit_bias of 0. False: a tensor is missing, unknown or of another shape. only: not NONE: a file
 * may have this tower alone; the other one's weights then have no elements (count 0), and those of
 * no tower their initial values. */
bool weights_fit(Weights *w, const Param *list, size_t count, ParamTower only, const char *model,
                 Error *err);
/* Elements first … first+n-1 of a floating-point weight. */
void weight_read(const Weight *w, size_t first, size_t n, float *out);
/* A tensor as stored. */
Weight weight_of(const Tensor *t);
/* Reads into the parameter's place in a whole trainable block or, if it is frozen, into its
 * master. */
void weight_load(const Weight *w, const Params *p, acc *block, const Param *q);
