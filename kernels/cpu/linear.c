/* cpu/linear: matrix products through oneDNN's matmul primitive, with activations beside them. The
 * only user of oneDNN. Primitives are cached by shape and type; the scratchpad is one block for
 * all. Where the CPU has no bf16 products, bf16 operands are widened to f32 first. */
#include "kernels/cpu/cpu.h"

#if defined ACT_BF16
#include "kernels/cpu/tiles.h"
#endif
#include <dnnl.h>
#include <omp.h>

/* c[M,N] = (c if add) + a[M,K] b[K,N] + bias[N]. A stored operand has rows of ld elements; ta: a is
 * stored as [K,M]; tb: b is stored as [N,K]. */
typedef struct Product {
    const void *a, *b;
    void *c;
    const float *bias;
    size_t M, N, K, lda, ldb, ldc;
    bool ta, tb, add;
    dnnl_data_type_t in, out;
    float *left_sums; /* if given: Σ_k a is added */
    act *activated;   /* if given: receives f(c) */
    Activation f;
} Product;

#if defined ACT_BF16
#define ACT_TYPE dnnl_bf16
#else
#define ACT_TYPE dnnl_f32
#endif

static double gemm_bytes(size_t M, size_t N, size_t K) {
    return (double)sizeof(act) *
           ((double)M * (double)K + (double)K * (double)N + (double)M * (double)N);
}
#define GEMM_FLOPS(M, N, K) (2.0 * (double)(M) * (double)(N) * (double)(K))

/* Below this a product is one thread's. */
#define SERIAL_FLOPS 1e6

/* ---- primitives ---- */

typedef struct Primitive {
    Product key; /* pointers NULL but for bias: whether there is one */
    dnnl_primitive_t primitive;
    dnnl_memory_t a, b, c, bias, pad;
    size_t pad_bytes;
    uint64_t used;
} Primitive;

/* Packed text changes the number of rows with every step, so shapes come and go: sets of a few
 * places, the longest unused one is given up. */
#define CACHE_SETS 256
#define CACHE_WAYS 8
static Primitive cache[CACHE_SETS][CACHE_WAYS];
static uint64_t cache_clock;

static dnnl_engine_t engine;
static dnnl_stream_t stream;

static void check(dnnl_status_t status, const char *what) {
    if (status != dnnl_success) die("oneDNN: %s failed (status %d)", what, (int)status);
}

static dnnl_memory_desc_t matrix(size_t rows, size_t cols, size_t ld, bool transposed,
                                 dnnl_data_type_t type) {
    dnnl_memory_desc_t d;
    dnnl_dims_t dims = {(dnnl_dim_t)rows, (dnnl_dim_t)cols};
    dnnl_dims_t strides = {transposed ? 1 : (dnnl_dim_t)ld, transposed ? (dnnl_dim_t)ld : 1};
    check(dnnl_memory_desc_init_by_strides(&d, 2, dims, type, strides), "a memory descriptor");
    return d;
}

/* In f32 oneDNN's own gemm is faster than its first choice, and more than twice so where rows of b
 * lie a multiple of 4 KB apart. False: not among the implementations. */
static bool own_gemm(dnnl_primitive_desc_t *pd, const dnnl_matmul_desc_t *d,
                     dnnl_primitive_attr_t attr) {
    dnnl_primitive_desc_iterator_t it;
    dnnl_status_t status = dnnl_primitive_desc_iterator_create(&it, d, attr, engine, NULL);
    bool found = false;
    while (status == dnnl_success && !found) {
        const char *name;
        *pd = dnnl_primitive_desc_iterator_fetch(it);
        check(dnnl_primitive_desc_query(*pd, dnnl_query_impl_info_str, 0, &name), "a query");
        found = strncmp(name, "gemm:", 5) == 0;
        if (!found) {
            dnnl_primitive_desc_destroy(*pd);
            status = dnnl_primitive_desc_iterator_next(it);
        }
    }
    dnnl_primitive_desc_iterator_destroy(it);
    return found;
}

