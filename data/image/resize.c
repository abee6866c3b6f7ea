#include "data/image/resize.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Both passes are dot products over groups of TAPS adjacent source samples. For the horizontal
 * pass, 4 rows × 4 pixels are rearranged into 16 lanes (R of rows 0 to 3, G, B, 4 unused) of 4
 * bytes each. Its result for one x is 4 adjacent rows, the layout that the vertical pass reads. The
 * 22-bit weights are split into digits that fit the byte or 16-bit multipliers, so sums stay
 * exact. */
#if defined __AVX512VNNI__ && defined __AVX512VBMI__ && !defined RESIZE_WITHOUT_AVX512
#define ISA_AVX512 1
#endif
#ifdef __AVX2__
#include <immintrin.h>
#endif

/* The weights equal Pillow's bit for bit: no fused multiply-add. */
#ifdef __clang__
#define EXACT
#else
#define EXACT __attribute__((optimize("fp-contract=off")))
#endif

enum {
    PRECISION = 22,
    ROUNDING = 1 << (PRECISION - 1),
    TAPS = 4,
    BLOCK = 16 * TAPS, /* bytes of 16 lanes */
    DIGITS = 4,        /* words that hold the digits of one group's weights */
};

/* One axis of the target window: the source samples that each output sample reads, and their
 * weights. */
typedef struct Axis {
    int count;        /* output samples */
    int first, last;  /* the source range they read; groups are counted from `first` */
    int taps;         /* room for the taps of one sample */
    int groups;       /* read by each sample: the same number for all, some with weight 0 */
    int *lo, *n;      /* [count] first tap, number of taps */
    int32_t *weight;  /* [count, taps] */
    uint32_t *digits; /* [count, groups, DIGITS] */
} Axis;

typedef struct Resampler {
    Axis x, y;
    bool columns_first;
    double *tap;       /* weights of one sample */
    int32_t *aligned;  /* weights of one sample, from its first group's start on */
    uint8_t *strip;    /* 4 source rows as groups */
    uint8_t *quads;    /* 4 interleaved rows between the horizontal and the vertical pass */
    size_t quad_bytes; /* from one set of 4 rows to the next */
    uint8_t *rows;     /* plain rows between the passes */
} Resampler;

struct ResizeScratch {
    void *block;
    size_t size;
};

static double support_of(int in, int64_t out, Interpolation f) {
    double scale = (double)in / (double)out;
    return (f == INTERPOLATION_BICUBIC ? 2.0 : 1.0) * (scale < 1.0 ? 1.0 : scale);
}

/* Keys' cubic with a = -1/2 (IEEE Trans. ASSP 29, 1981), or the triangle. */
EXACT static void filter_taps(double *tap, int n, int lo, double centre, double inverse,
                              Interpolation f) {
    if (f == INTERPOLATION_BICUBIC)
        for (int k = 0; k < n; k++) {
            double x = fabs((k + lo - centre + 0.5) * inverse);
            double near = (1.5 * x - 2.5) * x * x + 1;
            double far = (((x - 5) * x + 8) * x - 4) * -0.5;
            tap[k] = x < 1.0 ? near : x < 2.0 ? far : 0.0;
        }
    else
        for (int k = 0; k < n; k++) {
            double x = fabs((k + lo - centre + 0.5) * inverse);
            tap[k] = x < 1.0 ? 1.0 - x : 0.0;
        }
}

EXACT static void sample_weights(int32_t *weight, double *tap, int n) {
    double sum = 0;
    for (int k = 0; k < n; k++) sum += tap[k];
    for (int k = 0; k < n; k++) {
        double w = (sum != 0.0 ? tap[k] / sum : tap[k]) * (1 << PRECISION);
        weight[k] = (int32_t)(w < 0 ? w - 0.5 : w + 0.5);
    }
}

