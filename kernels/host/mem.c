/* host/mem: memory, copies, and the device's table. */
#include "kernels/host/host.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

const Device host_device = {
#define X(slot) .slot = host_device_##slot,
    DEVICE_LIST(X)
#undef X
};

#define HUGE_PAGE ((size_t)2 << 20)
#define PIECE ((size_t)1 << 20) /* bytes that a thread copies at a time */

void *host_device_alloc(size_t bytes) {
    void *p;
    size_t align = bytes >= HUGE_PAGE ? HUGE_PAGE : 64;
    if (posix_memalign(&p, align, round_up(size_max(bytes, 1), align)))
        die("out of memory: %zu bytes were asked for; try a smaller --batch-size", bytes);
    if (align == HUGE_PAGE) madvise(p, round_up(bytes, HUGE_PAGE), MADV_HUGEPAGE);
    return p;
}

void host_device_release(void *p) { free(p); }

MemoryUse host_device_memory(void) { return (MemoryUse){0}; }

bool host_device_plan_begin(void) { return false; }

size_t host_device_plan_end(size_t most) {
    (void)most;
    return 0;
}

static void copy_bytes(void *dst, const void *src, size_t bytes) {
#pragma omp parallel for schedule(static) if (bytes > PIECE)
    for (size_t i = 0; i < bytes; i += PIECE)
        memcpy((char *)dst + i, (const char *)src + i, size_min(PIECE, bytes - i));
}

void host_device_upload(void *dst, const void *host, size_t bytes) {
    KERNEL_TIMER(upload, 0, 2 * bytes);
    copy_bytes(dst, host, bytes);
}

void host_device_download(void *host, const void *src, size_t bytes) {
    KERNEL_TIMER(download, 0, 2 * bytes);
    copy_bytes(host, src, bytes);
}

void host_device_copy(void *dst, const void *src, size_t bytes) {
    KERNEL_TIMER(copy, 0, 2 * bytes);
    copy_bytes(dst, src, bytes);
}

void host_device_zero(void *dst, size_t bytes) {
    KERNEL_TIMER(zero, 0, bytes);
#pragma omp parallel for schedule(static) if (bytes > PIECE)
    for (size_t i = 0; i < bytes; i += PIECE)
        memset((char *)dst + i, 0, size_min(PIECE, bytes - i));
}

void host_device_sync(void) {}
