/* cuda/fp8: products of registered matrices from 8-bit factors by cuBLASLt, which on Hopper
 * requires both factors stored along the contraction. So a factor is rounded from bf16 to 8 bits
 * for each product, as stored or transposed; a gradient once, both ways, for its two products.
 * Compiled for compute capability 8.9 and up. */
#include "kernels/cuda/blas.h"
#include "kernels/cuda/cuda.cuh"

/* The entries of `scaling` after its n largest magnitudes. */
enum { SCALE = 1, INVERSE = 2, PAST = 3 };
enum Factor { FACTOR_X, FACTOR_W, FACTOR_DY };

typedef struct Matrix {
    const act *w;
    const acc *dw;
    acc *scaling;
    size_t n, i, N, K;
} Matrix;

static struct {
    const int32_t *start;
    size_t B, sequences;
} padding;

void FN(fp8_padding)(const int32_t *start, size_t B, size_t sequences) {
    padding.start = start, padding.B = B, padding.sequences = sequences;
}

enum { MATRICES_MAX = 1024 }; /* a ViT-G has 4 · (48 + 24) */
static Matrix matrices[MATRICES_MAX];
static size_t matrix_count;

/* amp_fp8 replaces it by fp8_register. */
void FN(fp8_weight)(const act *w, const acc *dw, acc *scaling, size_t n, size_t i, size_t N,
                    size_t K) {
    (void)w, (void)dw, (void)scaling, (void)n, (void)i, (void)N, (void)K;
}

extern "C" KERNEL_TYPE(fp8_weight) FN(fp8_register);
void FN(fp8_register)(const act *w, const acc *dw, acc *scaling, size_t n, size_t i, size_t N,
                      size_t K) {
    size_t at = 0;
    while (at < matrix_count && matrices[at].w != w) at++;
    if (!scaling) {
        if (at < matrix_count) matrices[at] = matrices[--matrix_count];
        return;
    }
    assert(at < MATRICES_MAX);
    matrices[at] = Matrix{w, dw, scaling, n, i, N, K};
    if (at == matrix_count) matrix_count++;
}

/* The matrix that w (or dw) is, or that contains rows starting at w. */
static const Matrix *matrix_find(const act *w, const acc *dw, size_t K) {
    for (size_t i = 0; i < matrix_count; i++) {
        const Matrix *m = &matrices[i];
        size_t size = m->N * m->K;
        if (m->K == K && (w ? w >= m->w && w < m->w + size : dw >= m->dw && dw < m->dw + size))
            return m;
    }
    return NULL;
}

/* NULL: not in 8 bits. All three products of a layer are, or none, because a factor's magnitude is
 * recorded in only one of them. */
static const Matrix *matrix_of(const act *w, const acc *dw, size_t M, size_t N, size_t K) {
    const Matrix *m = matrix_find(w, dw, K);
    if (!m) return NULL;
    kernel_fp8_products.all++;
    if (N % 16 == 0 && K % 16 == 0 && M % FP8_ROWS == 0) return m;
    kernel_fp8_products.in_act++;
    kernel_fp8_products.M = M, kernel_fp8_products.N = N, kernel_fp8_products.K = K;
    return NULL;
}

/* ---- rounding to 8 bits ---- */

enum { TILE = 64, RUN = 16 }; /* a thread turns RUN neighbours of a tile into 16 bytes */

#if __CUDA_ARCH__ >= 890
/* Saturating, to nearest even; lo in the low byte. */
template <bool E5M2> __device__ static inline unsigned fp8x2(float lo, float hi) {
    unsigned short u;
    if (E5M2)
        asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(u) : "f"(hi), "f"(lo));
    else
        asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(u) : "f"(hi), "f"(lo));
    return u;
}
#endif

/* q[rows,cols] and qt[cols,ldt] (either may be NULL) = x · *scale; qt's columns past rows are 0.
 * *amax = max of |x| and itself, over the first *end or (if that is NULL) `counted` rows. The
 * maximum is taken over the bits as integers, in which floats ≥ 0 have the same order, and NaN and
 * infinity are the largest. */