EXACT static void axis_fill(Axis *a, double *tap, int in, int64_t out, int64_t offset,
                            Interpolation f) {
    double scale = (double)in / (double)out, fscale = scale < 1.0 ? 1.0 : scale;
    double support = support_of(in, out, f), inverse = 1.0 / fscale;
    a->groups = 1;
    for (int i = 0; i < a->count; i++) {
        double centre = ((double)(offset + i) + 0.5) * scale;
        int lo = (int)(centre - support + 0.5), hi = (int)(centre + support + 0.5);
        a->lo[i] = lo = lo < 0 ? 0 : lo;
        a->n[i] = (hi > in ? in : hi) - lo;
        assert(a->n[i] > 0 && a->n[i] <= a->taps);
        filter_taps(tap, a->n[i], lo, centre, inverse, f);
        sample_weights(a->weight + (size_t)i * (size_t)a->taps, tap, a->n[i]);
        int groups = ((lo - a->lo[0]) % TAPS + a->n[i] + TAPS - 1) / TAPS;
        a->groups = groups > a->groups ? groups : a->groups;
    }
    a->first = a->lo[0];
    a->last = a->lo[a->count - 1] + a->n[a->count - 1];
}

static void axis_layout(Axis *a, Arena *arena, int in, int64_t out, int count, Interpolation f) {
    size_t n = (size_t)count;
    a->count = count;
    a->taps = (int)ceil(support_of(in, out, f)) * 2 + 1;
    a->taps = a->taps < in ? a->taps : in;
    size_t groups = ((size_t)a->taps + 2 * TAPS - 2) / TAPS;
    a->lo = arena_take(arena, n, sizeof *a->lo);
    a->n = arena_take(arena, n, sizeof *a->n);
    a->weight = arena_take(arena, size_mul(n, (size_t)a->taps), sizeof *a->weight);
    a->digits = arena_take(arena, size_mul(n, groups * DIGITS), sizeof *a->digits);
}

static void resampler_layout(Resampler *p, Arena *arena, const ResizeTarget *t, const RgbView *in,
                             Interpolation f) {
    axis_layout(&p->x, arena, in->width, t->full_width, t->width, f);
    axis_layout(&p->y, arena, in->height, t->full_height, t->height, f);
    p->columns_first = in->height > t->full_height &&
                       in->height - t->full_height > 2 * (in->width - t->full_width);
    size_t taps = size_max((size_t)p->x.taps, (size_t)p->y.taps) + 2 * TAPS;
    size_t width = (size_t)(p->columns_first ? in->width : t->width);
    size_t height = (size_t)(p->columns_first ? t->height : in->height);
    p->tap = arena_take(arena, taps, sizeof *p->tap);
    p->aligned = arena_take(arena, taps, sizeof *p->aligned);
    p->strip = arena_take(arena, ((size_t)in->width + taps) / TAPS + 1, BLOCK);
    p->quad_bytes = round_up(size_max(width, (size_t)t->width) * 3 * 4, BLOCK) + BLOCK;
    p->quads = arena_take(arena, ((size_t)in->height + taps) / 4 + 1, p->quad_bytes);
    p->rows = arena_take(arena, height, width * 3);
}

/* Sizes the scratch, then fills both axes. */
static void resampler_open(Resampler *p, const ResizeTarget *t, const RgbView *in, Interpolation f,
                           ResizeScratch **scratch) {
    assert(t->width > 0 && t->height > 0 && in->width > 0 && in->height > 0);
    assert(t->x >= 0 && t->y >= 0);
    assert(t->x + t->width <= t->full_width && t->y + t->height <= t->full_height);
    Arena arena = {0};
    resampler_layout(p, &arena, t, in, f);
    ResizeScratch *s = *scratch;
    if (!s) s = *scratch = xcalloc(1, sizeof *s);
    if (arena.used > s->size) {
        free(s->block);
        s->size = arena.used + arena.used / 4;
        s->block = aligned_alloc(64, round_up(s->size, 64));
        if (!s->block) die("out of memory: %zu bytes to resize an image", s->size);
    }
    arena = (Arena){.base = s->block, .size = s->size};
    resampler_layout(p, &arena, t, in, f);
    axis_fill(&p->x, p->tap, in->width, t->full_width, t->x, f);
    axis_fill(&p->y, p->tap, in->height, t->full_height, t->y, f);
}

