/* cuda/blas: see blas.h. cuBLASLt is column-major: a row-major [M,N] is its N × M matrix, so the
 * operands are swapped and c = a·b is computed as cᵀ = bᵀ·aᵀ. */
#include "kernels/cuda/blas.h"

#include <cublasLt.h>
#include <errno.h>
#include <float.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLAS(call) blas_check(call, #call)
static void blas_check(cublasStatus_t status, const char *call) {
    if (status != CUBLAS_STATUS_SUCCESS)
        die("cuBLASLt: %s failed (%s); --device cpu runs without a GPU", call,
            cublasLtGetStatusString(status));
}

static size_t size_of(cudaDataType_t type) { return type == CUDA_R_32F ? 4 : 2; }

/* ---- keys of the caches ---- */

/* A product without its pointers, of which only the alignments matter. Compared as bytes. */
typedef struct Key {
    uint64_t M, N, K, lda, ldb, ldc;
    uint32_t align_a, align_b, align_c, align_vector; /* of the bias or the sums */
    int32_t in, out, b_type;
    uint8_t ta, tb, add, tf32, bias, sums, unused[6];
} Key;
static_assert(sizeof(Key) == 6 * 8 + 7 * 4 + 12, "no padding");

typedef struct Algorithm {
    Key key;
    cublasLtMatmulAlgo_t algo;
    uint32_t beside, measured; /* the product computes the sums; others were compared with it */
} Algorithm;

typedef struct Prepared {
    Key key;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, c;
    cublasLtMatmulAlgo_t algo;
    bool beside;
    cublasStatus_t refusal; /* the library has no way to multiply; CUBLAS_STATUS_SUCCESS: it has */
    uint64_t used;
} Prepared;

/* Packed text changes the number of rows with every step, so shapes come and go. The cache consists
 * of small sets; the least recently used one of a set is evicted. Algorithms are kept longer. */
enum { CACHE_SETS = 256, CACHE_WAYS = 8, ALGORITHMS_MAX = 4096 };
static Prepared cache[CACHE_SETS][CACHE_WAYS];
static uint64_t cache_clock;
static Algorithm algorithms[ALGORITHMS_MAX];
static size_t algorithm_count;
static cublasLtHandle_t handle;

#define WORKSPACE ((size_t)32 << 20)

/* The largest power of two up to 16 that divides the address. */
static uint32_t alignment_of(const void *p) {
    uintptr_t u = (uintptr_t)p | 16;
    return (uint32_t)(u & -u);
}

enum { ADD_NOTHING, ADD_C, ADD_OTHER };
static Key key_of(const Product *p) {
    Key k;
    memset(&k, 0, sizeof k);
    k.M = p->M, k.N = p->N, k.K = p->K;
    k.lda = p->lda, k.ldb = p->ldb, k.ldc = p->ldc;
    k.align_a = alignment_of(p->a), k.align_b = alignment_of(p->b), k.align_c = alignment_of(p->c);
    k.in = p->in, k.out = p->out, k.b_type = p->scale_b ? p->b_type : p->in;
    k.ta = p->ta, k.tb = p->tb, k.bias = p->bias != NULL, k.sums = p->sums != NULL;
    k.add = p->addend ? ADD_OTHER : p->add ? ADD_C : ADD_NOTHING;
    if (p->addend && alignment_of(p->addend) < k.align_c) k.align_c = alignment_of(p->addend);
    k.align_vector = alignment_of(p->bias ? p->bias : p->sums);
    k.tf32 = p->tf32 && p->in == CUDA_R_32F;
    return k;
}

static bool same_key(const Key *a, const Key *b) { return !memcmp(a, b, sizeof *a); }

static Algorithm *algorithm_find(const Key *key) {
    for (size_t i = 0; i < algorithm_count; i++)
        if (same_key(&algorithms[i].key, key)) return &algorithms[i];
    return NULL;
}

/* The first measured one of a product that differs in its number of rows alone: M of an output,
 * K of a weight gradient. */
static Algorithm *algorithm_near(const Key *key) {
    for (size_t i = 0; i < algorithm_count; i++) {
        Key near = algorithms[i].key;
        if (near.ta ? near.N != key->N || near.M != key->M : near.K != key->K) continue;
        near.M = key->M, near.K = key->K;
        if (algorithms[i].measured && same_key(&near, key)) return &algorithms[i];
    }
    return NULL;
}

static void algorithm_add(const Algorithm *a) {
    if (algorithm_count < ALGORITHMS_MAX && !algorithm_find(&a->key))
        algorithms[algorithm_count++] = *a;
}

