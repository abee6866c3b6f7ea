/* blas: the part of cuBLASLt for products of FP8, bf16 and f32 matrices, with the library's
 * refusals. An algorithm requires pointers at least as aligned as the heuristic's preference states
 * (256 bytes by default; 16 are enough), its workspace must be passed, and auxiliary matrices need
 * a leading dimension that is a multiple of 8. Unsupported features stop the program with their
 * name. */
#include "tests/cuda_on_cpu/gemm.h"
#include "tests/cuda_on_cpu/runtime.h"
#include "tests/cuda_on_cpu/stream.h"
#include <cublasLt.h>
#include <stdlib.h>
#include <string.h>

typedef struct Layout {
    uint64_t rows, cols;
    int64_t ld, batch_stride;
    int32_t type, order, batches;
} Layout;
typedef struct Desc {
    int32_t compute, scale, pointer_mode, trans_a, trans_b, trans_c;
    uint32_t epilogue;
    int32_t bias_type, aux_type;
    void *bias, *aux;
    int64_t bias_stride, aux_ld, aux_stride;
    const void *scale_a, *scale_b;
    int8_t fast_accumulation;
} Desc;
typedef struct Preference {
    uint64_t workspace;
    uint32_t align[4], search, reduction;
    float waves;
} Preference;
typedef struct Algo {
    uint64_t magic, workspace;
    uint32_t align[4];
} Algo;
enum { ALGO_MAGIC = 0xA160, ALGO_REFUSED = 0xA161, BIG_WORKSPACE = 65536 };
_Static_assert(sizeof(Layout) <= sizeof(cublasLtMatrixLayoutOpaque_t), "layouts fit");
_Static_assert(sizeof(Desc) <= sizeof(cublasLtMatmulDescOpaque_t), "descriptors fit");
_Static_assert(sizeof(Preference) <= sizeof(cublasLtMatmulPreferenceOpaque_t), "preferences fit");
_Static_assert(sizeof(Algo) <= sizeof(cublasLtMatmulAlgo_t), "algorithms fit");

/* ---- handles, names ---- */
cublasStatus_t cublasLtCreate(cublasLtHandle_t *h) {
    emu_enter();
    *h = malloc(1);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t h) {
    free(h);
    return CUBLAS_STATUS_SUCCESS;
}
size_t cublasLtGetVersion(void) { return CUBLAS_VERSION; }
size_t cublasLtGetCudartVersion(void) { return CUDART_VERSION; }
const char *cublasLtGetStatusName(cublasStatus_t s) {
    switch (s) {
    case CUBLAS_STATUS_SUCCESS:
        return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_INITIALIZED:
        return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_STATUS_ALLOC_FAILED:
        return "CUBLAS_STATUS_ALLOC_FAILED";
    case CUBLAS_STATUS_INVALID_VALUE:
        return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_NOT_SUPPORTED:
        return "CUBLAS_STATUS_NOT_SUPPORTED";
    case CUBLAS_STATUS_EXECUTION_FAILED:
        return "CUBLAS_STATUS_EXECUTION_FAILED";
    default:
        return "CUBLAS_STATUS_UNKNOWN";
    }
}
const char *cublasLtGetStatusString(cublasStatus_t s) { return cublasLtGetStatusName(s); }

/* ---- attributes: one table row for each, with its offset ---- */
typedef struct Attribute {
    int id;
    size_t at, size;
} Attribute;
#define ROW(id, type, field)                                                                       \
    { id, offsetof(type, field), sizeof(((type *)0)->field) }
static const Attribute layout_rows[] = {
    ROW(CUBLASLT_MATRIX_LAYOUT_TYPE, Layout, type),
    ROW(CUBLASLT_MATRIX_LAYOUT_ORDER, Layout, order),
    ROW(CUBLASLT_MATRIX_LAYOUT_ROWS, Layout, rows),
    ROW(CUBLASLT_MATRIX_LAYOUT_COLS, Layout, cols),
    ROW(CUBLASLT_MATRIX_LAYOUT_LD, Layout, ld),
    ROW(CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, Layout, batches),
    ROW(CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, Layout, batch_stride),
    {-1, 0, 0}};
