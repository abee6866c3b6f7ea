/* Any bytes as a .npy file: refused, or a matrix of exactly the file's floats. */
#include "data/npy.h"
#include "tests/fuzz/memory_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    float *x;
    size_t rows, cols;
    Error err;
    if (!npy_read_f32(memory_file(bytes, n), &x, &rows, &cols, &err)) return 0;
    if (rows * cols * sizeof *x > n) abort();
    volatile float sum = 0;
    for (size_t i = 0; i < rows * cols; i++) sum = sum + x[i];
    free(x);
    return 0;
}
