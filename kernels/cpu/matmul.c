/* cpu/matmul: products by oneDNN's matmul, which is fastest if the right operand is packed in
 * its format, the left one is in plain rows and the contraction is short enough for L2, so operands
 * are prepared that way. Primitives are cached by shape and type. If the CPU has no bf16 products,
 * bf16 operands are widened where they are packed, and products are f32's.
 *
 * oneDNN chooses the order of a sum by the number of rows and threads. Products whose rows are
 * independent are therefore computed in blocks of one number of rows, each by one thread: a row's
 * result depends neither on the other rows nor on the number of threads. Weight gradients, which
 * are sums over rows, are computed whole. */
#include "kernels/cpu/matmul.h"

#include "kernels/cpu/onednn.h"

#include <omp.h>

#define check FN(onednn_check)
#define execute FN(onednn_execute)
#define computed FN(onednn_computed)

/* ---- primitives ---- */

typedef struct Key {
    size_t M, N, K, lda, ldb, ldc;
    dnnl_data_type_t in, out;
    bool tb, add, bias, alone; /* alone: for one thread */
} Key;

typedef struct Primitive {
    Key key;
    dnnl_primitive_desc_t desc;
    dnnl_primitive_t primitive, pack;                 /* pack NULL: b is used as stored */
    const dnnl_memory_desc_t *a, *b, *c, *bias, *pad; /* of desc */
    dnnl_memory_desc_t stored_b;
    size_t b_bytes, pad_bytes;
    size_t block_cols; /* not 0: packed b is [N/block_cols][K/16][16][block_cols], in f32 */
    uint64_t used;
} Primitive;

/* Weight gradients of packed text change their shape with every step. The cache consists of small
 * sets; the least recently used entry of a set is evicted. */
#define CACHE_SETS 64
#define CACHE_WAYS 8
static Primitive cache[CACHE_SETS][CACHE_WAYS];
static uint64_t cache_clock;

static dnnl_memory_desc_t matrix(size_t rows, size_t cols, size_t ld, bool transposed,
                                 dnnl_data_type_t type) {
    dnnl_memory_desc_t d;
    dnnl_dims_t dims = {(dnnl_dim_t)rows, (dnnl_dim_t)cols};
    dnnl_dims_t strides = {transposed ? 1 : (dnnl_dim_t)ld, transposed ? (dnnl_dim_t)ld : 1};
    check(dnnl_memory_desc_init_by_strides(&d, 2, dims, type, strides), "a memory descriptor");
    return d;
}

static dnnl_memory_desc_t stored_b(const Key *k) {
    return matrix(k->K, k->N, k->ldb, k->tb, k->in);
}

static dnnl_status_t primitive_desc(dnnl_primitive_desc_t *pd, const Key *k) {
    dnnl_memory_desc_t a = matrix(k->M, k->K, k->lda, false, k->in);
    dnnl_memory_desc_t b, c = matrix(k->M, k->N, k->ldc, false, k->out);
    dnnl_memory_desc_t bias = matrix(1, k->N, k->N, false, k->in);
    dnnl_dims_t dims = {(dnnl_dim_t)k->K, (dnnl_dim_t)k->N};
    check(dnnl_memory_desc_init_by_tag(&b, 2, dims, k->in, dnnl_format_tag_any), "a descriptor");
    dnnl_matmul_desc_t d;
    check(dnnl_matmul_desc_init(&d, &a, &b, k->bias ? &bias : NULL, &c), "a matmul descriptor");
    dnnl_primitive_attr_t attr;
    check(dnnl_primitive_attr_create(&attr), "attributes");
    check(dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user), "attributes");
    if (k->add) {
        dnnl_post_ops_t ops;
        check(dnnl_post_ops_create(&ops), "post-ops");
        check(dnnl_post_ops_append_sum(ops, 1.0f), "post-ops");
        check(dnnl_primitive_attr_set_post_ops(attr, ops), "post-ops");
        dnnl_post_ops_destroy(ops);
    }
    dnnl_status_t status = dnnl_primitive_desc_create(pd, &d, attr, FN(onednn_engine)(), NULL);
    dnnl_primitive_attr_destroy(attr);
    return status;
}

static void primitive_free(Primitive *e) {
    if (!e->primitive) return;
    dnnl_primitive_destroy(e->primitive);
    dnnl_primitive_desc_destroy(e->desc);
    if (e->pack) dnnl_primitive_destroy(e->pack);
}

