/* cuda/embed: pixels to patches; token and positional embeddings. */
#include "kernels/cuda/cuda.cuh"

/* The grid position of sample b's patch i. */
__device__ static inline size_t position(const int32_t *keep, size_t b, size_t i, size_t n) {
    return keep ? keep[b * n + i] : i;
}

/* ---- patches ---- */

/* A thread's share: VW pixels from x0 on, in line y of patch `patch`, of image b at (top, left). */
typedef struct PatchPiece {
    size_t patch, b, top, left, y, x0;
} PatchPiece;
/* Divisors of a thread's number: pieces of a line, lines of a patch, patches of a sample, patches
 * in a row of the grid. */
typedef struct PatchGrid {
    Divisor pieces, lines, patches, across;
} PatchGrid;

__device__ static inline bool patch_piece(PatchPiece *t, const int32_t *keep, PatchGrid g, size_t B,
                                          size_t P, size_t n) {
    unsigned piece, line, i, column;
    unsigned patch = divided(divided((unsigned)thread_index(), g.pieces, &piece), g.lines, &line);
    if (patch >= B * n) return false;
    t->x0 = piece * VW;
    t->y = line;
    t->patch = patch;
    t->b = divided(patch, g.patches, &i);
    t->top = divided((unsigned)position(keep, t->b, i, n), g.across, &column) * P;
    t->left = column * P;
    return true;
}
static PatchGrid patch_grid(size_t S, size_t P, size_t n) {
    PatchGrid g = {divisor_of(div_up(P, (size_t)VW)), divisor_of(P), divisor_of(n),
                   divisor_of(S / P)};
    return g;
}
static size_t patch_blocks(size_t B, size_t P, size_t n) {
    size_t pieces = B * n * P * div_up(P, (size_t)VW);
    assert(pieces < (size_t)1 << 31);
    return div_up(pieces, BLOCK);
}

/* value = u·scale + shift */
typedef struct PixelMap {
    float scale[3], shift[3];
} PixelMap;

__global__ static void patches_u8(act *patches, const uint8_t *pixels, const int32_t *keep,
                                  PixelMap map, PatchGrid g, size_t B, size_t S, size_t P, size_t n,
                                  bool wide, bool wide_pixels) {
    PatchPiece t;
    if (!patch_piece(&t, keep, g, B, P, n)) return;
    size_t k = P - t.x0;
    const uint8_t *from = pixels + ((t.b * S + t.top + t.y) * S + t.left + t.x0) * 3;
    uint8_t raw[3 * VW];
    if (wide_pixels) {
#pragma unroll
        for (int i = 0; i < 3; i++) {
            uint2 u = ((const uint2 *)from)[i];
#pragma unroll
            for (int j = 0; j < 4; j++) {
                raw[8 * i + j] = u.x >> 8 * j & 255;
                raw[8 * i + 4 + j] = u.y >> 8 * j & 255;
            }
        }
    } else {
#pragma unroll
        for (int j = 0; j < 3 * VW; j++) raw[j] = j < 3 * k ? from[j] : 0;
    }
#pragma unroll
    for (int c = 0; c < 3; c++) {
        float v[VW];
#pragma unroll
        for (int j = 0; j < VW; j++) v[j] = fmaf(raw[3 * j + c], map.scale[c], map.shift[c]);
        act_store(patches + ((t.patch * 3 + c) * P + t.y) * P + t.x0, v, k, wide);
    }
}

void FN(patches_u8)(act *patches, const uint8_t *pixels, const int32_t *keep, const float mean[3],
                    const float std[3], size_t B, size_t S, size_t P, size_t n) {
    GPU_TIMER(patches_u8, 6 * B * n * P * P, 3 * B * n * P * P * (1 + sizeof(act)));
    PixelMap map;
    for (int c = 0; c < 3; c++) {
        map.scale[c] = (float)(1 / (255 * (double)std[c]));
        map.shift[c] = (float)(-(double)mean[c] / (double)std[c]);
    }
    bool wide = P % VW == 0 && aligned16(patches);
    bool wide_pixels = P % VW == 0 && S % VW == 0 && (uintptr_t)pixels % 8 == 0;
    LAUNCH(patches_u8, patch_blocks(B, P, n), BLOCK, 0, patches, pixels, keep, map,
           patch_grid(S, P, n), B, S, P, n, wide, wide_pixels);
}

