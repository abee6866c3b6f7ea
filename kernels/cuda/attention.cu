/* cuda/attention: the slots, which select a kernel, and the pooled form, one query a sequence. */
#include "kernels/cuda/row_tiles.cuh"

/* ---- tiles ---- */

/* One warp for each sequence. */
__global__ static void row_spans(int2 *span, const int32_t *start, size_t B) {
    size_t b = thread_index() / WARP;
    if (b >= B) return;
    int2 s = make_int2(start[b], start[b + 1]);
    for (int row = s.x + threadIdx.x % WARP; row < s.y; row += WARP) span[row] = s;
}

Tiles FN(tiles_of)(const int32_t *start, size_t B, size_t rows, size_t H, size_t D, bool causal) {
    assert(D <= WIDEST_HEAD && rows < (size_t)1 << 31);
    Tiles t = {start, NULL, 0, (int)rows, (int)H, (int)D, causal};
    /* always allocated, because fewer rows of as many sequences need it */
    int2 *span = (int2 *)device_scratch(SCRATCH_SORT, rows * sizeof *span);
    if (rows < SHARE_BELOW * B) {
        LAUNCH(row_spans, div_up(B, BLOCK / WARP), BLOCK, 0, span, start, B);
        t.span = span;
    }
    return t;
}

dim3 FN(tiles_grid)(Tiles *t, size_t B, size_t max_T, int size) {
    t->per_sequence = (int)div_up(max_T, (size_t)size);
    size_t tiles = t->span ? div_up((size_t)t->rows, (size_t)size) : B * t->per_sequence;
    return dim3(launch_size(tiles), (unsigned)t->H);
}

/* ---- self-attention ---- */

#if defined ACT_BF16
/* Returns true if 16-byte pieces of a head's rows are aligned. */
static bool has_mma(size_t D, const act *a, const act *b, const act *c, const act *d) {
    return D % 8 == 0 && aligned16(a) && aligned16(b) && aligned16(c) && aligned16(d);
}
#endif

void FN(attention_fwd)(act *o, acc *lse, const act *qkv, const int32_t *start, size_t B,
                       size_t rows, size_t max_T, size_t H, size_t D, bool causal) {
    GPU_TIMER(attention_fwd, (causal ? 2 : 4) * rows * (B ? rows / B : 0) * H * D,
              4 * rows * H * D * sizeof(act));
    if (!B) return;
    Tiles t = FN(tiles_of)(start, B, rows, H, D, causal);
#if defined ACT_BF16
    if (has_mma(D, o, qkv, NULL, NULL)) {
        FN(attention_mma_fwd)(o, lse, qkv, t, B, max_T);
        return;
    }
#endif
    FN(attention_plain_fwd)(o, lse, qkv, t, B, max_T);
}

void FN(attention_bwd)(act *dqkv, const act *dout, const act *o, const acc *lse, const act *qkv,
                       const int32_t *start, size_t B, size_t rows, size_t max_T, size_t H,
                       size_t D, bool causal) {
    GPU_TIMER(attention_bwd, (causal ? 5 : 10) * rows * (B ? rows / B : 0) * H * D,
              8 * rows * H * D * sizeof(act));
    if (!B) return;
    Tiles t = FN(tiles_of)(start, B, rows, H, D, causal);
    float *delta = (float *)device_scratch(SCRATCH_PARTIAL, H * rows * sizeof *delta);
#if defined ACT_BF16
    if (has_mma(D, dqkv, dout, o, qkv) &&
        FN(attention_mma_bwd)(dqkv, delta, dout, o, lse, qkv, t, B, max_T))
        return;
#endif
    FN(attention_plain_bwd)(dqkv, delta, dout, o, lse, qkv, t, B, max_T);
}

/* ---- pooled ---- (one warp for each sequence and head; lane l has the elements l, l + 32, … of a
 * row) */

enum { LANE_WIDTH = WIDEST_HEAD / WARP };

__device__ static inline void lane_load(float r[LANE_WIDTH], const act *p, size_t D) {
#pragma unroll
    for (int i = 0; i < LANE_WIDTH; i++) {
        size_t d = i * WARP + threadIdx.x % WARP;
        r[i] = d < D ? act_value(p[d]) : 0;
    }
}
__device__ static inline void lane_store(act *p, const float r[LANE_WIDTH], float scale, size_t D) {
#pragma unroll
    for (int i = 0; i < LANE_WIDTH; i++) {
        size_t d = i * WARP + threadIdx.x % WARP;
        if (d < D) p[d] = act_from(scale * r[i]);
    }
}
__device__ static inline float lane_dot(const float a[LANE_WIDTH], const float b[LANE_WIDTH]) {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < LANE_WIDTH; i++) sum += a[i] * b[i];
    return warp_sum(sum);
}

