/* faults: kernels with one planted fault each; tests/test_cudaemu.sh lists how each is detected. */
#include "tests/cuda_on_cpu/selftest/selftest.h"

enum { N = 256 };
static float ramp[N];
static float *ramp_copy(void) {
    for (int i = 0; i < N; i++) ramp[i] = (float)i;
    return device_copy(ramp, N);
}
/* The kernel's result is that each y[i] is x[N - 1 - i]. */
static void expect_reversed(const float *device) {
    static float y[N];
    CUDA(cudaGetLastError());
    host_copy(y, device, N);
    for (int i = 0; i < N; i++) expect(y[i], N - 1 - i, 0, "y");
}

/* ---- barriers ---- */
__global__ void reverse_unsynced(float *y, const float *x) {
    __shared__ float s[N];
    s[threadIdx.x] = x[threadIdx.x];
    y[threadIdx.x] = s[N - 1 - threadIdx.x];
}
static void barrier_missing(void) {
    float *x = ramp_copy(), *y = device_new<float>(N);
    reverse_unsynced<<<1, N>>>(y, x);
    expect_reversed(y);
}
__global__ void twice_unsynced(float *y, const float *x) {
    __shared__ float s[N];
    s[threadIdx.x] = -1;
    __syncthreads();
    y[threadIdx.x] = s[N - 1 - threadIdx.x];
    s[threadIdx.x] = x[threadIdx.x]; /* may overtake the read above */
    __syncthreads();
    y[threadIdx.x] += s[N - 1 - threadIdx.x] + 1;
}
static void barrier_missing_after_read(void) {
    float *x = ramp_copy(), *y = device_new<float>(N);
    twice_unsynced<<<1, N>>>(y, x);
    expect_reversed(y);
}
__global__ void divergent(float *y) {
    if (threadIdx.x < 64) {
        y[threadIdx.x] = 1;
        __syncthreads();
        y[threadIdx.x] += 1;
    } else {
        y[threadIdx.x] = 2;
        __syncthreads();
        y[threadIdx.x] += 2;
    }
}
static void barrier_divergent(void) {
    divergent<<<1, N>>>(device_new<float>(N));
    CUDA(cudaDeviceSynchronize());
}
__global__ void early_return(float *y, int n) {
    if ((int)threadIdx.x >= n) return;
    y[threadIdx.x] = 1;
    __syncthreads();
    y[threadIdx.x] += y[0];
}
static void barrier_after_return(void) {
    early_return<<<1, N>>>(device_new<float>(N), N - 3);
    CUDA(cudaDeviceSynchronize());
}
__global__ void warp_unsynced(float *y, const float *x) {
    __shared__ float s[32];
    s[threadIdx.x] = x[threadIdx.x];
    y[threadIdx.x] = s[31 - threadIdx.x];
}
static void syncwarp_missing(void) {
    static float y[32];
    float *x = ramp_copy(), *dy = device_new<float>(32);
    warp_unsynced<<<1, 32>>>(dy, x);
    CUDA(cudaGetLastError());
    host_copy(y, dy, 32);
    for (int i = 0; i < 32; i++) expect(y[i], 31 - i, 0, "y");
}

/* ---- cp.async ---- */
__device__ static void copy16(float *shared, const float *global) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                     (uint32_t)__cvta_generic_to_shared(shared)),
                 "l"(global));
}
__device__ static void commit(void) { asm volatile("cp.async.commit_group;"); }
template <int LEFT> __device__ static void wait(void) {
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}
/* Two groups of 128 floats each. LEFT: groups that the wait may leave; BARRIER: with one. */
template <bool WAIT, int LEFT, bool BARRIER> __global__ void staged(float *y, const float *x) {
    __shared__ __align__(16) float s[N];
    int t = threadIdx.x;
    if (t < 32) copy16(s + 4 * t, x + 4 * t);
    commit();
    if (t < 32) copy16(s + 128 + 4 * t, x + 128 + 4 * t);
    commit();
    if (WAIT) wait<LEFT>();
    if (BARRIER) __syncthreads();
    y[t] = s[N - 1 - t];
}
static void cp_async_wait_missing(void) {
    float *x = ramp_copy(), *y = device_new<float>(N);
    staged<false, 0, true><<<1, N>>>(y, x);
    expect_reversed(y);
}
static void cp_async_wait_lax(void) {
    float *x = ramp_copy(), *y = device_new<float>(N);
    staged<true, 1, true><<<1, N>>>(y, x);
    expect_reversed(y);
}
static void cp_async_barrier_missing(void) {
    float *x = ramp_copy(), *y = device_new<float>(N);
    staged<true, 0, false><<<1, N>>>(y, x);
    expect_reversed(y);
}