template <bool E5M2>
__global__ static void __launch_bounds__(BLOCK)
    quantise(uint8_t *q, uint8_t *qt, const acc *scale, acc *amax, const int32_t *end,
             size_t counted, const act *x, size_t rows, size_t cols, size_t ldt) {
#if __CUDA_ARCH__ >= 890
    __shared__ __align__(16) uint8_t tile[TILE][TILE + 16];
    __shared__ unsigned largest;
    size_t across = (cols + TILE - 1) / TILE;
    size_t r0 = blockIdx.x / across * TILE, c0 = blockIdx.x % across * TILE;
    int line = (int)threadIdx.x / (TILE / RUN), part = (int)threadIdx.x % (TILE / RUN) * RUN;
    size_t row = r0 + line, col = c0 + part;
    if (threadIdx.x == 0) largest = 0;
    __syncthreads();
    uint4 bytes = make_uint4(0, 0, 0, 0);
    unsigned most = 0;
    if (row < rows && col < cols) {
        float v[RUN], s = scale->v;
        const act *from = x + row * cols + col;
        act_load(v, from, VW, (uintptr_t)from % 16 == 0);
        act_load(v + VW, from + VW, VW, (uintptr_t)from % 16 == 0);
        unsigned pair[RUN / 2];
        bool counts = row < (end ? (size_t)*end : counted);
#pragma unroll
        for (int j = 0; j < RUN; j++) most = max(most, counts ? __float_as_uint(fabsf(v[j])) : 0);
#pragma unroll
        for (int j = 0; j < RUN / 2; j++) pair[j] = fp8x2<E5M2>(v[2 * j] * s, v[2 * j + 1] * s);
        bytes = make_uint4(pair[0] | pair[1] << 16, pair[2] | pair[3] << 16,
                           pair[4] | pair[5] << 16, pair[6] | pair[7] << 16);
        if (q) *(uint4 *)(q + row * cols + col) = bytes;
    }
    *(uint4 *)&tile[line][part] = bytes;
    if (amax) atomicMax(&largest, most);
    __syncthreads();
    if (amax && threadIdx.x == 0) atomicMax((unsigned *)amax, largest);
    size_t out = c0 + line, first = r0 + part;
    if (!qt || out >= cols || first >= ldt) return;
    unsigned word[RUN / 4];
#pragma unroll
    for (int j = 0; j < RUN / 4; j++)
        word[j] = tile[part + 4 * j][line] | tile[part + 4 * j + 1][line] << 8 |
                  tile[part + 4 * j + 2][line] << 16 | (unsigned)tile[part + 4 * j + 3][line] << 24;
    *(uint4 *)(qt + out * ldt + first) = make_uint4(word[0], word[1], word[2], word[3]);
#endif
}

enum Ways { AS_STORED = 1, TRANSPOSED = 2, BOTH_WAYS = AS_STORED | TRANSPOSED };
typedef struct Rounded {
    const uint8_t *as_stored, *transposed;
} Rounded;

/* The gradient that a layer's linear_bwd_input left in SCRATCH_FP8_A for its linear_bwd_weight. */
static struct {
    const act *dy; /* NULL: there is none */
    const acc *scale;
    size_t M, N;
    const uint8_t *transposed;
} kept;

static const acc *scale_of(const Matrix *m, enum Factor f) {
    return m->scaling + SCALE * m->n + m->i + f;
}

/* One factor in 8 bits, in scratch memory; count: record its largest magnitude. */
static Rounded factor(const Matrix *m, enum Factor f, const act *x, size_t rows, size_t cols,
                      enum Ways ways, bool count, enum ScratchUse use) {
    size_t ldt = round_up(rows, 16), at = m->i + f;
    size_t stored = ways & AS_STORED ? round_up(rows * cols, 16) : 0;
    size_t turned_size = ways & TRANSPOSED ? cols * ldt : 0;
    uint8_t *q = (uint8_t *)device_scratch(use, stored + turned_size);
    uint8_t *as_is = stored ? q : NULL, *turned = turned_size ? q + stored : NULL;
    if (use == SCRATCH_FP8_A) kept.dy = NULL;
    acc *amax = count ? m->scaling + at : NULL;
    size_t blocks = div_up(rows, (size_t)TILE) * div_up(cols, (size_t)TILE), counted = rows;
    const int32_t *end = NULL; /* a gradient's padding is 0 */
    if (f == FACTOR_X && padding.start) {
        if (rows == padding.sequences)
            counted = padding.B;
        else
            end = padding.start + padding.B;
    }
    if (f == FACTOR_DY)
        LAUNCH(quantise<true>, blocks, BLOCK, 0, as_is, turned, scale_of(m, f), amax, end, counted,
               x, rows, cols, ldt);
    else
        LAUNCH(quantise<false>, blocks, BLOCK, 0, as_is, turned, scale_of(m, f), amax, end, counted,
               x, rows, cols, ldt);
    return Rounded{as_is, turned};
}

static const float *inverse(const Matrix *m, enum Factor f) {
    return &m->scaling[INVERSE * m->n + m->i + f].v;
}

/* ---- products ---- */