static dnnl_status_t primitive_desc(dnnl_primitive_desc_t *pd, const Product *p) {
    dnnl_memory_desc_t a = matrix(p->M, p->K, p->lda, p->ta, p->in);
    dnnl_memory_desc_t b = matrix(p->K, p->N, p->ldb, p->tb, p->in);
    dnnl_memory_desc_t c = matrix(p->M, p->N, p->ldc, false, p->out);
    dnnl_memory_desc_t bias = matrix(1, p->N, p->N, false, dnnl_f32);
    dnnl_matmul_desc_t d;
    check(dnnl_matmul_desc_init(&d, &a, &b, p->bias ? &bias : NULL, &c), "a matmul descriptor");
    dnnl_primitive_attr_t attr;
    check(dnnl_primitive_attr_create(&attr), "attributes");
    check(dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user), "attributes");
    if (p->add) {
        dnnl_post_ops_t ops;
        check(dnnl_post_ops_create(&ops), "post-ops");
        check(dnnl_post_ops_append_sum(ops, 1.0f), "post-ops");
        check(dnnl_primitive_attr_set_post_ops(attr, ops), "post-ops");
        dnnl_post_ops_destroy(ops);
    }
    dnnl_status_t status = dnnl_success;
    if (p->in != dnnl_f32 || !own_gemm(pd, &d, attr))
        status = dnnl_primitive_desc_create(pd, &d, attr, engine, NULL);
    dnnl_primitive_attr_destroy(attr);
    return status;
}

static dnnl_memory_t memory_of(dnnl_primitive_desc_t pd, dnnl_query_t what) {
    dnnl_memory_t m;
    check(
        dnnl_memory_create(&m, dnnl_primitive_desc_query_md(pd, what, 0), engine, DNNL_MEMORY_NONE),
        "a memory object");
    return m;
}

static void primitive_free(Primitive *e) {
    if (!e->primitive) return;
    dnnl_memory_destroy(e->a);
    dnnl_memory_destroy(e->b);
    dnnl_memory_destroy(e->c);
    dnnl_memory_destroy(e->pad);
    if (e->bias) dnnl_memory_destroy(e->bias);
    dnnl_primitive_destroy(e->primitive);
}

static void primitive_new(Primitive *e, const Product *p, const Product *key) {
    dnnl_primitive_desc_t pd;
    check(primitive_desc(&pd, p), "a matmul primitive descriptor");
    memset(e, 0, sizeof *e);
    e->key = *key;
    check(dnnl_primitive_create(&e->primitive, pd), "a matmul primitive");
    e->a = memory_of(pd, dnnl_query_src_md);
    e->b = memory_of(pd, dnnl_query_weights_md);
    e->c = memory_of(pd, dnnl_query_dst_md);
    e->pad = memory_of(pd, dnnl_query_scratchpad_md);
    e->pad_bytes =
        dnnl_memory_desc_get_size(dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0));
    if (p->bias) {
        dnnl_memory_desc_t bias = matrix(1, p->N, p->N, false, dnnl_f32);
        check(dnnl_memory_create(&e->bias, &bias, engine, DNNL_MEMORY_NONE), "a memory object");
    }
    dnnl_primitive_desc_destroy(pd);
}

static void engine_open(void) {
    if (engine) return;
    check(dnnl_engine_create(&engine, dnnl_cpu, 0), "the CPU engine");
    check(dnnl_stream_create(&stream, engine, dnnl_stream_default_flags), "a stream");
}

static Primitive *primitive_get(const Product *p) {
    engine_open();
    static const float has_bias;
    Product key;
    memset(&key, 0, sizeof key); /* padding too: keys are compared as bytes */
    key.bias = p->bias ? &has_bias : NULL;
    key.M = p->M, key.N = p->N, key.K = p->K;
    key.lda = p->lda, key.ldb = p->ldb, key.ldc = p->ldc;
    key.ta = p->ta, key.tb = p->tb, key.add = p->add;
    key.in = p->in, key.out = p->out;
    uint64_t hash = 0;
    const size_t parts[] = {
        key.M,
        key.N,
        key.K,
        key.lda,
        key.ldb,
        key.ldc,
        (size_t)(key.ta | key.tb << 1 | key.add << 2 | (key.out == dnnl_f32) << 3)};
    for (size_t i = 0; i < COUNT(parts); i++) hash = (hash ^ parts[i]) * 0x9E3779B97F4A7C15u;
    Primitive *set = cache[hash >> 56], *oldest = set;
    _Static_assert(CACHE_SETS == 256, "a set is chosen by the hash's top byte");
    for (size_t i = 0; i < CACHE_WAYS; i++) {
        if (set[i].primitive && !memcmp(&set[i].key, &key, sizeof key)) {
            set[i].used = ++cache_clock;
            return &set[i];
        }
        if (set[i].used < oldest->used) oldest = &set[i];
    }
    primitive_free(oldest);
    primitive_new(oldest, p, &key);
    oldest->used = ++cache_clock;
    return oldest;
}

