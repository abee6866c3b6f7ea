/* correct: programs without a fault. They must give right results in every order and mode. */
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
        y[(size_t)blockIdx.x * width + i] = (T)(((float)row[i] - mean) * scale * gamma[i] + beta[i]);
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

int main(int argc, char **argv) {
    static const Case cases[] = {
        {"layernorm_f32", layernorm_f32},
        {"layernorm_bf16", layernorm_bf16},
    };
    return selftest_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
