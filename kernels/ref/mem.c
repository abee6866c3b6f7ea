#include "kernels/ref/ref.h"

#include <stdlib.h>
#include <string.h>

static const Device device = {
#define X(slot) .slot = ref_##slot,
    DEVICE_LIST(X)
#undef X
};

const Kernels ref_kernels = {.name = "ref",
                             .device = &device,
                             .act_size = sizeof(act),
                             .acc_size = sizeof(acc),
                             .bias_in_activation = true,
#define X(slot) .slot = ref_##slot,
                             KERNEL_LIST(X)
#undef X
};

void *ref_alloc(size_t bytes) {
    void *p = aligned_alloc(64, size_add(size_max(bytes, 1), 63) / 64 * 64);
    if (!p) die("out of memory: %zu bytes were asked for", bytes);
    return p;
}

void ref_release(void *p) { free(p); }

MemoryUse ref_memory(void) { return (MemoryUse){0}; }

bool ref_plan_begin(void) { return false; }

size_t ref_plan_end(size_t most) {
    (void)most;
    return 0;
}

void ref_upload(void *dst, const void *host, size_t bytes) {
    if (bytes) memcpy(dst, host, bytes);
}

void ref_download(void *host, const void *src, size_t bytes) {
    if (bytes) memcpy(host, src, bytes);
}

void ref_copy(void *dst, const void *src, size_t bytes) {
    if (bytes) memcpy(dst, src, bytes);
}

void ref_zero(void *dst, size_t bytes) {
    if (bytes) memset(dst, 0, bytes);
}

void ref_acc_set(acc *dst, const double *host, size_t n) {
    for (size_t i = 0; i < n; i++) dst[i].v = host[i];
}

void ref_acc_get(double *host, const acc *src, size_t n) {
    for (size_t i = 0; i < n; i++) host[i] = src[i].v;
}

void ref_acc_set_f32(acc *dst, const float *host, size_t n) {
    for (size_t i = 0; i < n; i++) dst[i].v = (double)host[i];
}

void ref_acc_get_f32(float *host, const acc *src, size_t n) {
    for (size_t i = 0; i < n; i++) host[i] = (float)src[i].v;
}

void ref_act_set(act *dst, const double *host, size_t n) {
    for (size_t i = 0; i < n; i++) dst[i].v = host[i];
}

void ref_act_get(double *host, const act *src, size_t n) {
    for (size_t i = 0; i < n; i++) host[i] = src[i].v;
}

void ref_act_from_acc(act *dst, const acc *src, size_t n) {
    for (size_t i = 0; i < n; i++) dst[i].v = src[i].v;
}

void ref_sync(void) {}