static size_t block_cols(const dnnl_memory_desc_t *d) {
    const dnnl_blocking_desc_t *b = &d->format_desc.blocking;
    dnnl_dim_t cols = b->inner_blks[1];
    bool same = d->data_type == dnnl_f32 && b->inner_nblks == 2 && b->inner_idxs[0] == 0 &&
                b->inner_idxs[1] == 1 && b->inner_blks[0] == 16 && cols % 16 == 0 &&
                b->strides[0] == 16 * cols && b->strides[1] == d->padded_dims[0] * cols;
    return same ? (size_t)cols : 0;
}

static void pack_new(Primitive *e) {
    e->stored_b = stored_b(&e->key);
    if (dnnl_memory_desc_equal(e->b, &e->stored_b)) return;
    dnnl_primitive_desc_t pd;
    check(dnnl_reorder_primitive_desc_create(&pd, &e->stored_b, FN(onednn_engine)(), e->b,
                                             FN(onednn_engine)(), NULL),
          "a reorder's descriptor");
    check(dnnl_primitive_create(&e->pack, pd), "a reorder");
    dnnl_primitive_desc_destroy(pd);
}

static void primitive_new(Primitive *e, const Key *key) {
    int threads = omp_get_max_threads();
    if (key->alone) omp_set_num_threads(1);
    memset(e, 0, sizeof *e);
    e->key = *key;
    check(primitive_desc(&e->desc, key), "a matmul primitive descriptor");
    check(dnnl_primitive_create(&e->primitive, e->desc), "a matmul primitive");
    omp_set_num_threads(threads);
    e->a = dnnl_primitive_desc_query_md(e->desc, dnnl_query_src_md, 0);
    e->b = dnnl_primitive_desc_query_md(e->desc, dnnl_query_weights_md, 0);
    e->c = dnnl_primitive_desc_query_md(e->desc, dnnl_query_dst_md, 0);
    e->bias = dnnl_primitive_desc_query_md(e->desc, dnnl_query_weights_md, 1);
    e->pad = dnnl_primitive_desc_query_md(e->desc, dnnl_query_scratchpad_md, 0);
    e->b_bytes = dnnl_memory_desc_get_size(e->b);
    e->pad_bytes = dnnl_memory_desc_get_size(e->pad);
    e->block_cols = block_cols(e->b);
    pack_new(e);
}

static Primitive *primitive_get(const Product *p, bool alone) {
    Key key;
    memset(&key, 0, sizeof key); /* clears padding too, since keys are compared as bytes */
    key.M = p->M, key.N = p->N, key.K = p->K;
    key.lda = p->a.ld, key.ldb = p->b.ld, key.ldc = p->c.ld;
    key.tb = p->tb, key.add = p->add, key.bias = p->bias != NULL, key.alone = alone;
    key.in = FN(onednn_type)(p->in), key.out = FN(onednn_type)(p->out);
    const size_t parts[] = {
        key.M,
        key.N,
        key.K,
        key.lda,
        key.ldb,
        key.ldc,
        (size_t)(key.tb | key.add << 1 | (key.out == dnnl_f32) << 2 | alone << 3)};
    uint64_t hash = 0;
    for (size_t i = 0; i < COUNT(parts); i++) hash = (hash ^ parts[i]) * 0x9E3779B97F4A7C15u;
    Primitive *set = cache[hash >> 58], *oldest = set;
    _Static_assert(CACHE_SETS == 64, "a set is chosen by the hash's top bits");
    for (size_t i = 0; i < CACHE_WAYS; i++) {
        if (set[i].primitive && !memcmp(&set[i].key, &key, sizeof key)) {
            set[i].used = ++cache_clock;
            return &set[i];
        }
        if (set[i].used < oldest->used) oldest = &set[i];
    }
    primitive_free(oldest);
    primitive_new(oldest, &key);
    oldest->used = ++cache_clock;
    return oldest;
}

static void multiply(const Primitive *e, void *c, const void *a, const void *b, const void *bias,
                     void *pad) {
    const Operand all[] = {{DNNL_ARG_SRC, e->a, a},
                           {DNNL_ARG_WEIGHTS, e->b, b},
                           {DNNL_ARG_DST, e->c, c},
                           {DNNL_ARG_SCRATCHPAD, e->pad, pad},
                           {DNNL_ARG_BIAS, e->bias, bias}};
    execute(e->primitive, all, bias ? 5 : 4, "a matmul");
}

/* b in the primitive's format, written to `to` if that is another one. */
static const void *packed_b(const Primitive *e, const void *b, void *to) {
    if (!e->pack) return b;
    const Operand all[] = {{DNNL_ARG_FROM, &e->stored_b, b}, {DNNL_ARG_TO, e->b, to}};
    execute(e->pack, all, COUNT(all), "a reorder");
    return to;
}

