/* instructions: the interpreter's results, bit for bit, against the host's compiler if both run the
 * same C, and against plain loops if an instruction has no C form. */
#include "tests/cuda_on_cpu/selftest/selftest.h"

enum { N = 2048 };
__host__ __device__ static uint32_t mix(uint32_t i) {
    i = (i ^ 61) ^ (i >> 16);
    i *= 9;
    i ^= i >> 4;
    i *= 0x27D4EB2Du;
    return i ^ i >> 15;
}
/* Values that look random, with the edges of the types among them. */
__host__ __device__ static uint32_t sample(uint32_t i) {
    const uint32_t edge[8] = {0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 31, 32, 0x8000};
    return mix(i) % 5 ? mix(i * 7 + 1) >> mix(i + 3) % 20 : edge[mix(i + 5) % 8];
}
__host__ __device__ static float bits_float(uint32_t u) {
    float f;
    memcpy(&f, &u, 4);
    return f;
}
__host__ __device__ static uint32_t float_bits(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

/* Runs body<F> on the device and on the host and compares every bit. */
template <typename F> __global__ void on_device(uint64_t *out) {
    uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < N) out[i] = F::at(i);
}
template <typename F> static void same_on_host(void) {
    static uint64_t got[N];
    uint64_t *d = device_new<uint64_t>(N);
    on_device<F><<<N / 96 + 1, 96>>>(d);
    CUDA(cudaGetLastError());
    host_copy(got, d, N);
    CUDA(cudaFree(d));
    for (uint32_t i = 0; i < N; i++) {
        uint64_t want = F::at(i);
        if (got[i] == want) continue;
        fprintf(stderr, "wrong result: sample %u: %#llx, not %#llx\n", i,
                (unsigned long long)got[i], (unsigned long long)want);
        exit(1);
    }
}

struct Integers {
    __host__ __device__ static uint64_t at(uint32_t i) {
        uint32_t a = sample(i), b = sample(i + 77777), n = sample(i + 5) & 31;
        int32_t sa = (int32_t)a, sb = (int32_t)b;
        uint64_t wa = (uint64_t)a << 32 | mix(i), wb = (uint64_t)b << 13 | mix(i + 9);
        int64_t xa = (int64_t)wa, xb = (int64_t)wb;
        uint64_t r = a + b * 3 - (a ^ b);
        r = r * 31 + (a / (b | 1)) + (a % (b | 1));
        if (sb != -1 && sb) r = r * 31 + (uint64_t)(sa / sb) + (uint64_t)(sa % sb);
        r = r * 31 + wa / (wb | 1) + wa % (wb | 1);
        if (xb != -1 && xb) r = r * 31 + (uint64_t)(xa / xb) + (uint64_t)(xa % xb);
        r = r * 31 + (a << n) + (a >> n) + (uint64_t)(sa >> n);
        r = r * 31 + (wa << n) + (wa >> (n + 7)) + (uint64_t)(xa >> (n + 20));
        r = r * 31 + (uint64_t)a * b + (uint64_t)((int64_t)sa * sb);
        r = r * 31 + (a < b) + 2 * (sa < sb) + 4 * (wa < wb) + 8 * (xa < xb) + 16 * (a == b);
        r = r * 31 + (uint16_t)(a * 7) + (uint64_t)(int16_t)b + (uint8_t)a + (uint64_t)(int8_t)b;
        r = r * 31 + (sa < sb ? sa : sb) + (a > b ? a : b) + (uint64_t)(xa > xb ? xa : xb);
        r = r * 31 + (~a & b) + (a | ~b) + (uint64_t)(sa < 0 ? 0u - a : a);
        return r;
    }
};
static void integers(void) { same_on_host<Integers>(); }

