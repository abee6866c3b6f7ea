#include "data/image/augment.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/rng.h"

/* Blending and hue follow Pillow's float arithmetic: no fused multiply-add. */
#ifdef __clang__
#define EXACT
#else
#define EXACT __attribute__((optimize("fp-contract=off")))
#endif

/* Numbers of the draws; a crop takes 4 a try: area, log of the aspect ratio, top, left. */
enum {
    CROP_TRIES = 10,
    DRAW_CROP = 0,
    DRAW_JITTER = 4 * CROP_TRIES, /* whether to jitter */
    DRAW_ORDER = DRAW_JITTER + 1, /* 3 swaps */
    DRAW_FACTOR = DRAW_ORDER + 3, /* brightness, contrast, saturation, hue */
    DRAW_GRAY = DRAW_FACTOR + 4,
    DRAW_FLIP,
    DRAW_BLUR, /* whether to blur, sigma */
};

struct TransformScratch {
    ResizeScratch *resize;
    float *blur; /* a picture between the two directions */
    size_t blur_room;
    uint8_t *whole; /* a picture before it is cut into patches */
    size_t whole_room;
};

Transform transform_default(int size, bool train) {
    return (Transform){.size = size,
                       .train = train,
                       .resize_mode = RESIZE_SHORTEST,
                       .interpolation = INTERPOLATION_BICUBIC,
                       .scale = {0.9, 1.0},
                       .ratio = {3.0 / 4.0, 4.0 / 3.0},
                       .mean = {0.48145466f, 0.4578275f, 0.40821073f},
                       .std = {0.26862954f, 0.26130258f, 0.27577711f}};
}

EXACT static double draw(uint64_t seed, uint64_t index, double lo, double hi) {
    return lo + (hi - lo) * rng_uniform(seed, RNG_AUGMENT, index);
}

static int draw_below(uint64_t seed, uint64_t index, int n) {
    return (int)rng_below(seed, RNG_AUGMENT, index, (uint64_t)n);
}

/* A rectangle of the file's picture. */
typedef struct Crop {
    int x, y, width, height;
} Crop;

/* torchvision's RandomResizedCrop. */
static Crop random_crop(const Transform *t, uint64_t seed, int full_w, int full_h) {
    double area = (double)full_w * full_h, log_lo = log(t->ratio[0]), log_hi = log(t->ratio[1]);
    int w = 0, h = 0, top = 0, left = 0;
    for (uint64_t i = 0; i < CROP_TRIES; i++) {
        uint64_t d = DRAW_CROP + 4 * i;
        double a = area * draw(seed, d, t->scale[0], t->scale[1]);
        double r = exp(draw(seed, d + 1, log_lo, log_hi));
        double want_w = rint(sqrt(a * r)), want_h = rint(sqrt(a / r));
        if (want_w < 1 || want_w > full_w || want_h < 1 || want_h > full_h) continue;
        w = (int)want_w;
        h = (int)want_h;
        top = draw_below(seed, d + 2, full_h - h + 1);
        left = draw_below(seed, d + 3, full_w - w + 1);
        break;
    }
    if (w == 0) {
        double ratio = (double)full_w / full_h;
        w = full_w;
        h = full_h;
        if (ratio < t->ratio[0])
            h = (int)rint(w / t->ratio[0]);
        else if (ratio > t->ratio[1])
            w = (int)rint(h * t->ratio[1]);
        w = w < 1 ? 1 : w > full_w ? full_w : w;
        h = h < 1 ? 1 : h > full_h ? full_h : h;
        top = (full_h - h) / 2;
        left = (full_w - w) / 2;
    }
    return (Crop){left, top, w, h};
}

/* A crop's first sample and number of samples along one side, which was shrunk from `full` (0:
 * not). */
static void shrunk_span(int *lo, int *n, int at, int length, int full, int side) {
    double by = full ? (double)side / full : 1;
    *lo = (int)rint(at * by);
    *n = (int)rint((at + length) * by) - *lo;
    assert(*n > 0 && *lo + *n <= side);
}

static RgbView view_of(const Image *img, const Crop *p) {
    size_t stride = (size_t)img->width * 3;
    int x, y, w, h;
    shrunk_span(&x, &w, p->x, p->width, img->full_width, img->width);
    shrunk_span(&y, &h, p->y, p->height, img->full_height, img->height);
    return (RgbView){img->rgb + (size_t)y * stride + (size_t)x * 3, stride, w, h};
}

static uint8_t to_grey(const uint8_t *p) {
    return (uint8_t)((p[0] * 19595 + p[1] * 38470 + p[2] * 7471 + 0x8000) >> 16);
}

