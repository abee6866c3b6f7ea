/* cpu/embed: pixels to patches, and the two towers' embeddings. */
#include "kernels/cpu/cpu.h"

/* Channels that a thread owns in the backward sums: two cache lines of f32. */
#define OWNED_CHANNELS 32

void FN(patches_u8)(act *patches, const uint8_t *pixels, const int32_t *keep, const float mean[3],
                    const float std[3], size_t B, size_t S, size_t P, size_t n) {
    KERNEL_BEGIN(patches_u8, 0, B * n * 3 * P * P * (1 + sizeof(act)));
    size_t grid = S / P, area = P * P;
    act value[3][256]; /* a channel has 256 values: each is normalised and rounded once */
    for (size_t c = 0; c < 3; c++)
        for (int u = 0; u < 256; u++)
            value[c][u] = act_from_float(((float)u / 255.0f - mean[c]) / std[c]);
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < B * n; i++) {
        size_t at = keep ? (size_t)keep[i] : i % n;
        const uint8_t *from = pixels + ((i / n * S + at / grid * P) * S + at % grid * P) * 3;
        act *to = patches + i * 3 * area;
        for (size_t y = 0; y < P; y++, from += S * 3, to += P)
            for (size_t x = 0; x < P; x++) {
                to[x] = value[0][from[3 * x]];
                to[x + area] = value[1][from[3 * x + 1]];
                to[x + 2 * area] = value[2][from[3 * x + 2]];
            }
    }
}

void FN(image_embed_fwd)(act *x, const act *tok, const acc *cls, const acc *pos,
                         const int32_t *keep, size_t B, size_t n, size_t C) {
    size_t first = cls != NULL, T = first + n;
    KERNEL_BEGIN(image_embed_fwd, B * T * C, B * T * C * (2 * sizeof(act) + 4));
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < B * T; i++) {
        size_t b = i / T, t = i % T;
        act *to = x + i * C;
        if (t < first) {
            for (size_t c = 0; c < C; c += VW)
                act_store(to + c, acc_load(cls + c, C - c) + acc_load(pos + c, C - c), C - c);
            continue;
        }
        size_t patch = t - first;
        const act *from = tok + (b * n + patch) * C;
        const acc *p = pos + (first + (keep ? (size_t)keep[b * n + patch] : patch)) * C;
        for (size_t c = 0; c < C; c += VW)
            act_store(to + c, act_load(from + c, C - c) + acc_load(p + c, C - c), C - c);
    }
}

void FN(image_embed_bwd)(act *dtok, acc *dcls, acc *dpos, const act *dx, const int32_t *keep,
                         size_t B, size_t n, size_t C) {
    size_t first = dcls != NULL, T = first + n;
    KERNEL_BEGIN(image_embed_bwd, B * T * C, B * T * C * 3 * sizeof(act));
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < B; i++)
        memcpy(dtok + i * n * C, dx + (i * T + first) * C, n * C * sizeof *dx);
#pragma omp parallel for schedule(static)
    for (size_t c0 = 0; c0 < C; c0 += OWNED_CHANNELS)
        for (size_t i = 0; i < B * T; i++) {
            size_t b = i / T, t = i % T;
            size_t p = t < first || !keep ? t : first + (size_t)keep[b * n + t - first];
            for (size_t c = c0; c < size_min(C, c0 + OWNED_CHANNELS); c += VW) {
                vf d = act_load(dx + i * C + c, C - c);
                acc *to = dpos + p * C + c;
                acc_store(to, acc_load(to, C - c) + d, C - c);
                if (t < first) acc_store(dcls + c, acc_load(dcls + c, C - c) + d, C - c);
            }
        }
}

/* w[side]: the weights of output `at` of `size` along an axis: whole numbers, times 2·max(size,
 * side), over their sum. */
static void axis_weights(float *w, size_t at, size_t size, size_t side) {
    float centre = (float)((2 * at + 1) * side) - (float)size, sum = 0;
    float reach = (float)(2 * size_max(size, side));
    for (size_t i = 0; i < side; i++) {
        float x = centre - (float)(2 * size * i);
        x = reach - (x < 0 ? -x : x);
        sum += w[i] = x > 0 ? x : 0;
    }
    for (size_t i = 0; i < side; i++) w[i] /= sum;
}