static void set_handle(dnnl_exec_arg_t *args, int *n, int arg, dnnl_memory_t m, const void *p) {
    check(dnnl_memory_set_data_handle(m, (void *)(uintptr_t)p), "a memory handle");
    args[(*n)++] = (dnnl_exec_arg_t){arg, m};
}

static void execute(const Product *p) {
    Primitive *e = primitive_get(p);
    dnnl_exec_arg_t args[5];
    int n = 0;
    set_handle(args, &n, DNNL_ARG_SRC, e->a, p->a);
    set_handle(args, &n, DNNL_ARG_WEIGHTS, e->b, p->b);
    set_handle(args, &n, DNNL_ARG_DST, e->c, p->c);
    set_handle(args, &n, DNNL_ARG_SCRATCHPAD, e->pad, FN(scratch)(SCRATCH_DNNL, e->pad_bytes));
    if (p->bias) set_handle(args, &n, DNNL_ARG_BIAS, e->bias, p->bias);
    check(dnnl_primitive_execute(e->primitive, stream, n, args), "a matmul");
    check(dnnl_stream_wait(stream), "a matmul");
}

/* ---- bf16 without instructions for it ---- */

#if defined ACT_BF16
static bool bf16_works(void) {
    static int works = -1;
    if (works < 0) {
        engine_open();
        Product p = {.M = 32,
                     .N = 32,
                     .K = 32,
                     .lda = 32,
                     .ldb = 32,
                     .ldc = 32,
                     .tb = true,
                     .in = dnnl_bf16,
                     .out = dnnl_bf16};
        dnnl_primitive_desc_t pd;
        works = primitive_desc(&pd, &p) == dnnl_success;
        if (works)
            dnnl_primitive_desc_destroy(pd);
        else
            log_warn("this CPU has no bf16 instructions: amp_bf16 is emulated in f32 (slower than "
                     "--precision fp32)");
    }
    return works;
}

/* Rows of ld elements, all of them: [rows, ld]. */
static void widen(float *to, const act *from, size_t n) {
#pragma omp parallel for schedule(static) if (n > SERIAL_BELOW)
    for (size_t i = 0; i < n; i += VW) f32_store(to + i, act_load(from + i, n - i), n - i);
}

static void emulate(const Product *p) {
    size_t na = p->M * p->K, nb = p->K * p->N, nc = p->out == dnnl_f32 ? 0 : p->M * p->N;
    float *a = FN(scratch)(SCRATCH_EMULATE, (na + nb + nc + 64) * sizeof *a);
    float *b = a + round_up(na, 16), *c = b + round_up(nb, 16);
    widen(a, p->a, na);
    widen(b, p->b, nb);
    Product q = *p;
    q.a = a, q.b = b, q.in = q.out = dnnl_f32;
    if (nc) q.c = c;
    execute(&q);
    act *to = p->c;
#pragma omp parallel for schedule(static) if (nc > SERIAL_BELOW)
    for (size_t i = 0; i < nc; i += VW) act_store(to + i, f32_load(c + i, nc - i), nc - i);
}
#endif

/* ---- bf16 by the backend's own tiles ---- */

#if defined TILES_BUILT
enum { NO_ACTIVATION = -1 };

static inline vf activate(vf v, const Cubic *gelu, Activation f) {
    if (f == ACTIVATION_GELU) return gelu_rough(gelu, v);
    return v * vsigmoid(v * vset(1.702f));
}

