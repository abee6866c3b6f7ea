/* text_tower: the text tower over packed captions: token and position embedding, then a tower. Its
 * memory belongs to the Clip. */
#pragma once
#include "train/model/clip.h"
#include "train/model/tower.h"

typedef struct TextTower {
    Tower tower;
    size_t context, vocab;
    bool cut;                 /* captions end at their pooled token */
    size_t max_batch, bucket; /* captions; multiple of rows */
    Layer embed;              /* token_embedding, positional_embedding */
    TextRows rows;            /* on the device */
    Sequences seq;            /* of the last forward */
    size_t captions;          /* of the last forward; padding follows them */
} TextTower;

void text_tower_init(TextTower *t, const Kernels *k, const ClipConfig *c, const Params *p,
                     const ClipOptions *o);
void text_tower_free(TextTower *t);
void text_tower_layout_kept(TextTower *t, Arena *a);
void text_tower_layout_scratch(TextTower *t, Arena *a);
/* clip_pack_texts, clip_text_length. */
size_t text_tower_pack(const TextTower *t, TextRows to, const int32_t *ids, const int32_t *start,
                       int32_t pad, size_t B);
size_t text_tower_length(const TextTower *t, const int32_t *ids, size_t n, int32_t pad);
/* Captions of the next forward. */
void text_tower_load(TextTower *t, const TextPart *b);
/* Computes the features into `unit` of the pass; those of padding come last. */
void text_tower_fwd(TextTower *t, bool keep);
/* Backward from the features' gradients in tower.kept.raw. */
void text_tower_bwd(TextTower *t);
/* clip_text_padding, clip_text_rows. */
size_t text_tower_padding(const TextTower *t, size_t B);
size_t text_tower_rows(const TextTower *t, size_t rows, size_t B);
bool text_tower_trains(const TextTower *t);