/* ---- products by blocks of rows ---- */

/* oneDNN computes a block's last rows in another way if they do not fill its kernel: 6 rows on
 * aarch64. */
#if defined __aarch64__
#define BLOCK_ROWS 96
#else
#define BLOCK_ROWS 64
#endif
/* b is cut into pieces of columns that stay in L2 while a thread walks along the rows. */
#define PIECE_BYTES ((size_t)5 << 18)
#define PIECE_STEP 64

static size_t element_size(Element e) { return e == ELEMENT_ACT ? sizeof(act) : sizeof(float); }
static inline vf element_load(const void *p, size_t i, size_t k, Element e) {
    return e == ELEMENT_ACT ? act_load((const act *)p + i, k) : f32_load((const float *)p + i, k);
}
static inline void element_store(void *p, size_t i, vf v, size_t k, Element e) {
    if (e == ELEMENT_ACT)
        act_store((act *)p + i, v, k);
    else
        f32_store((float *)p + i, v, k);
}

/* Columns [col, col + e->key.N). */
typedef struct Piece {
    const Primitive *e;
    const void *b, *bias;
    size_t col;
} Piece;

/* A thread's memory: a block of a, its results of a piece, oneDNN's scratchpad. */
typedef struct BlockMemory {
    size_t result, pad, size; /* offsets */
} BlockMemory;

/* to[rows, cols] of type t = from[rows, cols] of type f; ldt and ldf elements a row. */
static inline __attribute__((always_inline)) void convert_rows(void *to, size_t ldt, Element t,
                                                               const void *from, size_t ldf,
                                                               Element f, size_t rows,
                                                               size_t cols) {
    for (size_t i = 0; i < rows; i++)
        for (size_t c = 0; c < cols; c += VW)
            element_store(to, i * ldt + c, element_load(from, i * ldf + c, cols - c, f), cols - c,
                          t);
}

static void copy_rows(void *to, size_t ldt, Element t, const void *from, size_t ldf, Element f,
                      size_t rows, size_t cols) {
    if (t != f && t == ELEMENT_F32)
        convert_rows(to, ldt, ELEMENT_F32, from, ldf, ELEMENT_ACT, rows, cols);
    else if (t != f)
        convert_rows(to, ldt, ELEMENT_ACT, from, ldf, ELEMENT_F32, rows, cols);
    else
        for (size_t i = 0, size = element_size(t); i < rows; i++)
            memcpy((char *)to + i * ldt * size, (const char *)from + i * ldf * size, cols * size);
}

/* Rows from `row` on of one piece. Blocks with rows to spare, those that do not fill whole rows and
 * those of another type pass through copies: the primitive sees one shape. */
static void block_run(const Product *p, const Piece *piece, size_t row, char *mem,
                      const BlockMemory *m) {
    Element in = computed(p->in), out = computed(p->out);
    size_t n = piece->e->key.N, rows = size_min(BLOCK_ROWS, p->M - row), K = p->K;
    const char *a = (const char *)p->a.at + row * p->a.ld * element_size(p->in);
    char *c = (char *)p->c.at + (row * p->c.ld + piece->col) * element_size(p->out), *to = c;
    if (rows < BLOCK_ROWS || p->a.ld != K || in != p->in) {
        copy_rows(mem, K, in, a, p->a.ld, p->in, rows, K);
        memset(mem + rows * K * element_size(in), 0, (BLOCK_ROWS - rows) * K * element_size(in));
        a = mem;
    }
    if (rows < BLOCK_ROWS || p->c.ld != n || out != p->out) to = mem + m->result;
    if (to != c && p->add) copy_rows(to, n, out, c, p->c.ld, p->out, rows, n);
    multiply(piece->e, to, a, piece->b, piece->bias, mem + m->pad);
    if (to != c) copy_rows(c, p->c.ld, p->out, to, n, out, rows, n);
}

/* x[n] in the type of the computation. */
static const void *computed_of(enum ScratchUse use, const void *x, size_t n, Element e) {
    if (computed(e) == e || !x) return x;
    float *to = FN(scratch)(use, n * sizeof *to);
#pragma omp parallel for schedule(static) if (n > SERIAL_BELOW)
    for (size_t i = 0; i < n; i += VW)
        f32_store(to + i, element_load(x, i, n - i, ELEMENT_ACT), n - i);
    return to;
}

