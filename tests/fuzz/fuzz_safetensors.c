/* Any bytes as a safetensors file: refused, or every element of every tensor can be read. */
#include "data/tensors/safetensors.h"
#include "tests/fuzz/memory_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    Safetensors st;
    Error err;
    if (!safetensors_open(&st, memory_file(bytes, n), &err)) return 0;
    for (size_t i = 0; i < st.count; i++) {
        const Tensor *t = &st.tensors[i];
        if (!safetensors_find(&st, t->name)) abort();
        float x[16];
        for (size_t first = 0; dtype_size(t->dtype) && first < t->count; first += 16)
            if (!tensor_read_f32(t, first, size_min(16, t->count - first), x) &&
                t->dtype <= DTYPE_BF16)
                abort();
    }
    safetensors_verify(&st, &err);
    safetensors_close(&st);
    return 0;
}
