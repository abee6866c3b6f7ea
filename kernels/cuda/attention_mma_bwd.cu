/* cuda/attention_mma_bwd: attention's backward on the tensor cores. The probabilities are
 * recomputed from lse: P = exp(score - lse), dP = dO Vᵀ, delta = Σ dO·O, dS = P (dP - delta); then
 *   - dQ = scale dS K: a block owns a tile of queries and walks over keys (and writes delta);
 *   - dK = scale dSᵀ Q, dV = Pᵀ dO: a block owns a tile of keys and walks over queries.
 * Every sum is in one warp's registers, P and dS go from product to product in registers, and no
 * atomics are needed; in return scores and dP are computed twice. If every sequence fits one tile,
 * one block does both on the same tiles. bf16 only. */
#if defined ACT_BF16
#include "kernels/cuda/attention_mma.cuh"

/* ---- one pair of tiles ---- */

/* A warp's 16 own rows: of queries and dO, or of keys and values. KEEP of the two are held in
 * registers; the others are reread from shared memory, because registers are scarce. */
template <int KD, int KEEP> struct Pair {
    const elem *rows_a, *rows_b;
    unsigned a[KD][4], b[KD][4];
};
template <int KD, int KEEP>
__device__ static __forceinline__ void pair_load(Pair<KD, KEEP> *p, const elem *a, const elem *b) {
    p->rows_a = a;
    p->rows_b = b;
#pragma unroll
    for (int kd = 0; kd < KD; kd++) {
        if (KEEP > 0) left_fragment<KD>(p->a[kd], a, kd);
        if (KEEP > 1) left_fragment<KD>(p->b[kd], b, kd);
    }
}
/* x = own.a · rows_aᵀ, y = own.b · rows_bᵀ over 16 rows, for each of MB times 16 own rows. */
template <int KD, int KEEP, int MB>
__device__ static __forceinline__ void pair_scores(float x[MB][2][4], float y[MB][2][4],
                                                   Pair<KD, KEEP> own[MB], const elem *rows_a,
                                                   const elem *rows_b) {
#pragma unroll
    for (int kd = 0; kd < KD; kd++) {
        unsigned r[4];
        right_rows<KD>(r, rows_a, kd);
#pragma unroll
        for (int m = 0; m < MB; m++) {
            if (KEEP < 1) left_fragment<KD>(own[m].a[kd], own[m].rows_a, kd);
            mma_both(x[m], own[m].a[kd], r, kd == 0);
        }
        right_rows<KD>(r, rows_b, kd);
#pragma unroll
        for (int m = 0; m < MB; m++) {
            if (KEEP < 2) left_fragment<KD>(own[m].b[kd], own[m].rows_b, kd);
            mma_both(y[m], own[m].b[kd], r, kd == 0);
        }
    }
}
/* sum += x · rows over 16 rows. */
template <int KD, int MB>
__device__ static __forceinline__ void add_product(float sum[MB][2 * KD][4],
                                                   const float x[MB][2][4], const elem *rows) {
    unsigned a[MB][4], r[4];
#pragma unroll
    for (int m = 0; m < MB; m++) as_left(a[m], x[m]);
#pragma unroll
    for (int kd = 0; kd < KD; kd++) {
        right_columns<KD>(r, rows, kd);
#pragma unroll
        for (int m = 0; m < MB; m++) {
            mma_both(&sum[m][2 * kd], a[m], r, false);
        }
    }
}

/* The lane's two query rows. */
typedef struct QueryRows {
    int2 span[2];
    float lse_log2[2], delta[2];
} QueryRows;

/* Adds the contribution of keys k0 … k0+TILE-1 to dq; the warp has 16·MB queries. */
template <int KD, int MB>
__device__ static __forceinline__ void
query_step(float dq[MB][2 * KD][4], Pair<KD, 2> own[MB], const QueryRows rows[MB], WarpSpan span,
           const elem *keys, const elem *values, int k0, float scale_log2) {
#pragma unroll
    for (int j = 0; j < TILE / SUB; j++) {
        int key = k0 + SUB * j;
        if (key >= span.any_hi || key + SUB <= span.any_lo) continue;
        const elem *k = keys + SUB * j * tile_ld<KD>(), *v = values + SUB * j * tile_ld<KD>();
        float s[MB][2][4], dp[MB][2][4];
        pair_scores<KD, 2, MB>(s, dp, own, k, v);
        if (key < span.all_lo || key + SUB > span.all_hi)
#pragma unroll
            for (int m = 0; m < MB; m++) mask_keys(s[m], key, rows[m].span[0], rows[m].span[1]);
#pragma unroll
        for (int m = 0; m < MB; m++)
#pragma unroll
            for (int n = 0; n < 2; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    float p = exp2_fast(fmaf(s[m][n][i], scale_log2, -rows[m].lse_log2[i / 2]));
                    s[m][n][i] = p * (dp[m][n][i] - rows[m].delta[i / 2]);
                }
        add_product<KD, MB>(dq, s, k);
    }
}