/* ---- warp collectives ---- */
__global__ void exited_lane(float *y) {
    if (threadIdx.x >= 20) return;
    y[threadIdx.x] = __shfl_xor_sync(~0u, (float)threadIdx.x, 1);
}
static void mask_names_exited_lane(void) {
    exited_lane<<<1, 32>>>(device_new<float>(32));
    CUDA(cudaDeviceSynchronize());
}
__global__ void outside_mask(float *y) {
    if (threadIdx.x < 16) y[threadIdx.x] = __shfl_sync(0xFFFFu, (float)threadIdx.x, 20);
}
static void shuffle_from_outside_mask(void) {
    outside_mask<<<1, 32>>>(device_new<float>(32));
    CUDA(cudaDeviceSynchronize());
}
__global__ void wrong_mask(float *y) {
    y[threadIdx.x] = __shfl_down_sync(0xFFFFu, (float)threadIdx.x, 1);
}
static void lane_not_in_its_mask(void) {
    wrong_mask<<<1, 32>>>(device_new<float>(32));
    CUDA(cudaDeviceSynchronize());
}
__global__ void mixed_collectives(int *y) {
    if (threadIdx.x & 1)
        y[threadIdx.x] = __shfl_xor_sync(~0u, (int)threadIdx.x, 2);
    else
        y[threadIdx.x] = __ballot_sync(~0u, threadIdx.x > 7);
}
static void different_collectives(void) {
    mixed_collectives<<<1, 32>>>(device_new<int>(32));
    CUDA(cudaDeviceSynchronize());
}
__global__ void collective_or_barrier(int *y) {
    if (threadIdx.x < 32 && threadIdx.x & 1)
        y[threadIdx.x] = __shfl_xor_sync(~0u, (int)threadIdx.x, 2);
    __syncthreads();
}
static void collective_against_barrier(void) {
    collective_or_barrier<<<1, 64>>>(device_new<int>(64));
    CUDA(cudaDeviceSynchronize());
}

