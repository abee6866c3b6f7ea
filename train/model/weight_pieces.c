#include "train/model/weight_pieces.h"

#include <stdlib.h>
#include <string.h>

static Tensor describe(const WeightPiece *p, const Param *q, int ones, Dtype dtype) {
    Tensor t = {.name = (char *)p->name, .dtype = dtype, .ndim = q->ndim, .count = p->count};
    for (int d = 0; d < q->ndim; d++) t.shape[d] = q->shape[d];
    if (q->ndim) t.shape[0] = p->count / (q->size / q->shape[0]);
    if (p->transposed) {
        t.shape[0] = q->shape[1];
        t.shape[1] = q->shape[0];
    }
    for (; ones > 0; ones--) {
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
            p.tensors[p.count++] = describe(piece, q, place.ones, dtype);
            assert(p.count <= 3 * count);
        }
        assert(nth || names == NAMES_TORCHVISION);
    }
    return p;
}

void weight_pieces_free(WeightPieces *p) { FREE_ALL(p->list, p->tensors); }
