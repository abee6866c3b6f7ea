/* bench: shared by the benchmarks: the ceilings of this machine, measured in the same run, and
 * medians. */
#pragma once
#include "kernels/kernels.h"

/* GFLOP/s of the best of a few large products through the backend's linear_fwd. On a GPU times are
 * the device's, by events. */
double bench_gemm_peak(const Kernels *k);
/* GB/s (read + written) of the best of a few large copies and sums through the backend. */
double bench_copy_peak(const Kernels *k);
/* Device memory of n elements of about -v/2 … v/2. */
act *bench_filled(const Kernels *k, size_t n, double v);
/* Peak bytes so far: of the GPU's memory, or (CPU) resident. */
double bench_device_memory(const Kernels *k);
double bench_median(double *values, size_t n);

int bench_step(int argc, char **argv);
int bench_loss(int argc, char **argv);
int bench_loader(int argc, char **argv);
int bench_tok(int argc, char **argv);
int bench_search(int argc, char **argv);
int bench_kernels(int argc, char **argv);
