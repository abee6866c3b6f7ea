/* products: cuBLASLt's products with their epilogues, against loops in f64. */
#include "tests/cuda_on_cpu/selftest/selftest.h"
#include <cublasLt.h>
#include <cuda_fp8.h>

enum { M = 24, N = 17, K = 40, BATCHES = 2, LD = 48 };
#define BLAS(call)                                                                                 \
    do {                                                                                           \
        cublasStatus_t status_ = (call);                                                           \
        if (status_ != CUBLAS_STATUS_SUCCESS) {                                                    \
            fprintf(stderr, "line %d: %s\n", __LINE__, cublasLtGetStatusName(status_));            \
            exit(2);                                                                               \
        }                                                                                          \
    } while (0)

static double gelu(double x) {
    return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}
static double gelu_slope(double x) { return (gelu(x + 1e-5) - gelu(x - 1e-5)) / 2e-5; }

template <typename T> static T *noise_matrix(uint32_t seed, T *host, size_t n) {
    for (size_t i = 0; i < n; i++) host[i] = (T)noise(seed + (uint32_t)i);
    return device_copy(host, n);
}
static void describe(cublasLtMatrixLayout_t *l, cudaDataType type, int rows, int cols) {
    int32_t batches = BATCHES;
    int64_t stride = LD * LD;
    BLAS(cublasLtMatrixLayoutCreate(l, type, (uint64_t)rows, (uint64_t)cols, LD));
    BLAS(cublasLtMatrixLayoutSetAttribute(*l, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batches,
                                          sizeof batches));
    BLAS(cublasLtMatrixLayoutSetAttribute(*l, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride,
                                          sizeof stride));
}
#define SET(desc, attribute, value)                                                                \
    BLAS(cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_##attribute, &(value),          \
                                        sizeof(value)))