/* ---- memory ---- */
__global__ void reverse(float *y, const float *x, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = x[n - 1 - i];
}
static void device_memory_never_written(void) {
    float *x = device_new<float>(N), *y = device_new<float>(N);
    reverse<<<2, 128>>>(y, x, N);
    expect_reversed(y);
}
__global__ void shared_hole(float *y, const float *x) {
    __shared__ float s[N];
    if (threadIdx.x != 100) s[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = s[N - 1 - threadIdx.x];
}
static void shared_memory_never_written(void) {
    float *x = ramp_copy(), *y = device_new<float>(N);
    shared_hole<<<1, N>>>(y, x);
    expect_reversed(y);
}
__global__ void vector_read(float4 *y, const float *x) {
    y[threadIdx.x] = *(const float4 *)(x + 4 * threadIdx.x + 1);
}
static void vector_misaligned(void) {
    float *x = ramp_copy();
    vector_read<<<1, 32>>>(device_new<float4>(32), x);
    CUDA(cudaDeviceSynchronize());
}
static void used_after_free(void) {
    float *x = ramp_copy(), *y = device_new<float>(N);
    CUDA(cudaFree(x));
    reverse<<<2, 128>>>(y, x, N);
    expect_reversed(y);
}
static void host_pointer(void) {
    float *y = device_new<float>(N);
    reverse<<<2, 128>>>(y, ramp, N);
    expect_reversed(y);
}
static void null_pointer(void) {
    reverse<<<2, 128>>>(device_new<float>(N), NULL, N);
    CUDA(cudaDeviceSynchronize());
}
__global__ void fill(float *y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i <= n) y[i] = 1; /* one too many */
}
static void write_past_buffer(void) {
    fill<<<3, 128>>>(device_new<float>(N), N);
    CUDA(cudaDeviceSynchronize());
}
__global__ void neighbours(float *y, const float *x) { y[threadIdx.x] = x[threadIdx.x + 1]; }
static void read_past_buffer(void) {
    float *x = ramp_copy();
    neighbours<<<1, N>>>(device_new<float>(N), x);
    CUDA(cudaDeviceSynchronize());
}
__global__ void index_wraps(float *y, int stride) {
    y[(int)threadIdx.x * stride] = 1; /* 32-bit: wraps round for the upper threads */
}
static void index_overflow(void) {
    index_wraps<<<1, 32>>>(device_new<float>(N), 0x7000000);
    CUDA(cudaDeviceSynchronize());
}
__global__ void dynamic_reverse(float *y, const float *x) {
    extern __shared__ float dynamic[];
    dynamic[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = dynamic[N - 1 - threadIdx.x];
}
static void dynamic_shared_too_small(void) {
    float *x = ramp_copy();
    dynamic_reverse<<<1, N, (N - 1) * sizeof(float)>>>(device_new<float>(N), x);
    CUDA(cudaDeviceSynchronize());
}
static void shared_opt_in_missing(void) {
    float *x = ramp_copy(), *y = device_new<float>(N);
    dynamic_reverse<<<1, N, 60 * 1024>>>(y, x);
    expect_reversed(y);
}
__global__ void static_index(float *y, const int *at) {
    __shared__ float s[64], other[64];
    s[threadIdx.x] = other[threadIdx.x] = 1;
    __syncthreads();
    y[threadIdx.x] = s[at[threadIdx.x]] + other[63 - threadIdx.x];
}
static void static_shared_index(void) {
    int at[64] = {0};
    at[5] = 64;
    static_index<<<1, 64>>>(device_new<float>(64), device_copy(at, 64));
    CUDA(cudaDeviceSynchronize());
}
__global__ void local_index(float *y, const int *at) {
    float v[8];
    for (int i = 0; i < 8; i++) v[i] = y[i];
    v[at[0]] = 5;
    y[threadIdx.x] = v[at[1]];
}
static void local_array_index(void) {
    int at[2] = {9, 3};
    float *x = ramp_copy();
    local_index<<<1, 1>>>(x, device_copy(at, 2));
    CUDA(cudaDeviceSynchronize());
}

/* ---- races between threads and blocks ---- */
__global__ void count_unsafely(int *count) { *count += 1; }
static void update_not_atomic(void) {
    int zero = 0, got, *count = device_copy(&zero, 1);
    count_unsafely<<<4, 64>>>(count);
    CUDA(cudaGetLastError());
    host_copy(&got, count, 1);
    expect(got, 256, 0, "count");
}
__global__ void chain(float *y) { /* each block needs what the one before it wrote */
    if (threadIdx.x == 0) y[blockIdx.x + 1] = y[blockIdx.x] + 1;
}
static void block_needs_block(void) {
    float y[9] = {0}, *dy = device_copy(y, 9);
    chain<<<8, 32>>>(dy);
    CUDA(cudaGetLastError());
    host_copy(y, dy, 9);
    expect(y[8], 8, 0, "y");
}

/* ---- inline PTX, limits ---- */
template <bool TRANS, bool SWAPPED>
__global__ void product(float *d, const __nv_bfloat16 *a, const __nv_bfloat16 *b) {
    __shared__ __align__(16) __nv_bfloat16 sa[16 * 16], sb[16 * 8];
    int l = threadIdx.x;
    for (int i = l; i < 256; i += 32) sa[i] = a[i];
    for (int i = l; i < 128; i += 32) sb[i] = b[i];
    __syncwarp();
    uint32_t ra[4], rb[2];
    uint32_t pa = (uint32_t)__cvta_generic_to_shared(sa + l % 16 * 16 + l / 16 * 8);
    uint32_t pb = (uint32_t)__cvta_generic_to_shared(sb + l % 16 * 8);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(ra[0]), "=r"(ra[1]), "=r"(ra[2]), "=r"(ra[3])
                 : "r"(pa));
    if (TRANS)
        asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                     : "=r"(rb[0]), "=r"(rb[1])
                     : "r"(pb));
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                     : "=r"(rb[0]), "=r"(rb[1])
                     : "r"(pb));
    float c[4] = {0, 0, 0, 0};
    uint32_t second = SWAPPED ? ra[2] : ra[1], third = SWAPPED ? ra[1] : ra[2];
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, "
                 "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(ra[0]), "r"(second), "r"(third), "r"(ra[3]), "r"(rb[0]), "r"(rb[1]));
    for (int i = 0; i < 4; i++) d[(l / 4 + i / 2 * 8) * 8 + l % 4 * 2 + i % 2] = c[i];
}
template <bool TRANS, bool SWAPPED> static void product_case(void) {
    static __nv_bfloat16 a[256], b[128];
    static float d[128];
    for (int i = 0; i < 256; i++) a[i] = (__nv_bfloat16)noise(i);
    for (int i = 0; i < 128; i++) b[i] = (__nv_bfloat16)noise(i + 999);
    float *dd = device_new<float>(128);
    product<TRANS, SWAPPED><<<1, 32>>>(dd, device_copy(a, 256), device_copy(b, 128));
    CUDA(cudaGetLastError());
    host_copy(d, dd, 128);
    for (int r = 0; r < 16; r++)
        for (int c = 0; c < 8; c++) {
            double want = 0;
            for (int k = 0; k < 16; k++) want += (double)(float)a[r * 16 + k] * (float)b[k * 8 + c];
            expect(d[r * 8 + c], want, 1e-5, "d");
        }
}
static void no_fault_mma(void) { product_case<true, false>(); }
static void mma_operands_swapped(void) { product_case<true, true>(); }
static void ldmatrix_trans_missing(void) { product_case<false, false>(); }
__global__ void unknown_instruction(uint32_t *y) {
    uint32_t v = threadIdx.x;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %0;" : "+r"(v));
    y[threadIdx.x] = v;
}
static void instruction_not_known(void) {
    unknown_instruction<<<1, 32>>>(device_new<uint32_t>(32));
    CUDA(cudaDeviceSynchronize());
}
__global__ void spin(volatile int *flag) {
    while (!*flag) {
    }
}
static void endless_loop(void) {
    int zero = 0;
    spin<<<1, 32>>>(device_copy(&zero, 1));
    CUDA(cudaDeviceSynchronize());
}
static void block_too_large(void) {
    reverse<<<1, 1025>>>(device_new<float>(N), device_new<float>(N), 1);
    CUDA(cudaGetLastError());
}