/* from + factor · (to - from), truncated towards zero; factors above 1 are clipped. */
EXACT static uint8_t blend(int from, int to, float factor) {
    float v = (float)from + factor * (float)(to - from);
    return (uint8_t)(v <= 0.0f ? 0 : v >= 255.0f ? 255 : (int)v);
}

/* Blends towards one grey level: 0 for brightness, the mean for contrast. */
EXACT static void blend_with_level(uint8_t *rgb, size_t pixels, int level, float factor) {
    uint8_t table[256];
    for (int v = 0; v < 256; v++) table[v] = blend(level, v, factor);
    for (size_t i = 0; i < 3 * pixels; i++) rgb[i] = table[rgb[i]];
}

static int mean_grey(const uint8_t *rgb, size_t pixels) {
    uint64_t sum = 0;
    for (size_t i = 0; i < pixels; i++) sum += to_grey(rgb + 3 * i);
    return (int)((double)sum / (double)pixels + 0.5);
}

EXACT static void saturate(uint8_t *rgb, size_t pixels, float factor) {
    for (size_t i = 0; i < pixels; i++, rgb += 3) {
        int grey = to_grey(rgb);
        for (int c = 0; c < 3; c++) rgb[c] = blend(grey, rgb[c], factor);
    }
}

static uint8_t clip8(int v) { return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v); }

/* Pillow's RGB → HSV, all three in [0, 255], with the same mix of float and double. */
EXACT static void rgb_to_hsv(uint8_t hsv[3], const uint8_t *p) {
    int max = p[0] > p[1] ? p[0] : p[1], min = p[0] < p[1] ? p[0] : p[1];
    max = max > p[2] ? max : p[2];
    min = min < p[2] ? min : p[2];
    hsv[0] = hsv[1] = 0;
    hsv[2] = (uint8_t)max;
    if (max == min) return;
    float range = (float)(max - min), s = range / (float)max, h;
    float r = (float)(max - p[0]) / range, g = (float)(max - p[1]) / range,
          b = (float)(max - p[2]) / range;
    if (p[0] == max)
        h = b - g;
    else if (p[1] == max)
        h = (float)(2.0 + r - b);
    else
        h = (float)(4.0 + g - r);
    double turn = h / 6.0 + 1.0; /* in (0, 2) */
    h = (float)(turn < 1.0 ? turn : turn - 1.0);
    hsv[0] = clip8((int)(h * 255.0));
    hsv[1] = clip8((int)(s * 255.0));
}

/* For x ≥ 0. */
EXACT static uint8_t round_half_up(double x) {
    int i = (int)x;
    return clip8(i + (x - i >= 0.5));
}

EXACT static void hsv_to_rgb(uint8_t *p, const uint8_t hsv[3]) {
    uint8_t v = hsv[2];
    if (hsv[1] == 0) {
        memset(p, v, 3);
        return;
    }
    float at = (float)((float)hsv[0] * 6.0 / 255.0);
    int sector = (int)at;
    float f = (float)((float)hsv[0] * 6.0 / 255.0 - sector);
    float s = (float)((float)hsv[1] / 255.0);
    uint8_t low = round_half_up((float)v * (1.0 - s));
    uint8_t fall = round_half_up((float)v * (1.0 - s * f));
    uint8_t rise = round_half_up((float)v * (1.0 - s * (1.0 - f)));
    const uint8_t by_sector[6][3] = {{v, rise, low}, {fall, v, low}, {low, v, rise},
                                     {low, fall, v}, {rise, low, v}, {v, low, fall}};
    memcpy(p, by_sector[sector % 6], 3);
}

EXACT static void rotate_hue(uint8_t *rgb, size_t pixels, double factor) {
    uint8_t shift = (uint8_t)(int)(factor * 255);
    for (size_t i = 0; i < pixels; i++, rgb += 3) {
        uint8_t hsv[3];
        rgb_to_hsv(hsv, rgb);
        hsv[0] = (uint8_t)(hsv[0] + shift);
        hsv_to_rgb(rgb, hsv);
    }
}

/* torchvision's ColorJitter: the four in random order, factors in 1 ± strength (hue: ± strength).
 */