/* Values of a tile of queries that the other half needs. */
struct alignas(16) QueryStats {
    float2 lse_delta[TILE]; /* the first in units of log 2 */
    int lo[TILE], hi[TILE]; /* the span; empty if there is no query */
};

/* Sets the weights of 16 keys (the lane's: `key`, key + 8) by 16 queries (its first: `col`) to 0 if
 * the key is not in the query's span. */
__device__ static __forceinline__ void mask_queries(float p[2][4], const QueryStats *stats, int col,
                                                    int key) {
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            int lo = stats->lo[col + 8 * n + e], hi = stats->hi[col + 8 * n + e];
            if (key < lo || key >= hi) p[n][e] = 0;
            if (key + 8 < lo || key + 8 >= hi) p[n][2 + e] = 0;
        }
}

/* Adds the contribution of queries q0 … q0+TILE-1 to dk and dv; `key`: the first of the warp's
 * 16·MB. */
template <int KD, int KEEP, int MB>
__device__ static __forceinline__ void
key_step(float dk[MB][2 * KD][4], float dv[MB][2 * KD][4], Pair<KD, KEEP> own[MB], int key,
         const QueryStats *stats, const elem *queries, const elem *grads, int q0, int q_end,
         float scale_log2) {
    int lane = threadIdx.x % WARP, r = key + lane / 4, c = lane % 4 * 2;
#pragma unroll
    for (int j = 0; j < TILE / SUB; j++) {
        int begin = SUB * j, last = min(q0 + begin + SUB, q_end) - 1 - q0;
        if (last < begin || key + 16 * MB <= stats->lo[begin] || key >= stats->hi[last]) continue;
        bool whole =
            last == begin + SUB - 1 && stats->lo[last] <= key && key + 16 * MB <= stats->hi[begin];
        const elem *q = queries + begin * tile_ld<KD>(), *g = grads + begin * tile_ld<KD>();
        float s[MB][2][4], ds[MB][2][4];
        pair_scores<KD, KEEP, MB>(s, ds, own, q, g);
#pragma unroll
        for (int n = 0; n < 2; n++) {
            int col = begin + 8 * n + c; /* and its neighbour */
            float4 two = *(const float4 *)&stats->lse_delta[col];
#pragma unroll
            for (int m = 0; m < MB; m++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    float lse = i % 2 ? two.z : two.x, delta = i % 2 ? two.w : two.y;
                    float p = exp2_fast(fmaf(s[m][n][i], scale_log2, -lse));
                    s[m][n][i] = p;
                    ds[m][n][i] -= delta;
                }
        }
        if (!whole)
#pragma unroll
            for (int m = 0; m < MB; m++) mask_queries(s[m], stats, begin + c, r + 16 * m);
#pragma unroll
        for (int m = 0; m < MB; m++)
#pragma unroll
            for (int i = 0; i < 8; i++) ds[m][i / 4][i % 4] *= s[m][i / 4][i % 4];
        add_product<KD, MB>(dv, s, g);
        add_product<KD, MB>(dk, ds, q);
    }
}

/* delta = Σ dO·O of the warp's rows, lane 2r has row r; grads: their dO in shared memory. */
template <int KD>
__device__ static inline float own_delta(const elem *grads, const act *o, size_t stride, int first,
                                         int end, int D) {
    int lane = threadIdx.x % WARP, row = min(first + lane / 2, end - 1);
    float sum = 0;
#pragma unroll
    for (int kd = 0; kd < KD; kd++) {
        int d = 16 * kd + lane % 2 * 8;
        if (d >= D) break;
        float a[VW], b[VW];
        act_load(a, (const act *)grads + lane / 2 * tile_ld<KD>() + d, VW, true);
        act_load(b, o + row * stride + d, VW, true);
#pragma unroll
        for (int i = 0; i < VW; i++) sum += a[i] * b[i];
    }
    return sum + __shfl_xor_sync(FULL_MASK, sum, 1);
}

/* ---- queries ---- */

