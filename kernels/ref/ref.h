/* ref: the float64 backend: every slot of kernels/kernels.h written as its formula, with plain
 * loops. It defines the results that the other backends are tested against and is not optimised.
 * Private to kernels/ref/. */
#pragma once
#include "kernels/kernels.h"

/* Device memory is host memory, so the element types are complete inside this folder (and only
 * here). */
struct act {
    double v;
};
struct acc {
    double v;
};

/* Declares ref_linear_fwd, … with the table's types, so that a definition that differs does not
 * compile. */
#define X(slot) KERNEL_TYPE(slot) ref_##slot;
KERNEL_LIST(X)
#undef X

extern const Kernels ref_kernels;

double ref_activation(double x, Activation f);