/* ---- prepared products ---- */

static void prepared_free(Prepared *p) {
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

static void set_epilogue(Prepared *m, cublasLtEpilogue_t epilogue) {
    BLAS(cublasLtMatmulDescSetAttribute(m->desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue,
                                        sizeof epilogue));
}

/* The library's second operand is a: BGRADB sums it over k, in c's type. */
static void set_sums(Prepared *m, bool beside) {
    if (m->key.sums) set_epilogue(m, beside ? CUBLASLT_EPILOGUE_BGRADB : CUBLASLT_EPILOGUE_DEFAULT);
    m->beside = beside;
}

static void prepared_new(Prepared *m, const Product *p, const Key *key) {
    memset(m, 0, sizeof *m);
    m->key = *key;
    BLAS(cublasLtMatmulDescCreate(
        &m->desc, key->tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F, CUDA_R_32F));
    cublasOperation_t op_first = p->tb ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasOperation_t op_second = p->ta ? CUBLAS_OP_T : CUBLAS_OP_N;
    BLAS(cublasLtMatmulDescSetAttribute(m->desc, CUBLASLT_MATMUL_DESC_TRANSA, &op_first,
                                        sizeof op_first));
    BLAS(cublasLtMatmulDescSetAttribute(m->desc, CUBLASLT_MATMUL_DESC_TRANSB, &op_second,
                                        sizeof op_second));
    assert(!p->sums || (p->ta && !p->bias && p->out == CUDA_R_32F));
    if (p->bias) set_epilogue(m, CUBLASLT_EPILOGUE_BIAS);
    /* forward only: gradients are summed in full f32 */
    if (p->scale_b && p->in == CUDA_R_8F_E4M3) {
        const int8_t fast = 1;
        BLAS(cublasLtMatmulDescSetAttribute(m->desc, CUBLASLT_MATMUL_DESC_FAST_ACCUM, &fast,
                                            sizeof fast));
    }
    m->a = layout((cudaDataType_t)key->b_type, p->tb ? p->K : p->N, p->tb ? p->N : p->K, p->ldb);
    m->b = layout(p->in, p->ta ? p->M : p->K, p->ta ? p->K : p->M, p->lda);
    m->c = layout(p->out, p->N, p->M, p->ldc);
}

/* Sets the pointers in the description, which the library may use when it selects algorithms. */
static void set_pointers(Prepared *m, const Product *p) {
    const void *vector = p->bias ? p->bias : p->sums;
    if (vector)
        BLAS(cublasLtMatmulDescSetAttribute(m->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &vector,
                                            sizeof vector));
    if (p->scale_b) {
        BLAS(cublasLtMatmulDescSetAttribute(m->desc, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER,
                                            &p->scale_b, sizeof p->scale_b));
        BLAS(cublasLtMatmulDescSetAttribute(m->desc, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER,
                                            &p->scale_a, sizeof p->scale_a));
    }
}

/* c replaces p->c, because a trial must not add to it. */
static cublasStatus_t multiply(Prepared *m, const Product *p, void *c) {
    const float one = 1, beta = p->add || p->addend ? 1 : 0;
    const void *added = p->addend ? p->addend : c;
    return cublasLtMatmul(handle, m->desc, &one, p->b, m->a, p->a, m->b, &beta, added, m->c, c,
                          m->c, &m->algo, device_scratch(SCRATCH_BLAS, WORKSPACE), WORKSPACE,
                          device_stream());
}

/* Milliseconds of one product with its sums: the best of three after one warm-up. FLT_MAX if the
 * library refuses the algorithm. */
static float time_of(Prepared *m, const Product *p, void *c, cudaEvent_t start, cudaEvent_t stop) {
    float best = FLT_MAX;
    for (int i = 0; i < 4; i++) {
        float ms;
        CUDA(cudaEventRecord(start, device_stream()));
        if (multiply(m, p, c) != CUBLAS_STATUS_SUCCESS) return FLT_MAX;
        if (p->sums && !m->beside) p->sums_apart(p);
        CUDA(cudaEventRecord(stop, device_stream()));
        CUDA(cudaEventSynchronize(stop));
        CUDA(cudaEventElapsedTime(&ms, start, stop));
        if (i && ms < best) best = ms;
    }
    return best;
}

/* Bytes of the output that a trial writes; 0: it writes into the result itself. */
static size_t bytes_to_try(const Product *p) {
    return p->add ? p->M * p->ldc * size_of(p->out) : 0;
}

/* Stores the fastest algorithm in m->algo and returns its time. FLT_MAX and the first algorithm:
 * nothing was measured, for example during a capture, in which nothing runs. */
static float measure(Prepared *m, const Product *p, const cublasLtMatmulHeuristicResult_t *ways,
                     int count) {
    cudaStreamCaptureStatus capturing;
    CUDA(cudaStreamIsCapturing(device_stream(), &capturing));
    m->algo = ways[0].algo;
    if (!kernel_tuning.autotune || (count < 2 && !p->sums) ||
        capturing != cudaStreamCaptureStatusNone)
        return FLT_MAX;
    size_t bytes = bytes_to_try(p);
    void *c = bytes ? device_alloc(bytes) : p->c;
    if (bytes) CUDA(cudaMemsetAsync(c, 0, bytes, device_stream()));
    cudaEvent_t start, stop;
    CUDA(cudaEventCreateWithFlags(&start, cudaEventDefault));
    CUDA(cudaEventCreateWithFlags(&stop, cudaEventDefault));
    int best = 0;
    float best_time = FLT_MAX;
    for (int i = 0; i < count; i++) {
        m->algo = ways[i].algo;
        float time = time_of(m, p, c, start, stop);
        if (time < best_time) best = i, best_time = time;
    }
    m->algo = ways[best].algo;
    CUDA(cudaEventDestroy(start));
    CUDA(cudaEventDestroy(stop));
    if (bytes) device_release(c);
    return best_time;
}

enum { WAYS = 8 };

/* The number of usable algorithms; 0: *status has the reason. */
static int algorithms_of(Prepared *m, cublasLtMatmulHeuristicResult_t *ways,
                         cublasStatus_t *status) {
    cublasLtMatmulPreference_t want;
    size_t workspace = WORKSPACE;
    BLAS(cublasLtMatmulPreferenceCreate(&want));
#define WANT(attribute, value)                                                                     \
    BLAS(cublasLtMatmulPreferenceSetAttribute(want, CUBLASLT_MATMUL_PREF_##attribute, &value,      \
                                              sizeof value))
    WANT(MAX_WORKSPACE_BYTES, workspace);
    WANT(MIN_ALIGNMENT_A_BYTES, m->key.align_b);
    WANT(MIN_ALIGNMENT_B_BYTES, m->key.align_a);
    WANT(MIN_ALIGNMENT_C_BYTES, m->key.align_c);
    WANT(MIN_ALIGNMENT_D_BYTES, m->key.align_c);
#undef WANT
    int found = 0;
    *status = cublasLtMatmulAlgoGetHeuristic(handle, m->desc, m->a, m->b, m->c, m->c, want,
                                             kernel_tuning.autotune ? WAYS : 1, ways, &found);
    int usable = 0; /* each has a separate state */
    for (int i = 0; i < found && *status == CUBLAS_STATUS_SUCCESS; i++)
        if (ways[i].state == CUBLAS_STATUS_SUCCESS) ways[usable++] = ways[i];
    BLAS(cublasLtMatmulPreferenceDestroy(want));
    return usable;
}

/* The product computes the sums if the library can, unless computing them separately was measured
 * to be faster. False: the library cannot multiply (m->refusal). */
static bool choose(Prepared *m, const Product *p) {
    cublasLtMatmulHeuristicResult_t ways[WAYS];
    cublasStatus_t status;
    cublasLtMatmulAlgo_t algo = m->algo;
    float beside = FLT_MAX;
    int count = 0;
    if (p->sums) {
        set_sums(m, true);
        count = algorithms_of(m, ways, &status);
        if (count) beside = measure(m, p, ways, count);
        if (count && beside == FLT_MAX) return true;
        algo = m->algo;
    }
    set_sums(m, false);
    int apart = algorithms_of(m, ways, &status);
    if (!apart && !count) {
        m->refusal = status == CUBLAS_STATUS_SUCCESS ? CUBLAS_STATUS_NOT_SUPPORTED : status;
        return false;
    }
    if ((apart && measure(m, p, ways, apart) < beside) || !count) return true;
    set_sums(m, true);
    m->algo = algo;
    return true;
}

/* False: there is no such algorithm, or the library refuses it for this product. */
static bool recall(Prepared *m, const Algorithm *c) {
    cublasLtMatmulHeuristicResult_t result;
    if (c) set_sums(m, c->beside);
    if (!c || cublasLtMatmulAlgoCheck(handle, m->desc, m->a, m->b, m->c, m->c, &c->algo, &result) !=
                  CUBLAS_STATUS_SUCCESS)
        return false;
    if (result.state != CUBLAS_STATUS_SUCCESS || result.workspaceSize > WORKSPACE) return false;
    m->algo = c->algo;
    return true;
}

static uint64_t hash_key(const Key *key) {
    uint64_t words[sizeof *key / 8], hash = 0;
    memcpy(words, key, sizeof words);
    for (size_t i = 0; i < COUNT(words); i++) hash = (hash ^ words[i]) * 0x9E3779B97F4A7C15u;
    return hash;
}

static Prepared *prepare(const Product *p) {
    if (!handle) BLAS(cublasLtCreate(&handle));
    Key key = key_of(p);
    static_assert(CACHE_SETS == 256, "a set is chosen by the hash's top byte");
    Prepared *set = cache[hash_key(&key) >> 56], *oldest = set;
    for (size_t i = 0; i < CACHE_WAYS; i++) {
        if (set[i].desc && same_key(&set[i].key, &key)) {
            set[i].used = ++cache_clock;
            return &set[i];
        }
        if (set[i].used < oldest->used) oldest = &set[i];
    }
    prepared_free(oldest);
    prepared_new(oldest, p, &key);
    set_pointers(oldest, p);
    oldest->used = ++cache_clock;
    const Algorithm *near = kernel_tuning.autotune ? NULL : algorithm_near(&key);
    if (!recall(oldest, algorithm_find(&key)) && (recall(oldest, near) || choose(oldest, p))) {
        Algorithm chosen = {key, oldest->algo, oldest->beside, kernel_tuning.autotune};
        algorithm_add(&chosen);
    }
    return oldest;
}

/* ---- products that the library refuses for the places of their rows ---- */

enum { ROW_ALIGN = 16, BLOCK_ALIGN = 256 };
static bool is_aligned(const void *x, size_t ld, size_t size) {
    return (uintptr_t)x % ROW_ALIGN == 0 && ld * size % ROW_ALIGN == 0;
}

/* A matrix as stored, and its copy with aligned rows. */
typedef struct StoredRows {
    const void *from;
    size_t rows, cols, ld, size, pitch, at; /* pitch, at: of the copy, in bytes */
} StoredRows;
static StoredRows rows_of(const void *from, size_t rows, size_t cols, size_t ld, size_t size,
                          size_t *end) {
    StoredRows r = {from, rows, cols, ld, size, round_up(cols * size, ROW_ALIGN), *end};
    *end += round_up(rows * r.pitch, BLOCK_ALIGN);
    return r;
}
static void copy_rows(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                      const StoredRows *r) {
    CUDA(cudaMemcpy2DAsync(to, to_pitch, from, from_pitch, r->cols * r->size, r->rows,
                           cudaMemcpyDeviceToDevice, device_stream()));
}

/* False: copies would be placed as p's own matrices are. */
static bool copied_product(const Product *p, bool *summed) {
    size_t in = size_of(p->in), out = size_of(p->out), end = 0;
    if (p->scale_b || (is_aligned(p->a, p->lda, in) && is_aligned(p->b, p->ldb, in) &&
                       is_aligned(p->c, p->ldc, out) && is_aligned(p->addend, 0, out) &&
                       is_aligned(p->bias, 0, out)))
        return false;
    StoredRows a = rows_of(p->a, p->ta ? p->K : p->M, p->ta ? p->M : p->K, p->lda, in, &end);
    StoredRows b = rows_of(p->b, p->tb ? p->N : p->K, p->tb ? p->K : p->N, p->ldb, in, &end);
    StoredRows c = rows_of(p->c, p->M, p->N, p->ldc, out, &end);
    StoredRows bias = rows_of(p->bias, p->bias != NULL, p->N, p->N, out, &end);
    char *copies = (char *)device_scratch(SCRATCH_COPIES, end);
    StoredRows sum = c; /* its copy begins as the addend */
    if (p->addend) sum.from = p->addend;
    const StoredRows *inputs[] = {&a, &b, p->add || p->addend ? &sum : NULL,
                                  p->bias ? &bias : NULL};
    for (const StoredRows *r : inputs)
        if (r) copy_rows(copies + r->at, r->pitch, r->from, r->ld * r->size, r);
    Product q = *p;
    q.a = copies + a.at, q.lda = a.pitch / in;
    q.b = copies + b.at, q.ldb = b.pitch / in;
    q.c = copies + c.at, q.ldc = c.pitch / out;
    q.add = p->add || p->addend, q.addend = NULL;
    if (p->bias) q.bias = copies + bias.at;
    *summed = blas_product(&q);
    copy_rows(p->c, p->ldc * out, q.c, c.pitch, &c);
    return true;
}

bool blas_product(const Product *p) {
    if (!p->M || !p->N) return false;
    if (!p->K) {
        assert(!p->addend && (p->add || p->ldc == p->N));
        if (!p->add && !device_planning())
            CUDA(cudaMemsetAsync(p->c, 0, p->M * p->N * size_of(p->out), device_stream()));
        return false;
    }
    if (device_planning()) {
        device_scratch(SCRATCH_BLAS, WORKSPACE);
        size_t tried = kernel_tuning.autotune ? bytes_to_try(p) : 0;
        if (tried) device_release(device_alloc(tried));
        return false;
    }
    Prepared *m = prepare(p);
    bool summed;
    if (m->refusal && copied_product(p, &summed)) return summed;
    if (m->refusal)
        die("cuBLASLt has no way to multiply %zu x %zu by %zu x %zu (%s)", p->M, p->K, p->K, p->N,
            cublasLtGetStatusString(m->refusal));
    set_pointers(m, p);
    BLAS(multiply(m, p, p->c));
    return m->beside;
}

extern "C" void *cuda_algorithms(size_t *bytes) {
    *bytes = algorithm_count * sizeof *algorithms;
    return *bytes ? memcpy(xmalloc(*bytes), algorithms, *bytes) : NULL;
}

extern "C" void cuda_set_algorithms(const void *from, size_t bytes) {
    assert(bytes <= sizeof algorithms && bytes % sizeof *algorithms == 0);
    if (bytes) memcpy(algorithms, from, bytes);
    algorithm_count = bytes / sizeof *algorithms;
    for (size_t set = 0; set < CACHE_SETS; set++)
        for (size_t way = 0; way < CACHE_WAYS; way++) prepared_free(&cache[set][way]);
    memset(cache, 0, sizeof cache);
}

/* ---- algorithms as text: a line with library and device, then one line for each ---- */

static void title(char *out, size_t size) {
    int device;
    cudaDeviceProp properties;
    CUDA(cudaGetDevice(&device));
    CUDA(cudaGetDeviceProperties(&properties, device));
    snprintf(out, size, "clipc products 3 cublasLt %zu %s", cublasLtGetVersion(), properties.name);
}

extern "C" bool cuda_write_algorithms(const char *path, Error *err) {
    if (!algorithm_count) return true;
    FILE *f = fopen(path, "w");
    if (!f) return error_set(err, "%s: %s", path, strerror(errno));
    char line[512];
    title(line, sizeof line);
    fprintf(f, "%s\n", line);
    for (size_t i = 0; i < algorithm_count; i++) {
        const unsigned char *bytes = (const unsigned char *)&algorithms[i];
        for (size_t j = 0; j < sizeof algorithms[i]; j++) fprintf(f, "%02x", bytes[j]);
        fputc('\n', f);
    }
    bool ok = !fflush(f) && !ferror(f);
    if (fclose(f) || !ok) return error_set(err, "%s: %s", path, strerror(errno));
    return true;
}

static bool read_hex(unsigned char *out, size_t n, const char *text) {
    static const char digits[] = "0123456789abcdef";
    if (strlen(text) != 2 * n) return false;
    for (size_t i = 0; i < 2 * n; i++) {
        const char *d = strchr(digits, text[i]);
        if (!d) return false;
        out[i / 2] = (unsigned char)(out[i / 2] << 4 | (d - digits));
    }
    return true;
}

extern "C" bool cuda_read_algorithms(const char *path, Error *err) {
    FILE *f = fopen(path, "r");
    if (!f) return error_set(err, "%s: %s", path, strerror(errno));
    char line[2 * sizeof(Algorithm) + 64], mine[512];
    title(mine, sizeof mine);
    bool ok = true;
    for (size_t number = 1; ok && fgets(line, sizeof line, f); number++) {
        line[strcspn(line, "\n")] = 0;
        Algorithm c;
        memset(&c, 0, sizeof c);
        if (number == 1)
            ok = !strcmp(line, mine) ||
                 error_set(err, "%s is for '%.100s', this is '%.100s'", path, line, mine);
        else if (!read_hex((unsigned char *)&c, sizeof c, line))
            ok = error_set(err, "%s: line %zu is damaged", path, number);
        else
            algorithm_add(&c);
    }
    fclose(f);
    return ok;
}