static uint8_t round_and_clip(int32_t sum) {
    int32_t v = sum >> PRECISION;
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

/* Both: `from` is the position of the axis's first sample. */
static void scalar_along_rows(uint8_t *to, size_t to_stride, const uint8_t *from,
                              size_t from_stride, int rows, const Axis *a) {
    for (int y = 0; y < rows; y++, to += to_stride, from += from_stride)
        for (int x = 0; x < a->count; x++)
            for (int c = 0; c < 3; c++) {
                const int32_t *w = a->weight + (size_t)x * (size_t)a->taps;
                const uint8_t *in = from + 3 * (size_t)(a->lo[x] - a->first) + c;
                int32_t sum = ROUNDING;
                for (int k = 0; k < a->n[x]; k++) sum += w[k] * in[3 * k];
                to[3 * x + c] = round_and_clip(sum);
            }
}

static void scalar_along_columns(uint8_t *to, size_t to_stride, const uint8_t *from,
                                 size_t from_stride, size_t row_bytes, const Axis *a) {
    for (int y = 0; y < a->count; y++, to += to_stride)
        for (size_t i = 0; i < row_bytes; i++) {
            const int32_t *w = a->weight + (size_t)y * (size_t)a->taps;
            const uint8_t *in = from + (size_t)(a->lo[y] - a->first) * from_stride + i;
            int32_t sum = ROUNDING;
            for (int k = 0; k < a->n[y]; k++) sum += w[k] * in[(size_t)k * from_stride];
            to[i] = round_and_clip(sum);
        }
}

static int axis_range(const Axis *a) { return a->last - a->first; }

static const uint8_t *first_pixel(const Resampler *p, const RgbView *in) {
    return in->rgb + (size_t)p->y.first * in->stride + 3 * (size_t)p->x.first;
}

void resize_rgb_scalar(uint8_t *out, size_t out_stride, const ResizeTarget *target,
                       const RgbView *in, Interpolation interpolation, ResizeScratch **scratch) {
    Resampler p;
    resampler_open(&p, target, in, interpolation, scratch);
    const uint8_t *from = first_pixel(&p, in);
    size_t out_bytes = (size_t)p.x.count * 3, in_bytes = (size_t)axis_range(&p.x) * 3;
    if (p.columns_first) {
        scalar_along_columns(p.rows, in_bytes, from, in->stride, in_bytes, &p.y);
        scalar_along_rows(out, out_stride, p.rows, in_bytes, p.y.count, &p.x);
    } else {
        scalar_along_rows(p.rows, out_bytes, from, in->stride, axis_range(&p.y), &p.x);
        scalar_along_columns(out, out_stride, p.rows, out_bytes, out_bytes, &p.y);
    }
}

#ifdef __AVX2__

#ifdef ISA_AVX512
/* w = (high · 256 + middle) · 256 + low, three signed bytes. */
static void cut_digits(uint32_t *digits, const int32_t *w, int groups) {
    int8_t *d = (int8_t *)digits;
    for (int g = 0; g < groups; g++)
        for (int k = 0; k < TAPS; k++) {
            int32_t v = w[g * TAPS + k], rest = (v + 128) >> 8;
            d[(g * DIGITS + 0) * TAPS + k] = (int8_t)((rest + 128) >> 8);
            d[(g * DIGITS + 1) * TAPS + k] = (int8_t)rest;
            d[(g * DIGITS + 2) * TAPS + k] = (int8_t)v;
        }
}

/* 16 lanes: Σ over groups, rounded and clipped. Each digit has a separate sum, because a single
 * long chain of dependent instructions would fill the scheduler. */
static inline __attribute__((always_inline)) __m128i dot(const uint8_t *from, size_t stride,
                                                         const uint32_t *w, int groups) {
    __m512i high = _mm512_setzero_si512(), middle = high, low = _mm512_set1_epi32(ROUNDING);
#pragma GCC unroll 8
    for (int g = 0; g < groups; g++, w += DIGITS) {
        __m512i v = _mm512_loadu_si512(from + (size_t)g * stride);
        high = _mm512_dpbusd_epi32(high, v, _mm512_set1_epi32((int)w[0]));
        middle = _mm512_dpbusd_epi32(middle, v, _mm512_set1_epi32((int)w[1]));
        low = _mm512_dpbusd_epi32(low, v, _mm512_set1_epi32((int)w[2]));
    }
    high = _mm512_add_epi32(_mm512_slli_epi32(high, 16), _mm512_slli_epi32(middle, 8));
    high = _mm512_srai_epi32(_mm512_add_epi32(high, low), PRECISION);
    return _mm512_cvtusepi32_epi8(_mm512_max_epi32(high, _mm512_setzero_si512()));
}

/* 4 pixels of 4 rows (16 bytes each are read) → one block. */
static inline void arrange(uint8_t *block, const uint8_t *const row[4]) {
    const __m512i order = _mm512_set_epi8(
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 59, 56, 53, 50, 43, 40, 37, 34, 27, 24, 21,
        18, 11, 8, 5, 2, 58, 55, 52, 49, 42, 39, 36, 33, 26, 23, 20, 17, 10, 7, 4, 1, 57, 54, 51,
        48, 41, 38, 35, 32, 25, 22, 19, 16, 9, 6, 3, 0);
    __m512i v = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)row[0]));
    v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)row[1]), 1);
    v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)row[2]), 2);
    v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)row[3]), 3);
    _mm512_store_si512(block, _mm512_permutexvar_epi8(order, v));
}
#else
/* w = high · 2048 + low in 16 bits each, for the even and the odd taps of a group. */
static void cut_digits(uint32_t *digits, const int32_t *w, int groups) {
    for (int g = 0; g < groups; g++, w += TAPS, digits += DIGITS)
        for (int odd = 0; odd < 2; odd++) {
            digits[odd] = (uint32_t)((w[odd] >> 11) & 0xffff) | (uint32_t)(w[odd + 2] >> 11) << 16;
            digits[2 + odd] = (uint32_t)(w[odd] & 2047) | (uint32_t)(w[odd + 2] & 2047) << 16;
        }
}

