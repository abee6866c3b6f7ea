/* weight_names: maps the tensor names in checkpoints of several programs to the model's, which are
 * open_clip's of a plain CLIP (docs/NUMERICS.md, 'Tensor names'), and back. */
#pragma once
#include "train/model/config.h"

enum { WEIGHT_NAME = 96, FILE_NAME = WEIGHT_NAME + 32 };

typedef struct WeightName {
    char name[WEIGHT_NAME]; /* the parameter's name; of an unknown tensor, its name, truncated */
    int third, thirds;  /* the rows that it holds of a stacked in_proj: query, key and value are a
                           third each; 0, 0: the whole */
    int half;           /* the rows that it holds of SwiGLU's c_fc: 1 the gate, 2 the value; 0: the
                           whole */
    bool transposed;    /* stored as [out,in], while the parameter is [in,out] */
    bool channels_last; /* of the patches' matrix: stored as [C,P·P·3], channels innermost */
    bool square;        /* of positions: stored as [side,side,C] */
    int ones;           /* stored with so many first dimensions of 1 more than the parameter */
} WeightName;

/* The names of a file. */
typedef enum {
    NAMES_OPEN_CLIP,
    NAMES_CUSTOM_TEXT, /* open_clip's CustomTextCLIP: text.… */
    NAMES_TIMM,        /* the same with an image tower of timm's: visual.trunk.… */
    NAMES_NAFLEX,      /* of these a NaFlexVit's */
    NAMES_EVA,         /* of these EVA-01's */
    NAMES_EVA02,
    NAMES_TORCHVISION,  /* torchvision's ResNets: the image tower's trunk alone */
    NAMES_CLIP_MODEL,   /* transformers' CLIPModel */
    NAMES_SIGLIP_MODEL, /* transformers' SiglipModel */
    NAMES_SIGLIP2_MODEL
} NamesOf;

/* Removes prefixes that training programs add (module., _orig_mod., text.) and translates names of
 * every kind. */
WeightName weight_name_in(const char *name);
/* The nth tensor, from 0, of a parameter in a file: *out has its name, cut to FILE_NAME - 1 bytes.
 * False: there are no more (or CLIPModel, or torchvision's ResNet, has no such parameter). */
bool weight_name_out(NamesOf names, const char *parameter, size_t nth, char file[FILE_NAME],
                     WeightName *out);
/* The names with which open_clip opens the model. */
NamesOf weight_names_of(const ClipConfig *c);
/* Returns true for what some files have and no encoder: buffers, a ResNet's classifier. */
bool weight_is_buffer(const char *name);
