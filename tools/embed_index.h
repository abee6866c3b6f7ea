/* embed_index: what `clipc embed --index` does. */
#ifndef TOOLS_EMBED_INDEX_H
#define TOOLS_EMBED_INDEX_H
#include "data/tensors/npy.h"
#include "eval/encoder.h"

typedef struct EmbedIndex {
    const char *folder, *checkpoint;
    NpyType type;
    bool type_given;
    size_t thumb_side; /* of a new index */
    bool side_given;
} EmbedIndex;

/* Adds the data set's pictures that the index does not hold yet (by key); makes the index if
 * there is none. Dies if it is of another model. */
void embed_into_index(Encoder *e, Dataset *d, const EmbedIndex *o);
#endif