static inline __attribute__((always_inline)) __m256i dot8(const uint8_t *from, size_t stride,
                                                          const uint32_t *w, int groups) {
    __m256i high = _mm256_set1_epi32(ROUNDING >> 11), low = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (int g = 0; g < groups; g++, w += DIGITS) {
        __m256i v = _mm256_loadu_si256((const __m256i *)(from + (size_t)g * stride));
        __m256i even = _mm256_and_si256(v, _mm256_set1_epi32(0x00ff00ff));
        __m256i odd = _mm256_srli_epi16(v, 8);
        high = _mm256_add_epi32(high, _mm256_madd_epi16(even, _mm256_set1_epi32((int)w[0])));
        high = _mm256_add_epi32(high, _mm256_madd_epi16(odd, _mm256_set1_epi32((int)w[1])));
        low = _mm256_add_epi32(low, _mm256_madd_epi16(even, _mm256_set1_epi32((int)w[2])));
        low = _mm256_add_epi32(low, _mm256_madd_epi16(odd, _mm256_set1_epi32((int)w[3])));
    }
    return _mm256_srai_epi32(_mm256_add_epi32(_mm256_slli_epi32(high, 11), low), PRECISION);
}

/* 16 lanes: Σ over groups, rounded and clipped. */
static inline __attribute__((always_inline)) __m128i dot(const uint8_t *from, size_t stride,
                                                         const uint32_t *w, int groups) {
    __m256i v = _mm256_packs_epi32(dot8(from, stride, w, groups),
                                   dot8(from + BLOCK / 2, stride, w, groups));
    v = _mm256_permute4x64_epi64(v, 0xd8);
    return _mm_packus_epi16(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
}

/* 4 pixels of 4 rows (16 bytes each are read) → one block. */
static inline void arrange(uint8_t *block, const uint8_t *const row[4]) {
    const __m128i order = _mm_setr_epi8(0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11, -1, -1, -1, -1);
    __m128i r[4], *to = (__m128i *)block;
    for (int i = 0; i < 4; i++)
        r[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)row[i]), order);
    __m128i rg0 = _mm_unpacklo_epi32(r[0], r[1]), rg1 = _mm_unpacklo_epi32(r[2], r[3]);
    __m128i b0 = _mm_unpackhi_epi32(r[0], r[1]), b1 = _mm_unpackhi_epi32(r[2], r[3]);
    _mm_store_si128(to, _mm_unpacklo_epi64(rg0, rg1));
    _mm_store_si128(to + 1, _mm_unpackhi_epi64(rg0, rg1));
    _mm_store_si128(to + 2, _mm_unpacklo_epi64(b0, b1));
}
#endif

