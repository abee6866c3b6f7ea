/* blas: matrix products by cuBLASLt, its only user. Layouts and the algorithm are cached by
 * shape; there is one workspace. Compiled once: element types are arguments. Private to
 * kernels/cuda/. */
#pragma once
#include "kernels/cuda/device.h"

/* For those that multiply act: its type in a Product, and tf32. */
#if defined ACT_BF16
#define ACT_TYPE CUDA_R_16BF
/* products of f32 (the logits) keep 10 bits of mantissa, whereas bf16 keeps 7 */
#define TF32 true
#else
#define ACT_TYPE CUDA_R_32F
#define TF32 kernel_tuning.tf32
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* c[M,N] = (c if add) + a b + bias[N] + addend, sums in f32. ta: a is stored as [K,M], else [M,K];
 * tb: b is stored as [N,K], else [K,N]; rows as stored are ld elements apart. bias (or NULL) has
 * c's type. tf32: f32 inputs may be rounded to TF32 (10 bits of mantissa). */
typedef struct Product Product;
struct Product {
    const void *a, *b, *bias;
    void *c;
    size_t M, N, K, lda, ldb, ldc;
    bool ta, tb, add, tf32;
    cudaDataType_t in, out;
    /* Optional, without add: [M,N], of c's type, with rows that are ldc elements apart. */
    const void *addend = NULL;
    /* FP8 factors only: b's type (a's is `in`) and, on the device, the scales of the factors */
    cudaDataType_t b_type = CUDA_R_32F;
    const float *scale_a = NULL, *scale_b = NULL;
    /* Optional, with ta and an f32 c: the output for Σ_k a, [M], which the library may compute with
     * the product, and a function that computes them separately, so that --autotune can compare. */
    float *sums = NULL;
    void (*sums_apart)(const Product *p) = NULL;
};

/* If the library refuses a product whose rows are not 16-byte aligned, copies are multiplied.
 * Returns true if p->sums were computed; false if the library has no way to, or a slower one. */
bool blas_product(const Product *p);
#ifdef __cplusplus
}
#endif
