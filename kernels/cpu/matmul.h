/* matmul: matrix products of the CPU backend, for linear.c: by oneDNN (matmul.c), and in bf16 by
 * the backend's own tiles where the CPU has instructions for them (tiled.c). */
#ifndef KERNELS_CPU_MATMUL_H
#define KERNELS_CPU_MATMUL_H
#include "kernels/cpu/cpu.h"

typedef enum Element { ELEMENT_F32, ELEMENT_ACT } Element;

/* c[M,N] = (c if add) + a[M,K] b[K,N] + bias[N] (bias may be NULL). A stored operand has rows of ld
 * elements; ta: a is stored as [K,M]; tb: b is stored as [N,K]. With ta c is f32 and there is no
 * bias. */
typedef struct Product {
    const void *a, *b;
    void *c;
    const float *bias;
    size_t M, N, K, lda, ldb, ldc;
    bool ta, tb, add;
    Element in, out;
    float *left_sums; /* with ta, if given: Σ_k a is added */
    act *activated;   /* for own tiles, if given: receives f(c) */
    Activation f;
} Product;

void FN(matmul)(const Product *p);

#if defined ACT_BF16
#include "kernels/cpu/tiles.h"
#endif
#if defined TILES_BUILT
/* p->in is bf16. */
void tiled_matmul(const Product *p);
#endif
#endif
