/* weight_pieces: the tensors of a file of weights that is written, and what they hold of the
 * model. */
#pragma once
#include "data/tensors/safetensors.h"
#include "train/model/params.h"
#include "train/model/weight_names.h"

/* One tensor of the file: elements first … first+count-1 of a parameter. */
typedef struct WeightPiece {
    size_t param, first, count;
    bool transposed, channels_last; /* of a whole matrix (WeightName) */
    char name[FILE_NAME];
} WeightPiece;

typedef struct WeightPieces {
    size_t count;
    WeightPiece *list;
    Tensor *tensors; /* [count] name, type and shape in the file */
} WeightPieces;

/* Every parameter must have a place in files of these names. */
WeightPieces weight_pieces(NamesOf names, const Param *list, size_t count, Dtype dtype);
/* Returns true if the values have another order in the file. */
static inline bool weight_piece_moves(const WeightPiece *p) {
    return p->transposed || p->channels_last;
}
/* out: the values x of the whole parameter in the file's order. */
void weight_piece_move(const WeightPiece *p, const Param *q, const float *x, float *out);
void weight_pieces_free(WeightPieces *p);