struct Floats {
    __host__ __device__ static uint64_t at(uint32_t i) {
        float a = bits_float(sample(i) & 0xBFFFFFFF), b = bits_float(sample(i + 999) | 1);
        double x = (double)a * 1.0000001, y = (double)b;
        if (!(fabsf(a) < 1e18f)) a = (float)(int)i;
        if (!(fabsf(b) < 1e18f)) b = 3.75f;
        float small = fmodf((float)(int)mix(i), 5000) * 0.37f;
        uint64_t r = float_bits(a + b) + 3ull * float_bits(a - b) + 5ull * float_bits(a * b);
        r = r * 31 + float_bits(a / b) + float_bits(sqrtf(fabsf(a))) + float_bits(fmaf(a, b, 2.f));
        r = r * 31 + float_bits(fminf(a, b)) + 3ull * float_bits(fmaxf(a, b));
        r = r * 31 + (a < b) + 2 * (a <= b) + 4 * (a == b) + 8 * (a != b) + 16 * !(a > b);
        r = r * 31 + float_bits(floorf(small)) + float_bits(ceilf(small)) +
            float_bits(truncf(small));
        r = r * 31 + float_bits(rintf(small)) + float_bits(fabsf(a)) + float_bits(copysignf(b, a));
        r = r * 31 + (uint64_t)(int)small + (uint64_t)(long long)(small * 1e6f);
        r = r * 31 + float_bits((float)(int)sample(i)) + float_bits((float)sample(i));
        r = r * 31 + float_bits((float)(long long)((uint64_t)sample(i) << 29));
        if (fabs(x) < 1e30 && fabs(y) < 1e30 && y != 0) {
            double d = x * 3.5 + y, e = x / y;
            r = r * 31 + float_bits((float)d) + float_bits((float)e) + (d < e);
            r = r * 31 + float_bits((float)sqrt(fabs(x))) + float_bits((float)fma(x, y, 1.5));
        }
        return r;
    }
};
static void floats(void) { same_on_host<Floats>(); }

/* rounded once; the intrinsic exists on the device alone */
__host__ __device__ static __nv_bfloat16 fma_bf16(__nv_bfloat16 a, __nv_bfloat16 b,
                                                  __nv_bfloat16 c) {
#ifdef __CUDA_ARCH__
    return __hfma(a, b, c);
#else
    return __double2bfloat16((double)__bfloat162float(a) * __bfloat162float(b) +
                             __bfloat162float(c));
#endif
}
__host__ __device__ static __nv_bfloat162 fma_bf162(__nv_bfloat162 a, __nv_bfloat162 b,
                                                    __nv_bfloat162 c) {
#ifdef __CUDA_ARCH__
    return __hfma2(a, b, c);
#else
    return __nv_bfloat162(fma_bf16(a.x, b.x, c.x), fma_bf16(a.y, b.y, c.y));
#endif
}
struct Bf16 {
    __host__ __device__ static uint64_t at(uint32_t i) {
        float a = noise(i) * 37, b = noise(i + 55555), c = noise(i + 99) * 3;
        if (i == 7) a = INFINITY;
        if (i == 8) a = bits_float(0x00012345);
        __nv_bfloat16 x = __float2bfloat16(a), y = __float2bfloat16(b), z = __float2bfloat16(c);
        __nv_bfloat162 two = __floats2bfloat162_rn(b, c), s = __bfloat162bfloat162(y);
        uint64_t r = float_bits(__bfloat162float(x)) + float_bits(__low2float(two));
        r = r * 31 + float_bits(__bfloat162float(fma_bf16(y, z, x)));
        r = r * 31 + float_bits(__high2float(fma_bf162(two, s, two)));
        r = r * 31 + float_bits(__bfloat162float(__hadd(y, z))) + __hlt(y, z);
        r = r * 31 + float_bits(__bfloat162float(__hmul(y, z))) + __hgt(x, z);
        r = r * 31 + float_bits(__low2float(__hsub2(two, s)));
        r = r * 31 + float_bits(__bfloat162float(__hneg(y))) +
            float_bits(__bfloat162float(__habs(z)));
        return r;
    }
};
static void bf16(void) { same_on_host<Bf16>(); }