/* Inlined with a constant f. */
static inline __attribute__((always_inline)) void
out_rows(const Product *p, const float *c, size_t i, size_t j, size_t rows, size_t cols, int f) {
    vf b0 = p->bias ? f32_load(p->bias + j, cols) : vzero();
    vf b1 = p->bias && cols > 16 ? f32_load(p->bias + j + 16, cols - 16) : vzero();
    uint16_t *to = (uint16_t *)p->c + i * p->ldc + j;
    uint16_t *activated = f == NO_ACTIVATION ? NULL : (uint16_t *)p->activated + i * p->ldc + j;
    __mmask32 m = cols < 32 ? (1u << cols) - 1 : 0xffffffffu;
    Cubic gelu;
    if (f == ACTIVATION_GELU) gelu = cubic_load(gelu_cubics()->below);
    for (size_t r = 0; r < rows; r++, c += 32, to += p->ldc) {
        __m512i v = (__m512i)_mm512_cvtne2ps_pbh(vload(c + 16) + b1, vload(c) + b0);
        _mm512_mask_storeu_epi16(to, m, v);
        if (f == NO_ACTIVATION) continue;
        /* f of the rounded value: what backward will find */
        vf low = activate(bf16_widen(_mm512_castsi512_si256(v)), &gelu, (Activation)f);
        vf high = activate(bf16_widen(_mm512_extracti64x4_epi64(v, 1)), &gelu, (Activation)f);
        _mm512_mask_storeu_epi16(activated, m, (__m512i)_mm512_cvtne2ps_pbh(high, low));
        activated += p->ldc;
    }
}

static void out_act(const void *p, const float *c, size_t i, size_t j, size_t rows, size_t cols) {
    out_rows(p, c, i, j, rows, cols, NO_ACTIVATION);
}

static void out_activation(const void *context, const float *c, size_t i, size_t j, size_t rows,
                           size_t cols) {
    const Product *p = context;
    if (p->f == ACTIVATION_GELU)
        out_rows(p, c, i, j, rows, cols, ACTIVATION_GELU);
    else
        out_rows(p, c, i, j, rows, cols, ACTIVATION_QUICK_GELU);
}

static void out_add(const void *context, const float *c, size_t i, size_t j, size_t rows,
                    size_t cols) {
    const Product *p = context;
    float *to = (float *)p->c + i * p->ldc + j;
    for (size_t r = 0; r < rows; r++, c += 32, to += p->ldc)
        for (size_t k = 0; k < cols; k += VW)
            f32_store(to + k, f32_load(to + k, cols - k) + vload(c + k), cols - k);
}

static void out_acc(const void *context, const float *c, size_t i, size_t j, size_t rows,
                    size_t cols) {
    const Product *p = context;
    float *to = (float *)p->c + i * p->ldc + j;
    for (size_t r = 0; r < rows; r++, c += 32, to += p->ldc)
        for (size_t k = 0; k < cols; k += VW) f32_store(to + k, vload(c + k), cols - k);
}

static void tiled_product(const Product *p) {
    tiles_amx(); /* asked for, and filled, before threads meet */
    gelu_cubics();
    TilesProduct t = {.a = {p->a, p->lda, p->ta, false},
                      .b = {p->b, p->ldb, !p->tb, true},
                      .M = p->M,
                      .N = p->N,
                      .K = p->K,
                      .chunked = p->add,
                      .left_sums = p->left_sums,
                      .out = p->out == dnnl_bf16 ? (p->activated ? out_activation : out_act)
                             : p->add            ? out_add
                                                 : out_acc,
                      .context = p};
    bool parallel = GEMM_FLOPS(p->M, p->N, p->K) > SERIAL_FLOPS;
    TilesPlan plan = tiles_plan(&t, parallel ? (size_t)omp_get_max_threads() : 1);
    size_t tasks = plan.tasks_m * plan.tasks_n, parts = div_up(p->M, TILES_PACK_ROWS);
    size_t stride = round_up(plan.thread_bytes, 4096) + 64;
    Tile *left = FN(scratch)(SCRATCH_LEFT, plan.left_bytes);
    char *mem = FN(scratch)(SCRATCH_THREADS, (size_t)omp_get_max_threads() * stride);
#pragma omp parallel if (parallel)
    {
        tiles_begin();
        for (size_t k = 0; k < p->K; k += plan.chunk) {
#pragma omp for schedule(dynamic)
            for (size_t i = 0; i < parts; i++) tiles_pack_left(&t, &plan, k, i, left);
#pragma omp for schedule(dynamic)
            for (size_t i = 0; i < tasks; i++)
                tiles_task(&t, &plan, k, i, left, mem + (size_t)omp_get_thread_num() * stride);
        }
        tiles_end();
    }
}
#endif

