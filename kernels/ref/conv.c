#include "kernels/ref/ref.h"

#include <math.h>

/* Windows in order: `of` the picture, (row, col) its place there. */
typedef struct Place {
    size_t of, row, col;
} Place;
static Place place(const Windows *g, size_t o) {
    size_t h = windows_along(g->H, g), w = windows_along(g->W, g);
    return (Place){o / (h * w), o / w % h, o % w};
}

/* *at = the index in [B,H,W] of a window's pixel `tap`; false: it is in the border. */
static bool pixel(const Windows *g, Place p, size_t tap, size_t *at) {
    size_t row = p.row * g->stride + tap / g->side, col = p.col * g->stride + tap % g->side;
    if (row < g->pad || col < g->pad || row - g->pad >= g->H || col - g->pad >= g->W) return false;
    *at = (p.of * g->H + row - g->pad) * g->W + col - g->pad;
    return true;
}

void ref_conv2d_fwd(act *y, const act *x, const act *w, Windows g, size_t C, size_t N) {
    size_t taps = g.side * g.side, at;
#pragma omp parallel for private(at)
    for (size_t o = 0; o < window_count(&g); o++) {
        for (size_t n = 0; n < N; n++) y[o * N + n].v = 0;
        for (size_t tap = 0; tap < taps; tap++)
            if (pixel(&g, place(&g, o), tap, &at))
                for (size_t n = 0; n < N; n++)
                    for (size_t c = 0; c < C; c++)
                        y[o * N + n].v += x[at * C + c].v * w[(n * C + c) * taps + tap].v;
    }
}

void ref_conv2d_bwd_input(act *dx, const act *dy, const act *w, Windows g, size_t C, size_t N) {
    size_t taps = g.side * g.side, at;
    for (size_t i = 0; i < window_pixels(&g) * C; i++) dx[i].v = 0;
    for (size_t o = 0; o < window_count(&g); o++)
        for (size_t tap = 0; tap < taps; tap++)
            if (pixel(&g, place(&g, o), tap, &at))
                for (size_t i = 0; i < N * C; i++)
                    dx[at * C + i % C].v += dy[o * N + i / C].v * w[i * taps + tap].v;
}

void ref_conv2d_bwd_weight(acc *dw, const act *dy, const act *x, Windows g, size_t C, size_t N) {
    size_t taps = g.side * g.side, at;
    for (size_t o = 0; o < window_count(&g); o++)
        for (size_t tap = 0; tap < taps; tap++)
            if (pixel(&g, place(&g, o), tap, &at))
                for (size_t i = 0; i < N * C; i++)
                    dw[i * taps + tap].v += dy[o * N + i / C].v * x[at * C + i % C].v;
}

void ref_max_pool_fwd(act *y, uint8_t *from, const act *x, Windows g, size_t C) {
    size_t at;
    assert(g.side <= 16);
    for (size_t i = 0; i < window_count(&g) * C; i++) {
        bool first = true;
        for (size_t tap = 0; tap < g.side * g.side; tap++) {
            if (!pixel(&g, place(&g, i / C), tap, &at)) continue;
            double v = x[at * C + i % C].v;
            if (!first && !(v > y[i].v) && !isnan(v)) continue;
            y[i].v = v;
            from[i] = (uint8_t)tap;
            first = false;
        }
    }
}

void ref_max_pool_bwd(act *dx, const act *dy, const uint8_t *from, Windows g, size_t C) {
    size_t at;
    for (size_t i = 0; i < window_pixels(&g) * C; i++) dx[i].v = 0;
    for (size_t i = 0; i < window_count(&g) * C; i++)
        if (pixel(&g, place(&g, i / C), from[i], &at)) dx[at * C + i % C].v += dy[i].v;
}

void ref_avg_pool_fwd(act *y, const act *x, Windows g, size_t C) {
    size_t taps = g.side * g.side, at;
    assert(!g.pad);
    for (size_t i = 0; i < window_count(&g) * C; i++) {
        double sum = 0;
        for (size_t tap = 0; tap < taps && pixel(&g, place(&g, i / C), tap, &at); tap++)
            sum += x[at * C + i % C].v;
        y[i].v = sum / (double)taps;
    }
}

void ref_avg_pool_bwd(act *dx, const act *dy, Windows g, size_t C) {
    size_t taps = g.side * g.side, at;
    assert(!g.pad);
    for (size_t i = 0; i < window_pixels(&g) * C; i++) dx[i].v = 0;
    for (size_t i = 0; i < window_count(&g) * C; i++)
        for (size_t tap = 0; tap < taps && pixel(&g, place(&g, i / C), tap, &at); tap++)
            dx[at * C + i % C].v += dy[i].v / (double)taps;
}
