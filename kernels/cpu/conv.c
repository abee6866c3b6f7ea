/* cpu/conv: convolutions by oneDNN, with channels last, and pools. A convolution of one pixel with
 * stride 1 is a product of rows.
 *
 * oneDNN chooses the order of a sum by the number of pictures and threads. Outputs and input
 * gradients are therefore computed a picture at a time, each by one thread: a picture's result
 * depends neither on the other pictures nor on the number of threads. Weight gradients, which are
 * sums over pictures, are computed whole. */
#include "kernels/cpu/matmul.h"
#include "kernels/cpu/onednn.h"

#include <omp.h>
#include <stdlib.h>

#define check FN(onednn_check)

/* ---- primitives ---- (kept for the life of the process: a model has few shapes) */

typedef enum { CONV_FWD, CONV_BWD_INPUT, CONV_BWD_WEIGHT } Kind;

typedef struct Conv {
    Kind kind;
    Windows g;
    size_t C, N;
    int threads;
    dnnl_primitive_t primitive, pack; /* pack: weights to or from its format; NULL: as stored */
    dnnl_primitive_desc_t desc;       /* holds those of x, y, w and pad */
    const dnnl_memory_desc_t *x, *y, *w, *pad;
    dnnl_memory_desc_t stored_w;
    size_t w_bytes, pad_bytes;
    struct Conv *next;
} Conv;
static Conv *convs;

static dnnl_memory_desc_t descriptor(size_t a, size_t b, size_t c, size_t d, dnnl_data_type_t type,
                                     dnnl_format_tag_t tag) {
    dnnl_memory_desc_t m;
    dnnl_dims_t dims = {(dnnl_dim_t)a, (dnnl_dim_t)b, (dnnl_dim_t)c, (dnnl_dim_t)d};
    check(dnnl_memory_desc_init_by_tag(&m, 4, dims, type, tag), "a memory descriptor");
    return m;
}

/* The border after the last row or column that a window covers; negative: pixels unused. */
static dnnl_dim_t after(size_t n, const Windows *g) {
    return (dnnl_dim_t)((windows_along(n, g) - 1) * g->stride + g->side) - (dnnl_dim_t)(n + g->pad);
}

static dnnl_primitive_desc_t conv_desc(Conv *e) {
    const Windows *g = &e->g;
    dnnl_data_type_t type = FN(onednn_type)(ELEMENT_ACT);
    size_t h = windows_along(g->H, g), v = windows_along(g->W, g);
    bool weight = e->kind == CONV_BWD_WEIGHT;
    dnnl_memory_desc_t x = descriptor(g->B, e->C, g->H, g->W, type, dnnl_nhwc);
    dnnl_memory_desc_t y = descriptor(g->B, e->N, h, v, type, dnnl_nhwc);
    e->stored_w = descriptor(e->N, e->C, g->side, g->side, weight ? dnnl_f32 : type, dnnl_oihw);
    dnnl_memory_desc_t w =
        descriptor(e->N, e->C, g->side, g->side, weight ? dnnl_f32 : type, dnnl_format_tag_any);
    dnnl_dims_t strides = {(dnnl_dim_t)g->stride, (dnnl_dim_t)g->stride};
    dnnl_dims_t before = {(dnnl_dim_t)g->pad, (dnnl_dim_t)g->pad};
    dnnl_dims_t behind = {after(g->H, g), after(g->W, g)};
    dnnl_convolution_desc_t d;
    check(e->kind == CONV_FWD ? dnnl_convolution_forward_desc_init(
                                    &d, dnnl_forward_training, dnnl_convolution_direct, &x, &w,
                                    NULL, &y, strides, before, behind)
          : weight ? dnnl_convolution_backward_weights_desc_init(
                         &d, dnnl_convolution_direct, &x, &w, NULL, &y, strides, before, behind)
                   : dnnl_convolution_backward_data_desc_init(&d, dnnl_convolution_direct, &x, &w,
                                                              &y, strides, before, behind),
          "a convolution's descriptor");
    dnnl_primitive_attr_t attr;
    check(dnnl_primitive_attr_create(&attr), "attributes");
    check(dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user), "attributes");
    dnnl_primitive_desc_t pd, forward = NULL;
    dnnl_convolution_desc_t f;
    if (e->kind != CONV_FWD) { /* a hint that backward wants */
        dnnl_memory_desc_t w_fwd =
            descriptor(e->N, e->C, g->side, g->side, type, dnnl_format_tag_any);
        check(dnnl_convolution_forward_desc_init(&f, dnnl_forward_training, dnnl_convolution_direct,
                                                 &x, &w_fwd, NULL, &y, strides, before, behind),
              "a convolution's descriptor");
        check(dnnl_primitive_desc_create(&forward, &f, attr, FN(onednn_engine)(), NULL),
              "a convolution's primitive descriptor");
    }
    check(dnnl_primitive_desc_create(&pd, &d, attr, FN(onednn_engine)(), forward),
          "a convolution's primitive descriptor");
    if (forward) dnnl_primitive_desc_destroy(forward);
    dnnl_primitive_attr_destroy(attr);
    return pd;
}

