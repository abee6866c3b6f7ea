/* bf16_tiles: products of bf16 matrices with f32 sums, by AMX or by AVX512_BF16. Operands are
 * packed into tiles of 1 KB, the shape of AMX's registers: a left tile holds 16 rows of 16 pairs
 * along the contraction, a right tile 16 pairs of 16 columns. Missing elements at an edge are 0.
 * One block is 32 x 32 results: two left tiles and two right tiles for each 32 of the contraction.
 *
 * An element's sum runs along the contraction in steps of 32, so the bits do not depend on the
 * blocking and the number of threads. */
#pragma once
#if defined ACT_BF16 && defined __AVX512BF16__ && defined __AMX_BF16__
#define TILES_BUILT
#include "kernels/cpu/simd.h"
#include "kernels/cpu_sets.h"

typedef struct Tile {
    uint32_t pair[16][16];
} __attribute__((aligned(64))) Tile;

/* ---- AMX: its registers must be configured in each thread ---- */

typedef struct TileConfig {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} __attribute__((aligned(64))) TileConfig;

static inline bool tiles_amx(void) { return cpu_set() == CPU_AMX; }

/* A thread must use tiles between these two calls. */
static inline void tiles_begin(void) {
    if (!tiles_amx()) return;
    TileConfig c = {.palette = 1};
    for (int i = 0; i < 8; i++) c.row_bytes[i] = 64, c.rows[i] = 16;
    _tile_loadconfig(&c);
}
static inline void tiles_end(void) {
    if (tiles_amx()) _tile_release();
}

/* ---- packing ---- */

static inline void transpose16(__m512i r[16]) { vtranspose((vf *)r); }

/* Packs 16 rows of 32 elements, of which rows x cols exist. */
static inline __attribute__((always_inline)) void load_rows(__m512i r[16], const uint16_t *p,
                                                            size_t ld, size_t rows, size_t cols) {
    __mmask32 m = cols >= 32 ? 0xffffffffu : (1u << cols) - 1;
#pragma GCC unroll 16
    for (size_t i = 0; i < 16; i++)
        r[i] = i < rows ? _mm512_maskz_loadu_epi16(m, p + i * ld) : _mm512_setzero_si512();
}

/* Packs rows of 16 elements, of which rows x cols exist, as rows of pairs (2i, 2i+1), i < pairs. */
static inline __attribute__((always_inline)) void
load_pairs(__m512i *r, const uint16_t *p, size_t ld, size_t rows, size_t cols, size_t pairs) {
    __mmask16 m = vfirst(cols);
#pragma GCC unroll 16
    for (size_t i = 0; i < pairs; i++) {
        __m256i even =
            2 * i < rows ? _mm256_maskz_loadu_epi16(m, p + 2 * i * ld) : _mm256_setzero_si256();
        __m256i odd = 2 * i + 1 < rows ? _mm256_maskz_loadu_epi16(m, p + (2 * i + 1) * ld)
                                       : _mm256_setzero_si256();
        r[i] = _mm512_or_si512(_mm512_cvtepu16_epi32(even),
                               _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16));
    }
}

static inline void store_tile(Tile *t, const __m512i r[16]) {
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) _mm512_store_si512(t->pair[i], r[i]);
}

/* One side of a product: [outer, K] as tiles [outer/16][K/32]. `across`: stored as [K, outer]. A
 * left operand's tiles hold outer in rows, a right one's in columns. */
typedef struct Side {
    const uint16_t *p;
    size_t ld;
    bool across, right;
} Side;

static inline size_t tiles_up(size_t n) { return (n + 31) / 32 * 32; }

/* Packs outer [o0, o0 + outer), padded with 0 to 16s, and contraction [k0, k0 + K), padded to 32s,
 * into to[outer/16][K/32]. */
static __attribute__((noinline, unused)) void tiles_pack(Tile *to, Side s, size_t o0, size_t outer,
                                                         size_t k0, size_t K) {
    size_t kt = tiles_up(K) / 32;
    __m512i r[16];
    if (s.across) {
        for (size_t k = 0; k < K; k += 32)
            for (size_t o = 0; o < outer; o += 16) {
                const uint16_t *from = s.p + (k0 + k) * s.ld + o0 + o;
                if (K >= k + 32 && outer >= o + 16)
                    load_pairs(r, from, s.ld, 32, 16, 16);
                else
                    load_pairs(r, from, s.ld, K - k, outer - o, 16);
                if (!s.right) transpose16(r);
                store_tile(to + o / 16 * kt + k / 32, r);
            }
    } else {
        for (size_t o = 0; o < outer; o += 16)
            for (size_t k = 0; k < K; k += 32) {
                const uint16_t *from = s.p + (o0 + o) * s.ld + k0 + k;
                if (outer >= o + 16 && K >= k + 32)
                    load_rows(r, from, s.ld, 16, 32);
                else
                    load_rows(r, from, s.ld, outer - o, K - k);
                if (s.right) transpose16(r);
                store_tile(to + o / 16 * kt + k / 32, r);
            }
    }
}

