/* lora: low-rank adaptation (Hu et al. 2021). The matrices of a tower's blocks are frozen, W_eff =
 * W + (alpha/rank)·B·A, and A [rank,in] and B [out,rank] learn. q, k, v, out and the two matrices
 * of the MLP have a pair each. A and B are tensors of the flat block, so optimiser, clipping and
 * ranks treat them like any other; everything else but the logit scale and bias is frozen. W_eff is
 * formed into the compute weights after every step. dA and dB are computed from dW, of which one
 * matrix exists at a time. In fp32, whose masters serve as compute weights otherwise, adapted
 * matrices have a copy for W_eff. */
#ifndef TRAIN_MODEL_LORA_H
#define TRAIN_MODEL_LORA_H
#include "train/model/fp8.h"
#include "train/model/params.h"

typedef struct LoraOptions {
    size_t rank; /* 0: none */
    double alpha;
    bool image, text; /* which towers */
} LoraOptions;

/* Declares the pairs of every block's matrices and freezes everything but factors, logit scale and
 * bias; before params_layout. Nothing with a rank of 0. */
void lora_declare(Params *p, const LoraOptions *o);
/* The scratch memory; nothing without LoRA. */
void lora_alloc(Params *p);
void lora_release(Params *p);
size_t lora_bytes(const Params *p);
/* Computes the adapted matrices' compute weights from masters and factors; nothing without LoRA. */
void lora_merge(const Params *p);
/* Where the gradient of an adapted matrix is to be added, which is 0 now; then, from it, adds dA =
 * (alpha/rank)·Bᵀ·dW and dB = (alpha/rank)·dW·Aᵀ. One matrix at a time. */
acc *lora_grad_begin(const Params *p, const Param *q);
void lora_grad_end(const Params *p, const Param *q);
/* W_eff of an adapted tensor, f32 [q->size] on the device, with the factors of a whole block of
 * what learns (masters or average); valid until the next call of this, lora_merge or
 * lora_grad_begin. */
const acc *lora_merged(const Params *p, const acc *block, const Param *q);
#endif