static void conv_new(Conv *e) {
    int threads = omp_get_max_threads();
    omp_set_num_threads(e->threads);
    dnnl_primitive_desc_t pd = e->desc = conv_desc(e);
    check(dnnl_primitive_create(&e->primitive, pd), "a convolution");
    omp_set_num_threads(threads);
    bool weight = e->kind == CONV_BWD_WEIGHT;
    e->x = dnnl_primitive_desc_query_md(
        pd, e->kind == CONV_BWD_INPUT ? dnnl_query_diff_src_md : dnnl_query_src_md, 0);
    e->y = dnnl_primitive_desc_query_md(
        pd, e->kind == CONV_FWD ? dnnl_query_dst_md : dnnl_query_diff_dst_md, 0);
    e->w = dnnl_primitive_desc_query_md(
        pd, weight ? dnnl_query_diff_weights_md : dnnl_query_weights_md, 0);
    e->pad = dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
    e->w_bytes = dnnl_memory_desc_get_size(e->w);
    e->pad_bytes = dnnl_memory_desc_get_size(e->pad);
    if (dnnl_memory_desc_equal(e->w, &e->stored_w)) return;
    dnnl_primitive_desc_t reorder;
    check(dnnl_reorder_primitive_desc_create(&reorder, weight ? e->w : &e->stored_w,
                                             FN(onednn_engine)(), weight ? &e->stored_w : e->w,
                                             FN(onednn_engine)(), NULL),
          "a reorder's descriptor");
    check(dnnl_primitive_create(&e->pack, reorder), "a reorder");
    dnnl_primitive_desc_destroy(reorder);
}

static Conv *conv_get(Kind kind, Windows g, size_t C, size_t N) {
    bool whole = kind == CONV_BWD_WEIGHT;
    int threads = whole ? omp_get_max_threads() : 1;
    if (!whole) g.B = 1;
    for (Conv *e = convs; e; e = e->next)
        if (e->kind == kind && e->C == C && e->N == N && e->threads == threads && e->g.B == g.B &&
            e->g.H == g.H && e->g.W == g.W && e->g.side == g.side && e->g.stride == g.stride &&
            e->g.pad == g.pad)
            return e;
    Conv *e = xcalloc(1, sizeof *e);
    *e = (Conv){.kind = kind, .g = g, .C = C, .N = N, .threads = threads, .next = convs};
    conv_new(e);
    return convs = e;
}

/* ---- convolutions ---- */

static bool is_product(const Windows *g) { return g->side == 1 && g->stride == 1 && !g->pad; }

static double conv_flops(const Windows *g, size_t C, size_t N) {
    return 2.0 * (double)window_count(g) * (double)N * (double)(C * g->side * g->side);
}
static double conv_bytes(const Windows *g, size_t C, size_t N) {
    return (double)sizeof(act) *
           ((double)window_pixels(g) * (double)C + (double)window_count(g) * (double)N +
            (double)(C * N * g->side * g->side));
}

