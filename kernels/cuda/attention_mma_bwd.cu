/* cuda/attention_mma_bwd: attention's backward on the tensor cores. The probabilities are computed
 * again from lse: P = exp(score - lse), dP = dO Vᵀ, delta = Σ dO·O, dS = P (dP - delta); then
 *   dQ = scale dS K        a block has a tile of queries and walks over keys (and writes delta);
 *   dK = scale dSᵀ Q, dV = Pᵀ dO    a block has a tile of keys and walks over queries.
 * So every sum belongs to one warp's registers, P and dS go from product to product without leaving
 * them, and no atomics are needed; the price is that scores and dP are computed twice. Where a
 * sequence fits one tile, one block does both on the same tiles. bf16 only. */
#if defined ACT_BF16
#include "kernels/cuda/attention_mma.cuh"

/* ---- one pair of tiles ---- */

/* A warp's 16 own rows: of queries and dO, or of keys and values. KEEP: in registers; without it
 * they are read from shared memory again and again, which the widest kernel must, for want of
 * registers.
 */
template <int KD, bool KEEP> struct Pair {
    const elem *rows_a, *rows_b;
    unsigned a[KD][4], b[KD][4];
};
template <int KD, bool KEEP>
__device__ static __forceinline__ void pair_load(Pair<KD, KEEP> *p, const elem *a, const elem *b) {
    p->rows_a = a;
    p->rows_b = b;
#pragma unroll
    for (int kd = 0; KEEP && kd < KD; kd++) {
        left_fragment<KD>(p->a[kd], a, kd);
        left_fragment<KD>(p->b[kd], b, kd);
    }
}
/* x = own.a · rows_aᵀ, y = own.b · rows_bᵀ over 16 rows. */
template <int KD, bool KEEP>
__device__ static __forceinline__ void pair_scores(float x[2][4], float y[2][4],
                                                   Pair<KD, KEEP> *own, const elem *rows_a,
                                                   const elem *rows_b) {
#pragma unroll
    for (int i = 0; i < 8; i++) x[i / 4][i % 4] = y[i / 4][i % 4] = 0;
#pragma unroll
    for (int kd = 0; kd < KD; kd++) {
        unsigned r[4];
        if (!KEEP) left_fragment<KD>(own->a[kd], own->rows_a, kd);
        right_rows<KD>(r, rows_a, kd);
        mma_bf16(x[0], own->a[kd], r[0], r[1]);
        mma_bf16(x[1], own->a[kd], r[2], r[3]);
        if (!KEEP) left_fragment<KD>(own->b[kd], own->rows_b, kd);
        right_rows<KD>(r, rows_b, kd);
        mma_bf16(y[0], own->b[kd], r[0], r[1]);
        mma_bf16(y[1], own->b[kd], r[2], r[3]);
    }
}
/* sum += x · rows over 16 rows. */
template <int KD>
__device__ static __forceinline__ void add_product(float sum[2 * KD][4], const float x[2][4],
                                                   const elem *rows) {
    unsigned a[4], r[4];
    as_left(a, x);
#pragma unroll
    for (int kd = 0; kd < KD; kd++) {
        right_columns<KD>(r, rows, kd);
        mma_bf16(sum[2 * kd], a, r[0], r[1]);
        mma_bf16(sum[2 * kd + 1], a, r[2], r[3]);
    }
}

/* The lane's two query rows. */
typedef struct QueryRows {
    int2 span[2];
    float lse_log2[2], delta[2];
} QueryRows;

/* Adds to dq what the keys k0 … k0+TILE-1 give. */
template <int KD>
__device__ static __forceinline__ void
query_step(float dq[2 * KD][4], Pair<KD, true> *own, const QueryRows *rows, WarpSpan span,
           const elem *keys, const elem *values, int k0, float scale_log2) {
#pragma unroll
    for (int j = 0; j < TILE / SUB; j++) {
        int key = k0 + SUB * j;
        if (key >= span.any_hi || key + SUB <= span.any_lo) continue;
        const elem *k = keys + SUB * j * tile_ld<KD>(), *v = values + SUB * j * tile_ld<KD>();
        float s[2][4], dp[2][4];
        pair_scores(s, dp, own, k, v);
        if (key < span.all_lo || key + SUB > span.all_hi)
            mask_keys(s, key, rows->span[0], rows->span[1]);
#pragma unroll
        for (int n = 0; n < 2; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float p = exp2_fast(fmaf(s[n][i], scale_log2, -rows->lse_log2[i / 2]));
                s[n][i] = p * (dp[n][i] - rows->delta[i / 2]);
            }
        add_product<KD>(dq, s, k);
    }
}

