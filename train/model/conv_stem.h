/* conv_stem: the patch embedding of a ViT that is three convolutions whose windows do not overlap
 * (timm's ConvStem): 4×4, batch normalisation, GELU; 2×2, the same; 2×2 with a bias. */
#pragma once
#include "train/model/conv_layer.h"

typedef struct ConvStemStore {
    act *patches; /* [B·(S/4)²,48]: the first convolution's windows */
    ConvStore conv[STEM_CONVS - 1];
    acc *sums; /* [2,channels] */
} ConvStemStore;

typedef struct ConvStem {
    const Kernels *k;
    const Params *p;
    const Comm *sync;
    Activation f;
    ConvLayer conv[STEM_CONVS];
    const Param *bias;  /* of the last one */
    acc *ones, *zeros;  /* [C] */
    act *d1, *d2, *pre; /* backward */
} ConvStem;

/* side: of the pictures; sync: ClipOptions.sync_norm. */
ConvStem conv_stem_at(const Kernels *k, const Params *p, const TowerConfig *t, size_t side,
                      const Comm *sync);
/* Constants, and with `training` what a backward needs besides a kept store; B: the most pictures.
 */
void conv_stem_layout(ConvStem *s, Arena *a, size_t B, bool training);
/* kept: for a backward. */
void conv_stem_store_layout(const ConvStem *s, ConvStemStore *t, Arena *a, size_t B, bool kept);
void conv_stem_start(const ConvStem *s);
/* tokens[B·grid,C] from t->patches; batch: normalisations that learn use the batch's statistics. */
void conv_stem_fwd(const ConvStem *s, const ConvStemStore *t, act *tokens, size_t B, bool batch,
                   bool kept);
/* Adds the gradients of the stem from dtokens. */
void conv_stem_bwd(const ConvStem *s, const ConvStemStore *t, const act *dtokens, size_t B,
                   bool batch);
bool conv_stem_trains(const ConvStem *s);
/* Multiply-adds of one picture. */
double conv_stem_macs(const TowerConfig *t, size_t side);