struct Control { /* loops of differing length, switches, breaks, arrays with computed indices */
    __host__ __device__ static uint64_t at(uint32_t i) {
        uint64_t r = 0;
        uint32_t n = i + 1;
        int table[9];
        for (int k = 0; k < 9; k++) table[k] = (int)(mix(i + k) % 9);
        for (uint32_t steps = 0; n != 1; steps++) {
            n = n & 1 ? 3 * n + 1 : n / 2;
            if (steps == 40 + i % 50) break;
            r += steps;
        }
        for (int k = 0; k < 20; k++) {
            int at = table[(i + k) % 9];
            switch (at) {
            case 0:
                r += 11;
                break;
            case 1:
                r ^= i;
                break;
            case 2:
                r = r * 3 + 1;
                [[fallthrough]];
            case 3:
                r -= k;
                continue;
            case 4:
                r = r << 1 | r >> 63;
                break;
            case 5:
                if (i & 2) return r;
                break;
            case 6:
                table[k % 9] = (at + k) % 9;
                break;
            default:
                r += mix((uint32_t)r);
            }
            r += table[at];
        }
        return r;
    }
};
static void control_flow(void) { same_on_host<Control>(); }

/* ---- intrinsics and inline PTX against plain C ---- */
__device__ static uint32_t bits_device(uint32_t i) {
    uint32_t a = sample(i), b = sample(i + 333), n = sample(i + 5), r, t;
    r = __popc(a) + 64 * __clz(b) + __ffs(a) * 4096;
    r = r * 31 + __brev(a) + __byte_perm(a, b, n) + __umulhi(a, b) + (uint32_t)__mulhi(a, b);
    r = r * 31 + __funnelshift_l(a, b, n) + __funnelshift_rc(a, b, n & 63) + __usad(a, b, n);
    asm("lop3.b32 %0, %1, %2, %3, 0xCA;" : "=r"(t) : "r"(a), "r"(b), "r"(n));
    r = r * 31 + t;
    asm("bfe.u32 %0, %1, %2, %3;" : "=r"(t) : "r"(a), "r"(n & 31), "r"(b & 15));
    r = r * 31 + t;
    asm("bfe.s32 %0, %1, %2, %3;" : "=r"(t) : "r"(a), "r"(n & 31), "r"(b & 15));
    r = r * 31 + t;
    asm("bfi.b32 %0, %1, %2, %3, %4;" : "=r"(t) : "r"(a), "r"(b), "r"(n & 31), "r"(b & 15));
    r = r * 31 + t;
    asm("{ add.cc.u32 %0, %1, %2; addc.u32 %0, %2, %3; }" : "=&r"(t) : "r"(a), "r"(b), "r"(n));
    r = r * 31 + t;
    asm("{ .reg .pred p, q; setp.lt.and.u32 p|q, %1, %2, 1; selp.u32 %0, 5, 9, p;"
        " @q add.u32 %0, %0, 1; }"
        : "=&r"(t)
        : "r"(a), "r"(b));
    return r * 31 + t;
}
static uint32_t bits_host(uint32_t i) {
    uint32_t a = sample(i), b = sample(i + 333), n = sample(i + 5), r, t = 0;
    uint64_t wide = (uint64_t)b << 32 | a;
    r = __builtin_popcount(a) + 64 * (b ? __builtin_clz(b) : 32) + __builtin_ffs(a) * 4096;
    uint32_t rev = 0, perm = 0;
    for (int k = 0; k < 32; k++) rev |= (a >> k & 1) << (31 - k);
    for (int k = 0; k < 4; k++) { /* __byte_perm ignores the sign bit of a selector */
        uint32_t s = n >> 4 * k & 15;
        perm |= (uint32_t)(wide >> (s & 7) * 8 & 255) << 8 * k;
    }
    r = r * 31 + rev + perm + (uint32_t)((uint64_t)a * b >> 32) +
        (uint32_t)((int64_t)(int32_t)a * (int32_t)b >> 32);
    uint32_t c = (n & 63) > 32 ? 32 : n & 63;
    r = r * 31 + (uint32_t)(wide << (n & 31) >> 32) + (uint32_t)(wide >> c) +
        (a > b ? a - b : b - a) + n;
    r = r * 31 + ((a & b) | (~a & n));
    uint32_t pos = n & 31, len = b & 15, mask = (1u << len) - 1;
    r = r * 31 + (a >> pos & mask);
    if (len) {
        uint32_t top = pos + len - 1 > 31 ? 31 : pos + len - 1;
        t = (a >> pos & mask) | (a >> top & 1 ? ~(((uint32_t)2 << (top - pos)) - 1) : 0);
    }
    r = r * 31 + t;
    r = r * 31 + ((b & ~(mask << pos)) | (a << pos & mask << pos));
    r = r * 31 + b + n + (uint32_t)(((uint64_t)a + b) >> 32);
    return r * 31 + (a < b ? 5 : 10);
}
__global__ void bits_kernel(uint32_t *out) {
    uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    out[i] = bits_device(i);
}
static void bits(void) {
    static uint32_t got[N];
    uint32_t *d = device_new<uint32_t>(N);
    bits_kernel<<<N / 128, 128>>>(d);
    CUDA(cudaGetLastError());
    host_copy(got, d, N);
    for (uint32_t i = 0; i < N; i++) expect(got[i], bits_host(i), 0, "bits");
    CUDA(cudaFree(d));
}

