/* lora: low-rank adaptation (Hu et al. 2021). The matrices of a tower's blocks are frozen, W_eff =
 * W + (alpha/rank)·B·A, and A [rank,in] and B [out,rank] are trainable. q, k, v, out and the two
 * matrices of the MLP have a pair each. A and B are tensors of the flat block, so optimiser,
 * clipping and ranks treat them like any other; everything else except the logit scale and bias is
 * frozen. After every step W_eff is computed into the compute weights. dA and dB are computed from
 * dW, which exists for one matrix at a time. In fp32, where masters otherwise serve as compute
 * weights, adapted matrices have a copy for W_eff. */
#pragma once
#include "train/model/fp8.h"
#include "train/model/params.h"

typedef struct LoraOptions {
    size_t rank; /* 0: none */
    double alpha;
    bool image, text; /* adapted towers */
} LoraOptions;

/* Declares the pairs of every block's matrices and freezes everything except factors, logit scale
 * and bias; call it before params_layout. With rank 0 it does nothing. */
void lora_declare(Params *p, const LoraOptions *o);
/* Allocates the scratch memory; nothing without LoRA. */
void lora_alloc(Params *p);
void lora_release(Params *p);
/* Computes the adapted matrices' compute weights from masters and factors; nothing without LoRA. */
void lora_merge(const Params *p);
/* begin returns a zeroed buffer for the gradient of an adapted matrix; end adds dA =
 * (alpha/rank)·Bᵀ·dW and dB = (alpha/rank)·dW·Aᵀ from it. One matrix at a time. */
acc *lora_grad_begin(const Params *p, const Param *q);
void lora_grad_end(const Params *p, const Param *q);
/* W_eff of an adapted tensor, f32 [q->size] on the device, with the factors from a whole trainable
 * block (masters or average); valid until the next call of this, lora_merge or lora_grad_begin. */
const acc *lora_merged(const Params *p, const acc *block, const Param *q);