/* What the other half needs of a tile of queries. */
typedef struct QueryStats {
    float lse_log2[TILE], delta[TILE];
    int lo[TILE], hi[TILE]; /* the span; empty where there is no query */
} QueryStats;

/* Adds to dk and dv what the queries q0 … q0+TILE-1 give; `key`: the warp's first key. */
template <int KD, bool KEEP>
__device__ static __forceinline__ void
key_step(float dk[2 * KD][4], float dv[2 * KD][4], Pair<KD, KEEP> *own, int key,
         const QueryStats *stats, const elem *queries, const elem *grads, int q0, int q_end,
         float scale_log2) {
    int lane = threadIdx.x % WARP, r = key + lane / 4, c = lane % 4 * 2;
#pragma unroll
    for (int j = 0; j < TILE / SUB; j++) {
        int begin = SUB * j, last = min(q0 + begin + SUB, q_end) - 1 - q0;
        if (last < begin || key + 16 <= stats->lo[begin] || key >= stats->hi[last]) continue;
        bool whole =
            last == begin + SUB - 1 && stats->lo[last] <= key && key + 16 <= stats->hi[begin];
        const elem *q = queries + begin * tile_ld<KD>(), *g = grads + begin * tile_ld<KD>();
        float s[2][4], ds[2][4];
        pair_scores(s, ds, own, q, g);
#pragma unroll
        for (int n = 0; n < 2; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int col = begin + 8 * n + c + i % 2, k = r + i / 2 * 8;
                float p = exp2_fast(fmaf(s[n][i], scale_log2, -stats->lse_log2[col]));
                if (!whole && (k < stats->lo[col] || k >= stats->hi[col])) p = 0;
                s[n][i] = p;
                ds[n][i] = p * (ds[n][i] - stats->delta[col]);
            }
        add_product<KD>(dv, s, g);
        add_product<KD>(dk, ds, q);
    }
}

