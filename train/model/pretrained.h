/* pretrained: any checkpoint opened for inference or as a start: its configuration, its weights and
 * its vocabulary. */
#ifndef TRAIN_MODEL_PRETRAINED_H
#define TRAIN_MODEL_PRETRAINED_H
#include "train/model/params.h"
#include "train/model/weights.h"

#define PRETRAINED_VOCAB "vocab.bpe" /* name of the vocabulary in a checkpoint folder */

/* The architecture of --model, or without one (NULL) the checkpoint's own; mean, std and resizing
 * are the checkpoint's wherever it says them. Not both NULL. Dies where there is none. */
void pretrained_config(ClipConfig *c, const char *path, const char *model);
/* Opens any checkpoint's weights as the model's parameters, in their order; dies where they do not
 * fit. Positional embeddings of another size are resized (docs/NUMERICS.md, 'Position resizing');
 * warns where they were trained with another activation than c's. */
void pretrained_open(Weights *w, const char *path, const ClipConfig *c, const Param *list,
                     size_t count);
/* Reads them into p; w is closed. */
void pretrained_read(Weights *w, Params *p);
/* Both. */
void pretrained_load(const char *path, Params *p, const ClipConfig *c);
/* Path of the vocabulary in a checkpoint folder (or beside a file of weights); malloc'd, NULL when
 * it has none. */
char *pretrained_vocab(const char *path);
#endif