static void jitter(uint8_t *rgb, size_t pixels, const double strength[4], uint64_t seed) {
    int order[4] = {0, 1, 2, 3};
    for (int i = 3; i > 0; i--) {
        int j = draw_below(seed, (uint64_t)(DRAW_ORDER + 3 - i), i + 1), t = order[i];
        order[i] = order[j];
        order[j] = t;
    }
    for (int i = 0; i < 4; i++) {
        int op = order[i];
        double s = strength[op], centre = op == 3 ? 0 : 1;
        if (s == 0) continue;
        double lo = op == 3 ? -s : fmax(0, 1 - s);
        double factor = draw(seed, (uint64_t)(DRAW_FACTOR + op), lo, centre + s);
        switch (op) {
        case 0:
            blend_with_level(rgb, pixels, 0, (float)factor);
            break;
        case 1:
            blend_with_level(rgb, pixels, mean_grey(rgb, pixels), (float)factor);
            break;
        case 2:
            saturate(rgb, pixels, (float)factor);
            break;
        default:
            rotate_hue(rgb, pixels, factor);
        }
    }
}

static void mirror(uint8_t *rgb, size_t width, size_t height) {
    for (size_t y = 0; y < height; y++, rgb += 3 * width)
        for (size_t x = 0; x < width / 2; x++)
            for (size_t c = 0; c < 3; c++) {
                uint8_t *a = rgb + 3 * x + c, *b = rgb + 3 * (width - 1 - x) + c, v = *a;
                *a = *b;
                *b = v;
            }
}

enum { BLUR_MOST = 101 }; /* rows of the kernel */

/* Weights of a Gaussian at distances 0 … half; they sum to 1 over both sides. */
static void gaussian(float weight[BLUR_MOST], size_t half, double sigma) {
    double sum = 0;
    for (size_t i = 0; i <= half; i++) {
        double x = (double)i / sigma, w = exp(-0.5 * x * x);
        weight[i] = (float)w;
        sum += i ? 2 * w : w;
    }
    for (size_t i = 0; i <= half; i++) weight[i] = (float)(weight[i] / sum);
}

/* The index at distance d from i of n, reflected at the ends, which are not repeated. */
static size_t reflected(size_t i, ptrdiff_t d, size_t n) {
    ptrdiff_t at = (ptrdiff_t)i + d, last = (ptrdiff_t)n - 1;
    if (at < 0) at = -at;
    return (size_t)(at > last ? 2 * last - at : at);
}

/* to[n] += w · from[n]. */
EXACT static void add_bytes(float *to, const uint8_t *from, float w, size_t n) {
    for (size_t i = 0; i < n; i++) to[i] += w * (float)from[i];
}
EXACT static void add_floats(float *to, const float *from, float w, size_t n) {
    for (size_t i = 0; i < n; i++) to[i] += w * from[i];
}

/* torchvision's gaussian_blur in float, its two-dimensional kernel as two passes. */
static void blur(uint8_t *rgb, size_t size, double sigma, TransformScratch *scratch) {
    size_t half = size_min(size_min(size / 20, size - 1), BLUR_MOST - 1), taps = 2 * half + 1;
    size_t row = 3 * size, wide = row + 6 * half; /* with its ends reflected */
    size_t room = size_mul(size, wide) + row;
    float weight[BLUR_MOST];
    if (scratch->blur_room < room) {
        scratch->blur_room = room;
        scratch->blur = xrealloc(scratch->blur, size_mul(room, sizeof *scratch->blur));
    }
    float *sum = scratch->blur, *first = sum + row;
    gaussian(weight, half, sigma);
    memset(first, 0, size * wide * sizeof *first);
    for (size_t y = 0; y < size; y++) {
        float *to = first + y * wide + 3 * half;
        for (size_t d = 0; d < taps; d++)
            add_bytes(to, rgb + reflected(y, (ptrdiff_t)d - (ptrdiff_t)half, size) * row,
                      weight[d < half ? half - d : d - half], row);
        for (size_t p = 1; p <= half; p++) {
            memcpy(to - 3 * p, to + 3 * p, 3 * sizeof *to);
            memcpy(to + row + 3 * (p - 1), to + row - 3 * (p + 1), 3 * sizeof *to);
        }
    }
    for (size_t y = 0; y < size; y++) {
        memset(sum, 0, row * sizeof *sum);
        for (size_t d = 0; d < taps; d++)
            add_floats(sum, first + y * wide + 3 * d, weight[d < half ? half - d : d - half], row);
        for (size_t x = 0; x < row; x++)
            rgb[y * row + x] = (uint8_t)fminf(fmaxf(rintf(sum[x]), 0), 255);
    }
}

/* The size of the file's picture. */
static int full_width(const Image *img) { return img->full_width ? img->full_width : img->width; }
static int full_height(const Image *img) {
    return img->full_height ? img->full_height : img->height;
}