/* The sequence that owns a row. */
static size_t owner_of(const int32_t *start, size_t B, size_t row) {
    size_t lo = 0, hi = B - 1;
    while (lo < hi) {
        size_t mid = (lo + hi + 1) / 2;
        if ((size_t)start[mid] <= row)
            lo = mid;
        else
            hi = mid - 1;
    }
    return lo;
}

void FN(grid_weights)(acc *w, const int32_t *start, const int32_t *grid, size_t B, size_t first,
                      size_t n, size_t side) {
    KERNEL_BEGIN(grid_weights, n * side * side, n * side * side * sizeof *w);
    if (!B) return;
#pragma omp parallel
    {
        float *rows = xmalloc(2 * side * sizeof *rows), *columns = rows + side;
#pragma omp for schedule(static)
        for (size_t r = 0; r < n; r++) {
            size_t b = owner_of(start, B, first + r), t = first + r - (size_t)start[b];
            size_t width = (size_t)grid[2 * b + 1];
            axis_weights(rows, t / width, (size_t)grid[2 * b], side);
            axis_weights(columns, t % width, width, side);
            for (size_t i = 0; i < side; i++)
                for (size_t j = 0; j < side; j++)
                    w[(r * side + i) * side + j].v = rows[i] * columns[j];
        }
        free(rows);
    }
}

void FN(rotate_heads)(act *x, const acc *turns, const int32_t *keep, size_t B, size_t first,
                      size_t n, size_t ld, size_t heads, size_t D, bool back) {
    KERNEL_BEGIN(rotate_heads, 3 * B * n * heads * D, 2 * B * n * heads * D * sizeof(act));
    vf sign = vset(back ? -1 : 1);
#pragma omp parallel for schedule(static) if (B * n * heads * D > SERIAL_BELOW)
    for (size_t i = 0; i < B * n; i++) {
        size_t b = i / n, at = keep ? (size_t)keep[i] : i % n;
        act *row = x + (b * (first + n) + first + i % n) * ld;
        const acc *cosines = turns + at * 2 * D, *sines = cosines + D;
        for (size_t h = 0; h < heads; h++, row += D)
            for (size_t d = 0; d < D; d += VW) {
                vf v = act_load(row + d, D - d), s = acc_load(sines + d, D - d) * sign;
                act_store(row + d, vfma(v, acc_load(cosines + d, D - d), vswap_pairs(v) * s),
                          D - d);
            }
    }
}

void FN(text_embed_fwd)(act *x, const int32_t *ids, const int32_t *start, const acc *table,
                        const acc *pos, size_t B, size_t rows, size_t C) {
    KERNEL_BEGIN(text_embed_fwd, rows * C, rows * C * (8 + sizeof(act)));
#pragma omp parallel for schedule(static)
    for (size_t b = 0; b < B; b++)
        for (size_t i = (size_t)start[b]; i < (size_t)start[b + 1]; i++) {
            const acc *e = table + (size_t)ids[i] * C, *p = pos + (i - (size_t)start[b]) * C;
            for (size_t c = 0; c < C; c += VW)
                act_store(x + i * C + c, acc_load(e + c, C - c) + acc_load(p + c, C - c), C - c);
        }
}

void FN(text_embed_bwd)(acc *dtable, acc *dpos, const act *dx, const int32_t *ids,
                        const int32_t *start, size_t B, size_t rows, size_t C) {
    KERNEL_BEGIN(text_embed_bwd, 2 * rows * C, rows * C * (16 + sizeof(act)));
    /* Equal ids add to the same row of the table. A thread owns channels, so sums are in the order
     * of the rows. */
#pragma omp parallel for schedule(static)
    for (size_t c0 = 0; c0 < C; c0 += OWNED_CHANNELS)
        for (size_t b = 0; b < B; b++)
            for (size_t i = (size_t)start[b]; i < (size_t)start[b + 1]; i++)
                for (size_t c = c0; c < size_min(C, c0 + OWNED_CHANNELS); c += VW) {
                    vf d = act_load(dx + i * C + c, C - c);
                    acc *e = dtable + (size_t)ids[i] * C + c;
                    acc *p = dpos + (i - (size_t)start[b]) * C + c;
                    acc_store(e, acc_load(e, C - c) + d, C - c);
                    acc_store(p, acc_load(p, C - c) + d, C - c);
                }
}
