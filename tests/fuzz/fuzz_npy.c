/* Any bytes as a .npy file: refused, or a matrix of exactly the file's floats. */
#include "data/tensors/npy.h"
#include "tests/fuzz/memory_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    float *x;
    size_t rows, cols;
    Error err;
    NpyMap m;
    if (npy_map(&m, memory_file(bytes, n), &err)) {
        if (m.rows * m.cols * (m.f32 ? 4 : 2) > n) abort();
        volatile uint32_t all = 0;
        for (size_t i = 0; m.f16 && i < m.rows * m.cols; i++) all = all + m.f16[i];
        npy_unmap(&m);
    }
    if (!npy_read_f32(memory_file(bytes, n), &x, &rows, &cols, &err)) return 0;
    if (rows * cols * sizeof *x > n) abort();
    volatile float sum = 0;
    for (size_t i = 0; i < rows * cols; i++) sum = sum + x[i];
    free(x);
    return 0;
}
