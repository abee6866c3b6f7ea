/* cpu/mem: memory, conversions, the backend's scratch blocks, and its table. */
#include "kernels/cpu/cpu.h"

#include <stdlib.h>
#include <sys/mman.h>

#define HUGE_PAGE ((size_t)2 << 20)

static void *block_new(size_t bytes) {
    void *p;
    size_t align = bytes >= HUGE_PAGE ? HUGE_PAGE : 64;
    if (posix_memalign(&p, align, round_up(size_max(bytes, 1), align)))
        die("out of memory: %zu bytes were asked for; try a smaller --batch-size", bytes);
    if (align == HUGE_PAGE) madvise(p, round_up(bytes, HUGE_PAGE), MADV_HUGEPAGE);
    return p;
}

void *FN(scratch)(enum ScratchUse use, size_t bytes) {
    static void *block[SCRATCH_COUNT];
    static size_t size[SCRATCH_COUNT];
    if (bytes > size[use] || !block[use]) {
        free(block[use]);
        size[use] = bytes + bytes / 4;
        block[use] = block_new(size[use]);
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

void *FN(alloc)(size_t bytes) {
    KERNEL_TIMER(alloc, 0, 0);
    return block_new(bytes);
}

void FN(release)(void *p) {
    KERNEL_TIMER(release, 0, 0);
    free(p);
}

MemoryUse FN(memory)(void) { return (MemoryUse){0}; }

bool FN(plan_begin)(void) { return false; }

size_t FN(plan_end)(size_t most) {
    (void)most;
    return 0;
}

static void copy_bytes(void *dst, const void *src, size_t bytes) {
    const size_t piece = (size_t)1 << 20;
#pragma omp parallel for schedule(static) if (bytes > piece)
    for (size_t i = 0; i < bytes; i += piece)
        memcpy((char *)dst + i, (const char *)src + i, size_min(piece, bytes - i));
}

void FN(upload)(void *dst, const void *host, size_t bytes) {
    KERNEL_TIMER(upload, 0, 2 * bytes);
    copy_bytes(dst, host, bytes);
}

void FN(download)(void *host, const void *src, size_t bytes) {
    KERNEL_TIMER(download, 0, 2 * bytes);
    copy_bytes(host, src, bytes);
}

void FN(copy)(void *dst, const void *src, size_t bytes) {
    KERNEL_TIMER(copy, 0, 2 * bytes);
    copy_bytes(dst, src, bytes);
}

void FN(zero)(void *dst, size_t bytes) {
    KERNEL_TIMER(zero, 0, bytes);
    const size_t piece = (size_t)1 << 20;
#pragma omp parallel for schedule(static) if (bytes > piece)
    for (size_t i = 0; i < bytes; i += piece)
        memset((char *)dst + i, 0, size_min(piece, bytes - i));
}

void FN(acc_set)(acc *dst, const double *host, size_t n) {
    KERNEL_TIMER(acc_set, 0, 12 * n);
    for (size_t i = 0; i < n; i++) dst[i].v = (float)host[i];
}

void FN(acc_get)(double *host, const acc *src, size_t n) {
    KERNEL_TIMER(acc_get, 0, 12 * n);
    for (size_t i = 0; i < n; i++) host[i] = src[i].v;
}

void FN(acc_set_f32)(acc *dst, const float *host, size_t n) {
    KERNEL_TIMER(acc_set_f32, 0, 8 * n);
    copy_bytes(dst, host, n * sizeof *host);
}

void FN(acc_get_f32)(float *host, const acc *src, size_t n) {
    KERNEL_TIMER(acc_get_f32, 0, 8 * n);
    copy_bytes(host, src, n * sizeof *host);
}

void FN(act_set)(act *dst, const double *host, size_t n) {
    KERNEL_TIMER(act_set, 0, n * (8 + sizeof(act)));
    for (size_t i = 0; i < n; i++) dst[i] = act_from_double(host[i]);
}

void FN(act_get)(double *host, const act *src, size_t n) {
    KERNEL_TIMER(act_get, 0, n * (8 + sizeof(act)));
    for (size_t i = 0; i < n; i++) host[i] = act_value(src[i]);
}

void FN(act_from_acc)(act *dst, const acc *src, size_t n) {
    KERNEL_TIMER(act_from_acc, 0, n * (sizeof(acc) + sizeof(act)));
#pragma omp parallel for schedule(static) if (n > SERIAL_BELOW)
    for (size_t i = 0; i < n; i += VW) act_store(dst + i, acc_load(src + i, n - i), n - i);
}

void FN(sync)(void) {}

static const Device device = {
#define X(slot) .slot = FN(slot),
    DEVICE_LIST(X)
#undef X
};

const Kernels FN(kernels) = {.device = &device,
#if defined ACT_BF16
                             .name = "cpu-amp_bf16",
#else
                             .name = "cpu-fp32",
#endif
                             .act_size = sizeof(act),
                             .acc_size = sizeof(acc),
#define X(slot) .slot = FN(slot),
                             KERNEL_LIST(X)
#undef X
};
