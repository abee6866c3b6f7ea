#include "train/layers.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

bool layer_is_image(const Param *q) { return strstr(q->name, "visual.") != NULL; }

size_t layer_group(const Param *q, const ClipConfig *c) {
    bool image = layer_is_image(q);
    size_t layers = image ? c->image.layers : c->text.layers;
    if (!strncmp(q->name, "logit_", 6)) return 0;
    const char *block = strstr(q->name, "resblocks.");
    if (block) return layers + 1 - (size_t)strtoull(block + 10, NULL, 10);
    if (!strcmp(q->name, "visual.proj") || !strcmp(q->name, "text_projection")) return 1;
    if (strstr(q->name, "ln_post") || strstr(q->name, "ln_final")) return 2;
    return layers + 2;
}

void layers_plan(Params *p, const ClipConfig *c, const LayerPlan *plan) {
    for (size_t i = 0; i < p->count; i++) {
        Param *q = &p->list[i];
        size_t group = layer_group(q, c);
        bool image = layer_is_image(q), locked = image ? plan->lock_image : plan->lock_text;
        size_t unlocked = image ? plan->image_unlocked : plan->text_unlocked;
        bool norm = strstr(q->name, "ln_") != NULL && !image && !plan->text_norms_locked;
        if (group && locked && group > unlocked && !norm) q->trainable = false;
        q->lr_scale = group ? pow(plan->lr_decay, (double)(group - 1)) : 1;
    }
}
