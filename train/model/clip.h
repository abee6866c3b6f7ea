/* clip: the model: two towers and the two features. It is written once, above the kernel table, and
 * knows shapes, never devices or element types. A Clip owns one arena of activations, laid out at
 * creation; nothing is allocated afterwards. */
#pragma once
#include "train/model/projection_head.h"

typedef struct ClipOptions {
    size_t max_batch;        /* samples of one forward */
    size_t max_text_rows;    /* packed text rows in memory at once, at least a context; the captions
                                of a batch with more run in parts; 0: max_batch × context */
    bool training;           /* keep activations for backward */
    bool grad_checkpointing; /* keep only a block's input, recompute the rest with the same bits */
    size_t kept_blocks; /* all the same, so many blocks of each tower, the last ones, keep all */
    bool full_compute;  /* skip nothing: whole contexts, the whole last block; for tests */
    bool image_rows;    /* compute the whole last block of pictures, for clip_tap_image */
    size_t text_bucket; /* the packed text rows of a batch on the device are padded to a multiple of
                           this, so that few shapes occur; 0: no padding */
    double patch_dropout;           /* training only */
    bool frozen_image, frozen_text; /* no trainable tensor: keep no activations */
    const struct Comm *sync_norm; /* batch normalisation's statistics are those of all ranks, whose
                                     batches are equal; NULL: of this one */
    HeadOptions head;             /* with views: their features are the head's */
    size_t views;                 /* of each sample beside its picture: 0 or 2 */
    bool views_only;              /* samples have views but no picture */
    uint64_t seed;
} ClipOptions;

/* The most pictures of one forward, views included. */
static inline size_t clip_pictures(const ClipOptions *o) {
    return size_mul(o->max_batch, (o->views_only ? 0 : 1) + o->views);
}

/* The number of a tower's blocks, from the first on, that are recomputed. */
static inline size_t clip_recomputed(const ClipOptions *o, size_t layers) {
    return o->grad_checkpointing ? layers - size_min(layers, o->kept_blocks) : 0;
}

typedef struct Clip Clip;
/* Of the towers that have tensors in p. */
Clip *clip_new(const Kernels *k, const ClipConfig *c, Params *p, const ClipOptions *o);
void clip_free(Clip *m);

/* Packed captions in device memory: all of a batch, or a part with which a tower's memory suffices.
 */
typedef struct TextPart {
    size_t B;                          /* captions */
    const int32_t *ids, *start, *pool; /* [rows], [sequences+1], [sequences] */
    size_t rows, sequences, max_T;     /* including padding sequences after the B captions */
} TextPart;

/* A batch in device memory, as uploads.h sends it. */
typedef struct ClipBatch {
    size_t pictures, views; /* of which the last ones are views */
    const uint8_t *pixels;  /* [pictures,S,S,3] */
    /* of pictures of their own sizes, padding included: pixels [image_rows,P,P,3], a patch after
     * the other; [pictures+padding+1] first rows; [pictures+padding,2] patches by height and width
     */
    const int32_t *image_start, *image_shape;
    size_t image_rows;
    const int32_t *keep;  /* [pictures,patches kept]; NULL: no patch dropout */
    const TextPart *part; /* the captions in order; parts 0: none */
    size_t parts;
} ClipBatch;

/* features[B,E] (device), L2-normalised; of pictures without the views. `keep`: a backward follows
 * this forward, before any other forward of the same tower. Passes with the same sizes are captured
 * as a graph (kernels/device.h). Of captions in parts, activations of the last part are kept;
 * features NULL: only the last part is run. */
void clip_image_fwd(Clip *m, acc *features, const ClipBatch *b, bool keep);
void clip_text_fwd(Clip *m, acc *features, const ClipBatch *b, bool keep);
/* The views' features [views,head.out] of the last forward of pictures, by the projection head. */
void clip_view_features(const Clip *m, acc *features);
/* Sets their gradients for the next clip_image_bwd. */
void clip_view_gradients(Clip *m, const acc *dfeatures);
/* Of a ViT: from now on a forward of pictures that is not kept also writes to[B,T,C] (device): all
 * rows of block `layer` (from 1), or for 0 those of the last block after the final LayerNorm. */