/* delta = Σ dO·O of the warp's rows, lane 2r has row r; grads: their dO in shared memory. */
template <int KD>
__device__ static inline float own_delta(const elem *grads, const act *o, size_t stride, int first,
                                         int end, int D) {
    int lane = threadIdx.x % WARP, row = min(first + lane / 2, end - 1);
    float sum = 0;
    for (int d = lane % 2 * 8; d < D; d += 16) {
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

template <int KD>
__global__ static void __launch_bounds__(THREADS, KD <= 4 ? 3 : 2)
    mma_bwd_query(act *dqkv, float *delta, const act *dout, const act *o, const acc *lse,
                  const act *qkv, Tiles t) {
    extern __shared__ __align__(16) unsigned char memory[];
    constexpr int LD = tile_ld<KD>();
    elem *queries = (elem *)memory, *grads = queries + TILE * LD, *keys = grads + TILE * LD;
    elem *values = keys + 2 * TILE * LD;
    TileRows own;
    if (!tile_rows(&own, &t, TILE)) return;
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    size_t C = (size_t)t.H * t.D, head = (size_t)blockIdx.y * t.D, at = (size_t)blockIdx.y * t.rows;
    const act *q = qkv + head;
    int first = row_span(&t, &own, own.first).x, end = row_span(&t, &own, own.end - 1).y;

    tile_load<KD>(queries, q, 3 * C, own.first, own.end, TILE, t.D);
    tile_load<KD>(grads, dout + head, C, own.first, own.end, TILE, t.D);
    tile_load<KD>(keys, q + C, 3 * C, first, end, TILE, t.D);
    tile_load<KD>(values, q + 2 * C, 3 * C, first, end, TILE, t.D);
    cp_async_commit();
    tiles_pad<KD>(queries, 6 * TILE, t.D);

    int mine = own.first + 16 * warp;
    WarpSpan span = warp_span(&t, &own, mine, 16);
    const float scale = rsqrtf((float)t.D), scale_log2 = scale * LOG2_E;
    Pair<KD, true> pair;
    QueryRows rows;
    float dq[2 * KD][4] = {};
    for (int k0 = first, turn = 0; k0 < end; k0 += TILE, turn ^= 1) {
        if (k0 + TILE < end) {
            tile_load<KD>(keys + (turn ^ 1) * TILE * LD, q + C, 3 * C, k0 + TILE, end, TILE, t.D);
            tile_load<KD>(values + (turn ^ 1) * TILE * LD, q + 2 * C, 3 * C, k0 + TILE, end, TILE,
                          t.D);
        }
        cp_async_commit();
        cp_async_wait<1>();
        __syncthreads();
        if (k0 == first) {
            pair_load(&pair, queries + 16 * warp * LD, grads + 16 * warp * LD);
            float d = own_delta<KD>(grads + 16 * warp * LD, o + head, C, mine, own.end, t.D);
            if (lane % 2 == 0 && mine + lane / 2 < own.end) delta[at + mine + lane / 2] = d;
            query_rows(&rows, &t, &own, mine, lse + at, d);
        }
        query_step<KD>(dq, &pair, &rows, span, keys + turn * TILE * LD, values + turn * TILE * LD,
                       k0, scale_log2);
        __syncthreads();
    }
    rows_store<KD>(dqkv + head, 3 * C, queries + 16 * warp * LD, dq, scale, scale, mine, own.end,
                   t.D);
}

/* ---- keys ---- */

__device__ static inline void stats_load(QueryStats *s, const Tiles *t, const TileRows *own,
                                         const acc *lse, const float *delta, int q0, int end) {
    int i = threadIdx.x, row = q0 + i;
    if (i >= TILE) return;
    int2 span = row < end ? row_span(t, own, row) : make_int2(0, 0);
    s->lse_log2[i] = row < end ? lse[row].v * LOG2_E : 0;
    s->delta[i] = row < end ? delta[row] : 0;
    s->lo[i] = span.x;
    s->hi[i] = span.y;
}

template <int KD>
__global__ static void __launch_bounds__(THREADS, KD <= 4 ? 3 : 2)
    mma_bwd_key(act *dqkv, const float *delta, const act *dout, const acc *lse, const act *qkv,
                Tiles t) {
    extern __shared__ __align__(16) unsigned char memory[];
    __shared__ QueryStats stats[2];
    constexpr int LD = tile_ld<KD>();
    elem *keys = (elem *)memory, *values = keys + TILE * LD, *queries = values + TILE * LD;
    elem *grads = queries + 2 * TILE * LD;
    TileRows own;
    if (!tile_rows(&own, &t, TILE)) return;
    int warp = threadIdx.x / WARP;
    size_t C = (size_t)t.H * t.D, head = (size_t)blockIdx.y * t.D, at = (size_t)blockIdx.y * t.rows;
    const act *q = qkv + head;
    int first = t.causal ? own.first : row_span(&t, &own, own.first).x;
    int end = row_end(&t, &own, own.end - 1);

    tile_load<KD>(keys, q + C, 3 * C, own.first, own.end, TILE, t.D);
    tile_load<KD>(values, q + 2 * C, 3 * C, own.first, own.end, TILE, t.D);
    tile_load<KD>(queries, q, 3 * C, first, end, TILE, t.D);
    tile_load<KD>(grads, dout + head, C, first, end, TILE, t.D);
    cp_async_commit();
    stats_load(&stats[0], &t, &own, lse + at, delta + at, first, end);
    tiles_pad<KD>(keys, 6 * TILE, t.D);

    int mine = own.first + 16 * warp;
    const float scale = rsqrtf((float)t.D), scale_log2 = scale * LOG2_E;
    Pair<KD, (KD < 8)> pair;
    float dk[2 * KD][4] = {}, dv[2 * KD][4] = {};
    for (int q0 = first, turn = 0; q0 < end; q0 += TILE, turn ^= 1) {
        if (q0 + TILE < end) {
            int next = q0 + TILE;
            tile_load<KD>(queries + (turn ^ 1) * TILE * LD, q, 3 * C, next, end, TILE, t.D);
            tile_load<KD>(grads + (turn ^ 1) * TILE * LD, dout + head, C, next, end, TILE, t.D);
            stats_load(&stats[turn ^ 1], &t, &own, lse + at, delta + at, next, end);
        }
        cp_async_commit();
        cp_async_wait<1>();
        __syncthreads();
        if (q0 == first) pair_load(&pair, keys + 16 * warp * LD, values + 16 * warp * LD);
        if (mine < own.end)
            key_step(dk, dv, &pair, mine, &stats[turn], queries + turn * TILE * LD,
                     grads + turn * TILE * LD, q0, end, scale_log2);
        __syncthreads();
    }
    rows_store<KD>(dqkv + C + head, 3 * C, keys + 16 * warp * LD, dk, scale, scale, mine, own.end,
                   t.D);
    rows_store<KD>(dqkv + 2 * C + head, 3 * C, values + 16 * warp * LD, dv, 1, 1, mine, own.end,
                   t.D);
}

/* ---- both halves, where every sequence fits one tile ---- */

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
    size_t C = (size_t)t.H * t.D, head = (size_t)blockIdx.y * t.D, at = (size_t)blockIdx.y * t.rows;
    const act *q = qkv + head;

    tile_load<KD>(queries, q, 3 * C, own.first, own.end, TILE, t.D);
    tile_load<KD>(grads, dout + head, C, own.first, own.end, TILE, t.D);
    tile_load<KD>(keys, q + C, 3 * C, own.first, own.end, TILE, t.D);
    tile_load<KD>(values, q + 2 * C, 3 * C, own.first, own.end, TILE, t.D);
    cp_async_commit();
    tiles_pad<KD>(queries, 4 * TILE, t.D);
    int mine = own.first + 16 * warp;
    const float scale = rsqrtf((float)t.D), scale_log2 = scale * LOG2_E;
    cp_async_wait<0>();
    __syncthreads();
    float d = own_delta<KD>(grads + 16 * warp * LD, o + head, C, mine, own.end, t.D);
    if (lane % 2 == 0) {
        int i = 16 * warp + lane / 2, row = own.first + i;
        int2 span = row < own.end ? row_span(&t, &own, row) : make_int2(0, 0);
        stats.lse_log2[i] = row < own.end ? lse[at + row].v * LOG2_E : 0;
        stats.delta[i] = row < own.end ? d : 0;
        stats.lo[i] = span.x;
        stats.hi[i] = span.y;
    }
    Pair<KD, true> pair;
    float dq[2 * KD][4] = {}, dk[2 * KD][4] = {}, dv[2 * KD][4] = {};
    QueryRows rows;
    pair_load(&pair, queries + 16 * warp * LD, grads + 16 * warp * LD);
    query_rows(&rows, &t, &own, mine, lse + at, d);
    query_step<KD>(dq, &pair, &rows, warp_span(&t, &own, mine, 16), keys, values, own.first,
                   scale_log2);
    pair_load(&pair, keys + 16 * warp * LD, values + 16 * warp * LD);
    __syncthreads(); /* stats; and the keys have been read by all */
    rows_store<KD>(dqkv + head, 3 * C, keys + 16 * warp * LD, dq, scale, scale, mine, own.end, t.D);
    if (mine < own.end)
        key_step(dk, dv, &pair, mine, &stats, queries, grads, own.first, own.end, scale_log2);
    rows_store<KD>(dqkv + C + head, 3 * C, keys + 16 * warp * LD, dk, scale, scale, mine, own.end,
                   t.D);
    rows_store<KD>(dqkv + 2 * C + head, 3 * C, values + 16 * warp * LD, dv, 1, 1, mine, own.end,
                   t.D);
}

/* ---- launches ---- */

#define LAUNCH_TILES(kernel, bytes, ...)                                                           \
    do {                                                                                           \
        CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,             \
                                  (int)(bytes)));                                                  \
        LAUNCH_GRID(kernel, grid, THREADS, bytes, __VA_ARGS__);                                    \
    } while (0)