__device__ static __forceinline__ void query_rows(QueryRows *rows, const Tiles *t,
                                                  const TileRows *own, int mine, const acc *lse,
                                                  float delta) {
    int lane = threadIdx.x % WARP;
#pragma unroll
    for (int e = 0; e < 2; e++) {
        int row = min(mine + lane / 4 + 8 * e, own->end - 1);
        rows->span[e] = row_span(t, own, row);
        rows->lse_log2[e] = lse[row].v * LOG2_E;
        rows->delta[e] = __shfl_sync(FULL_MASK, delta, 2 * (lane / 4 + 8 * e));
    }
}

template <int KD, int MB>
__global__ static void __launch_bounds__(THREADS, KD <= 4 && MB == 1 ? 3 : 2)
    mma_bwd_query(act *dqkv, float *delta, const act *dout, const act *o, const acc *lse,
                  const act *qkv, Tiles t) {
    extern __shared__ __align__(16) unsigned char memory[];
    constexpr int LD = tile_ld<KD>(), ROWS = TILE * MB, OWN = 16 * MB;
    elem *queries = (elem *)memory, *grads = queries + ROWS * LD, *keys = grads + ROWS * LD;
    elem *values = keys + 2 * TILE * LD;
    TileRows own;
    if (!tile_rows(&own, &t, ROWS)) return;
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    unsigned C = t.H * t.D;
    size_t head = (size_t)blockIdx.y * t.D, at = (size_t)blockIdx.y * t.rows;
    const act *q = qkv + head;
    int first = row_span(&t, &own, own.first).x, end = row_span(&t, &own, own.end - 1).y;

    tile_load<KD, ROWS>(queries, q, 3 * C, own.first, own.end, t.D);
    tile_load<KD, ROWS>(grads, dout + head, C, own.first, own.end, t.D);
    tile_load<KD, TILE>(keys, q + C, 3 * C, first, end, t.D);
    tile_load<KD, TILE>(values, q + 2 * C, 3 * C, first, end, t.D);
    cp_async_commit();

    int mine = own.first + OWN * warp;
    WarpSpan span = warp_span(&t, &own, mine, OWN);
    const float scale = rsqrtf((float)t.D), scale_log2 = scale * LOG2_E;
    Pair<KD, 2> pair[MB];
    QueryRows rows[MB];
    float dq[MB][2 * KD][4] = {};
    for (int k0 = first, turn = 0; k0 < end; k0 += TILE, turn ^= 1) {
        if (k0 + TILE < end) {
            int next = (turn ^ 1) * TILE * LD;
            tile_load<KD, TILE>(keys + next, q + C, 3 * C, k0 + TILE, end, t.D);
            tile_load<KD, TILE>(values + next, q + 2 * C, 3 * C, k0 + TILE, end, t.D);
        }
        cp_async_commit();
        cp_async_wait<1>();
        __syncthreads();
        if (k0 == first)
#pragma unroll
            for (int m = 0; m < MB; m++) {
                int place = (OWN * warp + 16 * m) * LD, from = mine + 16 * m;
                pair_load(&pair[m], queries + place, grads + place);
                float d = own_delta<KD>(grads + place, o + head, C, from, own.end, t.D);
                if (lane % 2 == 0 && from + lane / 2 < own.end) delta[at + from + lane / 2] = d;
                query_rows(&rows[m], &t, &own, from, lse + at, d);
            }
        query_step<KD, MB>(dq, pair, rows, span, keys + turn * TILE * LD, values + turn * TILE * LD,
                           k0, scale_log2);
        __syncthreads();
    }
#pragma unroll
    for (int m = 0; m < MB; m++)
        rows_store<KD>(dqkv + head, 3 * C, queries + (OWN * warp + 16 * m) * LD, dq[m], scale,
                       scale, mine + 16 * m, own.end, t.D);
}

/* ---- keys ---- */

__device__ static inline void stats_load(QueryStats *s, const Tiles *t, const TileRows *own,
                                         const acc *lse, const float *delta, int q0, int end) {
    int i = threadIdx.x, row = q0 + i;
    if (i >= TILE) return;
    int2 span = row < end ? row_span(t, own, row) : make_int2(0, 0);
    s->lse_delta[i] = row < end ? make_float2(lse[row].v * LOG2_E, delta[row]) : make_float2(0, 0);
    s->lo[i] = span.x;
    s->hi[i] = span.y;
}