/* Cuts b into `pieces` of `cols` columns and packs them. */
static void pieces_pack(Piece *piece, size_t pieces, size_t cols, const Product *p) {
    size_t size = element_size(computed(p->in)), step = p->tb ? p->b.ld : 1;
    size_t stored = p->tb ? (p->N - 1) * p->b.ld + p->K : (p->K - 1) * p->b.ld + p->N;
    const char *b = computed_of(SCRATCH_WIDE, p->b.at, stored, p->in);
    const char *bias = computed_of(SCRATCH_BIAS, p->bias, p->N, p->in);
    Product block = *p;
    block.M = BLOCK_ROWS, block.a.ld = p->K;
    char *packed = NULL;
    for (size_t i = 0; i < pieces; i++) {
        size_t col = i * cols;
        block.N = block.c.ld = size_min(cols, p->N - col);
        const Primitive *e = primitive_get(&block, true);
        if (!packed) packed = FN(scratch)(SCRATCH_PACKED, pieces * round_up(e->b_bytes, 64));
        const void *packed_part = packed_b(e, b + col * step * size, packed);
        piece[i] = (Piece){e, packed_part, bias ? bias + col * size : NULL, col};
        packed += round_up(e->b_bytes, 64);
    }
}

static void by_blocks(const Product *p) {
    size_t in = element_size(computed(p->in)), most = div_up(p->N * p->K * in, PIECE_BYTES);
    size_t cols = size_min(p->N, round_up(div_up(p->N, most), PIECE_STEP));
    size_t pieces = div_up(p->N, cols), blocks = div_up(p->M, BLOCK_ROWS);
    Piece *piece = FN(scratch)(SCRATCH_PIECES, pieces * sizeof *piece);
    pieces_pack(piece, pieces, cols, p);
    BlockMemory m = {.result = round_up(BLOCK_ROWS * p->K * in, 64)};
    m.pad = m.result + round_up(BLOCK_ROWS * cols * element_size(computed(p->out)), 64);
    m.size = m.pad + 64 + /* of equal pieces, and of the last one */
             round_up(size_max(piece[0].e->pad_bytes, piece[pieces - 1].e->pad_bytes), 64);
    char *mem = FN(scratch)(SCRATCH_LEFT, m.size * (size_t)omp_get_max_threads());
#pragma omp parallel if (blocks * pieces > 1)
    {
        omp_set_num_threads(1); /* in this thread: oneDNN starts no others */
        char *own = mem + m.size * (size_t)omp_get_thread_num();
#pragma omp for schedule(static)
        for (size_t i = 0; i < pieces * blocks; i++)
            block_run(p, &piece[i / blocks], i % blocks * BLOCK_ROWS, own, &m);
    }
}

/* ---- products with a transposed left operand: weight gradients ---- */

/* Longest contraction of one part: transposed and packed operands stay in L2. If the sums do not
 * fit, there are fewer parts. */
#define PART 512
#define PART_WIDE 1024
#define WIDE_BYTES ((size_t)2 << 20)
#define PART_STEP 64
/* Columns that a thread transposes together. */
#define COLS 64

/* to[cols, ldt] = from[rows, ld] transposed, 0 up to `padded` rows; sums[cols] += the sums over the
 * rows. cols <= COLS. */
static inline __attribute__((always_inline)) void transpose_block(void *to, size_t ldt, Element t,
                                                                  float *sums, const void *from,
                                                                  size_t ld, Element f, size_t rows,
                                                                  size_t cols, size_t padded) {
    for (size_t r = 0; r < padded; r += VW)
        for (size_t c = 0; c < cols; c += VW) {
            vf v[VW], sum = vload(sums + c);
#pragma GCC unroll 16
            for (size_t i = 0; i < VW; i++) {
                __builtin_prefetch((const char *)from + ((r + VW + i) * ld + c) * element_size(f));
                v[i] = r + i < rows ? element_load(from, (r + i) * ld + c, cols - c, f) : vzero();
                sum += v[i];
            }
            vstore(sums + c, sum);
            vtranspose(v);
#pragma GCC unroll 16
            for (size_t i = 0; i < VW; i++)
                if (c + i < cols) element_store(to, (c + i) * ldt + r, v[i], VW, t);
        }
}

