/* matmul: matrix products of the CPU backend by oneDNN, for linear.c. */
#ifndef KERNELS_CPU_MATMUL_H
#define KERNELS_CPU_MATMUL_H
#include "kernels/cpu/cpu.h"

typedef enum Element { ELEMENT_F32, ELEMENT_ACT } Element;

/* c[M,N] = (c if add) + a[M,K] b[K,N] + bias[N] (bias may be NULL). A stored operand has rows of ld
 * elements; ta: a is stored as [K,M]; tb: b is stored as [N,K]. The bias has the type of a and b.
 * With ta c is f32 and there is no bias. */
typedef struct Product {
    const void *a, *b, *bias;
    void *c;
    size_t M, N, K, lda, ldb, ldc;
    bool ta, tb, add;
    Element in, out;
    float *left_sums; /* with ta, if given: Σ_k a is added */
} Product;

void FN(matmul)(const Product *p);

#endif