/* ---- the functions of the CUDA library, which are long pieces of PTX ---- */
enum { FUNCTIONS = 12 };
__global__ void functions_kernel(float *out, const float *in) {
    uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    float x = in[i];
    float *o = out + i * FUNCTIONS;
    o[0] = expf(x), o[1] = logf(fabsf(x)), o[2] = erff(x), o[3] = tanhf(x);
    o[4] = sinf(x * 50), o[5] = powf(fabsf(x), 1.7f), o[6] = rsqrtf(fabsf(x)), o[7] = __expf(x);
    o[8] = log1pf(fabsf(x)), o[9] = expm1f(x), o[10] = fmodf(x, 0.7f), o[11] = cosf(x * 1e6f);
}
static void library_functions(void) {
    static float in[N], got[N * FUNCTIONS];
    for (int i = 0; i < N; i++) in[i] = noise(i) * (i % 3 ? 5 : 0.01f) + 0.0001f;
    float *d = device_new<float>(N * FUNCTIONS), *di = device_copy(in, N);
    functions_kernel<<<N / 64, 64>>>(d, di);
    CUDA(cudaGetLastError());
    host_copy(got, d, N * FUNCTIONS);
    for (int i = 0; i < N; i++) {
        double x = in[i], a = fabs(x);
        double want[FUNCTIONS] = {exp(x),          log(a),       erf(x),        tanh(x),
                                  sin(in[i] * 50), pow(a, 1.7f), 1 / sqrt(a),   exp(x),
                                  log1p(a),        expm1(x),     fmod(x, 0.7f), cos(in[i] * 1e6f)};
        for (int f = 0; f < FUNCTIONS; f++) {
            char name[16];
            snprintf(name, sizeof name, "function %d", f);
            expect(got[i * FUNCTIONS + f], want[f], 1e-6 * fmax(1, fabs(want[f])), name);
        }
    }
    CUDA(cudaFree(d));
    CUDA(cudaFree(di));
}

/* ---- directed rounding: around the exact value of f64 ---- */
__global__ void rounding_kernel(float *out) {
    uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    float a = noise(i) * 3.1f, b = noise(i + 4444) * 1e-3f, *o = out + i * 6;
    o[0] = __fadd_rd(a, b), o[1] = __fadd_ru(a, b), o[2] = __fmul_rz(a, b);
    o[3] = __fmaf_rd(a, b, b), o[4] = __fmaf_ru(a, b, b), o[5] = __fmul_rd(a, b);
}
static void rounding(void) {
    static float got[N * 6];
    float *d = device_new<float>(N * 6);
    rounding_kernel<<<N / 128, 128>>>(d);
    CUDA(cudaGetLastError());
    host_copy(got, d, N * 6);
    for (uint32_t i = 0; i < N; i++) {
        double a = noise(i) * 3.1f, b = noise(i + 4444) * 1e-3f, sum = a + b, product = a * b;
        double fma = product + b;
        const double exact[6] = {sum, sum, product, fma, fma, product};
        const int up[6] = {0, 1, product < 0, 0, 1, 0};
        for (int k = 0; k < 6; k++) {
            float nearest = (float)exact[k], want = nearest;
            if (up[k] && nearest < exact[k]) want = nextafterf(nearest, INFINITY);
            if (!up[k] && nearest > exact[k]) want = nextafterf(nearest, -INFINITY);
            char name[32];
            snprintf(name, sizeof name, "rounding %d", k);
            expect(got[i * 6 + k], want, 0, name);
        }
    }
    CUDA(cudaFree(d));
}