/* D = act(1.5 op(A) op(B) + beta C + bias): all transposes, one epilogue. */
template <typename In, typename Out>
static void product(cudaDataType in, cudaDataType out, bool ta, bool tb, float beta,
                    cublasLtEpilogue_t epilogue, double tolerance) {
    enum { SIZE = BATCHES * LD * LD };
    static In a[SIZE], b[SIZE];
    static Out c[SIZE], d[SIZE], aux[SIZE], bias[BATCHES * M], got[BATCHES * M];
    In *da = noise_matrix(1, a, SIZE), *db = noise_matrix(100000, b, SIZE);
    Out *dc = noise_matrix(200000, c, SIZE), *dd = device_new<Out>(SIZE);
    Out *dbias = noise_matrix(300000, bias, BATCHES * M), *daux = noise_matrix(400000, aux, SIZE);
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t la, lb, lc;
    cublasOperation_t t = CUBLAS_OP_T;
    float alpha = 1.5f;
    int64_t ld = LD, stride = LD * LD, bias_stride = M;
    BLAS(cublasLtCreate(&handle));
    BLAS(cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    if (ta) SET(desc, TRANSA, t);
    if (tb) SET(desc, TRANSB, t);
    SET(desc, EPILOGUE, epilogue);
    SET(desc, BIAS_POINTER, dbias);
    SET(desc, BIAS_BATCH_STRIDE, bias_stride);
    SET(desc, EPILOGUE_AUX_POINTER, daux);
    SET(desc, EPILOGUE_AUX_LD, ld);
    SET(desc, EPILOGUE_AUX_BATCH_STRIDE, stride);
    describe(&la, in, ta ? K : M, ta ? M : K);
    describe(&lb, in, tb ? N : K, tb ? K : N);
    describe(&lc, out, M, N);
    BLAS(cublasLtMatmul(handle, desc, &alpha, da, la, db, lb, &beta, dc, lc, dd, lc, NULL, NULL, 0,
                        0));
    Out *saved = (Out *)malloc(sizeof aux);
    host_copy(d, dd, SIZE);
    host_copy(saved, daux, SIZE);
    host_copy(got, dbias, BATCHES * M);
    for (int z = 0; z < BATCHES; z++) {
        double grad[LD] = {0};
        const In *az = a + z * LD * LD, *bz = b + z * LD * LD;
        auto left = [&](int i, int k) { return (double)(float)az[ta ? k + i * LD : i + k * LD]; };
        auto right = [&](int k, int j) { return (double)(float)bz[tb ? j + k * LD : k + j * LD]; };
        for (int j = 0; j < N; j++)
            for (int i = 0; i < M; i++) {
                double v = 0;
                int at = i + j * LD + z * LD * LD;
                for (int k = 0; k < K; k++) v += left(i, k) * right(k, j);
                v = alpha * v + beta * (double)(float)c[at];
                if (epilogue & CUBLASLT_EPILOGUE_BIAS) v += (double)(float)bias[z * M + i];
                if (epilogue == CUBLASLT_EPILOGUE_GELU_AUX_BIAS) {
                    expect((float)saved[at], v, tolerance * 10, "auxiliary");
                    v = gelu(v);
                }
                if (epilogue == CUBLASLT_EPILOGUE_DGELU_BGRAD) v *= gelu_slope((float)aux[at]);
                grad[i] += v;
                expect((float)d[at], v, tolerance * 10, "product");
            }
        for (int i = 0; i < M; i++) {
            double rows = 0;
            for (int k = 0; k < K; k++) rows += left(i, k);
            if (epilogue == CUBLASLT_EPILOGUE_BGRADA) grad[i] = rows;
            bool wanted =
                epilogue == CUBLASLT_EPILOGUE_BGRADA || epilogue == CUBLASLT_EPILOGUE_DGELU_BGRAD;
            if (wanted) expect((float)got[z * M + i], grad[i], tolerance * 50, "bias gradient");
        }
        for (int j = 0; j < N && epilogue == CUBLASLT_EPILOGUE_BGRADB; j++) {
            double sum = 0;
            for (int k = 0; k < K; k++) sum += right(k, j);
            expect((float)got[z * M + j], sum, tolerance * 50, "bias gradient");
        }
    }
    free(saved);
    BLAS(cublasLtMatmulDescDestroy(desc));
    BLAS(cublasLtMatrixLayoutDestroy(la));
    BLAS(cublasLtMatrixLayoutDestroy(lb));
    BLAS(cublasLtMatrixLayoutDestroy(lc));
    BLAS(cublasLtDestroy(handle));
    void *all[] = {da, db, dc, dd, dbias, daux};
    for (void *p : all) CUDA(cudaFree(p));
}
static void products_f32(void) {
    for (int t = 0; t < 4; t++)
        product<float, float>(CUDA_R_32F, CUDA_R_32F, t & 1, t & 2, t == 1 ? 0.5f : 0,
                              t == 3 ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT, 1e-6);
}
static void products_bf16(void) {
    for (int t = 0; t < 4; t++)
        product<__nv_bfloat16, __nv_bfloat16>(CUDA_R_16BF, CUDA_R_16BF, t & 1, t & 2, t == 1,
                                              CUBLASLT_EPILOGUE_BIAS, 8e-3);
}
static void products_mixed(void) { /* weight gradients: bf16 in, added to f32 */
    product<__nv_bfloat16, float>(CUDA_R_16BF, CUDA_R_32F, false, true, 1,
                                  CUBLASLT_EPILOGUE_DEFAULT, 1e-6);
    product<__nv_bfloat16, float>(CUDA_R_16BF, CUDA_R_32F, false, true, 1, CUBLASLT_EPILOGUE_BGRADB,
                                  1e-6);
}
static void epilogues(void) {
    const cublasLtEpilogue_t all[] = {CUBLASLT_EPILOGUE_GELU_AUX_BIAS,
                                      CUBLASLT_EPILOGUE_DGELU_BGRAD, CUBLASLT_EPILOGUE_BGRADA,
                                      CUBLASLT_EPILOGUE_BGRADB};
    for (cublasLtEpilogue_t e : all)
        product<float, float>(CUDA_R_32F, CUDA_R_32F, true, false, 0, e, 1e-6);
}
/* A D of FP8 factors with scales: e4m3 alone and with e5m2, to bf16 and added to f32. */
template <typename B8, typename Out>
static void product_fp8(cudaDataType tb, cudaDataType out, float beta, double tolerance) {
    enum { M8 = 16, N8 = 8, K8 = 32 };
    static __nv_fp8_e4m3 a[M8 * K8];
    static B8 b[N8 * K8];
    static Out c[M8 * N8], d[M8 * N8];
    float scales[2] = {0.25f, 4};
    __nv_fp8_e4m3 *da = noise_matrix(1, a, M8 * K8);
    B8 *db = noise_matrix(1000, b, N8 * K8);
    Out *dc = noise_matrix(2000, c, M8 * N8);
    float *ds = device_copy(scales, 2), alpha = 1, *sa = ds, *sb = ds + 1;
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t la, lb, lc;
    cublasOperation_t t = CUBLAS_OP_T;
    BLAS(cublasLtCreate(&handle));
    BLAS(cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    SET(desc, TRANSA, t);
    SET(desc, A_SCALE_POINTER, sa);
    SET(desc, B_SCALE_POINTER, sb);
    BLAS(cublasLtMatrixLayoutCreate(&la, CUDA_R_8F_E4M3, K8, M8, K8));
    BLAS(cublasLtMatrixLayoutCreate(&lb, tb, K8, N8, K8));
    BLAS(cublasLtMatrixLayoutCreate(&lc, out, M8, N8, M8));
    BLAS(cublasLtMatmul(handle, desc, &alpha, da, la, db, lb, &beta, dc, lc, dc, lc, NULL, NULL, 0,
                        0));
    host_copy(d, dc, M8 * N8);
    for (int j = 0; j < N8; j++)
        for (int i = 0; i < M8; i++) {
            double v = 0;
            for (int k = 0; k < K8; k++)
                v += (double)(float)a[i * K8 + k] * (double)(float)b[j * K8 + k];
            expect((float)d[i + j * M8], v + beta * (double)(float)c[i + j * M8], tolerance,
                   "product");
        }
    void *all[] = {da, db, dc, ds};
    for (void *p : all) CUDA(cudaFree(p));
}
static void products_fp8(void) {
    setenv("CUDAEMU_ARCH", "90", 1);
    product_fp8<__nv_fp8_e4m3, __nv_bfloat16>(CUDA_R_8F_E4M3, CUDA_R_16BF, 0, 6e-2);
    product_fp8<__nv_fp8_e5m2, float>(CUDA_R_8F_E5M2, CUDA_R_32F, 1, 1e-4);
}
/* The heuristic refuses products that the library does not support. */
static void refusals(void) {
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t half, whole;
    cublasLtMatmulPreference_t want;
    cublasLtMatmulHeuristicResult_t found;
    int count = -1;
    BLAS(cublasLtCreate(&handle));
    BLAS(cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    BLAS(cublasLtMatrixLayoutCreate(&half, CUDA_R_16BF, 16, 16, 16));
    BLAS(cublasLtMatrixLayoutCreate(&whole, CUDA_R_32F, 16, 16, 16));
    BLAS(cublasLtMatmulPreferenceCreate(&want));
    cublasStatus_t s = cublasLtMatmulAlgoGetHeuristic(handle, desc, whole, half, whole, whole, want,
                                                      1, &found, &count);
    expect(s, CUBLAS_STATUS_NOT_SUPPORTED, 0, "f32 times bf16");
    expect(count, 0, 0, "algorithms");
    s = cublasLtMatmulAlgoGetHeuristic(handle, desc, whole, whole, half, half, want, 1, &found,
                                       &count);
    expect(s, CUBLAS_STATUS_NOT_SUPPORTED, 0, "f32 to bf16");
    cublasLtMatrixLayout_t eight;
    BLAS(cublasLtMatrixLayoutCreate(&eight, CUDA_R_8F_E4M3, 16, 16, 16));
    s = cublasLtMatmulAlgoGetHeuristic(handle, desc, eight, eight, half, half, want, 1, &found,
                                       &count);
    expect(s, CUBLAS_STATUS_NOT_SUPPORTED, 0, "FP8 whose A is not transposed");
    cublasOperation_t t = CUBLAS_OP_T;
    SET(desc, TRANSA, t);
    s = cublasLtMatmulAlgoGetHeuristic(handle, desc, eight, eight, half, half, want, 1, &found,
                                       &count);
    expect(s, CUBLAS_STATUS_NOT_SUPPORTED, 0, "FP8 before compute capability 8.9");
}
/* A B of 13 columns, where 16 have an algorithm. */
static void fp8_columns(void) {
    setenv("CUDAEMU_ARCH", "90", 1);
    for (int columns = 16; columns > 12; columns -= 3) {
        cublasLtHandle_t handle;
        cublasLtMatmulDesc_t desc;
        cublasLtMatrixLayout_t a, b, c;
        cublasLtMatmulPreference_t want;
        cublasLtMatmulHeuristicResult_t found;
        cublasOperation_t t = CUBLAS_OP_T;
        int count = -1;
        BLAS(cublasLtCreate(&handle));
        BLAS(cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F));
        SET(desc, TRANSA, t);
        BLAS(cublasLtMatrixLayoutCreate(&a, CUDA_R_8F_E4M3, 32, 16, 32));
        BLAS(cublasLtMatrixLayoutCreate(&b, CUDA_R_8F_E4M3, 32, (uint64_t)columns, 32));
        BLAS(cublasLtMatrixLayoutCreate(&c, CUDA_R_16BF, 16, (uint64_t)columns, 16));
        BLAS(cublasLtMatmulPreferenceCreate(&want));
        cublasLtMatmulAlgoGetHeuristic(handle, desc, a, b, c, c, want, 1, &found, &count);
        expect(count, columns == 16, 0, "algorithms");
    }
}

/* c += a b, recorded once and launched three times. */
static void product_in_graph(void) {
    enum { S = 16 };
    float a[S * S], b[S * S], got[S * S], one = 1;
    float *da = noise_matrix(1, a, S * S), *db = noise_matrix(2, b, S * S);
    float *dc = device_new<float>(S * S);
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t l;
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    CUDA(cudaMemset(dc, 0, sizeof got));
    CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    BLAS(cublasLtCreate(&handle));
    BLAS(cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    BLAS(cublasLtMatrixLayoutCreate(&l, CUDA_R_32F, S, S, S));
    CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    BLAS(cublasLtMatmul(handle, desc, &one, da, l, db, l, &one, dc, l, dc, l, NULL, NULL, 0,
                        stream));
    CUDA(cudaStreamEndCapture(stream, &graph));
    CUDA(cudaGraphInstantiate(&exec, graph, 0));
    CUDA(cudaGraphDestroy(graph));
    for (int i = 0; i < 3; i++) CUDA(cudaGraphLaunch(exec, stream));
    CUDA(cudaStreamSynchronize(stream));
    host_copy(got, dc, S * S);
    for (int i = 0; i < S * S; i++) {
        double v = 0;
        for (int k = 0; k < S; k++) v += (double)a[k * S + i % S] * b[i / S * S + k];
        expect(got[i], 3 * v, 1e-5, "three products");
    }
    CUDA(cudaGraphExecDestroy(exec));
    CUDA(cudaStreamDestroy(stream));
    BLAS(cublasLtMatmulDescDestroy(desc));
    BLAS(cublasLtMatrixLayoutDestroy(l));
    BLAS(cublasLtDestroy(handle));
    void *all[] = {da, db, dc};
    for (void *q : all) CUDA(cudaFree(q));
}

int main(int argc, char **argv) {
#define CASE(name)                                                                                 \
    { #name, name }
    static const Case cases[] = {
        CASE(products_f32), CASE(products_bf16), CASE(products_mixed),   CASE(products_fp8),
        CASE(epilogues),    CASE(refusals),      CASE(product_in_graph), CASE(fp8_columns),
    };
    return selftest_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