void clip_tap_image(Clip *m, acc *to, size_t layer);
/* Adds the gradients of the tower's trainable parameters to params->grad, from dfeatures[B,E] (the
 * gradient of the normalised features); B: pictures without the views. Of captions in parts, the
 * last part runs backward first, then each other one runs forward again, from `again`, and
 * backward; again NULL: the captions are one part. */
void clip_image_bwd(Clip *m, const acc *dfeatures, size_t B);
void clip_text_bwd(Clip *m, const acc *dfeatures, size_t B, const ClipBatch *again);
/* true: the next forwards belong to a step. Batch normalisations that learn then use the statistics
 * of the forward's batch, and each one with `keep` moves the running statistics; otherwise, and
 * initially, they use the running statistics. */
void clip_learning(Clip *m, bool learning);
/* Between plan_begin and plan_end (kernels/device.h): runs all passes of the largest batch.
 * features: any address of the device. */
void clip_plan(Clip *m, acc *features);
/* The shape of such a batch. */
typedef struct ClipShape {
    size_t max_batch, pictures, pixels; /* views included; bytes of a picture, or the most */
    size_t max_patches;                 /* of a picture of its own size; 0: all have one size */
    size_t image_padding, image_rows;   /* of these: sequences after the pictures, the most rows */
    size_t kept;                        /* patches of a picture that dropout keeps; 0: no dropout */
    size_t context, max_rows;           /* of one part, with its padding */
} ClipShape;
ClipShape clip_shape(const Clip *m);
/* ClipOptions.text_bucket for batches of this size: 0 on a device that captures nothing. Half of it
 * is a hundredth of the rows of captions of 16 tokens, and few distinct multiples occur. */
size_t clip_text_bucket(const Kernels *k, const ClipConfig *c, size_t batch);
/* Captions in the text tower's form: up to the pooled token if no later token can change the
 * feature, else padded to the context. */
typedef struct TextRows {
    int32_t *ids, *start, *pool; /* [rows], [B+1], [B] rows of the pooled tokens */
} TextRows;
/* Packs B of the tokenizer's captions, whose contexts it fills with `pad`, from ids[start[0]] on;
 * returns the number of rows. */
size_t clip_pack_texts(const Clip *m, TextRows to, const int32_t *ids, const int32_t *start,
                       int32_t pad, size_t B);
/* The number of a caption's first ids on which the feature depends, of n. */
size_t clip_text_length(const Clip *m, const int32_t *ids, size_t n, int32_t pad);
/* The padding sequences after B captions, and the padded number of their rows. */
size_t clip_text_padding(const Clip *m, size_t B);
size_t clip_text_rows(const Clip *m, size_t rows, size_t B);
/* The padded number of rows of pictures of their own sizes. */
size_t clip_image_rows(const Clip *m, size_t rows);
/* keep[B,kept]: the patches that dropout keeps. */
void clip_draw_patches(const Clip *m, int32_t *keep, const uint64_t *sample, uint64_t draw,
                       size_t B);
/* Sets the listener for complete gradients in every later backward: it is called for the matrices
 * of each block and the token embedding; other gradients are complete when the backward returns.
 * NULL: none. */
void clip_on_gradients(Clip *m, const GradientsReady *ready);
/* Returns true if the tower has a trainable tensor; if not, nothing is kept and its backward does
 * nothing. */
bool clip_image_trains(const Clip *m);
bool clip_text_trains(const Clip *m);

/* Multiply-adds ×2 of one sample's forward pass; packed text of `tokens` tokens, the causal half of
 * its scores; full: PyTorch's computation (all positions, all scores; `tokens` is unused). */
double clip_flops(const ClipConfig *c, size_t tokens, bool full);
/* Of its picture alone. */
double clip_image_flops(const ClipConfig *c, bool full);