template <int KD>
static bool launch(act *dqkv, float *delta, const act *dout, const act *o, const acc *lse,
                   const act *qkv, Tiles t, size_t B, size_t max_T) {
    dim3 grid = FN(tiles_grid)(&t, B, max_T, TILE);
    if (!t.span && max_T <= TILE) {
        LAUNCH_TILES(mma_bwd_both<KD>, tile_bytes<KD>(4 * TILE), dqkv, dout, o, lse, qkv, t);
        return true;
    }
    if (tile_bytes<KD>(6 * TILE) + 2 * sizeof(QueryStats) > device_shared_memory()) return false;
    LAUNCH_TILES(mma_bwd_query<KD>, tile_bytes<KD>(6 * TILE), dqkv, delta, dout, o, lse, qkv, t);
    LAUNCH_TILES(mma_bwd_key<KD>, tile_bytes<KD>(6 * TILE), dqkv, delta, dout, lse, qkv, t);
    return true;
}

bool FN(attention_mma_bwd)(act *dqkv, float *delta, const act *dout, const act *o, const acc *lse,
                           const act *qkv, Tiles t, size_t B, size_t max_T) {
    typedef bool Launch(act *, float *, const act *, const act *, const acc *, const act *, Tiles,
                        size_t, size_t);
    static Launch *const launches[] = {launch<1>, launch<2>, launch<3>, launch<4>,
                                       launch<5>, launch<6>, launch<7>, launch<8>};
    return launches[(t.D - 1) / 16](dqkv, delta, dout, o, lse, qkv, t, B, max_T);
}
#endif