/* ---- forward ---- */

/* A thread has QUAD columns of a row; `pieces` in a row, `tokens` in a sample, of which `first` (0
 * or 1) is the class token. */
__global__ static void image_embed_fwd(act *x, const act *tok, const acc *cls, const acc *pos,
                                       const int32_t *keep, Divisor pieces, Divisor tokens,
                                       size_t B, size_t n, size_t first, size_t C, bool wide) {
    unsigned piece, i;
    size_t row = divided((unsigned)thread_index(), pieces, &piece), c = piece * QUAD, k = C - c;
    if (row >= B * (first + n)) return;
    size_t b = divided((unsigned)row, tokens, &i), at = 0;
    float v[QUAD], p[QUAD];
    if (i < first) {
        acc_load<QUAD>(v, cls + c, k, wide);
    } else {
        act_load<QUAD>(v, tok + (b * n + i - first) * C + c, k, wide);
        at = first + position(keep, b, i - first, n);
    }
    acc_load<QUAD>(p, pos + at * C + c, k, wide);
#pragma unroll
    for (int j = 0; j < QUAD; j++) v[j] += p[j];
    act_store<QUAD>(x + row * C + c, v, k, wide);
}

void FN(image_embed_fwd)(act *x, const act *tok, const acc *cls, const acc *pos,
                         const int32_t *keep, size_t B, size_t n, size_t C) {
    size_t first = cls != NULL, T = first + n;
    GPU_TIMER(image_embed_fwd, B * T * C, B * T * C * 2 * sizeof(act));
    bool wide = C % VW == 0 && aligned16(x) && aligned16(tok) && aligned16(cls) && aligned16(pos);
    size_t pieces = div_up(C, (size_t)QUAD), all = B * T * pieces;
    assert(all < (size_t)1 << 31);
    LAUNCH(image_embed_fwd, div_up(all, BLOCK), BLOCK, 0, x, tok, cls, pos, keep,
           divisor_of(pieces), divisor_of(T), B, n, first, C, wide);
}

/* One block for each row. Shared: the weights along the two axes, whole numbers (times 2·max(size,
 * side)) over their sum. */
__global__ static void grid_weights(acc *w, const int32_t *start, const int32_t *grid, size_t B,
                                    size_t first, unsigned side) {
    extern __shared__ __align__(16) unsigned char memory[];
    float *axes = (float *)memory; /* [2,side] */
    size_t row = first + blockIdx.x, lo = 0, hi = B - 1;
    while (lo < hi) {
        size_t mid = (lo + hi + 1) / 2;
        if (start[mid] <= row)
            lo = mid;
        else
            hi = mid - 1;
    }
    unsigned t = (unsigned)(row - start[lo]), width = grid[2 * lo + 1];
    if (threadIdx.x < 2) {
        float *own = axes + threadIdx.x * side, sum = 0;
        unsigned at = threadIdx.x ? t % width : t / width;
        unsigned size = grid[2 * lo + threadIdx.x];
        float centre = (float)((2 * at + 1) * side) - (float)size;
        float reach = (float)(2 * max(size, side));
        for (unsigned i = 0; i < side; i++)
            sum += own[i] = fmaxf(0, reach - fabsf(centre - (float)(2 * size * i)));
        for (unsigned i = 0; i < side; i++) own[i] /= sum;
    }
    __syncthreads();
    for (unsigned i = threadIdx.x; i < side * side; i += blockDim.x)
        w[(size_t)blockIdx.x * side * side + i].v = axes[i / side] * axes[side + i % side];
}

