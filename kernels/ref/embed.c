#include "kernels/ref/ref.h"

#include <math.h>
#include <stdlib.h>

/* The grid position of sample b's patch i. */
static size_t position(const int32_t *keep, size_t b, size_t i, size_t n) {
    return keep ? (size_t)keep[b * n + i] : i;
}

void ref_patches_u8(act *patches, const uint8_t *pixels, const int32_t *keep, const float mean[3],
                    const float std[3], size_t B, size_t S, size_t P, size_t n) {
    for (size_t b = 0; b < B; b++)
        for (size_t i = 0; i < n; i++) {
            size_t pos = position(keep, b, i, n), top = pos / (S / P) * P, left = pos % (S / P) * P;
            for (size_t c = 0; c < 3; c++)
                for (size_t y = 0; y < P; y++)
                    for (size_t x = 0; x < P; x++, patches++) {
                        uint8_t u = pixels[((b * S + top + y) * S + left + x) * 3 + c];
                        patches->v = (u / 255.0 - (double)mean[c]) / (double)std[c];
                    }
        }
}

void ref_image_embed_fwd(act *x, const act *tok, const acc *cls, const acc *pos,
                         const int32_t *keep, size_t B, size_t n, size_t C) {
    size_t first = cls != NULL;
    for (size_t b = 0; b < B; b++) {
        for (size_t c = 0; c < first * C; c++, x++) x->v = cls[c].v + pos[c].v;
        for (size_t i = 0; i < n; i++) {
            size_t at = first + position(keep, b, i, n);
            for (size_t c = 0; c < C; c++, x++)
                x->v = tok[(b * n + i) * C + c].v + pos[at * C + c].v;
        }
    }
}

void ref_image_embed_bwd(act *dtok, acc *dcls, acc *dpos, const act *dx, const int32_t *keep,
                         size_t B, size_t n, size_t C) {
    size_t first = dcls != NULL;
    for (size_t b = 0; b < B; b++) {
        for (size_t c = 0; c < first * C; c++, dx++) {
            dcls[c].v += dx->v;
            dpos[c].v += dx->v;
        }
        for (size_t i = 0; i < n; i++) {
            size_t at = first + position(keep, b, i, n);
            for (size_t c = 0; c < C; c++, dx++) {
                dtok[(b * n + i) * C + c] = *dx;
                dpos[at * C + c].v += dx->v;
            }
        }
    }
}

/* The weights of output `at` of `size` along an axis: whole numbers, times 2·max(size, side), over
 * their sum. */
static void axis_weights(double *w, size_t at, size_t size, size_t side) {
    double centre = (double)((2 * at + 1) * side) - (double)size, sum = 0;
    double reach = (double)(2 * size_max(size, side));
    for (size_t i = 0; i < side; i++)
        sum += w[i] = fmax(0, reach - fabs(centre - (double)(2 * size * i)));
    for (size_t i = 0; i < side; i++) w[i] /= sum;
}

void ref_grid_weights(acc *w, const int32_t *start, const int32_t *grid, size_t B, size_t first,
                      size_t n, size_t side) {
    double *rows = xmalloc(2 * side * sizeof *rows), *columns = rows + side;
    for (size_t b = 0; b < B; b++)
        for (size_t r = (size_t)start[b]; r < (size_t)start[b + 1]; r++) {
            if (r < first || r >= first + n) continue;
            size_t t = r - (size_t)start[b], width = (size_t)grid[2 * b + 1];
            axis_weights(rows, t / width, (size_t)grid[2 * b], side);
            axis_weights(columns, t % width, width, side);
            for (size_t i = 0; i < side * side; i++)
                w[(r - first) * side * side + i].v = rows[i / side] * columns[i % side];
        }
    free(rows);
}

void ref_rotate_heads(act *x, const acc *turns, const int32_t *keep, size_t B, size_t first,
                      size_t n, size_t ld, size_t heads, size_t D, bool back) {
    for (size_t b = 0; b < B; b++)
        for (size_t i = 0; i < n; i++)
            for (size_t d = 0; d < heads * D; d += 2) {
                act *pair = x + (b * (first + n) + first + i) * ld + d;
                const acc *cosines = turns + position(keep, b, i, n) * 2 * D + d % D;
                const acc *sines = cosines + D;
                double even = pair[0].v, odd = pair[1].v, sign = back ? -1 : 1;
                pair[0].v = even * cosines[0].v + odd * sign * sines[0].v;
                pair[1].v = odd * cosines[1].v + even * sign * sines[1].v;
            }
}

void ref_text_embed_fwd(act *x, const int32_t *ids, const int32_t *start, const acc *table,
                        const acc *pos, size_t B, size_t rows, size_t C) {
    (void)rows;
    for (size_t b = 0; b < B; b++)
        for (size_t row = (size_t)start[b]; row < (size_t)start[b + 1]; row++)
            for (size_t c = 0; c < C; c++)
                x[row * C + c].v =
                    table[(size_t)ids[row] * C + c].v + pos[(row - (size_t)start[b]) * C + c].v;
}

void ref_text_embed_bwd(acc *dtable, acc *dpos, const act *dx, const int32_t *ids,
                        const int32_t *start, size_t B, size_t rows, size_t C) {
    (void)rows;
    for (size_t b = 0; b < B; b++)
        for (size_t row = (size_t)start[b]; row < (size_t)start[b + 1]; row++)
            for (size_t c = 0; c < C; c++) {
                dtable[(size_t)ids[row] * C + c].v += dx[row * C + c].v;
                dpos[(row - (size_t)start[b]) * C + c].v += dx[row * C + c].v;
            }
}