template <int KD, int MB>
__global__ static void __launch_bounds__(THREADS, KD <= 4 && MB == 1 ? 3 : 2)
    mma_bwd_key(act *dqkv, const float *delta, const act *dout, const acc *lse, const act *qkv,
                Tiles t) {
    extern __shared__ __align__(16) unsigned char memory[];
    __shared__ QueryStats stats[2];
    constexpr int LD = tile_ld<KD>(), ROWS = TILE * MB, OWN = 16 * MB;
    constexpr int KEEP = KD == 8 ? 0 : MB == 1 ? 2 : 1;
    elem *keys = (elem *)memory, *values = keys + ROWS * LD, *queries = values + ROWS * LD;
    elem *grads = queries + 2 * TILE * LD;
    TileRows own;
    if (!tile_rows(&own, &t, ROWS)) return;
    int warp = threadIdx.x / WARP;
    unsigned C = t.H * t.D;
    size_t head = (size_t)blockIdx.y * t.D, at = (size_t)blockIdx.y * t.rows;
    const act *q = qkv + head;
    int first = t.causal ? own.first : row_span(&t, &own, own.first).x;
    int end = row_end(&t, &own, own.end - 1);

    tile_load<KD, ROWS>(keys, q + C, 3 * C, own.first, own.end, t.D);
    tile_load<KD, ROWS>(values, q + 2 * C, 3 * C, own.first, own.end, t.D);
    tile_load<KD, TILE>(queries, q, 3 * C, first, end, t.D);
    tile_load<KD, TILE>(grads, dout + head, C, first, end, t.D);
    cp_async_commit();
    stats_load(&stats[0], &t, &own, lse + at, delta + at, first, end);

    int mine = own.first + OWN * warp;
    const float scale = rsqrtf((float)t.D), scale_log2 = scale * LOG2_E;
    Pair<KD, KEEP> pair[MB];
    float dk[MB][2 * KD][4] = {}, dv[MB][2 * KD][4] = {};
    for (int q0 = first, turn = 0; q0 < end; q0 += TILE, turn ^= 1) {
        if (q0 + TILE < end) {
            int next = q0 + TILE, to = (turn ^ 1) * TILE * LD;
            tile_load<KD, TILE>(queries + to, q, 3 * C, next, end, t.D);
            tile_load<KD, TILE>(grads + to, dout + head, C, next, end, t.D);
            stats_load(&stats[turn ^ 1], &t, &own, lse + at, delta + at, next, end);
        }
        cp_async_commit();
        cp_async_wait<1>();
        __syncthreads();
        if (q0 == first)
#pragma unroll
            for (int m = 0; m < MB; m++) {
                int place = (OWN * warp + 16 * m) * LD;
                pair_load(&pair[m], keys + place, values + place);
            }
        if (mine < own.end)
            key_step<KD, KEEP, MB>(dk, dv, pair, mine, &stats[turn], queries + turn * TILE * LD,
                                   grads + turn * TILE * LD, q0, end, scale_log2);
        __syncthreads();
    }
#pragma unroll
    for (int m = 0; m < MB; m++) {
        int place = (OWN * warp + 16 * m) * LD, to = mine + 16 * m;
        rows_store<KD>(dqkv + C + head, 3 * C, keys + place, dk[m], scale, scale, to, own.end, t.D);
        rows_store<KD>(dqkv + 2 * C + head, 3 * C, values + place, dv[m], 1, 1, to, own.end, t.D);
    }
}

/* ---- both halves, if every sequence fits one tile ---- */

/* dq is staged in the rows of the warp's keys, which must be in registers by then: so this is for
 * widths at which both tiles of keys are. */