/* ---- warps ---- */
enum { WARP_RESULTS = 16 };
__global__ void warp_kernel(uint32_t *out) {
    uint32_t l = threadIdx.x, v = mix(l), *o = out + l * WARP_RESULTS, p;
    o[0] = __shfl_sync(~0u, v, 5);
    o[1] = __shfl_up_sync(~0u, v, 3);
    o[2] = __shfl_down_sync(~0u, v, 7, 16);
    o[3] = __shfl_xor_sync(~0u, v, 9, 8);
    o[4] = __ballot_sync(~0u, v & 1);
    o[5] = (uint32_t)__all_sync(~0u, l < 40) + 2 * (uint32_t)__any_sync(~0u, l == 9);
    o[6] = __match_any_sync(~0u, l % 5);
    o[7] = __reduce_add_sync(~0u, v);
    o[8] = (uint32_t)__reduce_min_sync(~0u, (int)v);
    o[9] = __reduce_xor_sync(~0u, v);
    o[10] = l < 12 ? __shfl_sync(0xFFFu, v, (l + 1) % 12) : __shfl_xor_sync(~0xFFFu, v, 1);
    asm volatile("{ .reg .pred p; shfl.sync.up.b32 %0|p, %1, 4, 0, -1; selp.u32 %0, 1, 0, p; }"
                 : "=r"(p)
                 : "r"(v));
    o[11] = p;
    asm("mov.u32 %0, %%lanemask_lt;" : "=r"(o[12]));
    uint32_t sum = 0;
    for (uint32_t n = 0; n <= l % 4; n++) sum += l; /* lanes leave one after another */
    o[13] = sum;
    o[14] = __activemask();
    o[15] = __reduce_max_sync(~0u, v) == v;
}
static void warps(void) {
    static uint32_t got[32 * WARP_RESULTS];
    uint32_t *d = device_new<uint32_t>(32 * WARP_RESULTS), v[32], most = 0, sum = 0, all_xor = 0;
    uint32_t ballot = 0;
    int least = INT32_MAX;
    for (uint32_t l = 0; l < 32; l++) {
        v[l] = mix(l);
        most = v[l] > most ? v[l] : most;
        least = (int)v[l] < least ? (int)v[l] : least;
        sum += v[l], all_xor ^= v[l], ballot |= (v[l] & 1) << l;
    }
    warp_kernel<<<1, 32>>>(d);
    CUDA(cudaGetLastError());
    host_copy(got, d, 32 * WARP_RESULTS);
    for (uint32_t l = 0; l < 32; l++) {
        uint32_t same = 0;
        for (uint32_t k = 0; k < 32; k++) same |= (uint32_t)(k % 5 == l % 5) << k;
        const uint32_t want[WARP_RESULTS] = {v[5],
                                             v[l < 3 ? l : l - 3],
                                             v[l % 16 + 7 < 16 ? l + 7 : l],
                                             v[(l ^ 9) > (l | 7) ? l : l ^ 9],
                                             ballot,
                                             3,
                                             same,
                                             sum,
                                             (uint32_t)least,
                                             all_xor,
                                             l < 12 ? v[(l + 1) % 12] : v[l ^ 1],
                                             l >= 4,
                                             (1u << l) - 1,
                                             l * (l % 4 + 1),
                                             ~0u,
                                             v[l] == most};
        for (int k = 0; k < WARP_RESULTS; k++) {
            char name[32];
            snprintf(name, sizeof name, "lane %u result %d", l, k);
            if (k != 14) /* the scheduler chooses which lanes run together */
                expect(got[l * WARP_RESULTS + k], want[k], 0, name);
            else
                expect(got[l * WARP_RESULTS + k] >> l & 1, 1, 0, name);
        }
    }
    CUDA(cudaFree(d));
}