/* c[M,N] = (c if add) + addend + a[M,K] b[N,K]ᵀ + bias; b as e4m3. */
static void product(const Matrix *m, enum Factor fa, const uint8_t *a, enum Factor fb,
                    const uint8_t *b, const void *bias, const void *addend, void *c,
                    cudaDataType_t out, size_t M, size_t N, size_t K, bool add) {
    Product p = {};
    p.a = a, p.b = b, p.bias = bias, p.addend = addend, p.c = c;
    p.M = M, p.N = N, p.K = K, p.lda = K, p.ldb = K, p.ldc = N;
    p.tb = true, p.add = add;
    p.in = fa == FACTOR_DY ? CUDA_R_8F_E5M2 : CUDA_R_8F_E4M3;
    p.b_type = CUDA_R_8F_E4M3;
    p.out = out;
    p.scale_a = inverse(m, fa), p.scale_b = inverse(m, fb);
    blas_product(&p);
}

bool FN(fp8_fwd)(act *y, const act *r, const act *x, const act *w, const void *bias, size_t M,
                 size_t N, size_t K) {
    const Matrix *m = matrix_of(w, NULL, M, N, K);
    if (!m) return false;
    Rounded xq = factor(m, FACTOR_X, x, M, K, AS_STORED, true, SCRATCH_FP8_A);
    Rounded wq = factor(m, FACTOR_W, w, N, K, AS_STORED, true, SCRATCH_FP8_B);
    product(m, FACTOR_X, xq.as_stored, FACTOR_W, wq.as_stored, bias, r, y, CUDA_R_16BF, M, N, K,
            false);
    return true;
}

bool FN(fp8_bwd_input)(act *dx, const act *dy, const act *w, size_t M, size_t N, size_t K) {
    const Matrix *m = matrix_of(w, NULL, M, N, K);
    if (!m) return false;
    enum Ways ways = m->dw ? BOTH_WAYS : AS_STORED;
    Rounded dyq = factor(m, FACTOR_DY, dy, M, N, ways, true, SCRATCH_FP8_A);
    if (m->dw) kept = {dy, scale_of(m, FACTOR_DY), M, N, dyq.transposed};
    Rounded wq = factor(m, FACTOR_W, w, N, K, TRANSPOSED, false, SCRATCH_FP8_B);
    product(m, FACTOR_DY, dyq.as_stored, FACTOR_W, wq.transposed, NULL, NULL, dx, CUDA_R_16BF, M, K,
            N, false);
    return true;
}

bool FN(fp8_bwd_weight)(acc *dw, const act *dy, const act *x, size_t M, size_t N, size_t K) {
    const Matrix *m = matrix_of(NULL, dw, M, N, K);
    if (!m) return false;
    bool is_kept =
        kept.dy == dy && kept.scale == scale_of(m, FACTOR_DY) && kept.M == M && kept.N == N;
    const uint8_t *dyt = kept.transposed;
    if (!is_kept) dyt = factor(m, FACTOR_DY, dy, M, N, TRANSPOSED, true, SCRATCH_FP8_A).transposed;
    kept.dy = NULL; /* it may change from now on */
    Rounded xq = factor(m, FACTOR_X, x, M, K, TRANSPOSED, false, SCRATCH_FP8_B);
    product(m, FACTOR_DY, dyt, FACTOR_X, xq.transposed, NULL, NULL, dw, CUDA_R_32F, N, K,
            round_up(M, 16), true);
    return true;
}

/* ---- scales ---- */

__global__ static void update(acc *scaling, size_t n) {
    size_t i = thread_index();
    if (i >= n) return;
    float amax = scaling[i].v, most = 0, largest = i % 3 == FACTOR_DY ? FP8_E5M2_MAX : FP8_E4M3_MAX;
    acc *past = scaling + PAST * n + i;
    scaling[i].v = 0;
    if (!(amax < INFINITY)) return;
    for (int h = FP8_HISTORY - 1; h > 0; h--) {
        past[h * n] = past[(h - 1) * n];
        most = fmaxf(most, past[h * n].v);
    }
    past[0].v = amax;
    most = fmaxf(most, amax);
    if (!(most > 0)) return;
    int exponent;
    frexpf(largest / most, &exponent);
    exponent = min(max(exponent - 1, -FP8_EXPONENT_MAX), FP8_EXPONENT_MAX);
    scaling[SCALE * n + i].v = ldexpf(1, exponent);
    scaling[INVERSE * n + i].v = ldexpf(1, -exponent);
}

void FN(fp8_update)(acc *scaling, size_t n) {
    GPU_TIMER(fp8_update, 0, n * FP8_SCALING * sizeof(acc));
    LAUNCH(update, div_up(n, (size_t)BLOCK), BLOCK, 0, scaling, n);
}