/* What training changes of a resized picture, except the blur. */
static void change_colours(uint8_t *rgb, size_t width, size_t height, const Transform *t,
                           uint64_t seed) {
    size_t pixels = width * height;
    if (t->flip_prob > 0 && draw(seed, DRAW_FLIP, 0, 1) < t->flip_prob) mirror(rgb, width, height);
    if (t->jitter_prob > 0 && draw(seed, DRAW_JITTER, 0, 1) < t->jitter_prob)
        jitter(rgb, pixels, t->jitter, seed);
    if (t->gray_prob > 0 && draw(seed, DRAW_GRAY, 0, 1) < t->gray_prob)
        for (size_t i = 0; i < pixels; i++) memset(rgb + 3 * i, to_grey(rgb + 3 * i), 3);
}

static void train_transform(uint8_t *out, const Image *img, const Transform *t, uint64_t seed,
                            TransformScratch *scratch) {
    int size = t->size;
    Crop drawn = random_crop(t, seed, full_width(img), full_height(img));
    RgbView crop = view_of(img, &drawn);
    ResizeTarget target = {size, size, 0, 0, size, size};
    resize_rgb(out, (size_t)size * 3, &target, &crop, t->interpolation, &scratch->resize);
    change_colours(out, (size_t)size, (size_t)size, t, seed);
    if (t->blur_prob > 0 && draw(seed, DRAW_BLUR, 0, 1) < t->blur_prob)
        blur(out, (size_t)size, draw(seed, DRAW_BLUR + 1, t->blur_sigma[0], t->blur_sigma[1]),
             scratch);
}

/* Short edge → S, then the centre S × S; offsets are rounded half to even. */
static void eval_shortest(uint8_t *out, const RgbView *in, const Transform *t,
                          ResizeScratch **scratch) {
    int64_t size = t->size, w = in->width, h = in->height;
    ResizeTarget target = {size, size, 0, 0, t->size, t->size};
    if (w <= h)
        target.full_height = (int64_t)((double)(size * h) / (double)w);
    else
        target.full_width = (int64_t)((double)(size * w) / (double)h);
    target.x = llrint((double)(target.full_width - size) / 2.0);
    target.y = llrint((double)(target.full_height - size) / 2.0);
    resize_rgb(out, (size_t)size * 3, &target, in, t->interpolation, scratch);
}

/* Long edge → S, centred on `fill`. */
static void eval_longest(uint8_t *out, const RgbView *in, const Transform *t,
                         ResizeScratch **scratch) {
    int size = t->size;
    size_t pixels = (size_t)size * (size_t)size, stride = (size_t)size * 3;
    double by = fmax((double)in->height / size, (double)in->width / size);
    int w = (int)fmax(1, rint(in->width / by)), h = (int)fmax(1, rint(in->height / by));
    ResizeTarget target = {w, h, 0, 0, w, h};
    assert(w <= size && h <= size);
    for (size_t i = 0; i < pixels; i++) memcpy(out + 3 * i, t->fill, 3);
    uint8_t *at = out + (size_t)((size - h) / 2) * stride + 3 * (size_t)((size - w) / 2);
    resize_rgb(at, stride, &target, in, t->interpolation, scratch);
}

static void eval_squash(uint8_t *out, const RgbView *in, const Transform *t,
                        ResizeScratch **scratch) {
    ResizeTarget target = {t->size, t->size, 0, 0, t->size, t->size};
    resize_rgb(out, (size_t)t->size * 3, &target, in, t->interpolation, scratch);
}

void transform_apply(uint8_t *out, const Image *img, const Transform *t, uint64_t seed,
                     TransformScratch **scratch) {
    assert(t->size > 0 && img->width > 0 && img->height > 0);
    if (!*scratch) *scratch = xcalloc(1, sizeof **scratch);
    ResizeScratch **s = &(*scratch)->resize;
    RgbView whole = {img->rgb, (size_t)img->width * 3, img->width, img->height};
    if (t->train)
        train_transform(out, img, t, seed, *scratch);
    else if (t->resize_mode == RESIZE_SHORTEST)
        eval_shortest(out, &whole, t, s);
    else if (t->resize_mode == RESIZE_LONGEST)
        eval_longest(out, &whole, t, s);
    else
        eval_squash(out, &whole, t, s);
}

/* ---- patches ---- */

/* Patches along a side of n pixels at a scale. */
static int64_t patches_along(double scale, int n, int patch) {
    return (int64_t)fmax(1, ceil((double)n * scale / patch));
}