void FN(grid_weights)(acc *w, const int32_t *start, const int32_t *grid, size_t B, size_t first,
                      size_t n, size_t side) {
    GPU_TIMER(grid_weights, n * side * side, n * side * side * sizeof(acc));
    if (!B || !n) return;
    LAUNCH(grid_weights, n, BLOCK, 2 * side * sizeof(float), w, start, grid, B, first,
           (unsigned)side);
}

/* A thread has QUAD columns of a head; `pieces` in a head. */
__global__ static void rotate_heads(act *x, const acc *turns, const int32_t *keep, Divisor pieces,
                                    Divisor heads, Divisor patches, size_t B, size_t first,
                                    size_t n, size_t ld, size_t D, float sign, bool wide) {
    unsigned piece, head, i;
    unsigned patch = divided(divided((unsigned)thread_index(), pieces, &piece), heads, &head);
    if (patch >= B * n) return;
    size_t b = divided(patch, patches, &i), d = piece * QUAD, k = D - d;
    act *at = x + (b * (first + n) + first + i) * ld + head * D + d;
    const acc *turn = turns + position(keep, b, i, n) * 2 * D + d;
    float v[QUAD], y[QUAD], cosines[QUAD], sines[QUAD];
    act_load<QUAD>(v, at, k, wide);
    acc_load<QUAD>(cosines, turn, k, wide);
    acc_load<QUAD>(sines, turn + D, k, wide);
#pragma unroll
    for (int j = 0; j < QUAD; j++) y[j] = v[j] * cosines[j] + v[j ^ 1] * sign * sines[j];
    act_store<QUAD>(at, y, k, wide);
}

void FN(rotate_heads)(act *x, const acc *turns, const int32_t *keep, size_t B, size_t first,
                      size_t n, size_t ld, size_t heads, size_t D, bool back) {
    size_t pieces = div_up(D, (size_t)QUAD), all = B * n * heads * pieces;
    GPU_TIMER(rotate_heads, 3 * B * n * heads * D, 2 * B * n * heads * D * sizeof(act));
    if (!all) return;
    assert(all < (size_t)1 << 31);
    bool wide = D % VW == 0 && ld % VW == 0 && aligned16(x) && aligned16(turns);
    LAUNCH(rotate_heads, div_up(all, BLOCK), BLOCK, 0, x, turns, keep, divisor_of(pieces),
           divisor_of(heads), divisor_of(n), B, first, n, ld, D, back ? -1.0f : 1.0f, wide);
}

/* One block for each sequence. */
__global__ static void text_embed_fwd(act *x, const int32_t *ids, const int32_t *start,
                                      const acc *table, const acc *pos, Divisor pieces, size_t C,
                                      bool wide) {
    size_t first = start[blockIdx.x];
    unsigned all = (start[blockIdx.x + 1] - (unsigned)first) * pieces.divisor;
#pragma unroll 2
    for (unsigned t = threadIdx.x; t < all; t += blockDim.x) {
        unsigned piece, i = divided(t, pieces, &piece);
        size_t c = piece * QUAD, k = C - c;
        float v[QUAD], p[QUAD];
        acc_load<QUAD>(v, table + (size_t)ids[first + i] * C + c, k, wide);
        acc_load<QUAD>(p, pos + i * C + c, k, wide);
#pragma unroll
        for (int j = 0; j < QUAD; j++) v[j] += p[j];
        act_store<QUAD>(x + (first + i) * C + c, v, k, wide);
    }
}

void FN(text_embed_fwd)(act *x, const int32_t *ids, const int32_t *start, const acc *table,
                        const acc *pos, size_t B, size_t rows, size_t C) {
    GPU_TIMER(text_embed_fwd, rows * C, rows * C * (sizeof(acc) + sizeof(act)));
    bool wide = C % VW == 0 && aligned16(x) && aligned16(table) && aligned16(pos);
    LAUNCH(text_embed_fwd, B, BLOCK, 0, x, ids, start, table, pos,
           divisor_of(div_up(C, (size_t)QUAD)), C, wide);
}

/* ---- rows sorted by key ---- (least digit first, stable: equal keys stay in the order of their
 * rows, so that sums over them have a fixed order) */

enum { DIGITS = 256, TILE = 256 };

