/* weight_pieces: the tensors of a file of weights that is written, and what they hold of the
 * model. */
#pragma once
#include "data/tensors/safetensors.h"
#include "train/model/params.h"
#include "train/model/weight_names.h"

/* One tensor of the file: elements first … first+count-1 of a parameter. */
typedef struct WeightPiece {
    size_t param, first, count;
    bool transposed; /* of a whole matrix */
    char name[FILE_NAME];
} WeightPiece;

typedef struct WeightPieces {
    size_t count;
    WeightPiece *list;
    Tensor *tensors; /* [count] name, type and shape in the file */
} WeightPieces;

/* Every parameter must have a place in files of these names. */
WeightPieces weight_pieces(NamesOf names, const Param *list, size_t count, Dtype dtype);
void weight_pieces_free(WeightPieces *p);
