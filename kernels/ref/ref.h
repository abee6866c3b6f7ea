/* ref: the float64 backend: every slot of kernels/kernels.h written as its formula, with plain
 * loops. It is the definition the other backends are tested against; it is never fast. Private to
 * kernels/ref/. */
#ifndef KERNELS_REF_REF_H
#define KERNELS_REF_REF_H
#include "kernels/kernels.h"

/* Device memory is host memory here, so inside this folder (and only here) the element types are
 * complete. */
struct act {
    double v;
};
struct acc {
    double v;
};

/* ref_alloc, ref_linear_fwd, …: the table's own types, so that a definition that differs does not
 * compile. */
#define X(slot) KERNEL_TYPE(slot) ref_##slot;
KERNEL_LIST(X)
#undef X

extern const Kernels ref_kernels;

double ref_activation(double x, Activation f);
#endif
