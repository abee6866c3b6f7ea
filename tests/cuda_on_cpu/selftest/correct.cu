/* correct: programs without faults, whose results must be correct in every order and mode. */
#include "tests/cuda_on_cpu/selftest/selftest.h"

__device__ static float warp_sum(float v) {
    for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(~0u, v, o);
    return v;
}

/* ---- LayerNorm: one block a row ---- */
template <typename T>
__global__ void layernorm(T *y, const T *x, const float *gamma, const float *beta, int width) {
    __shared__ float part[2][32];
    const T *row = x + (size_t)blockIdx.x * width;
    float sum = 0, square = 0;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        float v = (float)row[i];
        sum += v;
        square += v * v;
    }
    sum = warp_sum(sum);
    square = warp_sum(square);
    if (threadIdx.x % 32 == 0) {
        part[0][threadIdx.x / 32] = sum;
        part[1][threadIdx.x / 32] = square;
    }
    __syncthreads();
    sum = square = 0;
    for (int w = 0; w < (int)blockDim.x / 32; w++) {
        sum += part[0][w];
        square += part[1][w];
    }
    float mean = sum / width, scale = rsqrtf(square / width - mean * mean + 1e-5f);
    for (int i = threadIdx.x; i < width; i += blockDim.x)
        y[(size_t)blockIdx.x * width + i] =
            (T)(((float)row[i] - mean) * scale * gamma[i] + beta[i]);
}
template <typename T> static void layernorm_case(double tolerance) {
    enum { ROWS = 9, WIDTH = 203 };
    static T x[ROWS * WIDTH], y[ROWS * WIDTH];
    static float gamma[WIDTH], beta[WIDTH];
    for (int i = 0; i < ROWS * WIDTH; i++) x[i] = (T)noise(i);
    for (int i = 0; i < WIDTH; i++) gamma[i] = 1 + noise(i + 7), beta[i] = noise(i + 9);
    T *dx = device_copy(x, ROWS * WIDTH), *dy = device_new<T>(ROWS * WIDTH);
    float *dg = device_copy(gamma, WIDTH), *db = device_copy(beta, WIDTH);
    layernorm<T><<<ROWS, 96>>>(dy, dx, dg, db, WIDTH);
    CUDA(cudaGetLastError());
    host_copy(y, dy, ROWS * WIDTH);
    for (int r = 0; r < ROWS; r++) {
        double mean = 0, var = 0;
        for (int i = 0; i < WIDTH; i++) mean += (double)(float)x[r * WIDTH + i] / WIDTH;
        for (int i = 0; i < WIDTH; i++) var += pow((float)x[r * WIDTH + i] - mean, 2) / WIDTH;
        for (int i = 0; i < WIDTH; i++) {
            double want = ((float)x[r * WIDTH + i] - mean) / sqrt(var + 1e-5) * gamma[i] + beta[i];
            expect((float)y[r * WIDTH + i], want, tolerance, "y");
        }
    }
    CUDA(cudaFree(dx));
    CUDA(cudaFree(dy));
    CUDA(cudaFree(dg));
    CUDA(cudaFree(db));
}
static void layernorm_f32(void) { layernorm_case<float>(1e-5); }
static void layernorm_bf16(void) { layernorm_case<__nv_bfloat16>(2e-2); }

