/* ref/mem: conversions, and the backend's table. */
#include "kernels/ref/ref.h"

const Kernels ref_kernels = {.name = "ref",
                             .act_size = sizeof(act),
                             .acc_size = sizeof(acc),
                             .logit_side = 1024,
                             .residual_in_product = true,
                             .bias_in_activation = true,
                             .device = &host_device,
#define X(slot) .slot = ref_##slot,
                             KERNEL_LIST(X)
#undef X
};

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

void ref_act_from_acc(act *dst, const acc *src, size_t n) {
    for (size_t i = 0; i < n; i++) dst[i].v = src[i].v;
}

void ref_acc_from_act(acc *dst, const act *src, size_t n) {
    for (size_t i = 0; i < n; i++) dst[i].v = src[i].v;
}
