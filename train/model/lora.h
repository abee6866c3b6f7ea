/* lora: low-rank adaptation (Hu et al. 2021): the matrices of a tower's blocks stay as they are,
 * W_eff = W + (alpha/rank)·B·A; A [rank,in] and B [out,rank] learn. q, k, v, out and the two of the
 * MLP have a pair each. A and B are tensors of the flat block, so that optimiser, clipping and
 * ranks treat them like any other; all else but the logit scale and bias is frozen. W_eff is formed
 * into the compute weights after every step; dA, dB are taken from dW, which has a place for one
 * matrix at a time. In fp32, where masters serve as compute weights otherwise, adapted matrices
 * have a copy for W_eff. Called by params, block, optim and checkpoint. */
#ifndef TRAIN_MODEL_LORA_H
#define TRAIN_MODEL_LORA_H
#include <stdbool.h>
#include <stddef.h>

typedef struct Params Params;
typedef struct Param Param;
typedef struct acc acc;
typedef struct Kernels Kernels;

typedef struct LoraOptions {
    size_t rank; /* 0: none */
    double alpha;
    bool image, text; /* which towers */
} LoraOptions;

typedef struct Lora Lora;
/* Registers the pairs of every block's matrices and freezes what is no factor: before the flat
 * block is laid out. */
Lora *lora_new(Params *p, const LoraOptions *o);
/* Takes the scratch memory: when the flat block stands. */
void lora_bind(Lora *l, const Params *p);
void lora_free(Lora *l, const Params *p);
/* Bytes of that memory. */
size_t lora_bytes(const Lora *l, const Kernels *k);
/* The adapted matrices' compute weights from masters and factors. */
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
