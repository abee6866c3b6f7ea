/* cuda/linear: matrix products by cuBLASLt, the only user of it, with activations beside them.
 * Plans (layouts and the algorithm that the heuristic chose) are cached by shape; one workspace
 * serves all. cuBLASLt counts matrices by columns: a row-major [M,N] is its N × M matrix, so the
 * operands change places: c = a·b is computed as cᵀ = bᵀ·aᵀ. */
#include <cublasLt.h>
#include <string.h>

#include "kernels/cuda/cuda.cuh"

/* c[M,N] = (c if add) + a b + bias[N]. ta: a is stored as [K,M], else [M,K]; tb: b is stored as
 * [N,K], else [K,N]; rows as stored are ld elements apart. */
typedef struct Product {
    const void *a, *b, *bias;
    void *c;
    size_t M, N, K, lda, ldb, ldc;
    bool ta, tb, add;
    cudaDataType_t in, out;
} Product;

#if defined ACT_BF16
#define ACT_TYPE CUDA_R_16BF
#else
#define ACT_TYPE CUDA_R_32F
#endif

#define BLAS(call) blas_check(call, #call)
static void blas_check(cublasStatus_t status, const char *call) {
    if (status != CUBLAS_STATUS_SUCCESS)
        die("cuBLASLt: %s failed (%s); --device cpu runs without a GPU", call,
            cublasLtGetStatusString(status));
}

/* ---- plans ---- */

typedef struct Plan {
    Product key; /* its pointers hold alignments, bias: whether there is one */
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, c;
    cublasLtMatmulAlgo_t algo;
    uint64_t used;
} Plan;

/* Packed text changes the number of rows with every step, so shapes come and go: sets of a few
 * places, the longest unused one is given up. */
enum { CACHE_SETS = 256, CACHE_WAYS = 8 };
static Plan cache[CACHE_SETS][CACHE_WAYS];
static uint64_t cache_clock;
static cublasLtHandle_t handle;

#define WORKSPACE ((size_t)32 << 20)

/* The largest power of two up to 16 that divides the address. */
static uint32_t alignment_of(const void *p) {
    uintptr_t u = (uintptr_t)p | 16;
    return (uint32_t)(u & -u);
}

static void plan_free(Plan *p) {
    if (!p->desc) return;
    BLAS(cublasLtMatmulDescDestroy(p->desc));
    BLAS(cublasLtMatrixLayoutDestroy(p->a));
    BLAS(cublasLtMatrixLayoutDestroy(p->b));
    BLAS(cublasLtMatrixLayoutDestroy(p->c));
}

static cublasLtMatrixLayout_t layout(cudaDataType_t type, size_t rows, size_t cols, size_t ld) {
    cublasLtMatrixLayout_t l;
    BLAS(cublasLtMatrixLayoutCreate(&l, type, rows, cols, (int64_t)ld));
    return l;
}

