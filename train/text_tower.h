/* text: the text tower over packed captions: embedding → causal tower → pooled at the last token of
 * each sequence (spec 1.3). Called by clip.c, which owns the memory. */
#ifndef TRAIN_TEXT_TOWER_H
#define TRAIN_TEXT_TOWER_H
#include "train/clip.h"
#include "train/tower.h"

typedef struct TextTower {
    Tower tower;
    size_t context, vocab;
    Layer embed;                 /* token_embedding, positional_embedding */
    int32_t *ids, *start, *pool; /* device: [rows], [B+1], [B] */
    int32_t *host_pool;
    Sequences seq; /* of the last forward */
} TextTower;

void text_tower_init(TextTower *t, const Kernels *k, const ClipConfig *c, const Params *p,
                     const ClipOptions *o);
void text_tower_free(TextTower *t);
void text_tower_layout_kept(TextTower *t, Arena *a);
void text_tower_layout_scratch(TextTower *t, Arena *a);
/* pool: clip_text_fwd_at. */
void text_tower_fwd(TextTower *t, acc *features, const int32_t *ids, const int32_t *start,
                    const int32_t *pool, size_t B, bool keep);
void text_tower_bwd(TextTower *t, const acc *dfeatures);
bool text_tower_trains(const TextTower *t);
#endif