static void axis_cut(const Axis *a, int32_t *aligned) {
    for (int i = 0; i < a->count; i++) {
        memset(aligned, 0, (size_t)a->groups * TAPS * sizeof *aligned);
        memcpy(aligned + (a->lo[i] - a->first) % TAPS, a->weight + (size_t)i * (size_t)a->taps,
               (size_t)a->n[i] * sizeof *aligned);
        cut_digits(a->digits + (size_t)i * (size_t)a->groups * DIGITS, aligned, a->groups);
    }
}

/* n ≤ 4 rows as blocks; row_bytes of a row may be read; the axis needs its first `range` pixels. */
static void fill_strip(uint8_t *strip, const uint8_t *from, size_t stride, int n, size_t row_bytes,
                       int range) {
    const uint8_t *row[4];
    for (int i = 0; i < 4; i++) row[i] = from + (size_t)(i < n ? i : n - 1) * stride;
    size_t groups = div_up((size_t)range, TAPS), g = 0;
    for (; g < groups && 12 * g + 16 <= row_bytes; g++) {
        arrange(strip + g * BLOCK, row);
        for (int i = 0; i < 4; i++) row[i] += 12;
    }
    for (; g < groups; g++) {
        uint8_t tail[4][16] = {{0}};
        const uint8_t *const tails[4] = {tail[0], tail[1], tail[2], tail[3]};
        for (int i = 0; i < 4; i++, row[i - 1] += 12)
            memcpy(tail[i], row[i], size_min(12, row_bytes - 12 * g));
        arrange(strip + g * BLOCK, tails);
    }
}

/* Each result overwrites the 4 unused bytes of the previous one. */
static inline __attribute__((always_inline)) void strip_to_quad(uint8_t *to, const uint8_t *strip,
                                                                const Axis *a, int groups) {
    const uint32_t *w = a->digits;
    for (int x = 0; x < a->count; x++, w += groups * DIGITS, to += 12) {
        const uint8_t *from = strip + (size_t)((a->lo[x] - a->first) / TAPS) * BLOCK;
        _mm_storeu_si128((__m128i *)to, dot(from, BLOCK, w, groups));
    }
}

static inline __attribute__((always_inline)) void quads_to_row(uint8_t *to, size_t row_bytes,
                                                               const uint8_t *from, size_t stride,
                                                               const uint32_t *w, int groups) {
    enum { IN_REGISTERS = 8 };
    uint32_t copy[IN_REGISTERS * DIGITS]; /* a copy: stores to `to` cannot alias it */
    if (groups <= IN_REGISTERS) w = memcpy(copy, w, (size_t)groups * DIGITS * sizeof *copy);
    size_t i = 0;
    for (; i + 16 <= row_bytes; i += 16)
        _mm_storeu_si128((__m128i *)(to + i), dot(from + i * 4, stride, w, groups));
    if (i < row_bytes) {
        __m128i last = dot(from + i * 4, stride, w, groups);
        memcpy(to + i, &last, row_bytes - i);
    }
}

/* Common numbers of groups have separate unrolled loops. */
#define FOR_GROUPS(groups, call)                                                                   \
    switch (groups) {                                                                              \
    case 1:                                                                                        \
        call(1);                                                                                   \
        break;                                                                                     \
    case 2:                                                                                        \
        call(2);                                                                                   \
        break;                                                                                     \
    case 3:                                                                                        \
        call(3);                                                                                   \
        break;                                                                                     \
    case 4:                                                                                        \
        call(4);                                                                                   \
        break;                                                                                     \
    case 5:                                                                                        \
        call(5);                                                                                   \
        break;                                                                                     \
    case 6:                                                                                        \
        call(6);                                                                                   \
        break;                                                                                     \
    default:                                                                                       \
        call(groups);                                                                              \
    }