/* ---- D = A B in tiles of 32 x 32: cp.async in two stages, ldmatrix, mma ---- */
enum { TILE = 32, STEP = 16 };
__device__ static void stage(__nv_bfloat16 *shared, const __nv_bfloat16 *global) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                     (uint32_t)__cvta_generic_to_shared(shared)),
                 "l"(global));
}
__global__ void matmul(float *d, const __nv_bfloat16 *a, const __nv_bfloat16 *b, int n, int k) {
    __shared__ __align__(16) __nv_bfloat16 sa[2][TILE][STEP + 8], sb[2][STEP][TILE + 8];
    int l = threadIdx.x % 32, w = threadIdx.x / 32, t = threadIdx.x;
    const __nv_bfloat16 *ga = a + (size_t)blockIdx.y * TILE * k, *gb = b + blockIdx.x * TILE;
    float c[2][4] = {};
    /* 128 threads: 64 pieces of 16 bytes of A, 64 of B */
    auto fetch = [&](int at) {
        if (t < 64)
            stage(&sa[at & 1][t / 2][t % 2 * 8], ga + (size_t)(t / 2) * k + at * STEP + t % 2 * 8);
        else
            stage(&sb[at & 1][(t - 64) / 4][t % 4 * 8],
                  gb + (size_t)(at * STEP + (t - 64) / 4) * n + t % 4 * 8);
        asm volatile("cp.async.commit_group;");
    };
    int steps = k / STEP, row = w / 2 * 16, col = w % 2 * 16;
    fetch(0);
    for (int at = 0; at < steps; at++) {
        if (at + 1 < steps) {
            fetch(at + 1);
            asm volatile("cp.async.wait_group 1;" ::: "memory");
        } else
            asm volatile("cp.async.wait_group 0;" ::: "memory");
        __syncthreads();
        uint32_t ra[4], rb[4];
        uint32_t pa = (uint32_t)__cvta_generic_to_shared(&sa[at & 1][row + l % 16][l / 16 * 8]);
        uint32_t pb = (uint32_t)__cvta_generic_to_shared(&sb[at & 1][l % 16][col + l / 16 * 8]);
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(ra[0]), "=r"(ra[1]), "=r"(ra[2]), "=r"(ra[3])
                     : "r"(pa));
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(rb[0]), "=r"(rb[1]), "=r"(rb[2]), "=r"(rb[3])
                     : "r"(pb));
        for (int h = 0; h < 2; h++)
            asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, "
                         "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                         : "+f"(c[h][0]), "+f"(c[h][1]), "+f"(c[h][2]), "+f"(c[h][3])
                         : "r"(ra[0]), "r"(ra[1]), "r"(ra[2]), "r"(ra[3]), "r"(rb[2 * h]),
                           "r"(rb[2 * h + 1]));
        __syncthreads();
    }
    for (int h = 0; h < 2; h++)
        for (int i = 0; i < 4; i++)
            d[(size_t)(blockIdx.y * TILE + row + l / 4 + i / 2 * 8) * n + blockIdx.x * TILE + col +
              h * 8 + l % 4 * 2 + i % 2] = c[h][i];
}
static void matmul_tiled(void) {
    enum { M = 64, N = 96, K = 80 };
    static __nv_bfloat16 a[M * K], b[K * N];
    static float d[M * N];
    for (int i = 0; i < M * K; i++) a[i] = (__nv_bfloat16)noise(i);
    for (int i = 0; i < K * N; i++) b[i] = (__nv_bfloat16)noise(i + 12345);
    __nv_bfloat16 *da = device_copy(a, M * K), *db = device_copy(b, K * N);
    float *dd = device_new<float>(M * N);
    matmul<<<dim3(N / TILE, M / TILE), 128>>>(dd, da, db, N, K);
    CUDA(cudaGetLastError());
    host_copy(d, dd, M * N);
    for (int r = 0; r < M; r++)
        for (int c = 0; c < N; c++) {
            double want = 0;
            for (int k = 0; k < K; k++) want += (double)(float)a[r * K + k] * (float)b[k * N + c];
            expect(d[r * N + c], want, 1e-4, "d");
        }
    CUDA(cudaFree(da));
    CUDA(cudaFree(db));
    CUDA(cudaFree(dd));
}

/* ---- streams, events, graphs ---- */
enum { N = 300 };
__global__ void axpy(float *y, const float *x, float a, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] += a * x[i];
}
static void count_call(void *data) { ++*(int *)data; }

