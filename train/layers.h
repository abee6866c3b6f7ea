/* layers: which tensors are locked (LiT: Zhai et al. 2022) and layer-wise learning rates (Clark et
 * al. 2020; BEiT), both by depth in the tower. Groups are open_clip's. */
#pragma once
#include "train/model/params.h"

/* Groups from the top of the tower: 1 the projection, 2 the last block with the final LayerNorm, 3
 * … the blocks below it, layers+2 the embeddings (image: conv1, class, positions, ln_pre; text:
 * tokens, positions). 0: not in a tower (logit_scale, logit_bias). */
size_t layer_group(const Param *q, const ClipConfig *c);

typedef struct LayerRules {
    bool lock_image, lock_text;
    size_t image_unlocked, text_unlocked; /* trainable groups of a locked tower */
    bool text_norms_locked;               /* LayerNorms of locked text groups too */
    bool batch_norms_locked; /* weights, and with them the statistics, of batch normalisations */
    double lr_decay;         /* r: group g has the rate lr·r^(g-1); 1: all equal */
} LayerRules;
/* Sets trainable and lr_scale of every tensor. */
void layers_apply(Params *p, const ClipConfig *c, const LayerRules *rules);
