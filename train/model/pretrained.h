/* pretrained: opens any checkpoint for inference or as a start of training: its configuration, its
 * weights and its vocabulary. */
#pragma once
#include "train/model/params.h"
#include "train/model/weights.h"

/* The checkpoint that a user's name means: a file, a folder, or a run's folder, whose
 * checkpoints/best or, without one, checkpoints/latest is taken, which a line says. malloc'd; exits
 * with an error if there is none: nothing is downloaded. */
char *pretrained_find(const char *name);
/* The architecture of --model, or without one (NULL) the checkpoint's; mean, std and resizing are
 * the checkpoint's if it has them. Not both NULL. Exits with an error if there is none. */
void pretrained_config(ClipConfig *c, const char *path, const char *model);
/* Opens any checkpoint's weights as the model's parameters, in their order; exits with an error if
 * they do not fit. Positional embeddings of another size are resized (docs/NUMERICS.md, 'Position
 * resizing'); warns if they were trained with another activation than c's. only: of weights_fit. */
void pretrained_open(Weights *w, const char *path, const ClipConfig *c, const Param *list,
                     size_t count, ParamTower only);
/* Reads them into p and closes w, except if p is of one tower: the other one's can be read from w.
 */
void pretrained_read(Weights *w, Params *p);
/* Opens and reads. */
void pretrained_load(const char *path, Params *p, const ClipConfig *c);
/* Path of the vocabulary in a checkpoint folder (or next to a file of weights); malloc'd, NULL if
 * it has none. */
char *pretrained_vocab(const char *path);
/* The tokenizer of a model: of the file `vocab`, or without one (NULL) of the checkpoint's folder,
 * or CLIP's. *path: its file, malloc'd. Exits with an error if it is not the model's. */
Tokenizer *pretrained_tokenizer(const ClipConfig *c, const char *vocab, const char *checkpoint,
                                char **path);
/* Copies a vocabulary's file into a folder under its kind's name, with the tokenizer_config.json
 * beside it. False: errno. */
bool pretrained_copy_vocab(const char *vocab, const char *folder);