/* Batches go through two pinned buffers on a copy stream while the other stream computes. */
static void streams_double_buffered(void) {
    cudaStream_t copy, compute;
    cudaEvent_t full[2], empty[2];
    float *host[2], *staging[2], *sum = device_new<float>(N), y[N];
    int calls = 0;
    CUDA(cudaStreamCreateWithFlags(&copy, cudaStreamNonBlocking));
    CUDA(cudaStreamCreateWithFlags(&compute, cudaStreamNonBlocking));
    CUDA(cudaMemsetAsync(sum, 0, N * sizeof(float), compute));
    for (int i = 0; i < 2; i++) {
        CUDA(cudaHostAlloc((void **)&host[i], N * sizeof(float), cudaHostAllocDefault));
        staging[i] = device_new<float>(N);
        CUDA(cudaEventCreateWithFlags(&full[i], cudaEventDisableTiming));
        CUDA(cudaEventCreateWithFlags(&empty[i], cudaEventDisableTiming));
    }
    for (int step = 0; step < 7; step++) {
        int b = step & 1;
        CUDA(cudaEventSynchronize(full[b])); /* the host buffer is free again */
        for (int i = 0; i < N; i++) host[b][i] = (float)(step * i);
        CUDA(cudaStreamWaitEvent(copy, empty[b], 0));
        CUDA(cudaMemcpyAsync(staging[b], host[b], N * sizeof(float), cudaMemcpyHostToDevice, copy));
        CUDA(cudaEventRecord(full[b], copy));
        CUDA(cudaStreamWaitEvent(compute, full[b], 0));
        axpy<<<3, 128, 0, compute>>>(sum, staging[b], 2, N);
        CUDA(cudaEventRecord(empty[b], compute));
    }
    CUDA(cudaLaunchHostFunc(compute, count_call, &calls));
    CUDA(cudaStreamSynchronize(compute));
    expect(calls, 1, 0, "calls");
    host_copy(y, sum, N);
    for (int i = 0; i < N; i++) expect(y[i], 2.0 * 21 * i, 0, "y");
    for (int i = 0; i < 2; i++) {
        CUDA(cudaFreeHost(host[i]));
        CUDA(cudaFree(staging[i]));
        CUDA(cudaEventDestroy(full[i]));
        CUDA(cudaEventDestroy(empty[i]));
    }
    CUDA(cudaFree(sum));
    CUDA(cudaStreamDestroy(copy));
    CUDA(cudaStreamDestroy(compute));
}
/* y += x + z, with x and z computed in parallel branches; replayed with new input. */
__global__ void scale(float *y, const float *x, float a) { y[threadIdx.x] = a * x[threadIdx.x]; }
static void graph_replayed(void) {
    cudaStream_t a, b;
    cudaEvent_t fork, join;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    size_t nodes = 0;
    float host[128], got[128], *in, *x, *z, *y;
    CUDA(cudaStreamCreateWithFlags(&a, cudaStreamNonBlocking));
    CUDA(cudaStreamCreateWithFlags(&b, cudaStreamNonBlocking));
    CUDA(cudaEventCreateWithFlags(&fork, cudaEventDisableTiming));
    CUDA(cudaEventCreateWithFlags(&join, cudaEventDisableTiming));
    in = device_new<float>(128), x = device_new<float>(128);
    z = device_new<float>(128), y = device_new<float>(128);
    CUDA(cudaMemset(y, 0, sizeof host));
    CUDA(cudaStreamBeginCapture(a, cudaStreamCaptureModeGlobal));
    CUDA(cudaEventRecord(fork, a));
    CUDA(cudaStreamWaitEvent(b, fork, 0));
    scale<<<1, 128, 0, a>>>(x, in, 3);
    scale<<<1, 128, 0, b>>>(z, in, 4);
    CUDA(cudaEventRecord(join, b));
    CUDA(cudaStreamWaitEvent(a, join, 0));
    axpy<<<1, 128, 0, a>>>(y, x, 1, 128);
    axpy<<<1, 128, 0, a>>>(y, z, 1, 128);
    CUDA(cudaStreamEndCapture(a, &graph));
    CUDA(cudaGraphGetNodes(graph, NULL, &nodes));
    expect((double)nodes, 4, 0, "nodes");
    CUDA(cudaGraphInstantiate(&exec, graph, 0));
    CUDA(cudaGraphDestroy(graph));
    for (int step = 1; step <= 3; step++) {
        for (int i = 0; i < 128; i++) host[i] = (float)(step * i);
        CUDA(cudaMemcpyAsync(in, host, sizeof host, cudaMemcpyHostToDevice, a));
        CUDA(cudaGraphLaunch(exec, a));
    }
    CUDA(cudaStreamSynchronize(a));
    host_copy(got, y, 128);
    for (int i = 0; i < 128; i++) expect(got[i], 7 * 6 * i, 0, "y");
    CUDA(cudaGraphExecDestroy(exec));
    CUDA(cudaEventDestroy(fork));
    CUDA(cudaEventDestroy(join));
    CUDA(cudaFree(in));
    CUDA(cudaFree(x));
    CUDA(cudaFree(z));
    CUDA(cudaFree(y));
    CUDA(cudaStreamDestroy(a));
    CUDA(cudaStreamDestroy(b));
}

/* ---- the last block to finish adds up the results of all blocks ---- */
__global__ void sum_all(float *result, float *parts, unsigned *arrived, const float *x, int n) {
    __shared__ float s[4];
    __shared__ bool last;
    float v = 0;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
        v += x[i];
    v = warp_sum(v);
    if (threadIdx.x % 32 == 0) s[threadIdx.x / 32] = v;
    __syncthreads();
    if (threadIdx.x == 0) {
        parts[blockIdx.x] = s[0] + s[1] + s[2] + s[3];
        __threadfence();
        last = atomicAdd(arrived, 1) == gridDim.x - 1;
    }
    __syncthreads();
    if (!last || threadIdx.x) return;
    v = 0;
    for (unsigned b = 0; b < gridDim.x; b++) v += parts[b];
    *result = v;
}
static void last_block(void) {
    static float x[5000];
    double want = 0;
    unsigned zero = 0;
    float got;
    for (int i = 0; i < 5000; i++) x[i] = noise(i), want += x[i];
    float *dx = device_copy(x, 5000), *parts = device_new<float>(7), *result = device_new<float>(1);
    unsigned *arrived = device_copy(&zero, 1);
    sum_all<<<7, 128>>>(result, parts, arrived, dx, 5000);
    CUDA(cudaGetLastError());
    host_copy(&got, result, 1);
    expect(got, want, 1e-3, "sum");
    CUDA(cudaFree(dx));
    CUDA(cudaFree(parts));
    CUDA(cudaFree(result));
    CUDA(cudaFree(arrived));
}

int main(int argc, char **argv) {
    static const Case cases[] = {
        {"layernorm_f32", layernorm_f32},   {"layernorm_bf16", layernorm_bf16},
        {"matmul_tiled", matmul_tiled},     {"streams_double_buffered", streams_double_buffered},
        {"graph_replayed", graph_replayed}, {"last_block", last_block},
    };
    return selftest_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