static void widen(float *to, const act *from, size_t n) {
    for (size_t i = 0; i < n; i += VW) f32_store(to + i, act_load(from + i, n - i), n - i);
}
static void narrow(act *to, const float *from, size_t n) {
    for (size_t i = 0; i < n; i += VW) act_store(to + i, f32_load(from + i, n - i), n - i);
}

/* x[n] in the type of the computation. */
static const void *in_type(enum ScratchUse use, const act *x, size_t n) {
    if (FN(onednn_computed)(ELEMENT_ACT) == ELEMENT_ACT) return x;
    float *to = FN(scratch)(use, n * sizeof *to);
#pragma omp parallel for schedule(static) if (n > SERIAL_BELOW)
    for (size_t i = 0; i < n; i += VW) f32_store(to + i, act_load(x + i, n - i), n - i);
    return to;
}

static const void *packed_weights(const Conv *e, const act *w) {
    const void *stored = in_type(SCRATCH_WIDE, w, e->N * e->C * e->g.side * e->g.side);
    if (!e->pack) return stored;
    void *to = FN(scratch)(SCRATCH_PACKED, e->w_bytes);
    const Operand all[] = {{DNNL_ARG_FROM, &e->stored_w, stored}, {DNNL_ARG_TO, e->w, to}};
    FN(onednn_execute)(e->pack, all, COUNT(all), "a reorder");
    return to;
}

/* out[B,n_out] from in[B,n_in], a picture at a time. */
static void by_pictures(Kind kind, act *out, const act *in, const act *w, const Windows *g,
                        size_t n_out, size_t n_in, size_t C, size_t N) {
    const Conv *e = conv_get(kind, *g, C, N);
    const void *weights = packed_weights(e, w);
    bool wide = FN(onednn_computed)(ELEMENT_ACT) != ELEMENT_ACT, fwd = kind == CONV_FWD;
    size_t pad = round_up(e->pad_bytes + 64, 64), to = pad;
    size_t from = to + (wide ? round_up(n_out * sizeof(float), 64) : 0);
    size_t size = from + (wide ? round_up(n_in * sizeof(float), 64) : 0);
    char *mem = FN(scratch)(SCRATCH_LEFT, size * (size_t)omp_get_max_threads());
#pragma omp parallel if (g->B > 1)
    {
        omp_set_num_threads(1); /* in this thread: oneDNN starts no others */
        char *own = mem + size * (size_t)omp_get_thread_num();
#pragma omp for schedule(static)
        for (size_t b = 0; b < g->B; b++) {
            const void *source = in + b * n_in;
            void *result = wide ? (void *)(own + to) : out + b * n_out;
            if (wide) widen((float *)(own + from), source, n_in), source = own + from;
            const void *x = fwd ? source : result, *y = fwd ? result : source;
            const Operand all[] = {{fwd ? DNNL_ARG_SRC : DNNL_ARG_DIFF_SRC, e->x, x},
                                   {fwd ? DNNL_ARG_DST : DNNL_ARG_DIFF_DST, e->y, y},
                                   {DNNL_ARG_WEIGHTS, e->w, weights},
                                   {DNNL_ARG_SCRATCHPAD, e->pad, own}};
            FN(onednn_execute)(e->primitive, all, COUNT(all), "a convolution");
            if (wide) narrow(out + b * n_out, result, n_out);
        }
    }
}

void FN(conv2d_fwd)(act *y, const act *x, const act *w, Windows g, size_t C, size_t N) {
    KERNEL_BEGIN(conv2d_fwd, conv_flops(&g, C, N), conv_bytes(&g, C, N));
    if (!g.B) return;
    size_t n_out = window_count(&g) / g.B * N, n_in = g.H * g.W * C;
    if (is_product(&g)) {
        Product p = {window_pixels(&g), N, C, .a = {x, C}, .b = {w, C}, .c = {y, N}, .tb = true};
        FN(matmul)(&p);
    } else {
        by_pictures(CONV_FWD, y, x, w, &g, n_out, n_in, C, N);
    }
}