/* Columns [c, c + COLS) of the left operand. */
static void transpose_cols(void *to, float *sums, const void *from, size_t ld, size_t rows,
                           size_t c, size_t cols, size_t padded, Element e) {
    size_t n = size_min(COLS, cols - c);
    float sum[COLS] = {0};
    void *t = (char *)to + c * padded * element_size(computed(e));
    const void *f = (const char *)from + c * element_size(e);
    if (computed(e) == ELEMENT_ACT)
        transpose_block(t, padded, ELEMENT_ACT, sum, f, ld, ELEMENT_ACT, rows, n, padded);
    else if (e == ELEMENT_ACT)
        transpose_block(t, padded, ELEMENT_F32, sum, f, ld, ELEMENT_ACT, rows, n, padded);
    else
        transpose_block(t, padded, ELEMENT_F32, sum, f, ld, ELEMENT_F32, rows, n, padded);
    for (size_t i = 0; sums && i < n; i++) sums[c + i] += sum[i];
}

/* 16 rows of b from row k on as [N/cols][16][cols], blocks `stride` apart; 0 past the end of b. */
static inline __attribute__((always_inline)) void pack_rows(float *to, size_t stride, size_t cols,
                                                            const void *b, size_t ld, Element e,
                                                            size_t k, size_t rows, size_t N) {
    for (size_t i = k; i < k + 16; i++, to += cols) {
        float *row = to;
        for (size_t n = 0; n < N; n += cols, row += stride)
            for (size_t j = 0; j < cols; j += VW) {
                size_t left = N > n + j ? N - n - j : 0, at = i * ld + n + j;
                __builtin_prefetch((const char *)b + (at + 4 * ld) * element_size(e));
                vstore(row + j, i < rows && left ? element_load(b, at, left, e) : vzero());
            }
    }
}

/* Rows [k, k + rows) of b in the type of the computation; if `padded` is larger, a copy that ends
 * in rows of 0. */
static const void *part_of_b(const Product *p, size_t k, size_t rows, size_t padded) {
    Element t = computed(p->in);
    size_t ld = p->b.ld, size = element_size(t);
    size_t all = p->tb ? p->N : padded, some = p->tb ? p->N : rows, cols = p->tb ? rows : p->N;
    const char *from = (const char *)p->b.at + (p->tb ? k : k * ld) * element_size(p->in);
    if (some == all && t == p->in) return from;
    char *to = FN(scratch)(SCRATCH_PADDED, all * ld * size);
    copy_rows(to, ld, t, from, ld, p->in, some, cols);
    memset(to + some * ld * size, 0, (all - some) * ld * size);
    return to;
}

static void across(const Product *p) {
    size_t size = element_size(p->in);
    size_t most = p->M * p->N * sizeof(float) > WIDE_BYTES ? PART_WIDE : PART;
    size_t part = round_up(div_up(p->K, div_up(p->K, most)), PART_STEP);
    char *left = FN(scratch)(SCRATCH_LEFT, p->M * part * element_size(computed(p->in)));
    for (size_t k = 0; k < p->K; k += part) {
        size_t rows = size_min(part, p->K - k), padded = round_up(rows, p->tb ? 32 : PART_STEP);
        Product q = *p;
        q.a.at = left, q.a.ld = padded, q.ta = false;
        q.K = p->tb ? rows : padded;
        q.add = p->add || k > 0;
        Primitive *e = primitive_get(&q, false);
        size_t cols = p->tb ? 0 : e->block_cols;
        float *b = cols ? FN(scratch)(SCRATCH_PACKED, e->b_bytes) : NULL;
        const char *a = (const char *)p->a.at + k * p->a.ld * size;
        const char *with = (const char *)p->b.at + k * p->b.ld * size;
#pragma omp parallel if (rows * (p->M + p->N) > SERIAL_BELOW)
        {
#pragma omp for schedule(static) nowait
            for (size_t c = 0; c < p->M; c += COLS)
                transpose_cols(left, p->left_sums, a, p->a.ld, rows, c, p->M, padded, p->in);
#pragma omp for schedule(static)
            for (size_t i = 0; i < (cols ? padded : 0); i += 16)
                if (p->in == ELEMENT_ACT)
                    pack_rows(b + i * cols, padded * cols, cols, with, p->b.ld, ELEMENT_ACT, i,
                              rows, p->N);
                else
                    pack_rows(b + i * cols, padded * cols, cols, with, p->b.ld, ELEMENT_F32, i,
                              rows, p->N);
        }
        const void *packed = b;
        if (!cols)
            packed = packed_b(e, part_of_b(p, k, rows, padded),
                              e->pack ? FN(scratch)(SCRATCH_PACKED, e->b_bytes) : NULL);
        multiply(e, p->c.at, left, packed, NULL, FN(scratch)(SCRATCH_DNNL, e->pad_bytes));
    }
}

void FN(matmul)(const Product *p) {
    if (!p->M || !p->N || !p->K) return;
    if (p->ta)
        across(p);
    else
        by_blocks(p);
}