/* ---- placement by ldmatrix: products cannot detect a permutation of k ---- */
__global__ void ldmatrix_kernel(uint32_t *out) {
    __shared__ __align__(16) uint16_t s[4][8][8];
    uint32_t l = threadIdx.x, *o = out + l * 8;
    for (int i = l; i < 256; i += 32) (&s[0][0][0])[i] = (uint16_t)(i * 251);
    __syncwarp();
    uint32_t row = (uint32_t)__cvta_generic_to_shared(&s[l / 8][l % 8][0]);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(o[0]), "=r"(o[1]), "=r"(o[2]), "=r"(o[3])
                 : "r"(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(o[4]), "=r"(o[5]), "=r"(o[6]), "=r"(o[7])
                 : "r"(row));
}
static void ldmatrix(void) {
    static uint32_t got[32 * 8];
    uint32_t *d = device_new<uint32_t>(32 * 8);
    ldmatrix_kernel<<<1, 32>>>(d);
    CUDA(cudaGetLastError());
    host_copy(got, d, 32 * 8);
    for (int l = 0; l < 32; l++)
        for (int m = 0; m < 8; m++) {
            int major = l / 4, minor = l % 4 * 2, base = m % 4 * 64;
            int first = m < 4 ? major * 8 + minor : minor * 8 + major;
            int second = m < 4 ? first + 1 : first + 8;
            uint32_t want = (uint16_t)((base + first) * 251) |
                            (uint32_t)(uint16_t)((base + second) * 251) << 16;
            expect(got[l * 8 + m], want, 0, m < 4 ? "ldmatrix" : "ldmatrix.trans");
        }
    CUDA(cudaFree(d));
}

/* ---- blocks, spaces, atomics ---- */
__constant__ int table[5] = {3, 1, 4, 1, 5};
__device__ int counter = 100;
struct Shape {
    int8_t kind;
    double weight;
    int dims[3];
};
__global__ void spaces_kernel(int *out, Shape shape, int which) {
    __shared__ int arrived[3];
    int t = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    if (t < 3) arrived[t] = 0;
    __syncthreads();
    int many = __syncthreads_count(t % 3 == 0), any = __syncthreads_or(t == 5);
    int all = __syncthreads_and(t >= 0);
    atomicAdd(&arrived[t & 1], 1);
    atomicMax(&counter, t);
    atomicCAS((unsigned *)out + 8, 7u, 8u);
    atomicInc((unsigned *)out + 9, 4);
    int *place = t & 1 ? arrived + 1 : out + 6; /* generic addresses of two spaces */
    if (t == 4 || t == 5) atomicExch(place + (t == 5), 77);
    if (t < 32)
        asm volatile("bar.sync 3, 64;" ::: "memory");
    else if (t < 64)
        asm volatile("bar.sync 3, 64;" ::: "memory");
    __syncthreads();
    if (t) return;
    out[0] = many, out[1] = any != 0, out[2] = all != 0;
    out[3] = arrived[0] + arrived[1] * 1000, out[4] = arrived[2];
    out[5] = shape.kind + (int)shape.weight + shape.dims[which] + table[which + 1];
    out[7] = (int)gridDim.x * 10000 + (int)blockDim.z * 100 + __builtin_popcount(7);
}
static void spaces(void) {
    int got[10] = {0}, now = 0, more[5] = {10, 20, 30, 40, 50};
    got[8] = 7;
    int *d = device_copy(got, 10);
    Shape shape = {-2, 6.5, {100, 200, 300}};
    CUDA(cudaMemcpyToSymbol(table, more, sizeof more));
    spaces_kernel<<<1, dim3(5, 4, 5)>>>(d, shape, 2); /* 100 threads: not whole warps */
    CUDA(cudaGetLastError());
    host_copy(got, d, 10);
    const int want[10] = {34, 1, 1, 50050, 77, -2 + 6 + 300 + 40, 77, 10503, 8, 0};
    for (int i = 0; i < 10; i++) {
        char name[16];
        snprintf(name, sizeof name, "result %d", i);
        expect(got[i], want[i], 0, name);
    }
    CUDA(cudaMemcpyFromSymbol(&now, counter, sizeof now));
    expect(now, 100, 0, "counter");
    CUDA(cudaFree(d));
}

int main(int argc, char **argv) {
#define CASE(name)                                                                                 \
    { #name, name }
    static const Case cases[] = {
        CASE(integers),          CASE(floats),   CASE(bf16),  CASE(control_flow), CASE(bits),
        CASE(library_functions), CASE(rounding), CASE(warps), CASE(ldmatrix),     CASE(spaces),
    };
    return selftest_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
