/* cuda/attention_mma_fwd: attention's forward on the tensor cores, after FlashAttention (Dao et al.
 * 2022, Dao 2023): a block holds one tile of queries and walks over tiles of keys and values, which
 * are loaded into two buffers alternately; softmax runs online. If every sequence fits one tile,
 * there is one buffer and one step. bf16 only. */
#if defined ACT_BF16
#include "kernels/cuda/attention_mma.cuh"

/* The running softmax of the lane's two rows. */
typedef struct Online {
    float max[2], sum[2];
} Online;

/* Adds 16 × TILE scores to the running softmax: s becomes the weights, o is rescaled unless these
 * are the only ones. */
template <int KD, bool ONLY>
__device__ static __forceinline__ void online_step(float s[TILE / 8][4], float o[2 * KD][4],
                                                   Online *w, float scale_log2) {
#pragma unroll
    for (int e = 0; e < 2; e++) {
        float top = w->max[e];
#pragma unroll
        for (int n = 0; n < TILE / 8; n++) top = fmaxf(top, fmaxf(s[n][2 * e], s[n][2 * e + 1]));
        top = fmaxf(top, __shfl_xor_sync(FULL_MASK, top, 1));
        top = fmaxf(top, __shfl_xor_sync(FULL_MASK, top, 2));
        float keep = exp2_fast((w->max[e] - top) * scale_log2), shift = top * scale_log2, sum = 0;
#pragma unroll
        for (int n = 0; n < TILE / 8; n++)
#pragma unroll
            for (int i = 2 * e; i < 2 * e + 2; i++) {
                s[n][i] = exp2_fast(fmaf(s[n][i], scale_log2, -shift));
                sum += s[n][i];
            }
        w->max[e] = top;
        w->sum[e] = ONLY ? sum : w->sum[e] * keep + sum;
#pragma unroll
        for (int n = 0; n < 2 * KD && !ONLY; n++) {
            o[n][2 * e] *= keep;
            o[n][2 * e + 1] *= keep;
        }
    }
}