/* counts[digit, tile]; one warp for each tile. */
__global__ static void sort_count(unsigned *counts, const uint32_t *keys, int shift, size_t n) {
    __shared__ unsigned seen[DIGITS];
    for (int d = threadIdx.x; d < DIGITS; d += WARP) seen[d] = 0;
    __syncwarp();
    size_t first = (size_t)blockIdx.x * TILE, end = min(n, first + TILE);
    for (size_t i = first + threadIdx.x; i < end; i += WARP)
        atomicAdd(&seen[keys[i] >> shift & (DIGITS - 1)], 1);
    __syncwarp();
    for (int d = threadIdx.x; d < DIGITS; d += WARP)
        counts[(size_t)d * gridDim.x + blockIdx.x] = seen[d];
}

__device__ static inline unsigned warp_scan(unsigned x) {
#pragma unroll
    for (int d = 1; d < WARP; d *= 2) {
        unsigned y = __shfl_up_sync(FULL_MASK, x, d);
        if (threadIdx.x % WARP >= d) x += y;
    }
    return x;
}

/* One warp for each digit: its counts become the sums over the preceding tiles; totals[digit]. */
__global__ static void sort_scan(unsigned *counts, unsigned *totals, size_t tiles) {
    unsigned *row = counts + blockIdx.x * tiles, before = 0;
    for (size_t first = 0; first < tiles; first += WARP) {
        size_t i = first + threadIdx.x;
        unsigned own = i < tiles ? row[i] : 0, upto = warp_scan(own);
        if (i < tiles) row[i] = before + upto - own;
        before += __shfl_sync(FULL_MASK, upto, WARP - 1);
    }
    if (threadIdx.x == 0) totals[blockIdx.x] = before;
}

/* One warp for each tile. rows NULL: the rows are 0, 1, … */
__global__ static void sort_move(uint32_t *keys_out, uint32_t *rows_out, const uint32_t *keys,
                                 const uint32_t *rows, const unsigned *counts,
                                 const unsigned *totals, int shift, size_t n) {
    __shared__ unsigned next[DIGITS];
    unsigned lane = threadIdx.x, before = 0;
    for (int d = 0; d < DIGITS; d += WARP) {
        unsigned own = totals[d + lane], upto = warp_scan(own);
        next[d + lane] = before + upto - own + counts[(size_t)(d + lane) * gridDim.x + blockIdx.x];
        before += __shfl_sync(FULL_MASK, upto, WARP - 1);
    }
    __syncwarp();
    size_t first = (size_t)blockIdx.x * TILE;
    for (size_t i = first + lane; i - lane < min(n, first + TILE); i += WARP) {
        bool valid = i < n;
        uint32_t key = valid ? keys[i] : 0, digit = key >> shift & (DIGITS - 1);
        unsigned peers = __ballot_sync(FULL_MASK, valid);
#pragma unroll
        for (int bit = 1; bit < DIGITS; bit *= 2) {
            unsigned set = __ballot_sync(FULL_MASK, digit & bit);
            peers &= digit & bit ? set : ~set;
        }
        unsigned rank = __popc(peers & ((1u << lane) - 1)), at = next[digit] + rank;
        __syncwarp();
        if (valid && rank == 0) next[digit] += __popc(peers);
        __syncwarp();
        if (!valid) continue;
        keys_out[at] = key;
        rows_out[at] = rows ? rows[i] : (uint32_t)i;
    }
}

typedef struct Sorted {
    const uint32_t *keys, *rows;
} Sorted;

/* The rows 0 … n-1 in the order of their keys below 2^(8·digits). `keys` is not written; scratch of
 * the sort holds the result. */
