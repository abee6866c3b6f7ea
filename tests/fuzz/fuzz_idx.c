/* Any bytes as an IDX file: arrays are complete, and no larger than a small file allows. */
#include "data/idx.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    IdxArray a;
    Error err;
    if (!idx_parse(&a, bytes, n, &err)) {
        if (a.bytes) abort();
        return 0;
    }
    size_t size = 1;
    volatile uint8_t sum = 0;
    for (size_t d = 0; d < a.ndim; d++) size *= a.shape[d];
    if (size != a.size) abort();
    for (size_t i = 0; i < a.size; i++) sum = sum ^ a.bytes[i];
    /* gzip compresses at most about a thousandfold */
    if (a.size > 1100 * (n + 100) || a.ndim > IDX_DIMS_MAX) abort();
    idx_free(&a);
    return 0;
}
