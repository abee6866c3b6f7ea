/* Any bytes as a .npy file: refused, or a matrix of exactly the file's floats. */
#include "data/tensors/npy.h"
#include "tests/fuzz/memory_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    Error err;
    NpyMap m;
    if (!npy_map(&m, memory_file(bytes, n), &err)) return 0;
    if (m.rows * m.cols * (m.f32 ? 4 : 2) > n) abort();
    volatile float sum = 0;
    for (size_t i = 0; i < m.rows * m.cols; i++) sum = sum + (m.f32 ? m.f32[i] : (float)m.f16[i]);
    npy_unmap(&m);
    return 0;
}
