/* onednn: the engine of oneDNN, its errors, and the types that it computes in. For matmul.c and
 * conv.c, the only users of oneDNN. */
#pragma once
#include "kernels/cpu/cpu.h"

#include <dnnl.h>

/* Exits with an error that names the call if its status is not success. */
void FN(onednn_check)(dnnl_status_t status, const char *what);
/* Opened at the first call, held to the instruction set in use. */
dnnl_engine_t FN(onednn_engine)(void);
/* The element type in which oneDNN computes with operands of type e: if the CPU has no bf16
 * products, bf16 is widened. */
Element FN(onednn_computed)(Element e);
dnnl_data_type_t FN(onednn_type)(Element e);

/* Executes p with operands in these places: memory objects belong to one thread. */
typedef struct Operand {
    int arg;
    const dnnl_memory_desc_t *desc;
    const void *at;
} Operand;
void FN(onednn_execute)(dnnl_primitive_t p, const Operand *all, int count, const char *what);