/* Left tiles of the transposed matrix: low and high hold its rows 0…15 and 16…31 of 32 columns; the
 * columns 0…15 and 16…31 become the rows of to[0] and to[step]. */
static __attribute__((noinline, unused)) void tiles_transpose(Tile *to, size_t step,
                                                              const Tile *low, const Tile *high) {
    for (size_t half = 0; half < 2; half++) {
        __m512i r[16];
        load_pairs(r, (const uint16_t *)low->pair + 16 * half, 32, 16, 16, 8);
        load_pairs(r + 8, (const uint16_t *)high->pair + 16 * half, 32, 16, 16, 8);
        transpose16(r);
        store_tile(to + half * step, r);
    }
}

/* ---- one block ---- */

/* c[32][32] (rows of ldc floats) (+)= the products of `kt` tiles: left rows from a, a + a_step,
 * right columns from b, b + b_step. A step of 0: there is no second tile, c has 16 rows or columns.
 */
static __attribute__((noinline, unused)) void tiles_block(float *c, size_t ldc, const Tile *a,
                                                          size_t a_step, const Tile *b,
                                                          size_t b_step, size_t kt, bool add) {
    if (tiles_amx()) {
        float *c0 = c, *c1 = c + 16, *c2 = c + 16 * ldc, *c3 = c2 + 16;
        if (add) {
            _tile_loadd(0, c0, 4 * ldc);
            if (b_step) _tile_loadd(1, c1, 4 * ldc);
            if (a_step) _tile_loadd(2, c2, 4 * ldc);
            if (a_step && b_step) _tile_loadd(3, c3, 4 * ldc);
        } else {
            _tile_zero(0);
            _tile_zero(1);
            _tile_zero(2);
            _tile_zero(3);
        }
        for (size_t k = 0; k < kt; k++) {
            _tile_loadd(4, a + k, 64);
            _tile_stream_loadd(6, b + k, 64);
            if (b_step) _tile_stream_loadd(7, b + b_step + k, 64);
            if (a_step) _tile_loadd(5, a + a_step + k, 64);
            _tile_dpbf16ps(0, 4, 6);
            if (b_step) _tile_dpbf16ps(1, 4, 7);
            if (a_step) _tile_dpbf16ps(2, 5, 6);
            if (a_step && b_step) _tile_dpbf16ps(3, 5, 7);
        }
        _tile_stored(0, c0, 4 * ldc);
        if (b_step) _tile_stored(1, c1, 4 * ldc);
        if (a_step) _tile_stored(2, c2, 4 * ldc);
        if (a_step && b_step) _tile_stored(3, c3, 4 * ldc);
        return;
    }
    for (size_t i = 0; i < (a_step ? 32 : 16); i += 8, c += 8 * ldc) {
        const Tile *rows = a + (i < 16 ? 0 : a_step);
        vf sum[8][2];
#pragma GCC unroll 8
        for (size_t j = 0; j < 8; j++) {
            sum[j][0] = add ? vload(c + j * ldc) : vzero();
            sum[j][1] = add ? vload(c + j * ldc + 16) : vzero();
        }
        for (size_t k = 0; k < kt; k++) {
            for (size_t p = 0; p < 16; p++) {
                __m512bh b0 = (__m512bh)_mm512_load_si512(b[k].pair[p]);
                __m512bh b1 = (__m512bh)_mm512_load_si512(b[b_step + k].pair[p]);
#pragma GCC unroll 8
                for (size_t j = 0; j < 8; j++) {
                    __m512bh x = (__m512bh)_mm512_set1_epi32((int)rows[k].pair[i % 16 + j][p]);
                    sum[j][0] = _mm512_dpbf16_ps(sum[j][0], x, b0);
                    sum[j][1] = _mm512_dpbf16_ps(sum[j][1], x, b1);
                }
            }
        }
#pragma GCC unroll 8
        for (size_t j = 0; j < 8; j++) {
            vstore(c + j * ldc, sum[j][0]);
            vstore(c + j * ldc + 16, sum[j][1]);
        }
    }
}
#else
static inline void tiles_begin(void) {}
static inline void tiles_end(void) {}
#endif
