/* Any bytes as the JSON index of a checkpoint in parts: refused, or every tensor in a file of a
 * plain name. */
#include "data/tensors/tensorfile.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    TensorIndex x;
    Error err;
    if (!tensorindex_parse(&x, (const char *)bytes, n, &err)) return 0;
    if (!x.count || !x.file_count) abort();
    for (size_t i = 0; i < x.count; i++)
        if (x.file_of[i] >= x.file_count || strchr(x.files[x.file_of[i]], '/')) abort();
    tensorindex_free(&x);
    return 0;
}
