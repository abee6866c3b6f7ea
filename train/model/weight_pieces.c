#include "train/model/weight_pieces.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static Tensor describe(const WeightPiece *p, const Param *q, const WeightName *n, Dtype dtype) {
    Tensor t = {.name = (char *)p->name, .dtype = dtype, .ndim = q->ndim, .count = p->count};
    for (int d = 0; d < q->ndim; d++) t.shape[d] = q->shape[d];
    if (q->ndim) t.shape[0] = p->count / (q->size / q->shape[0]);
    if (p->transposed) {
        t.shape[0] = q->shape[1];
        t.shape[1] = q->shape[0];
    }
    if (p->channels_last) {
        t.shape[1] = q->size / q->shape[0];
        t.ndim = 2;
    }
    if (n->square) {
        size_t side = (size_t)lround(sqrt((double)q->shape[0]));
        t = (Tensor){t.name, dtype, 3, {side, side, q->shape[1]}, p->count, NULL};
    }
    for (int ones = n->ones; ones > 0; ones--) {
        memmove(t.shape + 1, t.shape, (size_t)t.ndim * sizeof *t.shape);
        t.shape[0] = 1;
        t.ndim++;
    }
    return t;
}

WeightPieces weight_pieces(NamesOf names, const Param *list, size_t count, Dtype dtype) {
    WeightPieces p = {.list = xcalloc(3 * count + 1, sizeof *p.list),
                      .tensors = xcalloc(3 * count + 1, sizeof *p.tensors)};
    for (size_t i = 0; i < count; i++) {
        const Param *q = &list[i];
        WeightName place;
        size_t nth = 0;
        for (; weight_name_out(names, q->name, nth, p.list[p.count].name, &place); nth++) {
            WeightPiece *piece = &p.list[p.count];
            size_t third = q->size / 3, half = q->size / 2;
            piece->param = i;
            piece->first = (size_t)place.third * third;
            piece->count = place.thirds ? (size_t)place.thirds * third : q->size;
            if (place.half) {
                piece->first = (size_t)(place.half - 1) * half;
                piece->count = half;
            }
            piece->transposed = place.transposed;
            piece->channels_last = place.channels_last;
            p.tensors[p.count++] = describe(piece, q, &place, dtype);
            assert(p.count <= 3 * count);
        }
        assert(nth || names == NAMES_TORCHVISION);
    }
    return p;
}

void weight_piece_move(const WeightPiece *p, const Param *q, const float *x, float *out) {
    size_t rows = q->shape[0], columns = q->size / rows, area = columns / q->shape[1];
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < columns; c++) {
            size_t to =
                p->transposed ? c * rows + r : r * columns + c % area * q->shape[1] + c / area;
            out[to] = x[r * columns + c];
        }
}

void weight_pieces_free(WeightPieces *p) { FREE_ALL(p->list, p->tensors); }
