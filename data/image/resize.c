#include "data/image/resize.h"

#include "kernels/cpu_sets.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#if defined __aarch64__
#include <arm_neon.h>
#else
#include <immintrin.h>
#endif

/* Both passes are dot products over groups of TAPS adjacent source samples. For the horizontal
 * pass, 4 rows × 4 pixels are rearranged into 16 lanes (R of rows 0 to 3, G, B, 4 unused) of 4
 * bytes each. Its result for one x is 4 adjacent rows, the layout that the vertical pass reads. The
 * 22-bit weights are split into digits that fit the byte or 16-bit multipliers, so sums stay
 * exact. */

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

/* The results of 16 lanes. */
typedef uint8_t Lanes __attribute__((vector_size(16)));

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

typedef struct Passes {
    /* Weights → digits. */
    void (*axis_cut)(const Axis *a, int32_t *aligned);
    /* Plain rows → 4 interleaved rows, and back. */
    void (*along_rows)(const Resampler *p, const uint8_t *from, size_t stride, int rows,
                       size_t row_bytes);
    void (*along_columns)(uint8_t *to, size_t to_stride, const Resampler *p, size_t row_bytes);
} Passes;

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

#define NAME(f) narrow_##f
#define PASSES_WIDE 0
#include "data/image/resize_passes.h"
#undef NAME
#undef PASSES_WIDE

#if defined __aarch64__
static const Passes *best_passes(void) { return &narrow_passes; }
static const Passes *passes_of_set(void) { return best_passes(); }
#else
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vnni,avx512vbmi"))),    \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vnni,avx512vbmi")
#endif
#define NAME(f) wide_##f
#define PASSES_WIDE 1
#include "data/image/resize_passes.h"
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

/* Of this machine; of the instruction set in use. */
static const Passes *best_passes(void) {
    return cpu_set_best() >= CPU_V4 && __builtin_cpu_supports("avx512vnni") &&
                   __builtin_cpu_supports("avx512vbmi")
               ? &wide_passes
               : &narrow_passes;
}
static const Passes *passes_of_set(void) {
    return cpu_set() >= CPU_V4 ? best_passes() : &narrow_passes;
}
#endif

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

static void resize_by(const Passes *passes, uint8_t *out, size_t out_stride,
                      const ResizeTarget *target, const RgbView *in, Interpolation interpolation,
                      ResizeScratch **scratch) {
    Resampler p;
    resampler_open(&p, target, in, interpolation, scratch);
    passes->axis_cut(&p.x, p.aligned);
    passes->axis_cut(&p.y, p.aligned);
    const uint8_t *from = first_pixel(&p, in);
    size_t out_bytes = (size_t)p.x.count * 3, in_bytes = (size_t)axis_range(&p.x) * 3;
    if (p.columns_first) {
        rows_to_quads(&p, from, in->stride, axis_range(&p.y), in_bytes);
        passes->along_columns(p.rows, in_bytes, &p, in_bytes);
        passes->along_rows(&p, p.rows, in_bytes, p.y.count, in_bytes);
        quads_to_rows(out, out_stride, &p, p.y.count, out_bytes);
    } else {
        passes->along_rows(&p, from, in->stride, axis_range(&p.y),
                           3 * (size_t)(in->width - p.x.first));
        passes->along_columns(out, out_stride, &p, out_bytes);
    }
}

void resize_rgb(uint8_t *out, size_t out_stride, const ResizeTarget *target, const RgbView *in,
                Interpolation interpolation, ResizeScratch **scratch) {
    resize_by(passes_of_set(), out, out_stride, target, in, interpolation, scratch);
}

void resize_scratch_free(ResizeScratch **scratch) {
    if (*scratch) free((*scratch)->block);
    free(*scratch);
    *scratch = NULL;
}