static void plan_new(Plan *plan, const Product *p) {
    memset(plan, 0, sizeof *plan);
    BLAS(cublasLtMatmulDescCreate(&plan->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    cublasOperation_t op_first = p->tb ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasOperation_t op_second = p->ta ? CUBLAS_OP_T : CUBLAS_OP_N;
    BLAS(cublasLtMatmulDescSetAttribute(plan->desc, CUBLASLT_MATMUL_DESC_TRANSA, &op_first,
                                        sizeof op_first));
    BLAS(cublasLtMatmulDescSetAttribute(plan->desc, CUBLASLT_MATMUL_DESC_TRANSB, &op_second,
                                        sizeof op_second));
    if (p->bias) {
        cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
        BLAS(cublasLtMatmulDescSetAttribute(plan->desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue,
                                            sizeof epilogue));
        BLAS(cublasLtMatmulDescSetAttribute(plan->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &p->bias,
                                            sizeof p->bias));
    }
    plan->a = layout(p->in, p->tb ? p->K : p->N, p->tb ? p->N : p->K, p->ldb);
    plan->b = layout(p->in, p->ta ? p->M : p->K, p->ta ? p->K : p->M, p->lda);
    plan->c = layout(p->out, p->N, p->M, p->ldc);
}

/* Dies where the library knows no way. */
static void plan_choose(Plan *plan, const Product *p) {
    cublasLtMatmulPreference_t want;
    size_t workspace = WORKSPACE;
    uint32_t first = alignment_of(p->b), second = alignment_of(p->a), out = alignment_of(p->c);
    BLAS(cublasLtMatmulPreferenceCreate(&want));
#define WANT(attribute, value)                                                                     \
    BLAS(cublasLtMatmulPreferenceSetAttribute(want, CUBLASLT_MATMUL_PREF_##attribute, &value,      \
                                              sizeof value))
    WANT(MAX_WORKSPACE_BYTES, workspace);
    WANT(MIN_ALIGNMENT_A_BYTES, first);
    WANT(MIN_ALIGNMENT_B_BYTES, second);
    WANT(MIN_ALIGNMENT_C_BYTES, out);
    WANT(MIN_ALIGNMENT_D_BYTES, out);
#undef WANT
    cublasLtMatmulHeuristicResult_t result;
    int found = 0;
    cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
        handle, plan->desc, plan->a, plan->b, plan->c, plan->c, want, 1, &result, &found);
    if (status != CUBLAS_STATUS_SUCCESS || !found)
        die("cuBLASLt has no way to multiply %zu x %zu by %zu x %zu (%s)", p->M, p->K, p->K, p->N,
            cublasLtGetStatusString(status));
    plan->algo = result.algo;
    BLAS(cublasLtMatmulPreferenceDestroy(want));
}

static Plan *plan_get(const Product *p) {
    if (!handle) BLAS(cublasLtCreate(&handle));
    Product key;
    memset(&key, 0, sizeof key); /* padding too: keys are compared as bytes */
    key.a = (void *)(uintptr_t)alignment_of(p->a);
    key.b = (void *)(uintptr_t)alignment_of(p->b);
    key.c = (void *)(uintptr_t)alignment_of(p->c);
    key.bias = (void *)(uintptr_t)(p->bias != NULL);
    key.M = p->M, key.N = p->N, key.K = p->K;
    key.lda = p->lda, key.ldb = p->ldb, key.ldc = p->ldc;
    key.ta = p->ta, key.tb = p->tb, key.add = p->add;
    key.in = p->in, key.out = p->out;
    uint64_t hash = 0;
    const size_t parts[] = {
        key.M,
        key.N,
        key.K,
        key.lda,
        key.ldb,
        key.ldc,
        (size_t)(key.ta | key.tb << 1 | key.add << 2 | (key.out == key.in) << 3)};
    for (size_t i = 0; i < COUNT(parts); i++) hash = (hash ^ parts[i]) * 0x9E3779B97F4A7C15u;
    Plan *set = cache[hash >> 56], *oldest = set;
    static_assert(CACHE_SETS == 256, "a set is chosen by the hash's top byte");
    for (size_t i = 0; i < CACHE_WAYS; i++) {
        if (set[i].desc && !memcmp(&set[i].key, &key, sizeof key)) {
            set[i].used = ++cache_clock;
            return &set[i];
        }
        if (set[i].used < oldest->used) oldest = &set[i];
    }
    plan_free(oldest);
    plan_new(oldest, p);
    plan_choose(oldest, p);
    oldest->key = key;
    oldest->used = ++cache_clock;
    return oldest;
}

static void product(const Product *p) {
    const float one = 1, beta = p->add ? 1 : 0;
    if (!p->M || !p->N) return;
    if (!p->K) {
        assert(p->add || p->ldc == p->N);
        size_t size = p->out == CUDA_R_32F ? sizeof(float) : sizeof(act);
        if (!p->add) CUDA(cudaMemsetAsync(p->c, 0, p->M * p->N * size, device_stream()));
        return;
    }
    Plan *plan = plan_get(p);
    if (p->bias)
        BLAS(cublasLtMatmulDescSetAttribute(plan->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &p->bias,
                                            sizeof p->bias));
    BLAS(cublasLtMatmul(handle, plan->desc, &one, p->b, plan->a, p->a, plan->b, &beta, p->c,
                        plan->c, p->c, plan->c, &plan->algo,
                        device_scratch(SCRATCH_BLAS, WORKSPACE), WORKSPACE, device_stream()));
}

/* ---- slots ---- */

static double product_flops(size_t M, size_t N, size_t K) {
    return 2.0 * (double)M * (double)N * (double)K;
}
static double product_bytes(size_t M, size_t N, size_t K, size_t in, size_t out) {
    return (double)((M * K + N * K) * in + M * N * out);
}

/* The epilogue wants the bias in the type of the output. */
static const void *bias_of(const acc *b, size_t N) {
    if (!b || sizeof(act) == sizeof(acc)) return b;
    act *rounded = (act *)device_scratch(SCRATCH_BIAS, N * sizeof *rounded);
    FN(round_acc)(rounded, b, N);
    return rounded;
}

static void linear(act *y, const act *x, const act *w, const acc *b, size_t M, size_t N, size_t K) {
    if (!M) return;
    Product p = {x, w, bias_of(b, N), y, M, N, K, K, K, N, false, true, false, ACT_TYPE, ACT_TYPE};
    product(&p);
}

void FN(linear_fwd)(act *y, const act *x, const act *w, const acc *b, size_t M, size_t N,
                    size_t K) {
    GPU_TIMER(linear_fwd, product_flops(M, N, K), product_bytes(M, N, K, sizeof(act), sizeof(act)));
    linear(y, x, w, b, M, N, K);
}

void FN(linear_activation_fwd)(act *y, act *pre, const act *x, const act *w, const acc *b, size_t M,
                               size_t N, size_t K, Activation f) {
    GPU_TIMER(linear_activation_fwd, product_flops(M, N, K),
              product_bytes(M, N, K, sizeof(act), 2 * sizeof(act)));
    linear(pre, x, w, b, M, N, K);
    FN(activate)(y, pre, M * N, f);
}

void FN(linear_bwd_input)(act *dx, const act *dy, const act *w, size_t M, size_t N, size_t K) {
    GPU_TIMER(linear_bwd_input, product_flops(M, N, K),
              product_bytes(M, K, N, sizeof(act), sizeof(act)));
    Product p = {dy, w, NULL, dx, M, K, N, N, K, K, false, false, false, ACT_TYPE, ACT_TYPE};
    product(&p);
}

void FN(linear_bwd_weight)(acc *dw, acc *db, const act *dy, const act *x, size_t M, size_t N,
                           size_t K) {
    GPU_TIMER(linear_bwd_weight, product_flops(M, N, K),
              product_bytes(N, K, M, sizeof(act), 2 * sizeof(acc)));
    if (!M) return;
    Product p = {dy, x, NULL, dw, N, K, M, N, K, K, true, false, true, ACT_TYPE, CUDA_R_32F};
    product(&p);
    if (db) FN(add_columns)(db, dy, N, M, N);
}

void FN(project_fwd)(acc *y, const act *x, const act *p, size_t M, size_t C, size_t E) {
    GPU_TIMER(project_fwd, product_flops(M, E, C),
              product_bytes(M, E, C, sizeof(act), sizeof(acc)));
    Product q = {x, p, NULL, y, M, E, C, C, E, E, false, false, false, ACT_TYPE, CUDA_R_32F};
    product(&q);
}

void FN(project_bwd)(act *dx, acc *dp, const acc *dy, const act *x, const act *p, size_t M,
                     size_t C, size_t E) {
    GPU_TIMER(project_bwd, 2 * product_flops(M, E, C),
              2 * product_bytes(M, E, C, sizeof(act), sizeof(acc)));
    if (!M) return;
    act *d = (act *)device_scratch(SCRATCH_CAST, M * E * sizeof *d);
    FN(round_acc)(d, dy, M * E);
    Product in = {d, p, NULL, dx, M, C, E, E, E, C, false, true, false, ACT_TYPE, ACT_TYPE};
    product(&in);
    Product weight = {x, d, NULL, dp, C, E, M, C, E, E, true, false, true, ACT_TYPE, CUDA_R_32F};
    product(&weight);
}

void FN(gemm)(acc *c, size_t ldc, const acc *a, size_t lda, bool ta, const acc *b, size_t ldb,
              bool tb, size_t M, size_t N, size_t K, bool add) {
    GPU_TIMER(gemm, product_flops(M, N, K), product_bytes(M, N, K, sizeof(acc), sizeof(acc)));
    Product p = {a, b, NULL, c, M, N, K, lda, ldb, ldc, ta, tb, add, CUDA_R_32F, CUDA_R_32F};
    product(&p);
}