/* The sequence and head of this warp. */
__device__ static inline bool pool_place(size_t *b, size_t *h, size_t B, size_t H) {
    size_t w = thread_index() / WARP;
    *b = w / H;
    *h = w % H;
    return *b < B;
}

__global__ static void __launch_bounds__(BLOCK)
    attention_pool_fwd(act *o, acc *lse, const act *q, const act *kv, const int32_t *start,
                       size_t B, size_t H, size_t D) {
    size_t b, h, C = H * D;
    if (!pool_place(&b, &h, B, H)) return;
    float scale = rsqrtf((float)D), max = -FLT_MAX, sum = 0, out[LANE_WIDTH] = {0};
    float query[LANE_WIDTH], k[LANE_WIDTH], v[LANE_WIDTH];
    lane_load(query, q + b * C + h * D, D);
#pragma unroll 4
    for (size_t row = start[b], end = start[b + 1]; row < end; row++) {
        lane_load(k, kv + row * 2 * C + h * D, D);
        lane_load(v, kv + row * 2 * C + C + h * D, D);
        float score = scale * lane_dot(query, k), top = fmaxf(max, score);
        float keep = __expf(max - top), weight = __expf(score - top);
        sum = sum * keep + weight;
        max = top;
#pragma unroll
        for (int i = 0; i < LANE_WIDTH; i++) out[i] = out[i] * keep + weight * v[i];
    }
    lane_store(o + b * C + h * D, out, 1 / sum, D);
    if (threadIdx.x % WARP == 0) lse[h * B + b].v = max + logf(sum);
}

void FN(attention_pool_fwd)(act *o, acc *lse, const act *q, const act *kv, const int32_t *start,
                            size_t B, size_t rows, size_t H, size_t D) {
    GPU_TIMER(attention_pool_fwd, 4 * rows * H * D, 2 * (rows + B) * H * D * sizeof(act));
    assert(D <= WIDEST_HEAD);
    LAUNCH(attention_pool_fwd, div_up(B * H, BLOCK / WARP), BLOCK, 0, o, lse, q, kv, start, B, H,
           D);
}

__global__ static void __launch_bounds__(BLOCK)
    attention_pool_bwd(act *dq, act *dkv, const act *dout, const act *o, const acc *lse,
                       const act *q, const act *kv, const int32_t *start, size_t B, size_t H,
                       size_t D) {
    size_t b, h, C = H * D;
    if (!pool_place(&b, &h, B, H)) return;
    float scale = rsqrtf((float)D), log_sum = lse[h * B + b].v, grad[LANE_WIDTH] = {0};
    float query[LANE_WIDTH], d[LANE_WIDTH], k[LANE_WIDTH], v[LANE_WIDTH];
    size_t at = b * C + h * D;
    lane_load(query, q + at, D);
    lane_load(d, dout + at, D);
    lane_load(k, o + at, D);
    float delta = lane_dot(d, k);
#pragma unroll 2
    for (size_t row = start[b], end = start[b + 1]; row < end; row++) {
        size_t key = row * 2 * C + h * D;
        lane_load(k, kv + key, D);
        lane_load(v, kv + key + C, D);
        float p = __expf(scale * lane_dot(query, k) - log_sum);
        float ds = scale * p * (lane_dot(d, v) - delta);
#pragma unroll
        for (int i = 0; i < LANE_WIDTH; i++) grad[i] += ds * k[i];
        lane_store(dkv + key, query, ds, D);
        lane_store(dkv + key + C, d, p, D);
    }
    lane_store(dq + at, grad, 1, D);
}

void FN(attention_pool_bwd)(act *dq, act *dkv, const act *dout, const act *o, const acc *lse,
                            const act *q, const act *kv, const int32_t *start, size_t B,
                            size_t rows, size_t H, size_t D) {
    GPU_TIMER(attention_pool_bwd, 10 * rows * H * D, 4 * (rows + B) * H * D * sizeof(act));
    assert(D <= WIDEST_HEAD);
    LAUNCH(attention_pool_bwd, div_up(B * H, BLOCK / WARP), BLOCK, 0, dq, dkv, dout, o, lse, q, kv,
           start, B, H, D);
}