/* The largest scale, up to 100, at which there are not more patches than allowed. */
EXACT void transform_shape(int32_t shape[2], int width, int height, const Transform *t) {
    const double eps = 1e-5;
    double lo = eps / 10, hi = 100;
    while (hi - lo >= eps) {
        double scale = (lo + hi) / 2;
        int64_t n = patches_along(scale, height, t->patch_size) *
                    patches_along(scale, width, t->patch_size);
        if (n <= t->max_patches)
            lo = scale;
        else
            hi = scale;
    }
    shape[0] = (int32_t)patches_along(lo, height, t->patch_size);
    shape[1] = (int32_t)patches_along(lo, width, t->patch_size);
    /* a side of tens of millions of pixels has more than that at the smallest scale */
    for (int i = 0; i < 2; i++)
        if (shape[i] > t->max_patches) shape[i] = t->max_patches;
}

/* rgb: h × w patches as a picture. */
static void cut_patches(uint8_t *out, const uint8_t *rgb, int h, int w, int patch) {
    size_t line = 3 * (size_t)patch, stride = line * (size_t)w;
    for (int row = 0; row < h; row++)
        for (int column = 0; column < w; column++)
            for (int y = 0; y < patch; y++, out += line)
                memcpy(out, rgb + (size_t)(row * patch + y) * stride + (size_t)column * line, line);
}

/* The part of a picture that is used. A crop's aspect ratio is drawn relative to the picture's. */
static RgbView patches_view(const Image *img, const Transform *t, uint64_t seed) {
    if (!t->train) return (RgbView){img->rgb, (size_t)img->width * 3, img->width, img->height};
    Transform own = *t;
    double ratio = (double)full_width(img) / full_height(img);
    for (int i = 0; i < 2; i++) own.ratio[i] *= ratio;
    Crop drawn = random_crop(&own, seed, full_width(img), full_height(img));
    return view_of(img, &drawn);
}

void transform_patches(uint8_t *out, int32_t shape[2], const Image *img, const Transform *t,
                       uint64_t seed, TransformScratch **scratch) {
    assert(t->max_patches > 0 && t->patch_size > 0 && !(t->blur_prob > 0));
    if (!*scratch) *scratch = xcalloc(1, sizeof **scratch);
    TransformScratch *s = *scratch;
    RgbView part = patches_view(img, t, seed);
    transform_shape(shape, part.width, part.height, t);
    int w = shape[1] * t->patch_size, h = shape[0] * t->patch_size;
    size_t bytes = size_mul((size_t)w * (size_t)h, 3);
    if (s->whole_room < bytes) {
        s->whole_room = bytes;
        s->whole = xrealloc(s->whole, bytes);
    }
    ResizeTarget target = {w, h, 0, 0, w, h};
    resize_rgb(s->whole, (size_t)w * 3, &target, &part, t->interpolation, &s->resize);
    if (t->train) change_colours(s->whole, (size_t)w, (size_t)h, t, seed);
    cut_patches(out, s->whole, shape[0], shape[1], t->patch_size);
}

/* ---- decoding ---- */

typedef struct Draw {
    const Transform *t;
    uint64_t seed;
} Draw;

/* The smallest picture whose crop is no smaller than S × S. */
static int shrink_of(const void *context, int width, int height) {
    const Draw *d = context;
    Crop c = random_crop(d->t, d->seed, width, height);
    int side = c.width < c.height ? c.width : c.height, shrink = 1;
    while (shrink < 8 && side / (2 * shrink) >= d->t->size) shrink *= 2;
    return shrink;
}

bool transform_decode(Image *img, const uint8_t *bytes, size_t size, size_t max_pixels,
                      const Transform *t, uint64_t seed, Error *err) {
    Draw draw = {t, seed};
    ShrinkChoice choice = {shrink_of, &draw};
    if (!t->train || !t->jpeg_scale) return image_decode(img, bytes, size, max_pixels, err);
    return image_decode_shrunk(img, bytes, size, max_pixels, &choice, err);
}

EXACT void transform_normalise(float *out, const uint8_t *rgb, const Transform *t) {
    size_t n = (size_t)t->size * (size_t)t->size;
    for (int c = 0; c < 3; c++) {
        float value[256];
        for (int v = 0; v < 256; v++) value[v] = ((float)v / 255.0f - t->mean[c]) / t->std[c];
        for (size_t i = 0; i < n; i++) out[(size_t)c * n + i] = value[rgb[3 * i + (size_t)c]];
    }
}

void transform_scratch_free(TransformScratch **scratch) {
    if (*scratch) resize_scratch_free(&(*scratch)->resize);
    if (*scratch) FREE_ALL((*scratch)->blur, (*scratch)->whole);
    free(*scratch);
    *scratch = NULL;
}
