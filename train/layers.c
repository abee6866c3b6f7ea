#include "train/layers.h"

#include <math.h>

size_t layer_group(const Param *q, const ClipConfig *c) {
    size_t layers = q->tower == TOWER_IMAGE ? c->image.layers : c->text.layers;
    return q->tower ? layers + 2 - q->layer : 0;
}

void layers_apply(Params *p, const ClipConfig *c, const LayerRules *rules) {
    for (size_t i = 0; i < p->count; i++) {
        Param *q = &p->list[i];
        size_t group = layer_group(q, c);
        bool image = q->tower == TOWER_IMAGE, locked = image ? rules->lock_image : rules->lock_text;
        size_t unlocked = image ? rules->image_unlocked : rules->text_unlocked;
        bool norm = param_is_norm(q) && !image && !rules->text_norms_locked;
        if (group && locked && group > unlocked && !norm) q->trainable = false;
        if (rules->batch_norms_locked && param_is_batch_norm(q)) q->trainable = false;
        q->lr_scale = group ? pow(rules->lr_decay, (double)(group - 1)) : 1;
    }
}