#if !defined TILES_BUILT
static void activation_row(act *y, const act *x, size_t n, Activation f) {
#if defined GELU_ROUGH
    Cubic below = cubic_load(gelu_cubics()->below);
#endif
    for (size_t i = 0; i < n; i += VW) {
        vf v = act_load(x + i, n - i), r;
        if (f == ACTIVATION_QUICK_GELU) {
            r = v * vsigmoid(v * vset(1.702f));
        } else {
#if defined GELU_ROUGH
            r = gelu_rough(&below, v);
#else
            vf bell;
            r = v * vnormal(v, &bell);
#endif
        }
        act_store(y + i, r, n - i);
    }
}

/* db[N] += the column sums of dy[M,N]: rows in chunks, columns in blocks. */
#define SUM_ROWS 256
#define SUM_COLS 128
static void column_sums(float *db, const act *dy, size_t M, size_t N) {
    size_t chunks = div_up(M, SUM_ROWS), blocks = div_up(N, SUM_COLS);
    float *parts = FN(scratch)(SCRATCH_PARTIAL, chunks * N * sizeof *parts);
#pragma omp parallel for collapse(2) schedule(static) if (M * N > SERIAL_BELOW)
    for (size_t c = 0; c < chunks; c++)
        for (size_t j = 0; j < blocks; j++) {
            size_t from = j * SUM_COLS, cols = size_min(N - from, SUM_COLS);
            float sum[SUM_COLS + VW] = {0};
            for (size_t i = c * SUM_ROWS; i < size_min(M, (c + 1) * SUM_ROWS); i++)
                for (size_t k = 0; k < cols; k += VW)
                    vstore(sum + k, vload(sum + k) + act_load(dy + i * N + from + k, cols - k));
            memcpy(parts + c * N + from, sum, cols * sizeof *sum);
        }
    FN(add_partials)(db, parts, chunks, N);
}
#endif

static void product(const Product *p) {
    if (!p->M || !p->N || !p->K) return;
#if defined TILES_BUILT
    if (p->in == dnnl_bf16) {
        tiled_product(p);
        return;
    }
#endif
#if defined ACT_BF16
    if (p->in == dnnl_bf16 && !bf16_works()) {
        emulate(p);
        return;
    }
#endif
    execute(p);
}

/* ---- the slots ---- */

static Product forward(act *y, const act *x, const act *w, const acc *b, size_t M, size_t N,
                       size_t K) {
    return (Product){.a = x,
                     .b = w,
                     .c = y,
                     .bias = b ? &b->v : NULL,
                     .M = M,
                     .N = N,
                     .K = K,
                     .lda = K,
                     .ldb = K,
                     .ldc = N,
                     .tb = true,
                     .in = ACT_TYPE,
                     .out = ACT_TYPE};
}

void FN(linear_fwd)(act *y, const act *x, const act *w, const acc *b, size_t M, size_t N,
                    size_t K) {
    KERNEL_TIMER(linear_fwd, GEMM_FLOPS(M, N, K), gemm_bytes(M, N, K));
    Product p = forward(y, x, w, b, M, N, K);
    product(&p);
}

void FN(linear_bwd_input)(act *dx, const act *dy, const act *w, size_t M, size_t N, size_t K) {
    KERNEL_TIMER(linear_bwd_input, GEMM_FLOPS(M, N, K), gemm_bytes(M, N, K));
    product(&(Product){.a = dy,
                       .b = w,
                       .c = dx,
                       .M = M,
                       .N = K,
                       .K = N,
                       .lda = N,
                       .ldb = K,
                       .ldc = K,
                       .in = ACT_TYPE,
                       .out = ACT_TYPE});
}

