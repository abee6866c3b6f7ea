/* embed_index: implements `clipc embed --index`. */
#pragma once
#include "data/tensors/npy.h"
#include "eval/encoder.h"
#include "train/options.h"

typedef struct EmbedIndex {
    const Command *command;
    const char *folder, *checkpoint;
    NpyType type;
    bool type_given;
    size_t thumb_side; /* of a new index */
    bool side_given;
} EmbedIndex;

/* Adds the data set's pictures that are not yet in the index (by key); creates the index if there
 * is none. Exits with an error if it is of another model, or an option of the command says that
 * pictures are to be read in another way than the index's were. */
void embed_into_index(Encoder *e, Dataset *d, const EmbedIndex *o);
