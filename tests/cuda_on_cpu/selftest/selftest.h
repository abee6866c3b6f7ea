/* selftest: shared by the CUDA programs that test the layer itself. A program gets the name of a
 * case. It exits with 0 if its results are correct, 1 if they are wrong, 2 if a call of CUDA
 * reported an error that was checked; the layer itself stops with 99. */
#pragma once
#include <cuda_bf16.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct Case {
    const char *name;
    void (*run)(void);
} Case;

/* Runs the case that the command line names, or lists all of them. */
static inline int selftest_main(int argc, char **argv, const Case *cases, int count) {
    for (int i = 0; i < count; i++) {
        if (argc < 2) puts(cases[i].name);
        if (argc < 2 || strcmp(argv[1], cases[i].name)) continue;
        cases[i].run();
        return 0;
    }
    if (argc > 1) fprintf(stderr, "no case %s\n", argv[1]);
    return argc > 1 ? 3 : 0;
}

#define CUDA(call)                                                                                 \
    do {                                                                                           \
        cudaError_t error_ = (call);                                                               \
        if (error_ != cudaSuccess) {                                                               \
            fprintf(stderr, "line %d: %s\n", __LINE__, cudaGetErrorName(error_));                  \
            exit(2);                                                                               \
        }                                                                                          \
    } while (0)

/* Fails unless |got - want| <= tolerance; NaN fails. */
static inline void expect(double got, double want, double tolerance, const char *what) {
    if (fabs(got - want) <= tolerance) return;
    fprintf(stderr, "wrong result: %s is %g, not %g\n", what, got, want);
    exit(1);
}

/* Small numbers that look random. */
__host__ __device__ static inline float noise(uint32_t i) {
    i = (i ^ 61) ^ (i >> 16);
    i *= 9;
    i ^= i >> 4;
    i *= 0x27D4EB2Du;
    i ^= i >> 15;
    return (float)(i % 2001) / 1000.0f - 1.0f;
}

template <typename T> static inline T *device_new(size_t n) {
    T *p;
    CUDA(cudaMalloc((void **)&p, n * sizeof(T)));
    return p;
}
template <typename T> static inline T *device_copy(const T *host, size_t n) {
    T *p = device_new<T>(n);
    CUDA(cudaMemcpy(p, host, n * sizeof(T), cudaMemcpyHostToDevice));
    return p;
}
template <typename T> static inline void host_copy(T *host, const T *device, size_t n) {
    CUDA(cudaMemcpy(host, device, n * sizeof(T), cudaMemcpyDeviceToHost));
}