/* as many registers as the compiler likes: more threads than 256 may be too many */
static void block_without_bounds(void) {
    reverse<<<1, 512>>>(device_new<float>(N), device_new<float>(N), 1);
    CUDA(cudaGetLastError());
}
/* devices differ in the shared memory available to a block */
static void shared_beyond_device(void) {
    CUDA(cudaFuncSetAttribute(dynamic_reverse, cudaFuncAttributeMaxDynamicSharedMemorySize,
                              100 * 1024));
}

int main(int argc, char **argv) {
#define CASE(name)                                                                                 \
    { #name, name }
    static const Case cases[] = {
        CASE(barrier_missing),
        CASE(barrier_missing_after_read),
        CASE(barrier_divergent),
        CASE(barrier_after_return),
        CASE(syncwarp_missing),
        CASE(cp_async_wait_missing),
        CASE(cp_async_wait_lax),
        CASE(cp_async_barrier_missing),
        CASE(mask_names_exited_lane),
        CASE(shuffle_from_outside_mask),
        CASE(lane_not_in_its_mask),
        CASE(different_collectives),
        CASE(collective_against_barrier),
        CASE(device_memory_never_written),
        CASE(shared_memory_never_written),
        CASE(vector_misaligned),
        CASE(used_after_free),
        CASE(host_pointer),
        CASE(null_pointer),
        CASE(write_past_buffer),
        CASE(read_past_buffer),
        CASE(index_overflow),
        CASE(dynamic_shared_too_small),
        CASE(shared_opt_in_missing),
        CASE(static_shared_index),
        CASE(local_array_index),
        CASE(update_not_atomic),
        CASE(block_needs_block),
        CASE(no_fault_mma),
        CASE(mma_operands_swapped),
        CASE(ldmatrix_trans_missing),
        CASE(instruction_not_known),
        CASE(endless_loop),
        CASE(block_too_large),
        CASE(block_without_bounds),
        CASE(shared_beyond_device),
    };
    return selftest_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
