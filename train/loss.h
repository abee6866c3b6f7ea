/* loss: symmetric cross-entropy over the N×N image-text logits, SigLIP and NT-Xent, in tiles. One
 * block of n rows serves both directions; memory is bounded by logit_memory. Gradients are those of
 * the global mean loss. */
#pragma once
#include "train/ranks/comm.h"

/* LOSS_NTXENT compares 2n views with each other (Chen et al. 2020, equation 1). It is CLIP's loss
 * of the views as images and of their other views as texts, without each view's pair with itself.
 */
typedef enum { LOSS_CLIP, LOSS_SIGLIP, LOSS_NTXENT } LossKind;

/* Type of the features that are sent to other ranks. */
#define GATHER_TYPES(X) X(GATHER_FP32, "fp32") X(GATHER_BF16, "bf16")
typedef enum { GATHER_TYPES(CHOICE_NAME) } GatherType;

typedef struct Loss Loss;

/* Targets that replace "row i belongs to column i only".
 * group [n], host: pairs of equal groups (over all ranks) are each other's positives, in CLIP's
 * loss with equal shares. teacher_…: a teacher's features [n,teacher_dim] and log scale on the
 * device, or NULL (CLIP's loss only): adds the mean cross-entropy of the teacher's softmax, both
 * directions (open_clip's distillation loss; Hinton et al. 2015). */
typedef struct SoftTargets {
    const uint64_t *group;
    const acc *teacher_images, *teacher_texts, *teacher_log_scale;
} SoftTargets;
/* n: rows (pairs) a rank, E: embedding, logit_memory: bytes for logits (at least one tile is always
 * allocated). All memory is allocated here. If the whole n×N block fits, it is kept and not
 * computed twice. */
Loss *loss_new(const Kernels *k, const Comm *comm, LossKind kind, size_t n, size_t E,
               size_t logit_memory);
void loss_free(Loss *l);
/* Allocates the memory for soft targets; teacher_dim 0: without a teacher. Call it once, before
 * loss_soften. */
void loss_allow_soft(Loss *l, size_t teacher_dim);
/* Sets the targets of the next loss_run. */
void loss_soften(Loss *l, const SoftTargets *t);
/* Over ranks the texts are gathered as bf16: half of the bytes, features rounded to 8 bits.
 * Every rank uses the same rounded texts, including its own; their gradients stay f32. */
void loss_gather_bf16(Loss *l);
/* Over ranks, starts to gather the texts [n,E] of the next loss_run, which is then given NULL: they
 * travel while other work is done. They must stay until then. */
void loss_send_texts(Loss *l, const acc *texts, size_t n);
/* images, texts [n,E] device, L2-normalised; log_scale, bias: device scalars (bias may be NULL).
 * Writes *loss (device, the global mean loss, equal on all ranks), dimages, dtexts [n,E]; adds to
 * *dlog_scale, *dbias this rank's share (summed over ranks later with the other gradients). n may
 * be smaller than at creation. Gradients may all be NULL to compute only the loss. */
void loss_run(Loss *l, acc *loss, acc *dimages, acc *dtexts, acc *dlog_scale, acc *dbias,
              const acc *images, const acc *texts, const acc *log_scale, const acc *bias, size_t n);
/* loss_send_texts of LOSS_NTXENT: views [n,E] device, L2-normalised, in blocks of 2·samples rows:
 * samples first views, then the second views of the same samples. */
void loss_send_views(Loss *l, const acc *views, size_t samples, size_t n);
/* Of the views [n,E] that were sent: writes *loss = share · NT-Xent, the mean over all views of all
 * ranks, and its gradient dviews[n,E], or NULL. */
void loss_run_views(Loss *l, acc *loss, acc *dviews, const acc *log_scale, double share, size_t n);
