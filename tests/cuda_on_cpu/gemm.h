/* gemm: matrix products on the CPU with cuBLASLt's epilogues. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum GemmType { GEMM_F32, GEMM_BF16, GEMM_E4M3, GEMM_E5M2 } GemmType;
typedef enum GemmRound { GEMM_EXACT, GEMM_TF32, GEMM_AS_BF16 } GemmRound; /* of f32 inputs */
typedef enum GemmAct { ACT_NONE, ACT_RELU, ACT_GELU, ACT_DGELU } GemmAct;

/* Element (i, j) of batch b: data[i * row + j * col + b * batch], counted in elements. */
typedef struct GemmMatrix {
    unsigned char *data;
    GemmType type;
    int64_t row, col, batch;
} GemmMatrix;
typedef struct Gemm {
    int64_t m, n, k, batches;
    GemmMatrix a, b, c, d; /* m x k, k x n, m x n, m x n */
    float alpha, beta;
    GemmRound round;
    /* d = act(alpha a b + beta c + bias of the row); NULL: none */
    const unsigned char *bias;
    GemmType bias_type;
    int64_t bias_batch;
    GemmAct act;
    GemmMatrix aux;           /* GELU's input, written (ACT_GELU) or read (ACT_DGELU); or no data */
    unsigned char *bias_grad; /* row sums of d, of a over k, or column sums of b over k */
    int grad_of;              /* 'd', 'a', 'b' */
} Gemm;
size_t gemm_type_bytes(GemmType t);
void gemm_run(const Gemm *g);
