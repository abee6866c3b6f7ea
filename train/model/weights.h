/* weights: any checkpoint opened for reading: where its files are, what its tensors are called and
 * how they are stored is settled here, once. Formats: docs/FORMATS.md. */
#ifndef TRAIN_MODEL_WEIGHTS_H
#define TRAIN_MODEL_WEIGHTS_H
#include "data/tensors/tensorfile.h"
#include "train/model/params.h"

/* One parameter. Read through weight_read: it may be stored in three parts, transposed, in half
 * precision. */
typedef struct Weight {
    char name[sizeof((Param *)0)->name]; /* open_clip's */
    const Tensor *part[3];               /* one below the other; [1], [2] NULL: one part */
    bool split, transposed;
    int ndim;
    size_t shape[8], count;
    float *own; /* computed here (a resized embedding, a missing bias), not read */
} Weight;

typedef struct Weights {
    char *path; /* the file that was opened */
    TensorFile file;
    Weight *list;
    size_t count;
    bool openai; /* made by OpenAI or by those who trained like them: QuickGELU */
} Weights;

/* The file of weights that `path` means: of a folder, the first that stands in it of open_clip's
 * and Hugging Face's; NULL: none does. malloc'd. */
char *weights_find_file(const char *path);
/* Opens and names. False: unreadable, damaged, or a tensor there twice. */
bool weights_open(Weights *w, const char *path, Error *err);
void weights_close(Weights *w);
const Weight *weights_find(const Weights *w, const char *name);
/* Makes w->list the model's parameters, in their order: resizes positional embeddings, adds a
 * logit_bias of 0. False: a tensor is missing, foreign or of another shape. */
bool weights_fit(Weights *w, const Param *list, size_t count, const char *model, Error *err);
/* Elements first … first+n-1 of a floating-point weight. */
void weight_read(const Weight *w, size_t first, size_t n, float *out);
/* A tensor as it stands. */
Weight weight_of(const Tensor *t);
/* Into the parameter's place in a whole block of what learns or, of a frozen one, its master. */
void weight_load(const Weight *w, const Params *p, acc *block, const Param *q);
#endif