void FN(conv2d_bwd_input)(act *dx, const act *dy, const act *w, Windows g, size_t C, size_t N) {
    KERNEL_BEGIN(conv2d_bwd_input, conv_flops(&g, C, N), conv_bytes(&g, C, N));
    if (!g.B) return;
    size_t n_out = g.H * g.W * C, n_in = window_count(&g) / g.B * N;
    if (is_product(&g)) {
        Product p = {window_pixels(&g), C, N, .a = {dy, N}, .b = {w, C}, .c = {dx, C}};
        FN(matmul)(&p);
    } else {
        by_pictures(CONV_BWD_INPUT, dx, dy, w, &g, n_out, n_in, C, N);
    }
}

static void whole_gradient(acc *dw, const act *dy, const act *x, const Windows *g, size_t C,
                           size_t N) {
    const Conv *e = conv_get(CONV_BWD_WEIGHT, *g, C, N);
    size_t n = N * C * g->side * g->side;
    const void *from_x = in_type(SCRATCH_WIDE, x, window_pixels(g) * C);
    const void *from_y = in_type(SCRATCH_PADDED, dy, window_count(g) * N);
    float *stored = FN(scratch)(SCRATCH_WEIGHTS, n * sizeof *stored), *result = stored;
    if (e->pack) result = FN(scratch)(SCRATCH_PACKED, e->w_bytes);
    const Operand all[] = {{DNNL_ARG_SRC, e->x, from_x},
                           {DNNL_ARG_DIFF_DST, e->y, from_y},
                           {DNNL_ARG_DIFF_WEIGHTS, e->w, result},
                           {DNNL_ARG_SCRATCHPAD, e->pad, FN(scratch)(SCRATCH_DNNL, e->pad_bytes)}};
    FN(onednn_execute)(e->primitive, all, COUNT(all), "a convolution");
    const Operand back[] = {{DNNL_ARG_FROM, e->w, result}, {DNNL_ARG_TO, &e->stored_w, stored}};
    if (e->pack) FN(onednn_execute)(e->pack, back, COUNT(back), "a reorder");
    FN(add_partials)(&dw->v, stored, 1, n);
}

void FN(conv2d_bwd_weight)(acc *dw, const act *dy, const act *x, Windows g, size_t C, size_t N) {
    KERNEL_BEGIN(conv2d_bwd_weight, conv_flops(&g, C, N), conv_bytes(&g, C, N));
    if (!g.B) return;
    if (is_product(&g)) {
        Product p = {N, C, window_pixels(&g), .a = {dy, N}, .b = {x, C}, .c = {dw, C}};
        p.out = ELEMENT_F32;
        p.ta = p.add = true;
        FN(matmul)(&p);
    } else {
        whole_gradient(dw, dy, x, &g, C, N);
    }
}

/* ---- pools ---- */

/* The window's pixels first … end-1 along one side that are inside n pixels. */
static void inside(size_t *first, size_t *end, size_t window, size_t n, const Windows *g) {
    size_t start = window * g->stride;
    *first = start < g->pad ? g->pad - start : 0;
    *end = size_min(g->side, n + g->pad - start);
}

void FN(max_pool_fwd)(act *y, uint8_t *from, const act *x, Windows g, size_t C) {
    KERNEL_BEGIN(max_pool_fwd, 0, (window_pixels(&g) + window_count(&g)) * C * sizeof(act));
    size_t h = windows_along(g.H, &g), w = windows_along(g.W, &g);
    assert(g.side <= 16);
#pragma omp parallel for schedule(static)
    for (size_t o = 0; o < g.B * h * w; o++) {
        size_t oh = o / w % h, ow = o % w, r0, r1, s0, s1;
        inside(&r0, &r1, oh, g.H, &g);
        inside(&s0, &s1, ow, g.W, &g);
        const act *picture = x + o / (h * w) * g.H * g.W * C;
        for (size_t c = 0; c < C; c++) {
            float most = 0;
            size_t tap = SIZE_MAX;
            for (size_t r = r0; r < r1; r++)
                for (size_t s = s0; s < s1; s++) {
                    size_t at = (oh * g.stride + r - g.pad) * g.W + ow * g.stride + s - g.pad;
                    float v = act_value(picture[at * C + c]);
                    if (tap != SIZE_MAX && !(v > most) && v == v) continue;
                    most = v;
                    tap = r * g.side + s;
                }
            y[o * C + c] = act_from_float(most);
            from[o * C + c] = (uint8_t)tap;
        }
    }
}