/* BUFFERS: of tiles of keys and values, 1 if no sequence is longer than TILE. */
template <int KD, int MB, int BUFFERS>
__global__ static void __launch_bounds__(THREADS, BUFFERS == 1 && KD <= 4 ? 4 : 2)
    mma_fwd(act *o, acc *lse, const act *qkv, Tiles t) {
    extern __shared__ __align__(16) unsigned char memory[];
    constexpr int LD = tile_ld<KD>(), ROWS = TILE * MB, OWN = 16 * MB;
    elem *queries = (elem *)memory, *keys = queries + ROWS * LD;
    elem *values = keys + BUFFERS * TILE * LD;
    TileRows own;
    if (!tile_rows(&own, &t, ROWS)) return;
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, h = blockIdx.y;
    unsigned C = t.H * t.D;
    const act *q = qkv + (size_t)h * t.D;
    int first = row_span(&t, &own, own.first).x, end = row_span(&t, &own, own.end - 1).y;

    tile_load<KD, ROWS>(queries, q, 3 * C, own.first, own.end, t.D);
    tile_load<KD, TILE>(keys, q + C, 3 * C, first, end, t.D);
    tile_load<KD, TILE>(values, q + 2 * C, 3 * C, first, end, t.D);
    cp_async_commit();

    int mine = own.first + OWN * warp;
    WarpSpan span = warp_span(&t, &own, mine, OWN);
    int2 spans[MB][2];
#pragma unroll
    for (int m = 0; m < MB; m++)
#pragma unroll
        for (int e = 0; e < 2; e++)
            spans[m][e] = row_span(&t, &own, min(mine + 16 * m + lane / 4 + 8 * e, own.end - 1));

    const float scale = rsqrtf((float)t.D), scale_log2 = scale * LOG2_E;
    unsigned qf[MB][KD][4];
    float out[MB][2 * KD][4] = {};
    Online w[MB];
#pragma unroll
    for (int m = 0; m < MB; m++) w[m].max[0] = w[m].max[1] = -1e30f, w[m].sum[0] = w[m].sum[1] = 0;

    for (int k0 = first, turn = 0; k0 < end; k0 += TILE, turn ^= 1) {
        if (BUFFERS > 1 && k0 + TILE < end) {
            int next = (turn ^ 1) * TILE * LD;
            tile_load<KD, TILE>(keys + next, q + C, 3 * C, k0 + TILE, end, t.D);
            tile_load<KD, TILE>(values + next, q + 2 * C, 3 * C, k0 + TILE, end, t.D);
        }
        if (BUFFERS > 1) cp_async_commit();
        cp_async_wait<BUFFERS - 1>();
        __syncthreads();
        if (k0 == first)
#pragma unroll
            for (int m = 0; m < MB; m++)
#pragma unroll
                for (int kd = 0; kd < KD; kd++)
                    left_fragment<KD>(qf[m][kd], queries + (OWN * warp + 16 * m) * LD, kd);
        if (k0 < span.any_hi && k0 + TILE > span.any_lo) {
            const elem *k = keys + turn * TILE * LD, *v = values + turn * TILE * LD;
            float s[MB][TILE / 8][4];
#pragma unroll
            for (int j = 0; j < TILE / SUB; j++) {
                int key = k0 + SUB * j;
                bool seen = key < span.any_hi && key + SUB > span.any_lo;
                bool whole = key >= span.all_lo && key + SUB <= span.all_hi;
                if (!seen) {
#pragma unroll
                    for (int i = 0; i < 8 * MB; i++) s[i / 8][2 * j + i / 4 % 2][i % 4] = -INFINITY;
                    continue;
                }
#pragma unroll
                for (int kd = 0; kd < KD; kd++) {
                    unsigned b[4];
                    right_rows<KD>(b, k + SUB * j * LD, kd);
#pragma unroll
                    for (int m = 0; m < MB; m++) mma_both(&s[m][2 * j], qf[m][kd], b, kd == 0);
                }
                if (!whole)
#pragma unroll
                    for (int m = 0; m < MB; m++)
                        mask_keys(s[m] + 2 * j, key, spans[m][0], spans[m][1]);
            }
#pragma unroll
            for (int m = 0; m < MB; m++)
                online_step<KD, BUFFERS == 1>(s[m], out[m], &w[m], scale_log2);
#pragma unroll
            for (int j = 0; j < TILE / SUB; j++) {
                int key = k0 + SUB * j;
                if (key >= span.any_hi || key + SUB <= span.any_lo) continue;
                unsigned p[MB][4];
#pragma unroll
                for (int m = 0; m < MB; m++) as_left(p[m], s[m] + 2 * j);
#pragma unroll
                for (int kd = 0; kd < KD; kd++) {
                    unsigned b[4];
                    right_columns<KD>(b, v + SUB * j * LD, kd);
#pragma unroll
                    for (int m = 0; m < MB; m++) mma_both(&out[m][2 * kd], p[m], b, false);
                }
            }
        }
        if (BUFFERS == 1) break;
        __syncthreads();
    }
#pragma unroll
    for (int m = 0; m < MB; m++) {
        int row = mine + 16 * m + lane / 4;
        float inverse[2];
#pragma unroll
        for (int e = 0; e < 2; e++) {
            float sum = w[m].sum[e];
            sum += __shfl_xor_sync(FULL_MASK, sum, 1);
            sum += __shfl_xor_sync(FULL_MASK, sum, 2);
            inverse[e] = 1 / sum;
            if (lane % 4 == 0 && row + 8 * e < own.end)
                lse[(size_t)h * t.rows + row + 8 * e].v = w[m].max[e] * scale + logf(sum);
        }
        rows_store<KD>(o + (size_t)h * t.D, C, queries + (OWN * warp + 16 * m) * LD, out[m],
                       inverse[0], inverse[1], mine + 16 * m, own.end, t.D);
    }
}

template <int KD, int MB, int BUFFERS>
static void launch_with(act *o, acc *lse, const act *qkv, Tiles t, size_t B, size_t max_T) {
    size_t bytes = tile_bytes<KD>(TILE * MB + 2 * BUFFERS * TILE);
    CUDA(cudaFuncSetAttribute(mma_fwd<KD, MB, BUFFERS>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                              (int)bytes));
    dim3 grid = FN(tiles_grid)(&t, B, max_T, TILE * MB);
    LAUNCH_GRID((mma_fwd<KD, MB, BUFFERS>), grid, THREADS, bytes, o, lse, qkv, t);
}

template <int KD>
static void launch(act *o, acc *lse, const act *qkv, Tiles t, size_t B, size_t max_T) {
    if (!t.span && max_T <= TILE)
        launch_with<KD, 1, 1>(o, lse, qkv, t, B, max_T);
    else
        launch_with<KD, 1, 2>(o, lse, qkv, t, B, max_T);
}

void FN(attention_mma_fwd)(act *o, acc *lse, const act *qkv, Tiles t, size_t B, size_t max_T) {
    /* Twice the rows of a warp halves the reads from shared memory, if there are enough rows. */
    if (!t.span && max_T > 96 && t.D > 48 && t.D <= 64) {
        launch_with<4, 2, 2>(o, lse, qkv, t, B, max_T);
        return;
    }
    typedef void Launch(act *, acc *, const act *, Tiles, size_t, size_t);
    static Launch *const launches[] = {launch<1>, launch<2>, launch<3>, launch<4>,
                                       launch<5>, launch<6>, launch<7>, launch<8>};
    launches[(t.D - 1) / 16](o, lse, qkv, t, B, max_T);
}
#endif