static void along_rows(const Resampler *p, const uint8_t *from, size_t stride, int rows,
                       size_t row_bytes) {
    uint8_t *to = p->quads;
    for (int y = 0; y < rows; y += 4, to += p->quad_bytes, from += 4 * stride) {
        fill_strip(p->strip, from, stride, rows - y, row_bytes, axis_range(&p->x));
#define CALL(n) strip_to_quad(to, p->strip, &p->x, n)
        FOR_GROUPS(p->x.groups, CALL)
#undef CALL
    }
}

static void along_columns(uint8_t *to, size_t to_stride, const Resampler *p, size_t row_bytes) {
    const Axis *a = &p->y;
    const uint32_t *w = a->digits;
    for (int y = 0; y < a->count; y++, to += to_stride, w += a->groups * DIGITS) {
        const uint8_t *from = p->quads + (size_t)((a->lo[y] - a->first) / TAPS) * p->quad_bytes;
#define CALL(n) quads_to_row(to, row_bytes, from, p->quad_bytes, w, n)
        FOR_GROUPS(a->groups, CALL)
#undef CALL
    }
}

/* Rows → 4 interleaved rows, and back. */
static void rows_to_quads(const Resampler *p, const uint8_t *from, size_t stride, int rows,
                          size_t row_bytes) {
    for (int y = 0; y < rows; y += 4) {
        const uint8_t *r[4];
        for (int i = 0; i < 4; i++)
            r[i] = from + (size_t)(y + i < rows ? y + i : rows - 1) * stride;
        uint8_t *to = p->quads + (size_t)(y / 4) * p->quad_bytes;
        for (size_t i = 0; i < row_bytes; i++) {
            to[4 * i + 0] = r[0][i];
            to[4 * i + 1] = r[1][i];
            to[4 * i + 2] = r[2][i];
            to[4 * i + 3] = r[3][i];
        }
    }
}

static void quads_to_rows(uint8_t *to, size_t stride, const Resampler *p, int rows,
                          size_t row_bytes) {
    for (int y = 0; y < rows; y++, to += stride) {
        const uint8_t *from = p->quads + (size_t)(y / 4) * p->quad_bytes + y % 4;
        for (size_t i = 0; i < row_bytes; i++) to[i] = from[4 * i];
    }
}

void resize_rgb(uint8_t *out, size_t out_stride, const ResizeTarget *target, const RgbView *in,
                Interpolation interpolation, ResizeScratch **scratch) {
    Resampler p;
    resampler_open(&p, target, in, interpolation, scratch);
    axis_cut(&p.x, p.aligned);
    axis_cut(&p.y, p.aligned);
    const uint8_t *from = first_pixel(&p, in);
    size_t out_bytes = (size_t)p.x.count * 3, in_bytes = (size_t)axis_range(&p.x) * 3;
    if (p.columns_first) {
        rows_to_quads(&p, from, in->stride, axis_range(&p.y), in_bytes);
        along_columns(p.rows, in_bytes, &p, in_bytes);
        along_rows(&p, p.rows, in_bytes, p.y.count, in_bytes);
        quads_to_rows(out, out_stride, &p, p.y.count, out_bytes);
    } else {
        along_rows(&p, from, in->stride, axis_range(&p.y), 3 * (size_t)(in->width - p.x.first));
        along_columns(out, out_stride, &p, out_bytes);
    }
}

#else

void resize_rgb(uint8_t *out, size_t out_stride, const ResizeTarget *target, const RgbView *in,
                Interpolation interpolation, ResizeScratch **scratch) {
    resize_rgb_scalar(out, out_stride, target, in, interpolation, scratch);
}

#endif

void resize_scratch_free(ResizeScratch **scratch) {
    if (*scratch) free((*scratch)->block);
    free(*scratch);
    *scratch = NULL;
}
