/* config_timm: image towers that open_clip takes from timm: vision_cfg names one
 * (timm_model_name), whose sizes are in timm's code (timm/models/vision_transformer.py,
 * vision_transformer_hybrid.py, eva.py). */
#pragma once
#include "train/model/config.h"
#include "train/model/config_fields.h"

/* What the models of one file of timm's share. */
typedef enum {
    TIMM_SIGLIP,
    TIMM_NAFLEX,
    TIMM_EVA,
    TIMM_EVA_POST,
    TIMM_EVA02,
    TIMM_PE_CORE,
    TIMM_MCI,
    TIMM_CLIP
} TimmFamily;

/* One model of timm's; heads are 64 wide unless head_width says otherwise. */
typedef struct TimmModel {
    const char *name;
    size_t image_size, patch_size, width, layers, head_width;
    double mlp_ratio;
    Activation activation;
    TimmFamily family;
    size_t pool_heads;   /* of attention pooling, whose mlp is 4 times the width; 0: as a block's */
    size_t reference;    /* side of the grid that rotary positions are scaled to; 0: none */
    bool no_class_token; /* of a family that has one */
} TimmModel;

/* A name of timm's models with pictures of their own sizes (timm/models/naflexvit.py). */
#define NAFLEX_NAME "naflexvit_siglip"

/* NULL: not one of the table. */
const TimmModel *timm_find(const char *name);
/* The model with the same sizes for pictures of another size; NULL: none. */
const TimmModel *timm_of_size(const char *name, size_t image_size);
/* The model of these sizes, activation aside unless two differ in it alone; NULL: none. */
const TimmModel *timm_like(const TimmModel *sizes);
/* Adds the sizes of the named model to vision_cfg where it has none; fails at a name that is
 * not in the table, unless it has "siglip" in it and comes with its width and layers. */
void timm_sizes(const JsonFields *vision_cfg, const char *name);
/* Sets what the named model has besides sizes; takes the fields timm_pool and timm_proj. */
void timm_tower(const JsonFields *vision_cfg, ClipConfig *c, const char *name);
