/* Any bytes as an archive of PyTorch's: refused, or every element of every tensor can be read. */
#include "data/tensors/torchfile.h"
#include "tests/fuzz/memory_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    TorchFile f;
    Error err;
    if (!torchfile_open(&f, memory_file(bytes, n), &err)) return 0;
    for (size_t i = 0; i < f.count; i++) {
        const Tensor *t = &f.tensors[i];
        float x[16];
        for (size_t first = 0; dtype_size(t->dtype) && first < t->count; first += 16)
            if (!tensor_read_f32(t, first, size_min(16, t->count - first), x) &&
                t->dtype <= DTYPE_BF16)
                abort();
    }
    torchfile_verify(&f, &err);
    torchfile_close(&f);
    return 0;
}
