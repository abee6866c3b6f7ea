/* faults_host: programs with one planted fault each in host code: copies, streams, events, graphs,
 * cuBLASLt. tests/test_cudaemu.sh lists how each is detected. */
#include "tests/cuda_on_cpu/selftest/selftest.h"
#include <cublasLt.h>
#include <sys/wait.h>
#include <unistd.h>

enum { N = 256 };
__global__ void add_one(float *y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] += 1;
}
static float *zeros(void) {
    float *p = device_new<float>(N);
    CUDA(cudaMemset(p, 0, N * sizeof(float)));
    return p;
}
static float *pinned(float value) {
    float *p;
    CUDA(cudaHostAlloc((void **)&p, N * sizeof(float), cudaHostAllocDefault));
    for (int i = 0; i < N; i++) p[i] = value;
    return p;
}
static cudaStream_t new_stream(void) {
    cudaStream_t s;
    CUDA(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
    return s;
}
static cudaEvent_t new_event(void) {
    cudaEvent_t e;
    CUDA(cudaEventCreateWithFlags(&e, cudaEventDisableTiming));
    return e;
}
static void expect_all(const float *host, float want) {
    for (int i = 0; i < N; i++) expect(host[i], want, 0, "y");
}

/* ---- memory ---- */
static void host_reads_device(void) {
    volatile float *y = zeros();
    expect(y[3], 0, 0, "y");
}
static void copy_past_buffer(void) {
    static float host[N + 1];
    CUDA(cudaMemcpy(zeros(), host, sizeof host, cudaMemcpyHostToDevice));
}
static void copy_direction(void) {
    static float host[N];
    CUDA(cudaMemcpy(host, zeros(), sizeof host, cudaMemcpyHostToDevice));
}
static void freed_twice(void) {
    float *p = zeros();
    CUDA(cudaFree(p));
    CUDA(cudaFree(p));
}
static void memory_leaked(void) {
    CUDA(cudaFree(zeros()));
    zeros();
}
static void out_of_memory(void) { device_new<char>((size_t)1 << 33); }
static void fork_after_use(void) {
    float *p = zeros();
    pid_t child = fork();
    if (!child) {
        device_new<float>(N);
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    CUDA(cudaFree(p));
    exit(WEXITSTATUS(status));
}

/* ---- streams and events ---- */
static void result_read_early(void) {
    cudaStream_t s = new_stream();
    float *d = zeros(), *host = pinned(-1);
    add_one<<<1, N, 0, s>>>(d, N);
    CUDA(cudaMemcpyAsync(host, d, N * sizeof(float), cudaMemcpyDeviceToHost, s));
    expect_all(host, 1);
}
static void source_overwritten(void) {
    static float y[N];
    cudaStream_t s = new_stream();
    float *d = zeros(), *host = pinned(5);
    CUDA(cudaMemcpyAsync(d, host, N * sizeof(float), cudaMemcpyHostToDevice, s));
    host[7] = 6;
    CUDA(cudaStreamSynchronize(s));
    host_copy(y, d, N);
    expect_all(y, 5);
}
static void event_missing(void) {
    cudaStream_t a = new_stream(), b = new_stream();
    float *d = zeros(), *host = pinned(-1);
    add_one<<<1, N, 0, a>>>(d, N);
    CUDA(cudaMemcpyAsync(host, d, N * sizeof(float), cudaMemcpyDeviceToHost, b));
    CUDA(cudaStreamSynchronize(b));
    expect_all(host, 1);
}
static void event_recorded_early(void) {
    cudaStream_t a = new_stream(), b = new_stream();
    cudaEvent_t e = new_event();
    float *d = zeros(), *host = pinned(-1);
    CUDA(cudaEventRecord(e, a));
    add_one<<<1, N, 0, a>>>(d, N);
    CUDA(cudaStreamWaitEvent(b, e, 0));
    CUDA(cudaMemcpyAsync(host, d, N * sizeof(float), cudaMemcpyDeviceToHost, b));
    CUDA(cudaStreamSynchronize(b));
    expect_all(host, 1);
}
static void stream_destroyed(void) {
    cudaStream_t s = new_stream();
    CUDA(cudaStreamDestroy(s));
    add_one<<<1, N, 0, s>>>(zeros(), N);
}
static void event_destroyed(void) {
    cudaEvent_t e = new_event();
    CUDA(cudaEventDestroy(e));
    CUDA(cudaEventSynchronize(e));
}

/* ---- graphs ---- */
static void capture_not_joined(void) {
    cudaStream_t a = new_stream(), b = new_stream();
    cudaEvent_t fork_event = new_event();
    cudaGraph_t g;
    float *d = zeros();
    CUDA(cudaStreamBeginCapture(a, cudaStreamCaptureModeGlobal));
    CUDA(cudaEventRecord(fork_event, a));
    CUDA(cudaStreamWaitEvent(b, fork_event, 0));
    add_one<<<1, N, 0, b>>>(d, N);
    CUDA(cudaStreamEndCapture(a, &g));
}
static void sync_in_capture(void) {
    cudaStream_t a = new_stream();
    CUDA(cudaStreamBeginCapture(a, cudaStreamCaptureModeGlobal));
    CUDA(cudaStreamSynchronize(a));
}
/* Records into the capture of a, which b joins. */
static cudaEvent_t fork_capture(cudaStream_t a, cudaStream_t b) {
    cudaEvent_t e = new_event();
    CUDA(cudaStreamBeginCapture(a, cudaStreamCaptureModeThreadLocal));
    CUDA(cudaEventRecord(e, a));
    CUDA(cudaStreamWaitEvent(b, e, 0));
    return e;
}
static void sync_of_joined_stream(void) {
    cudaStream_t a = new_stream(), b = new_stream();
    fork_capture(a, b);
    CUDA(cudaStreamSynchronize(b));
}
static void query_of_captured_event(void) {
    cudaStream_t a = new_stream(), b = new_stream();
    CUDA(cudaEventQuery(fork_capture(a, b)));
}
static void spoilt_capture(void) { /* the error of the query is not checked */
    cudaStream_t a = new_stream(), b = new_stream();
    cudaGraph_t g;
    fork_capture(a, b);
    (void)cudaStreamQuery(b);
    CUDA(cudaStreamEndCapture(a, &g));
}
static void end_by_joined_stream(void) {
    cudaStream_t a = new_stream(), b = new_stream();
    cudaGraph_t g;
    fork_capture(a, b);
    CUDA(cudaStreamEndCapture(b, &g));
}
static void event_of_ended_capture(void) {
    cudaStream_t a = new_stream(), b = new_stream();
    cudaGraph_t g;
    cudaEvent_t e = new_event();
    float *d = zeros();
    CUDA(cudaStreamBeginCapture(a, cudaStreamCaptureModeThreadLocal));
    add_one<<<1, N, 0, a>>>(d, N);
    CUDA(cudaEventRecord(e, a));
    CUDA(cudaStreamEndCapture(a, &g));
    CUDA(cudaStreamWaitEvent(b, e, 0));
}
static void event_from_outside_capture(void) {
    cudaStream_t a = new_stream(), b = new_stream();
    cudaEvent_t e = new_event();
    CUDA(cudaEventRecord(e, b));
    CUDA(cudaStreamBeginCapture(a, cudaStreamCaptureModeThreadLocal));
    CUDA(cudaStreamWaitEvent(a, e, 0));
}
static void allocation_in_capture(void) {
    cudaStream_t a = new_stream();
    CUDA(cudaStreamBeginCapture(a, cudaStreamCaptureModeGlobal));
    zeros();
}
static void pinning_in_capture(void) {
    cudaStream_t a = new_stream();
    CUDA(cudaStreamBeginCapture(a, cudaStreamCaptureModeThreadLocal));
    pinned(0);
}
static void query_in_capture(void) {
    cudaStream_t a = new_stream();
    cudaEvent_t e = new_event();
    CUDA(cudaEventRecord(e, a));
    CUDA(cudaStreamBeginCapture(a, cudaStreamCaptureModeThreadLocal));
    CUDA(cudaEventQuery(e));
}
static void event_without_time(void) {
    cudaEvent_t e = new_event();
    float ms;
    CUDA(cudaEventRecord(e, NULL));
    CUDA(cudaEventSynchronize(e));
    CUDA(cudaEventElapsedTime(&ms, e, e));
}
/* the next read of the last error finds "not ready" */
static void not_ready_left_behind(void) {
    cudaStream_t a = new_stream();
    cudaEvent_t e = new_event();
    add_one<<<1, N, 0, a>>>(zeros(), N);
    CUDA(cudaEventRecord(e, a));
    cudaEventQuery(e);
    add_one<<<1, N, 0, a>>>(zeros(), N);
    CUDA(cudaGetLastError());
}
static void driver_too_old(void) {
    int count;
    CUDA(cudaGetDeviceCount(&count));
}
__global__ void copy_kernel(float *to, const float *from) { to[threadIdx.x] = from[threadIdx.x]; }
static void graph_edge_missing(void) { /* b reads a's output, but waits only for the fork */
    static float y[N];
    cudaStream_t a = new_stream(), b = new_stream();
    cudaEvent_t fork_event = new_event(), join = new_event();
    cudaGraph_t g;
    cudaGraphExec_t exec;
    float *d = zeros(), *out = zeros();
    CUDA(cudaStreamBeginCapture(a, cudaStreamCaptureModeGlobal));
    CUDA(cudaEventRecord(fork_event, a));
    add_one<<<1, N, 0, a>>>(d, N);
    CUDA(cudaStreamWaitEvent(b, fork_event, 0));
    copy_kernel<<<1, N, 0, b>>>(out, d);
    CUDA(cudaEventRecord(join, b));
    CUDA(cudaStreamWaitEvent(a, join, 0));
    CUDA(cudaStreamEndCapture(a, &g));
    CUDA(cudaGraphInstantiate(&exec, g, 0));
    CUDA(cudaGraphLaunch(exec, a));
    CUDA(cudaStreamSynchronize(a));
    host_copy(y, out, N);
    expect_all(y, 1);
}

/* ---- cuBLASLt ---- */
#define BLAS(call)                                                                                 \
    do {                                                                                           \
        cublasStatus_t status_ = (call);                                                           \
        if (status_ != CUBLAS_STATUS_SUCCESS) {                                                    \
            fprintf(stderr, "line %d: %s\n", __LINE__, cublasLtGetStatusName(status_));            \
            exit(2);                                                                               \
        }                                                                                          \
    } while (0)
enum { M = 24, K = 16 }; /* bf16, D = A B with M rows and columns */

typedef struct Product {
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, d;
    int added; /* C is added, and starts that many elements after D */
    size_t workspace;
    int epilogue;
} Product;
static Product product_new(int ldb) {
    Product p = {};
    BLAS(cublasLtCreate(&p.handle));
    BLAS(cublasLtMatmulDescCreate(&p.desc, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    BLAS(cublasLtMatrixLayoutCreate(&p.a, CUDA_R_16BF, M, K, M));
    BLAS(cublasLtMatrixLayoutCreate(&p.b, CUDA_R_16BF, K, M, ldb));
    BLAS(cublasLtMatrixLayoutCreate(&p.d, CUDA_R_16BF, M, M, M));
    return p;
}
static void product_run(const Product *p, size_t wanted, size_t given, int shift) {
    cublasLtMatmulPreference_t want;
    cublasLtMatmulHeuristicResult_t found;
    int count = 0;
    float one = 1, beta = p->added ? 1 : 0;
    __nv_bfloat16 *a = device_new<__nv_bfloat16>(M * K + 8), *b = device_new<__nv_bfloat16>(M * K);
    __nv_bfloat16 *d = device_new<__nv_bfloat16>(3 * M * M);
    BLAS(cublasLtMatmulPreferenceCreate(&want));
    BLAS(cublasLtMatmulPreferenceSetAttribute(want, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                              &wanted, sizeof wanted));
    BLAS(cublasLtMatmulAlgoGetHeuristic(p->handle, p->desc, p->a, p->b, p->d, p->d, want, 1, &found,
                                        &count));
    BLAS(cublasLtMatmul(p->handle, p->desc, &one, a + shift, p->a, b, p->b, &beta, d + p->added,
                        p->d, d, p->d, &found.algo, device_new<char>(given), given, 0));
    CUDA(cudaDeviceSynchronize());
}
static void no_fault_blas(void) {
    Product p = product_new(K);
    product_run(&p, 1 << 20, 1 << 20, 0);
}
static void no_fault_addend(void) {
    Product p = product_new(K);
    p.added = M * M;
    product_run(&p, 1 << 20, 1 << 20, 0);
}
static void blas_addend_overlaps(void) {
    Product p = product_new(K);
    p.added = M;
    product_run(&p, 1 << 20, 1 << 20, 0);
}
static void blas_misaligned(void) {
    Product p = product_new(K);
    product_run(&p, 1 << 20, 1 << 20, 4);
}
static void blas_workspace_small(void) {
    Product p = product_new(K);
    product_run(&p, 1 << 20, 1 << 10, 0);
}
static void blas_past_buffer(void) {
    Product p = product_new(K + 8);
    product_run(&p, 0, 256, 0);
}
static void blas_aux_ld(void) {
    Product p = product_new(K);
    int64_t ld = M + 4;
    void *aux = device_new<__nv_bfloat16>(M * (M + 4));
    cublasLtEpilogue_t gelu = CUBLASLT_EPILOGUE_GELU_AUX;
    BLAS(cublasLtMatmulDescSetAttribute(p.desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &gelu, sizeof gelu));
    BLAS(cublasLtMatmulDescSetAttribute(p.desc, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &aux,
                                        sizeof aux));
    BLAS(cublasLtMatmulDescSetAttribute(p.desc, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &ld,
                                        sizeof ld));
    product_run(&p, 0, 256, 0);
}
static void blas_bias_missing(void) {
    Product p = product_new(K);
    cublasLtEpilogue_t bias = CUBLASLT_EPILOGUE_BIAS;
    BLAS(cublasLtMatmulDescSetAttribute(p.desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &bias, sizeof bias));
    product_run(&p, 0, 256, 0);
}
static void sums_beside(bool sums_other_type) {
    Product p = product_new(K);
    cublasLtEpilogue_t bias = CUBLASLT_EPILOGUE_BGRADB;
    cudaDataType_t type = CUDA_R_32F; /* D is bf16 */
    void *sums = device_new<float>(M);
    BLAS(cublasLtMatmulDescSetAttribute(p.desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &bias, sizeof bias));
    BLAS(cublasLtMatmulDescSetAttribute(p.desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &sums,
                                        sizeof sums));
    if (sums_other_type)
        BLAS(cublasLtMatmulDescSetAttribute(p.desc, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &type,
                                            sizeof type));
    product_run(&p, 0, 256, 0);
}
static void no_fault_sums(void) { sums_beside(false); }
static void blas_sums_type(void) { sums_beside(true); }

int main(int argc, char **argv) {
#define CASE(name)                                                                                 \
    { #name, name }
    static const Case cases[] = {
        CASE(host_reads_device),
        CASE(copy_past_buffer),
        CASE(copy_direction),
        CASE(freed_twice),
        CASE(memory_leaked),
        CASE(out_of_memory),
        CASE(fork_after_use),
        CASE(result_read_early),
        CASE(source_overwritten),
        CASE(event_missing),
        CASE(event_recorded_early),
        CASE(stream_destroyed),
        CASE(event_destroyed),
        CASE(capture_not_joined),
        CASE(sync_in_capture),
        CASE(sync_of_joined_stream),
        CASE(query_of_captured_event),
        CASE(spoilt_capture),
        CASE(end_by_joined_stream),
        CASE(event_of_ended_capture),
        CASE(event_from_outside_capture),
        CASE(allocation_in_capture),
        CASE(pinning_in_capture),
        CASE(query_in_capture),
        CASE(event_without_time),
        CASE(not_ready_left_behind),
        CASE(driver_too_old),
        CASE(graph_edge_missing),
        CASE(no_fault_blas),
        CASE(no_fault_addend),
        CASE(blas_addend_overlaps),
        CASE(blas_misaligned),
        CASE(blas_workspace_small),
        CASE(blas_past_buffer),
        CASE(blas_aux_ld),
        CASE(blas_bias_missing),
        CASE(no_fault_sums),
        CASE(blas_sums_type),
    };
    return selftest_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