void FN(linear_bwd_weight)(acc *dw, acc *db, const act *dy, const act *x, size_t M, size_t N,
                           size_t K) {
    KERNEL_TIMER(linear_bwd_weight, GEMM_FLOPS(M, N, K),
                 (double)sizeof(act) * (double)M * (double)(N + K) + 8.0 * (double)N * (double)K);
    product(&(Product){.a = dy,
                       .b = x,
                       .c = dw,
                       .M = N,
                       .N = K,
                       .K = M,
                       .lda = N,
                       .ldb = K,
                       .ldc = K,
                       .ta = true,
                       .add = true,
                       .in = ACT_TYPE,
                       .out = dnnl_f32,
                       .left_sums = db ? &db->v : NULL});
#if !defined TILES_BUILT
    if (db) column_sums(&db->v, dy, M, N);
#endif
}

/* Bytes of `pre` that a chunk of rows may take, so that it is still in the caches when the
 * activation reads it. */
#define CHUNK_BYTES ((size_t)2 << 20)

void FN(linear_activation_fwd)(act *y, act *pre, const act *x, const act *w, const acc *b, size_t M,
                               size_t N, size_t K, Activation f) {
    KERNEL_TIMER(linear_activation_fwd, GEMM_FLOPS(M, N, K) + 20.0 * (double)M * (double)N,
                 gemm_bytes(M, N, K) + (double)sizeof(act) * (double)M * (double)N);
#if defined TILES_BUILT
    Product p = forward(pre, x, w, b, M, N, K);
    p.activated = y, p.f = f;
    product(&p);
#else
    size_t rows = size_max(64, CHUNK_BYTES / (N * sizeof(act)) / 64 * 64);
    for (size_t i = 0; i < M; i += rows) {
        size_t m = size_min(rows, M - i);
        Product p = forward(pre + i * N, x + i * K, w, b, m, N, K);
        product(&p);
#pragma omp parallel for schedule(static) if (m * N > SERIAL_BELOW)
        for (size_t r = i; r < i + m; r++) activation_row(y + r * N, pre + r * N, N, f);
    }
#endif
}

void FN(project_fwd)(acc *y, const act *x, const act *p, size_t M, size_t C, size_t E) {
    KERNEL_TIMER(project_fwd, GEMM_FLOPS(M, C, E), gemm_bytes(M, C, E));
    product(&(Product){.a = x,
                       .b = p,
                       .c = y,
                       .M = M,
                       .N = E,
                       .K = C,
                       .lda = C,
                       .ldb = E,
                       .ldc = E,
                       .in = ACT_TYPE,
                       .out = dnnl_f32});
}

void FN(project_bwd)(act *dx, acc *dp, const acc *dy, const act *x, const act *p, size_t M,
                     size_t C, size_t E) {
    KERNEL_TIMER(project_bwd, 2 * GEMM_FLOPS(M, C, E), 2 * gemm_bytes(M, C, E));
    act *d = FN(scratch)(SCRATCH_LINEAR, M * E * sizeof *d);
    for (size_t i = 0; i < M * E; i += VW) act_store(d + i, acc_load(dy + i, M * E - i), M * E - i);
    product(&(Product){.a = d,
                       .b = p,
                       .c = dx,
                       .M = M,
                       .N = C,
                       .K = E,
                       .lda = E,
                       .ldb = E,
                       .ldc = C,
                       .tb = true,
                       .in = ACT_TYPE,
                       .out = ACT_TYPE});
    product(&(Product){.a = x,
                       .b = d,
                       .c = dp,
                       .M = C,
                       .N = E,
                       .K = M,
                       .lda = C,
                       .ldb = E,
                       .ldc = E,
                       .ta = true,
                       .add = true,
                       .in = ACT_TYPE,
                       .out = dnnl_f32});
}

void FN(gemm)(acc *c, size_t ldc, const acc *a, size_t lda, bool ta, const acc *b, size_t ldb,
              bool tb, size_t M, size_t N, size_t K, bool add) {
    KERNEL_TIMER(gemm, GEMM_FLOPS(M, N, K), 2 * gemm_bytes(M, N, K));
    product(&(Product){.a = a,
                       .b = b,
                       .c = c,
                       .M = M,
                       .N = N,
                       .K = K,
                       .lda = lda,
                       .ldb = ldb,
                       .ldc = ldc,
                       .ta = ta,
                       .tb = tb,
                       .add = add,
                       .in = dnnl_f32,
                       .out = dnnl_f32});
}
