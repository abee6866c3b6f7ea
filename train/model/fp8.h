/* fp8: under amp_fp8 the four matrices of every block are multiplied in 8 bits. This is their
 * scaling. */
#ifndef TRAIN_MODEL_FP8_H
#define TRAIN_MODEL_FP8_H
#include "train/model/params.h"

/* Registers p's matrices with the backend and makes p->fp8; nothing if the backend has no fp8. */
void fp8_start(Params *p);
void fp8_stop(Params *p);
/* The gradient of q, if it is such a matrix, is now computed into dw; NULL: it is not. */
void fp8_bind(const Params *p, const Param *q, const acc *dw);
/* p->fp8 as a tensor [FP8_SCALING, factors] of a train state; without it, an empty one. */
Param fp8_param(const Params *p);
/* Before each step: what forwards outside of steps left (validation) does not count. */
void fp8_begin(const Params *p);
/* After each step: the next one's scales, from magnitudes p->fp8 [fp8_factors] that are the largest
 * of all ranks. */
void fp8_step(Params *p);
#endif
