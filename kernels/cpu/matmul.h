/* matmul: matrix products of the CPU backend by oneDNN. */
#pragma once
#include "kernels/cpu/cpu.h"

/* c[M,N] = (c if add) + a[M,K] b[K,N] + bias[N] (bias may be NULL). A stored matrix has rows of ld
 * elements; ta: a is stored as [K,M]; tb: b is stored as [N,K]. a, b and the bias have the type
 * `in`, c has `out`: act unless set. With ta c is f32 and there is no bias. */
typedef struct Product {
    size_t M, N, K;
    struct {
        const void *at;
        size_t ld;
    } a, b;
    struct {
        void *at;
        size_t ld;
    } c;
    bool ta, tb, add;
    Element in, out;
    const void *bias;
    float *left_sums; /* with ta, if not NULL: Σ_k a is added */
} Product;

void FN(matmul)(const Product *p);
