/* clip: the model: two towers and the two features. Written once, above the kernel table; knows
 * shapes, never devices or element types. A Clip owns one arena of activations, laid out at
 * creation: nothing is allocated afterwards. */
#ifndef TRAIN_MODEL_CLIP_H
#define TRAIN_MODEL_CLIP_H
#include "train/model/params.h"

typedef struct ClipOptions {
    size_t max_batch;        /* samples of one forward */
    size_t max_text_rows;    /* packed text rows of one forward; 0: max_batch × context */
    bool training;           /* keep what backward needs */
    bool grad_checkpointing; /* keep a block's input only, recompute the rest: the same bits */
    bool full_compute;       /* skip nothing: whole contexts, the whole last block; for tests */
    size_t text_bucket;   /* batches on the device are padded to a multiple of so many packed text
                             rows, so that few shapes occur; 0: not */
    double patch_dropout; /* training only */
    bool frozen_image, frozen_text; /* no tensor of this tower is trainable: keep nothing of it */
    uint64_t seed;
} ClipOptions;

typedef struct Clip Clip;
Clip *clip_new(const Kernels *k, const ClipConfig *c, Params *p, const ClipOptions *o);
void clip_free(Clip *m);
/* Device bytes clip_new would take for activations. */
size_t clip_activation_bytes(const Kernels *k, const ClipConfig *c, const ClipOptions *o);

/* Pixels as the model gets them: [B,S,S,3] of the loader, in host memory. */
typedef struct ClipImages {
    const uint8_t *u8;
    const uint64_t
        *sample;   /* [B] keys of the patch-dropout draw together with `draw`; NULL: no dropout */
    uint64_t draw; /* epoch: the same draw in both passes of an accumulated step */
} ClipImages;

/* A batch in device memory, as uploads.h brings it. */
typedef struct ClipBatch {
    size_t B;
    const uint8_t *pixels;             /* [B,S,S,3] */
    const int32_t *keep;               /* [B,patches kept]; NULL: no patch dropout */
    const int32_t *ids, *start, *pool; /* [rows], [sequences+1], [sequences] */
    size_t rows, sequences, max_T; /* with padding: sequences of their own behind the B captions */
} ClipBatch;

/* features[B,E] (device), L2-normalised. `keep`: backward will follow for this forward, before any
 * other forward of the same tower. With patch dropout a kept forward has to name its samples. */
void clip_image_fwd(Clip *m, acc *features, const ClipImages *images, size_t B, bool keep);
/* Gradients of the tower's parameters that learn from dfeatures[B,E] (with respect to the
 * normalised features): added to params->grad. */
void clip_image_bwd(Clip *m, const acc *dfeatures, size_t B);
/* Captions in host memory, as the tokenizer gives them: ids[start[B]], start[B+1]. */
void clip_text_fwd(Clip *m, acc *features, const int32_t *ids, const int32_t *start, size_t B,
                   bool keep);
void clip_text_bwd(Clip *m, const acc *dfeatures, size_t B);
/* The same of a batch on the device. Calls with the same sizes are recorded as a graph (kernels.h)
 * and so are their backwards. */
void clip_image_sent(Clip *m, acc *features, const ClipBatch *sent, bool keep);
void clip_text_sent(Clip *m, acc *features, const ClipBatch *sent, bool keep);
/* Between plan_begin and plan_end (kernels.h): goes through all passes of the largest batch.
 * features: any address of the device. */
void clip_plan(Clip *m, acc *features);
/* What such a batch has to look like. */
typedef struct ClipShape {
    size_t max_batch, pixels;          /* bytes of a picture */
    size_t kept;                       /* patches of a picture that dropout leaves; 0: no dropout */
    size_t context, padding, max_rows; /* padding: sequences behind the captions */
} ClipShape;
ClipShape clip_shape(const Clip *m);
/* Captions as the text tower computes them: up to the pooled token if nothing after it can change
 * the feature, else filled up to the context with id 0, open_clip's padding. */
typedef struct TextRows {
    int32_t *ids, *start, *pool; /* [rows], [B+1], [B] rows of the pooled tokens */
} TextRows;
/* From captions as the tokenizer gives them; returns the rows. */
size_t clip_pack_texts(const Clip *m, TextRows to, const int32_t *ids, const int32_t *start,
                       size_t B);
/* How many of a caption's n ids the feature depends on: the first so many. */
size_t clip_text_length(const Clip *m, const int32_t *ids, size_t n);
/* Rows with padding of a batch that has so many without. */
size_t clip_text_rows(const Clip *m, size_t rows);
/* keep[B,kept]: the patches that dropout leaves, as the host calls draw them. */
void clip_draw_patches(const Clip *m, int32_t *keep, const uint64_t *sample, uint64_t draw,
                       size_t B);
/* Whom to tell in every backward from now on that gradients are complete: the matrices of each
 * block and the token embedding; the rest is when the backward returns. NULL: nobody. */
void clip_on_gradients(Clip *m, const GradientsReady *ready);
/* Whether the tower has a trainable tensor; if not, nothing is kept and its backward does nothing.
 */
bool clip_image_trains(const Clip *m);
bool clip_text_trains(const Clip *m);

/* Multiply-adds ×2 of one sample's forward pass; packed text of `tokens` tokens, the causal half of
 * its scores; full: what PyTorch computes (all positions, all scores; `tokens` is not used). */
double clip_flops(const ClipConfig *c, size_t tokens, bool full);
#endif
