/* host/mem: memory, copies, and the device's table. */
#include "kernels/host/host.h"
#include "kernels/space.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

const Device host_device = {
#define X(slot) .slot = host_device_##slot,
    DEVICE_LIST(X)
#undef X
};

#define ALIGN 64
#define PIECE ((size_t)1 << 20) /* bytes that a thread copies at a time */

/* What is taken, or in a dry run would be. */
static struct {
    Space blocks;
    size_t taken, most;
} real, planned, *now = &real;

/* Of the blocks and sums: ranks may be threads of one process. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* Complemented, so that a leak checker does not find a block's address here. */
static void *hidden(const void *p) { return (void *)~(uintptr_t)p; }

void *host_device_alloc(size_t bytes) {
    void *p;
    bytes = round_up(size_max(bytes, 1), ALIGN);
    pthread_mutex_lock(&lock);
    if (now == &planned)
        p = space_take(&now->blocks, bytes);
    else
        space_add(&now->blocks, hidden(p = xmalloc_aligned(bytes)), bytes);
    now->taken += bytes;
    now->most = size_max(now->most, now->taken);
    pthread_mutex_unlock(&lock);
    return p;
}

void host_device_release(void *p) {
    if (!p) return;
    pthread_mutex_lock(&lock);
    size_t bytes = space_remove(&now->blocks, now == &planned ? p : hidden(p));
    assert(bytes);
    now->taken -= bytes;
    pthread_mutex_unlock(&lock);
    if (now != &planned) free(p);
}

size_t host_device_size(const void *p) {
    pthread_mutex_lock(&lock);
    size_t bytes = space_find(&now->blocks, now == &planned ? p : hidden(p));
    pthread_mutex_unlock(&lock);
    return bytes;
}

MemoryUse host_device_memory(void) {
    return (MemoryUse){.taken = now->taken, .most = now->most, .used = now->most};
}

void host_device_plan_begin(void) {
    planned.blocks = space_unbacked();
    planned.taken = planned.most = 0;
    now = &planned;
    kernel_dry_run = true;
}

size_t host_device_plan_end(size_t most) {
    (void)most;
    free(planned.blocks.list);
    now = &real;
    kernel_dry_run = false;
    return planned.most;
}

static void copy_bytes(void *dst, const void *src, size_t bytes) {
#pragma omp parallel for schedule(static) if (bytes > PIECE)
    for (size_t i = 0; i < bytes; i += PIECE)
        memcpy((char *)dst + i, (const char *)src + i, size_min(PIECE, bytes - i));
}

void host_device_upload(void *dst, const void *host, size_t bytes) {
    KERNEL_BEGIN(upload, 0, 2 * bytes);
    copy_bytes(dst, host, bytes);
}

void host_device_download(void *host, const void *src, size_t bytes) {
    KERNEL_BEGIN(download, 0, 2 * bytes);
    copy_bytes(host, src, bytes);
}

void host_device_copy(void *dst, const void *src, size_t bytes) {
    KERNEL_BEGIN(copy, 0, 2 * bytes);
    copy_bytes(dst, src, bytes);
}

void host_device_zero(void *dst, size_t bytes) {
    KERNEL_BEGIN(zero, 0, bytes);
#pragma omp parallel for schedule(static) if (bytes > PIECE)
    for (size_t i = 0; i < bytes; i += PIECE)
        memset((char *)dst + i, 0, size_min(PIECE, bytes - i));
}

void host_device_sync(void) {}