static const Attribute desc_rows[] = {
    ROW(CUBLASLT_MATMUL_DESC_COMPUTE_TYPE, Desc, compute),
    ROW(CUBLASLT_MATMUL_DESC_SCALE_TYPE, Desc, scale),
    ROW(CUBLASLT_MATMUL_DESC_POINTER_MODE, Desc, pointer_mode),
    ROW(CUBLASLT_MATMUL_DESC_TRANSA, Desc, trans_a),
    ROW(CUBLASLT_MATMUL_DESC_TRANSB, Desc, trans_b),
    ROW(CUBLASLT_MATMUL_DESC_TRANSC, Desc, trans_c),
    ROW(CUBLASLT_MATMUL_DESC_EPILOGUE, Desc, epilogue),
    ROW(CUBLASLT_MATMUL_DESC_BIAS_POINTER, Desc, bias),
    ROW(CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE, Desc, bias_stride),
    ROW(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, Desc, bias_type),
    ROW(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, Desc, aux),
    ROW(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, Desc, aux_ld),
    ROW(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_BATCH_STRIDE, Desc, aux_stride),
    ROW(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE, Desc, aux_type),
    ROW(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, Desc, scale_a),
    ROW(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, Desc, scale_b),
    ROW(CUBLASLT_MATMUL_DESC_FAST_ACCUM, Desc, fast_accumulation),
    {-1, 0, 0}};
static const Attribute preference_rows[] = {
    ROW(CUBLASLT_MATMUL_PREF_SEARCH_MODE, Preference, search),
    ROW(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, Preference, workspace),
    ROW(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, Preference, reduction),
    ROW(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, Preference, align[0]),
    ROW(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, Preference, align[1]),
    ROW(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, Preference, align[2]),
    ROW(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, Preference, align[3]),
    ROW(CUBLASLT_MATMUL_PREF_MAX_WAVES_COUNT, Preference, waves),
    {-1, 0, 0}};

