/* cpu/mem: conversions, the backend's scratch blocks, and its table. */
#include "kernels/cpu/cpu.h"

#include <stdlib.h>

const Kernels FN(kernels) = {
#if defined ACT_BF16
    .name = "cpu-amp_bf16",
#else
    .name = "cpu-fp32",
#endif
    .act_size = sizeof(act),
    .acc_size = sizeof(acc),
    .logit_side = 1024,
    .device = &host_device,
#define X(slot) .slot = FN(slot),
    KERNEL_LIST(X)
#undef X
};

void *FN(scratch)(enum ScratchUse use, size_t bytes) {
    static void *block[SCRATCH_COUNT];
    static size_t size[SCRATCH_COUNT];
    if (bytes > size[use] || !block[use]) {
        free(block[use]);
        size[use] = bytes + bytes / 4;
        block[use] = xmalloc_aligned(size[use]);
    }
    return block[use];
}

void FN(add_partials)(float *sum, const float *parts, size_t chunks, size_t n) {
#pragma omp parallel for schedule(static) if (chunks * n > SERIAL_BELOW)
    for (size_t i = 0; i < n; i += VW) {
        vf s = f32_load(sum + i, n - i);
        for (size_t c = 0; c < chunks; c++) s += f32_load(parts + c * n + i, n - i);
        f32_store(sum + i, s, n - i);
    }
}

void FN(acc_set)(acc *dst, const double *host, size_t n) {
    KERNEL_BEGIN(acc_set, 0, 12 * n);
    for (size_t i = 0; i < n; i++) dst[i].v = (float)host[i];
}

void FN(acc_get)(double *host, const acc *src, size_t n) {
    KERNEL_BEGIN(acc_get, 0, 12 * n);
    for (size_t i = 0; i < n; i++) host[i] = src[i].v;
}

void FN(acc_set_f32)(acc *dst, const float *host, size_t n) {
    KERNEL_BEGIN(acc_set_f32, 0, 8 * n);
#pragma omp parallel for schedule(static) if (n > SERIAL_BELOW)
    for (size_t i = 0; i < n; i++) dst[i].v = host[i];
}

void FN(acc_get_f32)(float *host, const acc *src, size_t n) {
    KERNEL_BEGIN(acc_get_f32, 0, 8 * n);
#pragma omp parallel for schedule(static) if (n > SERIAL_BELOW)
    for (size_t i = 0; i < n; i++) host[i] = src[i].v;
}

void FN(act_from_acc)(act *dst, const acc *src, size_t n) {
    KERNEL_BEGIN(act_from_acc, 0, n * (sizeof(acc) + sizeof(act)));
#pragma omp parallel for schedule(static) if (n > SERIAL_BELOW)
    for (size_t i = 0; i < n; i += VW) act_store(dst + i, acc_load(src + i, n - i), n - i);
}

void FN(acc_from_act)(acc *dst, const act *src, size_t n) {
    KERNEL_BEGIN(acc_from_act, 0, n * (sizeof(acc) + sizeof(act)));
#pragma omp parallel for schedule(static) if (n > SERIAL_BELOW)
    for (size_t i = 0; i < n; i += VW) f32_store(&dst[i].v, act_load(src + i, n - i), n - i);
}
