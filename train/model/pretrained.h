/* pretrained: opens any checkpoint for inference or as a start of training: its configuration, its
 * weights and its vocabulary. */
#ifndef TRAIN_MODEL_PRETRAINED_H
#define TRAIN_MODEL_PRETRAINED_H
#include "train/model/params.h"
#include "train/model/weights.h"

#define PRETRAINED_VOCAB "vocab.bpe" /* name of the vocabulary in a checkpoint folder */

/* The architecture of --model, or without one (NULL) the checkpoint's; mean, std and resizing are
 * the checkpoint's if it has them. Not both NULL. Exits with an error if there is none. */
void pretrained_config(ClipConfig *c, const char *path, const char *model);
/* Opens any checkpoint's weights as the model's parameters, in their order; exits with an error if
 * they do not fit. Positional embeddings of another size are resized (docs/NUMERICS.md, 'Position
 * resizing'); warns if they were trained with another activation than c's. */
void pretrained_open(Weights *w, const char *path, const ClipConfig *c, const Param *list,
                     size_t count);
/* Reads them into p and closes w. */
void pretrained_read(Weights *w, Params *p);
/* Opens and reads. */
void pretrained_load(const char *path, Params *p, const ClipConfig *c);
/* Path of the vocabulary in a checkpoint folder (or next to a file of weights); malloc'd, NULL if
 * it has none. */
char *pretrained_vocab(const char *path);
#endif
