/* lora: low-rank adaptation (Hu et al. 2021): the matrices of a tower's blocks stay as they are,
 * W_eff = W + (alpha/rank)·B·A; A [rank,in] and B [out,rank] learn. q, k, v, out and the two of the
 * MLP have a pair each. A and B are tensors of the flat block, so that optimiser, clipping and
 * ranks treat them like any other; W_eff is formed into the compute weights after every step, and
 * dA, dB are taken from dW. It costs, beside the full training's memory of weights and gradients: a
 * copy of the compute weights (in fp32, where masters serve as such otherwise) and one of the
 * largest matrix. Called by params, optim, step and checkpoint. */
#ifndef TRAIN_LORA_H
#define TRAIN_LORA_H
#include <stdbool.h>
#include <stddef.h>

typedef struct Params Params;
typedef struct Param Param;
typedef struct acc acc;

typedef struct LoraOptions {
    size_t rank; /* 0: none */
    double alpha;
    bool image, text; /* which towers */
} LoraOptions;

typedef struct Lora Lora;
/* Registers the pairs of every block's matrices: before the flat block is laid out. */
Lora *lora_new(Params *p, const LoraOptions *o);
/* Takes the scratch memory: when the flat block stands. */
void lora_bind(Lora *l, const Params *p);
void lora_free(Lora *l, const Params *p);
/* The adapted matrices' compute weights from masters and factors. */
void lora_merge(const Params *p);
/* Adds dA = (alpha/rank)·Bᵀ·dW and dB = (alpha/rank)·dW·Aᵀ, which are 0 before. */
void lora_gradients(const Params *p);
/* W_eff of an adapted tensor, f32 [q->size] on the device; valid until the next call. */
const acc *lora_merged(const Params *p, const Param *q);
#endif