static Sorted sort_rows(const uint32_t *keys, int digits, size_t n) {
    size_t tiles = div_up(n, TILE), room = round_up(n, 64);
    size_t words = 4 * room + DIGITS * tiles + DIGITS;
    uint32_t *space = (uint32_t *)device_scratch(SCRATCH_SORT, words * sizeof *space);
    unsigned *counts = space + 4 * room, *totals = counts + DIGITS * tiles;
    Sorted s = {keys, NULL};
    for (int d = 0; d < digits; d++) {
        uint32_t *out = space + (d % 2) * 2 * room;
        LAUNCH(sort_count, tiles, WARP, 0, counts, s.keys, 8 * d, n);
        LAUNCH(sort_scan, DIGITS, WARP, 0, counts, totals, tiles);
        LAUNCH(sort_move, tiles, WARP, 0, out, out + room, s.keys, s.rows, counts, totals, 8 * d,
               n);
        s = {out, out + room};
    }
    return s;
}

/* ---- sums of rows by key ---- */

/* A run is the sorted rows of one key. A block sums the rows of one CHUNK of the sorted order; a
 * run inside the chunk is added directly to the table, others leave partial sums: parts[chunk,0,C]
 * of the run that continues from the previous chunk, parts[chunk,1,C] of one that begins here and
 * continues in the next. */
enum { CHUNK = 32 };

__global__ static void run_sums(acc *table, float *parts, const act *dx, const uint32_t *keys,
                                const uint32_t *rows, size_t n, size_t C, bool wide) {
    size_t first = (size_t)blockIdx.x * CHUNK, end = min(n, first + CHUNK);
    for (size_t c = threadIdx.x * QUAD; c < C; c += (size_t)blockDim.x * QUAD) {
        bool carried = first > 0 && keys[first - 1] == keys[first];
        float sum[QUAD] = {0}, v[QUAD];
        for (size_t i = first; i < end; i++) {
            uint32_t key = keys[i];
            act_load<QUAD>(v, dx + (size_t)rows[i] * C + c, C - c, wide);
#pragma unroll
            for (int j = 0; j < QUAD; j++) sum[j] += v[j];
            bool goes_on = i + 1 < n && keys[i + 1] == key;
            if (goes_on && i + 1 < end) continue;
            acc *into = table + (size_t)key * C + c;
            if (carried || goes_on)
                into = (acc *)parts + (2 * blockIdx.x + !carried) * C + c;
            else {
                acc_load<QUAD>(v, into, C - c, wide);
#pragma unroll
                for (int j = 0; j < QUAD; j++) sum[j] += v[j];
            }
            acc_store<QUAD>(into, sum, C - c, wide);
#pragma unroll
            for (int j = 0; j < QUAD; j++) sum[j] = 0;
            carried = false;
        }
    }
}

/* The block of the chunk in which a longer run begins adds up its parts. */
__global__ static void run_joins(acc *table, const float *parts, const uint32_t *keys, size_t n,
                                 size_t C, bool wide) {
    size_t first = (size_t)blockIdx.x * CHUNK, next = first + CHUNK;
    if (next >= n) return;
    uint32_t key = keys[next - 1];
    if (keys[next] != key || (first > 0 && keys[first] == key && keys[first - 1] == key)) return;
    size_t last = blockIdx.x + 1; /* the last chunk with rows of this run */
    while ((last + 1) * CHUNK < n && keys[(last + 1) * CHUNK] == key) last++;
    for (size_t c = threadIdx.x * QUAD; c < C; c += (size_t)blockDim.x * QUAD) {
        acc *into = table + (size_t)key * C + c;
        float sum[QUAD], own[QUAD], v[QUAD];
        acc_load<QUAD>(sum, (const acc *)parts + (2 * blockIdx.x + 1) * C + c, C - c, wide);
#pragma unroll 4
        for (size_t k = blockIdx.x + 1; k <= last; k++) {
            acc_load<QUAD>(v, (const acc *)parts + 2 * k * C + c, C - c, wide);
#pragma unroll
            for (int j = 0; j < QUAD; j++) sum[j] += v[j];
        }
        acc_load<QUAD>(own, into, C - c, wide);
#pragma unroll
        for (int j = 0; j < QUAD; j++) own[j] += sum[j];
        acc_store<QUAD>(into, own, C - c, wide);
    }
}

