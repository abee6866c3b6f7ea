#include "train/model/positions.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Weights of output positions over n_in input positions: row o holds the weights w[o,·]. Resampling
 * is a product with this matrix, for each of the two axes of a grid. */
static double *resize_matrix(size_t n_in, size_t n_out, bool bicubic) {
    double *w = xcalloc(size_mul(n_in, n_out), sizeof *w), scale = (double)n_in / (double)n_out;
    for (size_t o = 0; o < n_out; o++) {
        double *row = w + o * n_in, centre = ((double)o + 0.5) * scale, sum = 0;
        if (!bicubic) { /* linear between the two neighbours, no antialiasing */
            double x = fmax(centre - 0.5, 0);
            size_t a = size_min((size_t)x, n_in - 1), b = size_min(a + 1, n_in - 1);
            row[a] += 1 - (x - (double)a);
            row[b] += x - (double)a;
            continue;
        }
        /* Keys' cubic with a = -1/2, widened by the reduction (antialias) */
        double widen = fmax(scale, 1), support = 2 * widen;
        size_t lo = (size_t)fmax(floor(centre - support + 0.5), 0);
        size_t hi = size_min((size_t)floor(centre + support + 0.5), n_in);
        for (size_t i = lo; i < hi; i++) {
            double x = fabs(((double)i - centre + 0.5) / widen);
            if (x < 1)
                row[i] = (1.5 * x - 2.5) * x * x + 1;
            else if (x < 2)
                row[i] = ((-0.5 * x + 2.5) * x - 4) * x + 2;
            sum += row[i];
        }
        for (size_t i = lo; i < hi; i++) row[i] /= sum;
    }
    return w;
}

/* out[n_out,C] = w[n_out,n_in] in[n_in,C], with `step` floats between rows. */
static void resample(float *out, const float *in, const double *w, size_t n_in, size_t n_out,
                     size_t step, size_t C) {
    for (size_t o = 0; o < n_out; o++)
        for (size_t c = 0; c < C; c++) {
            double sum = 0;
            for (size_t i = 0; i < n_in; i++) sum += w[o * n_in + i] * (double)in[i * step + c];
            out[o * step + c] = (float)sum;
        }
}

/* from [rows,C] → malloc'd [n,C], of which the first `kept` are copied. */
static float *resize_text(const float *from, size_t rows, size_t n, size_t C, size_t kept) {
    float *to = xmalloc(size_mul(n, C * sizeof *to));
    double *w = resize_matrix(rows - kept, n - kept, false);
    memcpy(to, from, kept * C * sizeof *to);
    resample(to + kept * C, from + kept * C, w, rows - kept, n - kept, C, C);
    free(w);
    return to;
}

/* `first` rows, then a g×g grid → the same rows, then a G×G grid. */
static float *resize_image(const float *from, size_t first, size_t g, size_t G, size_t C) {
    float *to = xmalloc(size_mul(first + G * G, C * sizeof *to));
    float *half = xmalloc(size_mul(g * G, C * sizeof *half));
    double *w = resize_matrix(g, G, true);
    memcpy(to, from, first * C * sizeof *to);
    for (size_t y = 0; y < g; y++)
        resample(half + y * G * C, from + (first + y * g) * C, w, g, G, C, C);
    for (size_t x = 0; x < G; x++) resample(to + (first + x) * C, half + x * C, w, g, G, G * C, C);
    FREE_ALL(w, half);
    return to;
}

/* 0: no square. */
static size_t side_of(size_t cells) {
    size_t side = (size_t)lround(sqrt((double)cells));
    return side * side == cells ? side : 0;
}

float *positions_resize(const float *from, size_t rows, size_t n, size_t C, bool image,
                        size_t kept) {
    if (!rows || !C) return NULL;
    if (!image) return rows > kept && n > kept ? resize_text(from, rows, n, C, kept) : NULL;
    size_t first = !side_of(n), g = side_of(rows - first), G = side_of(n - first);
    return g && G ? resize_image(from, first, g, G, C) : NULL;
}