template <int KD>
__global__ static void __launch_bounds__(THREADS, KD <= 4 ? 3 : 2)
    mma_bwd_both(act *dqkv, const act *dout, const act *o, const acc *lse, const act *qkv,
                 Tiles t) {
    extern __shared__ __align__(16) unsigned char memory[];
    __shared__ QueryStats stats;
    constexpr int LD = tile_ld<KD>();
    elem *queries = (elem *)memory, *grads = queries + TILE * LD, *keys = grads + TILE * LD;
    elem *values = keys + TILE * LD;
    TileRows own;
    if (!tile_rows(&own, &t, TILE)) return;
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    unsigned C = t.H * t.D;
    size_t head = (size_t)blockIdx.y * t.D, at = (size_t)blockIdx.y * t.rows;
    const act *q = qkv + head;

    tile_load<KD, TILE>(queries, q, 3 * C, own.first, own.end, t.D);
    tile_load<KD, TILE>(grads, dout + head, C, own.first, own.end, t.D);
    tile_load<KD, TILE>(keys, q + C, 3 * C, own.first, own.end, t.D);
    tile_load<KD, TILE>(values, q + 2 * C, 3 * C, own.first, own.end, t.D);
    cp_async_commit();
    int mine = own.first + 16 * warp;
    const float scale = rsqrtf((float)t.D), scale_log2 = scale * LOG2_E;
    cp_async_wait<0>();
    __syncthreads();
    float d = own_delta<KD>(grads + 16 * warp * LD, o + head, C, mine, own.end, t.D);
    if (lane % 2 == 0) {
        int i = 16 * warp + lane / 2, row = own.first + i;
        int2 span = row < own.end ? row_span(&t, &own, row) : make_int2(0, 0);
        stats.lse_delta[i] =
            row < own.end ? make_float2(lse[at + row].v * LOG2_E, d) : make_float2(0, 0);
        stats.lo[i] = span.x;
        stats.hi[i] = span.y;
    }
    Pair<KD, 2> pair;
    float dq[1][2 * KD][4] = {}, dk[1][2 * KD][4] = {}, dv[1][2 * KD][4] = {};
    QueryRows rows;
    pair_load(&pair, queries + 16 * warp * LD, grads + 16 * warp * LD);
    query_rows(&rows, &t, &own, mine, lse + at, d);
    query_step<KD, 1>(dq, &pair, &rows, warp_span(&t, &own, mine, 16), keys, values, own.first,
                      scale_log2);
    Pair<KD, 2> pair_keys;
    pair_load(&pair_keys, keys + 16 * warp * LD, values + 16 * warp * LD);
    __syncthreads(); /* stats are written, and all warps have read the keys */
    rows_store<KD>(dqkv + head, 3 * C, keys + 16 * warp * LD, dq[0], scale, scale, mine, own.end,
                   t.D);
    if (mine < own.end)
        key_step<KD, 2, 1>(dk, dv, &pair_keys, mine, &stats, queries, grads, own.first, own.end,
                           scale_log2);
    rows_store<KD>(dqkv + C + head, 3 * C, keys + 16 * warp * LD, dk[0], scale, scale, mine,
                   own.end, t.D);
    rows_store<KD>(dqkv + 2 * C + head, 3 * C, values + 16 * warp * LD, dv[0], 1, 1, mine, own.end,
                   t.D);
}

/* ---- launches ---- */

#define LAUNCH_TILES(kernel, grid, bytes, ...)                                                     \
    do {                                                                                           \
        CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,             \
                                  (int)(bytes)));                                                  \
        LAUNCH_GRID(kernel, grid, THREADS, bytes, __VA_ARGS__);                                    \
    } while (0)

/* QB, KB: a warp has 16·QB queries in the first kernel, 16·KB keys in the second. */
template <int KD, int QB, int KB>
static bool launch(act *dqkv, float *delta, const act *dout, const act *o, const acc *lse,
                   const act *qkv, Tiles t, size_t B, size_t max_T) {
    if constexpr (KD < 8)
        if (!t.span && max_T <= TILE) {
            dim3 grid = FN(tiles_grid)(&t, B, max_T, TILE);
            LAUNCH_TILES(mma_bwd_both<KD>, grid, tile_bytes<KD>(4 * TILE), dqkv, dout, o, lse, qkv,
                         t);
            return true;
        }
    size_t query_bytes = tile_bytes<KD>((2 * QB + 4) * TILE);
    size_t key_bytes = tile_bytes<KD>((2 * KB + 4) * TILE);
    if (size_max(query_bytes, key_bytes + 2 * sizeof(QueryStats)) > device_shared_memory())
        return false;
    dim3 grid = FN(tiles_grid)(&t, B, max_T, TILE * QB);
    LAUNCH_TILES((mma_bwd_query<KD, QB>), grid, query_bytes, dqkv, delta, dout, o, lse, qkv, t);
    grid = FN(tiles_grid)(&t, B, max_T, TILE * KB);
    LAUNCH_TILES((mma_bwd_key<KD, KB>), grid, key_bytes, dqkv, delta, dout, lse, qkv, t);
    return true;
}

bool FN(attention_mma_bwd)(act *dqkv, float *delta, const act *dout, const act *o, const acc *lse,
                           const act *qkv, Tiles t, size_t B, size_t max_T) {
    typedef bool Launch(act *, float *, const act *, const act *, const acc *, const act *, Tiles,
                        size_t, size_t);
    /* as in the forward: twice the rows of a warp, half the reads from shared memory */
    bool many = !t.span && max_T > 96 && t.D > 48 && t.D <= 64;
    if (many && launch<4, 2, 2>(dqkv, delta, dout, o, lse, qkv, t, B, max_T)) return true;
    static Launch *const launches[] = {launch<1, 1, 1>, launch<2, 1, 1>, launch<3, 1, 1>,
                                       launch<4, 1, 1>, launch<5, 1, 1>, launch<6, 1, 1>,
                                       launch<7, 1, 1>, launch<8, 1, 1>};
    return launches[(t.D - 1) / 16](dqkv, delta, dout, o, lse, qkv, t, B, max_T);
}
#endif