void FN(max_pool_bwd)(act *dx, const act *dy, const uint8_t *from, Windows g, size_t C) {
    KERNEL_BEGIN(max_pool_bwd, 0, (window_pixels(&g) + window_count(&g)) * C * sizeof(act));
    size_t h = windows_along(g.H, &g), w = windows_along(g.W, &g), n = g.H * g.W * C;
    size_t threads = (size_t)omp_get_max_threads();
    float *sums = FN(scratch)(SCRATCH_PARTIAL, threads * n * sizeof *sums);
#pragma omp parallel for schedule(static)
    for (size_t b = 0; b < g.B; b++) {
        float *sum = sums + (size_t)omp_get_thread_num() * n;
        memset(sum, 0, n * sizeof *sum);
        for (size_t o = b * h * w; o < (b + 1) * h * w; o++)
            for (size_t c = 0; c < C; c++) {
                size_t tap = from[o * C + c];
                size_t row = o / w % h * g.stride + tap / g.side - g.pad;
                size_t col = o % w * g.stride + tap % g.side - g.pad;
                sum[(row * g.W + col) * C + c] += act_value(dy[o * C + c]);
            }
        narrow(dx + b * n, sum, n);
    }
}

void FN(avg_pool_fwd)(act *y, const act *x, Windows g, size_t C) {
    KERNEL_BEGIN(avg_pool_fwd, 0, (window_pixels(&g) + window_count(&g)) * C * sizeof(act));
    size_t h = windows_along(g.H, &g), w = windows_along(g.W, &g);
    vf share = vset(1.0f / (float)(g.side * g.side));
    assert(!g.pad);
#pragma omp parallel for schedule(static)
    for (size_t o = 0; o < g.B * h * w; o++) {
        const act *first =
            x + ((o / (h * w) * g.H + o / w % h * g.stride) * g.W + o % w * g.stride) * C;
        for (size_t c = 0; c < C; c += VW) {
            vf sum = vzero();
            for (size_t r = 0; r < g.side; r++)
                for (size_t s = 0; s < g.side; s++)
                    sum += act_load(first + (r * g.W + s) * C + c, C - c);
            act_store(y + o * C + c, sum * share, C - c);
        }
    }
}

void FN(avg_pool_bwd)(act *dx, const act *dy, Windows g, size_t C) {
    KERNEL_BEGIN(avg_pool_bwd, 0, (window_pixels(&g) + window_count(&g)) * C * sizeof(act));
    size_t h = windows_along(g.H, &g), w = windows_along(g.W, &g);
    vf share = vset(1.0f / (float)(g.side * g.side));
    assert(!g.pad);
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < window_pixels(&g); i++) {
        size_t row = i / g.W % g.H, col = i % g.W;
        /* the windows that contain the pixel */
        size_t r0 = row < g.side ? 0 : (row - g.side) / g.stride + 1;
        size_t s0 = col < g.side ? 0 : (col - g.side) / g.stride + 1;
        for (size_t c = 0; c < C; c += VW) {
            vf sum = vzero();
            for (size_t r = r0; r < h && r * g.stride <= row; r++)
                for (size_t s = s0; s < w && s * g.stride <= col; s++)
                    sum += act_load(dy + ((i / (g.H * g.W) * h + r) * w + s) * C + c, C - c);
            act_store(dx + i * C + c, sum * share, C - c);
        }
    }
}