/* table[keys[i], :] += dx[i, :] over n rows. */
static void add_rows_by_key(acc *table, const act *dx, const uint32_t *keys, int digits, size_t n,
                            size_t C) {
    size_t chunks = div_up(n, CHUNK);
    bool wide = C % VW == 0 && aligned16(table) && aligned16(dx);
    float *parts = (float *)device_scratch(SCRATCH_PARTIAL, chunks * 2 * C * sizeof *parts);
    Sorted s = sort_rows(keys, digits, n);
    unsigned threads = (unsigned)size_min(BLOCK, round_up(div_up(C, (size_t)QUAD), WARP));
    LAUNCH(run_sums, chunks, threads, 0, table, parts, dx, s.keys, s.rows, n, C, wide);
    LAUNCH(run_joins, chunks, threads, 0, table, parts, s.keys, n, C, wide);
}

/* ---- backward ---- */

__global__ static void image_tokens_bwd(act *dtok, const act *dx, Divisor pieces, Divisor patches,
                                        size_t rows, size_t first, size_t C, bool wide) {
    unsigned piece, i;
    size_t row = divided((unsigned)thread_index(), pieces, &piece), c = piece * VW;
    if (row >= rows) return;
    float v[VW];
    size_t b = divided((unsigned)row, patches, &i);
    act_load(v, dx + (row + first * (b + 1)) * C + c, C - c, wide);
    act_store(dtok + row * C + c, v, C - c, wide);
}

__global__ static void image_keys(uint32_t *keys, const int32_t *keep, size_t B, size_t n,
                                  size_t first) {
    size_t row = thread_index(), b = row / (first + n), i = row % (first + n);
    if (row < B * (first + n)) keys[row] = i < first ? 0 : first + keep[b * n + i - first];
}

void FN(image_embed_bwd)(act *dtok, acc *dcls, acc *dpos, const act *dx, const int32_t *keep,
                         size_t B, size_t n, size_t C) {
    size_t first = dcls != NULL, T = first + n, rows = B * T;
    GPU_TIMER(image_embed_bwd, rows * C, rows * C * 3 * sizeof(act));
    if (!B) return;
    bool wide = C % VW == 0 && aligned16(dtok) && aligned16(dx);
    size_t pieces = div_up(C, (size_t)VW);
    assert(B * n * pieces < (size_t)1 << 31);
    LAUNCH(image_tokens_bwd, div_up(B * n * pieces, BLOCK), BLOCK, 0, dtok, dx, divisor_of(pieces),
           divisor_of(n), B * n, first, C, wide);
    if (dcls) FN(add_columns)(dcls, dx, T * C, B, C);
    if (keep) {
        uint32_t *keys = (uint32_t *)device_scratch(SCRATCH_CAST, rows * sizeof *keys);
        LAUNCH(image_keys, div_up(rows, BLOCK), BLOCK, 0, keys, keep, B, n, first);
        add_rows_by_key(dpos, dx, keys, 2, rows, C);
    } else {
        FN(add_columns)(dpos, dx, T * C, B, T * C);
    }
}

/* One warp for each sequence. */
__global__ static void text_keys(uint32_t *keys, const int32_t *start, size_t B) {
    size_t b = thread_index() / WARP;
    if (b >= B) return;
    uint32_t first = start[b], end = start[b + 1];
    for (uint32_t row = first + threadIdx.x % WARP; row < end; row += WARP) keys[row] = row - first;
}

void FN(text_embed_bwd)(acc *dtable, acc *dpos, const act *dx, const int32_t *ids,
                        const int32_t *start, size_t B, size_t rows, size_t C) {
    GPU_TIMER(text_embed_bwd, 2 * rows * C, 2 * rows * C * (sizeof(act) + sizeof(acc)));
    if (!rows) return;
    uint32_t *keys = (uint32_t *)device_scratch(SCRATCH_CAST, rows * sizeof *keys);
    LAUNCH(text_keys, div_up(B, BLOCK / WARP), BLOCK, 0, keys, start, B);
    add_rows_by_key(dpos, dx, keys, 2, rows, C);
    add_rows_by_key(dtable, dx, (const uint32_t *)ids, 3, rows, C);
}
