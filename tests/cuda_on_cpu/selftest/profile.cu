/* profile: accesses whose sectors, wavefronts and lanes are known, for tests/test_cuda_profile.sh.
 */
#include "tests/cuda_on_cpu/selftest/selftest.h"

enum { N = 32 * 64 };

/* ---- global memory: one warp, one load and one store ---- */
__global__ static void coalesced(float *y, const float *x) { y[threadIdx.x] = x[threadIdx.x]; }
__global__ static void strided(float *y, const float *x) { /* a sector a lane: 8 times the least */
    y[threadIdx.x] = x[8 * threadIdx.x];
}
__global__ static void misaligned(float *y, const float *x) { /* 5 sectors for 128 bytes */
    y[threadIdx.x] = x[threadIdx.x + 1];
}
__global__ static void broadcast(float *y, const float *x) { y[threadIdx.x] = x[3]; }
__global__ static void halves(float4 *y, const float4 *x) { /* 16 bytes of 32: twice the least */
    y[threadIdx.x] = x[2 * threadIdx.x];
}

/* ---- shared memory: stored data is read with `stride`; y keeps the accesses ---- */
__device__ static void words(float *y, int stride) {
    __shared__ float a[N];
    for (int i = 0; i < N; i += 32) a[i + threadIdx.x] = threadIdx.x;
    __syncwarp();
    y[threadIdx.x] = a[stride * threadIdx.x];
}
__global__ static void words_1(float *y) { words(y, 1); }
__global__ static void words_2(float *y) { words(y, 2); }
__global__ static void words_32(float *y) { words(y, 32); }
__global__ static void words_33(float *y) { words(y, 33); }
__global__ static void pieces(float4 *y) { /* quarters of a warp: no conflict, then 8 ways */
    __shared__ float4 a[32 * 8];
    for (int i = 0; i < 32 * 8; i += 32) a[i + threadIdx.x] = make_float4(0, 0, 0, threadIdx.x);
    __syncwarp();
    y[threadIdx.x] = a[8 * threadIdx.x];
}
__device__ static void tiles(unsigned *y, int ld) { /* elements between rows */
    __shared__ __align__(16) __nv_bfloat16 a[16 * 72];
    for (int i = threadIdx.x; i < 16 * 72; i += 32) a[i] = (__nv_bfloat16)1.0f;
    __syncwarp();
    unsigned r[4], lane = threadIdx.x;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((unsigned)__cvta_generic_to_shared(a + lane % 16 * ld + lane / 16 * 8)));
    y[lane] = r[0] + r[1] + r[2] + r[3];
}
__global__ static void tiles_64(unsigned *y) { tiles(y, 64); }
__global__ static void tiles_72(unsigned *y) { tiles(y, 72); }

/* ---- lanes: 8 of 32 load ---- */
__global__ static void divergent(float *y, const float *x) {
    float v = 0;
    if (threadIdx.x % 4 == 0) v = __ldcg(x + threadIdx.x);
    y[threadIdx.x] = v;
}

static void all(void) {
    static float host[4 * N];
    float *x = device_copy(host, 4 * N), *y = device_new<float>(4 * N);
    coalesced<<<3, 32>>>(y, x);
    strided<<<1, 32>>>(y, x);
    misaligned<<<1, 32>>>(y, x);
    broadcast<<<1, 32>>>(y, x);
    halves<<<1, 32>>>((float4 *)y, (const float4 *)x);
    words_1<<<1, 32>>>(y);
    words_2<<<1, 32>>>(y);
    words_32<<<1, 32>>>(y);
    words_33<<<1, 32>>>(y);
    pieces<<<1, 32>>>((float4 *)y);
    tiles_64<<<1, 32>>>((unsigned *)y);
    tiles_72<<<1, 32>>>((unsigned *)y);
    divergent<<<1, 32>>>(y, x);
    CUDA(cudaDeviceSynchronize());
    CUDA(cudaFree(x));
    CUDA(cudaFree(y));
}

static const Case cases[] = {{"all", all}};
int main(int argc, char **argv) { return selftest_main(argc, argv, cases, 1); }