static cublasStatus_t set(void *object, const Attribute *rows, int id, const void *value,
                          size_t size, const char *what) {
    while (rows->id >= 0 && rows->id != id) rows++;
    if (rows->id < 0) emu_stop("cuBLASLt: attribute %d of a %s is not known here", id, what);
    if (size != rows->size) return CUBLAS_STATUS_INVALID_VALUE;
    memcpy((char *)object + rows->at, value, size);
    return CUBLAS_STATUS_SUCCESS;
}
static cublasStatus_t get(const void *object, const Attribute *rows, int id, void *value,
                          size_t size, size_t *written, const char *what) {
    while (rows->id >= 0 && rows->id != id) rows++;
    if (rows->id < 0) emu_stop("cuBLASLt: attribute %d of a %s is not known here", id, what);
    if (written) *written = rows->size;
    if (size < rows->size) return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(value, (const char *)object + rows->at, rows->size);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutInit_internal(cublasLtMatrixLayout_t l, size_t size,
                                                 cudaDataType type, uint64_t rows, uint64_t cols,
                                                 int64_t ld) {
    if (size < sizeof(Layout)) return CUBLAS_STATUS_INVALID_VALUE;
    Layout v = {rows, cols, ld, 0, (int32_t)type, CUBLASLT_ORDER_COL, 1};
    memcpy(l, &v, sizeof v);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *l, cudaDataType type,
                                          uint64_t rows, uint64_t cols, int64_t ld) {
    *l = calloc(1, sizeof(cublasLtMatrixLayoutOpaque_t));
    return cublasLtMatrixLayoutInit_internal(*l, sizeof(cublasLtMatrixLayoutOpaque_t), type, rows,
                                             cols, ld);
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t l) {
    free(l);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t l,
                                                cublasLtMatrixLayoutAttribute_t id,
                                                const void *value, size_t size) {
    return set(l, layout_rows, (int)id, value, size, "matrix layout");
}
cublasStatus_t cublasLtMatrixLayoutGetAttribute(cublasLtMatrixLayout_t l,
                                                cublasLtMatrixLayoutAttribute_t id, void *value,
                                                size_t size, size_t *written) {
    return get(l, layout_rows, (int)id, value, size, written, "matrix layout");
}
cublasStatus_t cublasLtMatmulDescInit_internal(cublasLtMatmulDesc_t d, size_t size,
                                               cublasComputeType_t compute, cudaDataType_t scale) {
    if (size < sizeof(Desc)) return CUBLAS_STATUS_INVALID_VALUE;
    Desc v = {.compute = (int32_t)compute,
              .scale = (int32_t)scale,
              .epilogue = CUBLASLT_EPILOGUE_DEFAULT,
              .bias_type = -1,
              .aux_type = -1};
    memcpy(d, &v, sizeof v);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *d, cublasComputeType_t compute,
                                        cudaDataType_t scale) {
    *d = calloc(1, sizeof(cublasLtMatmulDescOpaque_t));
    return cublasLtMatmulDescInit_internal(*d, sizeof(cublasLtMatmulDescOpaque_t), compute, scale);
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t d) {
    free(d);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t d,
                                              cublasLtMatmulDescAttributes_t id, const void *value,
                                              size_t size) {
    return set(d, desc_rows, (int)id, value, size, "matmul descriptor");
}
cublasStatus_t cublasLtMatmulDescGetAttribute(cublasLtMatmulDesc_t d,
                                              cublasLtMatmulDescAttributes_t id, void *value,
                                              size_t size, size_t *written) {
    return get(d, desc_rows, (int)id, value, size, written, "matmul descriptor");
}
cublasStatus_t cublasLtMatmulPreferenceInit_internal(cublasLtMatmulPreference_t p, size_t size) {
    if (size < sizeof(Preference)) return CUBLAS_STATUS_INVALID_VALUE;
    Preference v = {.align = {256, 256, 256, 256}};
    memcpy(p, &v, sizeof v);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *p) {
    *p = calloc(1, sizeof(cublasLtMatmulPreferenceOpaque_t));
    return cublasLtMatmulPreferenceInit_internal(*p, sizeof(cublasLtMatmulPreferenceOpaque_t));
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p) {
    free(p);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t p,
                                                    cublasLtMatmulPreferenceAttributes_t id,
                                                    const void *value, size_t size) {
    return set(p, preference_rows, (int)id, value, size, "matmul preference");
}

/* ---- supported products ---- */
static bool matrix_type(int32_t cuda, GemmType *t) {
    static const struct {
        int32_t cuda;
        GemmType type;
    } all[] = {{CUDA_R_32F, GEMM_F32},
               {CUDA_R_16BF, GEMM_BF16},
               {CUDA_R_8F_E4M3, GEMM_E4M3},
               {CUDA_R_8F_E5M2, GEMM_E5M2}};
    for (int i = 0; i < 4; i++) {
        *t = all[i].type;
        if (all[i].cuda == cuda) return true;
    }
    return false;
}
static bool is_fp8(GemmType t) { return t == GEMM_E4M3 || t == GEMM_E5M2; }
/* As documented: from compute capability 8.9 on; A transposed and B not, lines of a multiple of 16
 * elements, one of the two e4m3, sums to f32 or bf16. By users' reports: n in multiples of 8. */
static bool fp8_known(const Gemm *g, const Desc *d, const Layout *a, const Layout *b) {
    return emu_options()->arch >= 89 && is_fp8(g->a.type) && is_fp8(g->b.type) &&
           !(g->a.type == GEMM_E5M2 && g->b.type == GEMM_E5M2) && !is_fp8(g->d.type) &&
           d->trans_a == CUBLAS_OP_T && d->trans_b == CUBLAS_OP_N &&
           d->compute == CUBLAS_COMPUTE_32F && a->order == CUBLASLT_ORDER_COL &&
           b->order == CUBLASLT_ORDER_COL && g->k % 16 == 0 && g->m % 16 == 0 && g->n % 8 == 0 &&
           a->ld % 16 == 0 && b->ld % 16 == 0;
}
/* The matrix as used by the product, transposed if requested. */
static bool matrix(const Layout *l, bool trans, GemmMatrix *x) {
    if (!matrix_type(l->type, &x->type)) return false;
    if (l->order != CUBLASLT_ORDER_COL && l->order != CUBLASLT_ORDER_ROW) return false;
    bool by_rows = l->order == CUBLASLT_ORDER_ROW;
    if (l->ld < (int64_t)(by_rows ? l->cols : l->rows)) return false;
    x->row = by_rows != trans ? l->ld : 1;
    x->col = by_rows != trans ? 1 : l->ld;
    x->batch = l->batch_stride;
    return true;
}
static size_t matrix_bytes(const Layout *l, GemmType t) {
    int64_t lines = (int64_t)(l->order == CUBLASLT_ORDER_ROW ? l->rows : l->cols);
    int64_t length = (int64_t)(l->order == CUBLASLT_ORDER_ROW ? l->cols : l->rows);
    int64_t elements = (l->batches - 1) * l->batch_stride + (lines - 1) * l->ld + length;
    return (size_t)elements * gemm_type_bytes(t);
}
static cublasStatus_t read_epilogue(const Desc *d, const Layout *ld, Gemm *g) {
    uint32_t e = d->epilogue;
    switch (e) {
    case CUBLASLT_EPILOGUE_DEFAULT:
    case CUBLASLT_EPILOGUE_BIAS:
        break;
    case CUBLASLT_EPILOGUE_RELU:
    case CUBLASLT_EPILOGUE_RELU_BIAS:
        g->act = ACT_RELU;
        break;
    case CUBLASLT_EPILOGUE_GELU:
    case CUBLASLT_EPILOGUE_GELU_BIAS:
    case CUBLASLT_EPILOGUE_GELU_AUX:
    case CUBLASLT_EPILOGUE_GELU_AUX_BIAS:
        g->act = ACT_GELU;
        break;
    case CUBLASLT_EPILOGUE_DGELU:
    case CUBLASLT_EPILOGUE_DGELU_BGRAD:
        g->act = ACT_DGELU;
        break;
    case CUBLASLT_EPILOGUE_BGRADA:
    case CUBLASLT_EPILOGUE_BGRADB:
        break;
    default:
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    if (e != CUBLASLT_EPILOGUE_DEFAULT && ld->order != CUBLASLT_ORDER_COL)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    g->grad_of = e == CUBLASLT_EPILOGUE_BGRADA        ? 'a'
                 : e == CUBLASLT_EPILOGUE_BGRADB      ? 'b'
                 : e == CUBLASLT_EPILOGUE_DGELU_BGRAD ? 'd'
                                                      : 0;
    if (!matrix_type(d->bias_type < 0 ? ld->type : d->bias_type, &g->bias_type))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    /* as documented: a gradient sum has D's type; none for FP8 */
    if (g->grad_of && (g->bias_type != g->d.type || is_fp8(g->a.type) || is_fp8(g->b.type)))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    if ((g->grad_of == 'a' || g->grad_of == 'b') && !emu_options()->bgrad)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    g->bias_batch = d->bias_stride;
    if (!(e & 128)) return CUBLAS_STATUS_SUCCESS;
    if (d->aux_ld % 8 || d->aux_ld < g->m || (uintptr_t)d->aux % 16)
        return CUBLAS_STATUS_INVALID_VALUE;
    g->aux = (GemmMatrix){NULL, GEMM_F32, 1, d->aux_ld, d->aux_stride};
    return matrix_type(d->aux_type < 0 ? ld->type : d->aux_type, &g->aux.type)
               ? CUBLAS_STATUS_SUCCESS
               : CUBLAS_STATUS_NOT_SUPPORTED;
}
static cublasStatus_t read_product(const Desc *d, const Layout *a, const Layout *b, const Layout *c,
                                   const Layout *out, Gemm *g) {
    *g = (Gemm){.m = (int64_t)out->rows, .n = (int64_t)out->cols, .batches = out->batches};
    bool ta = d->trans_a != CUBLAS_OP_N, tb = d->trans_b != CUBLAS_OP_N;
    g->k = (int64_t)(ta ? a->rows : a->cols);
    if (d->trans_c != CUBLAS_OP_N || d->scale != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
    if (!matrix(a, ta, &g->a) || !matrix(b, tb, &g->b) || !matrix(c, false, &g->c) ||
        !matrix(out, false, &g->d))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    if ((int64_t)(ta ? a->cols : a->rows) != g->m || (int64_t)(tb ? b->cols : b->rows) != g->k ||
        (int64_t)(tb ? b->rows : b->cols) != g->n || c->rows != out->rows || c->cols != out->cols)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (a->batches != out->batches || b->batches != out->batches || c->batches != out->batches)
        return CUBLAS_STATUS_INVALID_VALUE;
    bool fp8 = is_fp8(g->a.type) || is_fp8(g->b.type) || is_fp8(g->d.type);
    if (fp8 ? !fp8_known(g, d, a, b) : d->scale_a || d->scale_b) return CUBLAS_STATUS_NOT_SUPPORTED;
    if ((g->a.type != g->b.type && !fp8) || g->c.type != g->d.type || c->order != out->order ||
        (g->a.type == GEMM_F32 && g->d.type != GEMM_F32))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    switch (d->compute) {
    case CUBLAS_COMPUTE_32F:
    case CUBLAS_COMPUTE_32F_PEDANTIC:
        g->round = GEMM_EXACT;
        break;
    case CUBLAS_COMPUTE_32F_FAST_TF32:
        g->round = GEMM_TF32;
        break;
    case CUBLAS_COMPUTE_32F_FAST_16BF:
        g->round = GEMM_AS_BF16;
        break;
    default:
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    return read_epilogue(d, out, g);
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t h, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t results[],
                                              int *count) {
    (void)h;
    emu_enter();
    *count = 0;
    if (wanted < 1) return CUBLAS_STATUS_INVALID_VALUE;
    Gemm g;
    const Preference *p = (const Preference *)preference;
    cublasStatus_t s =
        read_product((Desc *)desc, (Layout *)a, (Layout *)b, (Layout *)c, (Layout *)d, &g);
    if (s != CUBLAS_STATUS_SUCCESS) return s;
    const GemmType types[4] = {g.a.type, g.b.type, g.c.type, g.d.type};
    const Layout *l[4] = {(Layout *)a, (Layout *)b, (Layout *)c, (Layout *)d};
    Algo algo = {.magic = ALGO_MAGIC};
    for (int i = 0; i < 4; i++) {
        algo.align[i] = p->align[i] < 16 ? p->align[i] : 16;
        if (algo.align[i] < (is_fp8(types[i]) ? 16 : gemm_type_bytes(types[i])))
            return CUBLAS_STATUS_NOT_SUPPORTED;
        if (emu_options()->strict &&
            (algo.align[i] < 16 || l[i]->ld * (int64_t)gemm_type_bytes(types[i]) % 16))
            return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    if (emu_options()->strict && (uintptr_t)((Desc *)desc)->bias % 16)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    /* the first one splits k over a workspace; if several are requested, the state of the second
     * marks it as unusable, and the third is faster */
    for (int i = 0; i < 3 && *count < wanted; i++) {
        algo.workspace = i == 0 ? BIG_WORKSPACE : 0;
        algo.magic = i == 1 ? ALGO_REFUSED : ALGO_MAGIC;
        if (i == 1 && wanted == 1) continue;
        if (algo.workspace > p->workspace) continue;
        cublasLtMatmulHeuristicResult_t *r = &results[(*count)++];
        memset(r, 0, sizeof *r);
        memcpy(&r->algo, &algo, sizeof algo);
        r->workspaceSize = algo.workspace;
        r->state = i == 1 ? CUBLAS_STATUS_NOT_SUPPORTED : CUBLAS_STATUS_SUCCESS;
        r->wavesCount = 1;
    }
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t h, cublasLtMatmulDesc_t desc,
                                       cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                       cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t *algo,
                                       cublasLtMatmulHeuristicResult_t *result) {
    (void)h;
    const Algo *mine = (const Algo *)algo;
    Gemm g;
    cublasStatus_t s =
        read_product((Desc *)desc, (Layout *)a, (Layout *)b, (Layout *)c, (Layout *)d, &g);
    if (s == CUBLAS_STATUS_SUCCESS && mine->magic != ALGO_MAGIC) s = CUBLAS_STATUS_INVALID_VALUE;
    memset(result, 0, sizeof *result);
    result->algo = *algo;
    result->workspaceSize = mine->workspace;
    result->state = s;
    return s;
}

/* ---- execution ---- */
typedef struct Product {
    Gemm g;
    size_t bytes[4];
    const void *alpha, *beta; /* on the device, or NULL */
    void *workspace;
    size_t workspace_bytes;
    void *bias, *aux;
    const void *scale[2]; /* of FP8 factors, on the device, or NULL */
} Product;
static float device_float(const void *p) {
    return *(const float *)mem_range(p, sizeof(float), "cuBLASLt: alpha or beta");
}
static void run_product(void *ctx) {
    Product once = *(const Product *)ctx, *p = &once; /* a copy, since a graph runs it again */
    Gemm *g = &p->g;
    static const char *const names[4] = {"cuBLASLt: A", "cuBLASLt: B", "cuBLASLt: C",
                                         "cuBLASLt: D"};
    GemmMatrix *x[4] = {&g->a, &g->b, &g->c, &g->d};
    if (p->alpha) g->alpha = device_float(p->alpha);
    if (p->beta) g->beta = device_float(p->beta);
    for (int i = 0; i < 2; i++)
        if (p->scale[i]) g->alpha *= device_float(p->scale[i]);
    for (int i = 0; i < 4; i++)
        if (i != 2 || g->beta != 0) x[i]->data = mem_range(x[i]->data, p->bytes[i], names[i]);
    if (p->workspace_bytes) /* the previous contents are lost */
        memset(mem_range(p->workspace, p->workspace_bytes, "cuBLASLt: workspace"), 0xFF,
               p->workspace_bytes);
    if (p->bias) {
        int64_t count = g->grad_of == 'b' ? g->n : g->m;
        size_t bytes = (size_t)((g->batches - 1) * g->bias_batch + count);
        unsigned char *v =
            mem_range(p->bias, bytes * gemm_type_bytes(g->bias_type), "cuBLASLt: bias");
        if (g->grad_of)
            g->bias_grad = v;
        else
            g->bias = v;
    }
    if (p->aux) {
        int64_t elements = (g->batches - 1) * g->aux.batch + (g->n - 1) * g->aux.col + g->m;
        g->aux.data = mem_range(p->aux, (size_t)elements * gemm_type_bytes(g->aux.type),
                                "cuBLASLt: auxiliary matrix");
    }
    gemm_run(g);
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t h, cublasLtMatmulDesc_t desc, const void *alpha,
                              const void *a, cublasLtMatrixLayout_t la, const void *b,
                              cublasLtMatrixLayout_t lb, const void *beta, const void *c,
                              cublasLtMatrixLayout_t lc, void *d, cublasLtMatrixLayout_t ld,
                              const cublasLtMatmulAlgo_t *algo, void *workspace,
                              size_t workspace_bytes, cudaStream_t stream) {
    (void)h;
    emu_count(COUNT_LAUNCHES);
    emu_enter();
    Product p = {0};
    Gemm *g = &p.g;
    const Desc *e = (const Desc *)desc;
    const Layout *l[4] = {(Layout *)la, (Layout *)lb, (Layout *)lc, (Layout *)ld};
    const void *data[4] = {a, b, c, d};
    cublasStatus_t s = read_product(e, l[0], l[1], l[2], l[3], g);
    if (s != CUBLAS_STATUS_SUCCESS) return s;
    GemmMatrix *x[4] = {&g->a, &g->b, &g->c, &g->d};
    const Algo *chosen = (const Algo *)algo;
    if (chosen && chosen->magic == ALGO_REFUSED) return CUBLAS_STATUS_NOT_SUPPORTED;
    if (chosen && chosen->magic != ALGO_MAGIC) return CUBLAS_STATUS_INVALID_VALUE;
    if (chosen && chosen->workspace > workspace_bytes) return CUBLAS_STATUS_INVALID_VALUE;
    if (workspace_bytes && (!workspace || (uintptr_t)workspace % 16))
        return CUBLAS_STATUS_INVALID_VALUE;
    for (int i = 0; i < 4; i++) {
        size_t least = is_fp8(x[i]->type) ? 16 : gemm_type_bytes(x[i]->type);
        size_t align = chosen ? chosen->align[i] : least;
        if ((uintptr_t)data[i] % align) return CUBLAS_STATUS_INVALID_VALUE;
        x[i]->data = (unsigned char *)(uintptr_t)data[i];
        p.bytes[i] = matrix_bytes(l[i], x[i]->type);
    }
    if (e->pointer_mode == CUBLASLT_POINTER_MODE_HOST) {
        g->alpha = *(const float *)alpha;
        g->beta = *(const float *)beta;
    } else if (e->pointer_mode == CUBLASLT_POINTER_MODE_DEVICE) {
        p.alpha = alpha;
        p.beta = beta;
    } else
        emu_stop("cuBLASLt: pointer mode %d is not known here", e->pointer_mode);
    const unsigned char *from = x[2]->data, *to = x[3]->data;
    if (p.beta || g->beta != 0) { /* as documented: out of place, or in place with one layout */
        if (from == to && l[2]->ld != l[3]->ld) return CUBLAS_STATUS_INVALID_VALUE;
        if (from != to && from < to + p.bytes[3] && to < from + p.bytes[2])
            emu_stop("cuBLASLt: C and D overlap, and C is not D");
    }
    p.scale[0] = e->scale_a;
    p.scale[1] = e->scale_b;
    p.workspace = workspace;
    p.workspace_bytes = chosen ? chosen->workspace : 0;
    bool biased = g->grad_of || (e->epilogue & CUBLASLT_EPILOGUE_BIAS), aux = e->epilogue & 128;
    if ((biased && !e->bias) || (aux && !e->aux)) return CUBLAS_STATUS_INVALID_VALUE;
    if (biased) p.bias = e->bias;
    if (g->grad_of == 'a' || g->grad_of == 'b') emu_count(COUNT_SUMS);
    if (aux) p.aux = e->aux;
    if (p.workspace_bytes) stream_spend(stream_of(stream), 1); /* its parts are added up */
    return stream_add(stream_of(stream), run_product, &p, sizeof p)
               ? CUBLAS_STATUS_SUCCESS
               : CUBLAS_STATUS_EXECUTION_FAILED;
}
