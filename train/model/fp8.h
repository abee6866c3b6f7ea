/* fp8: scaling of the four matrices of every block, which are multiplied in 8 bits under
 * amp_fp8. */
#pragma once
#include "train/model/params.h"

/* Registers p's matrices with the backend and creates p->fp8; nothing if the backend has no fp8. */
void fp8_start(Params *p);
void fp8_stop(Params *p);
/* Sets dw as the output of the gradient of q, if q is such a matrix; NULL: none. */
void fp8_bind(const Params *p, const Param *q, const acc *dw);
/* p->fp8 as a tensor [FP8_SCALING, factors] of a train state; without it, an empty one. */
Param fp8_param(const Params *p);
/* Call before each step: clears the magnitudes of forwards outside steps (validation). */
void fp8_begin(const Params *p);
/* Call after each step: computes the next step's scales, from p->fp8[fp8_factors], which must hold
 * the largest magnitudes of all ranks. */
void fp8_step(Params *p);
