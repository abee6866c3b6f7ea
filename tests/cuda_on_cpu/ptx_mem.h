/* ptx_mem: checked addresses for instructions that access memory. */
#pragma once
#include "tests/cuda_on_cpu/ptx.h"

typedef enum Access { READ, WRITE, ATOMIC } Access;
/* Host addresses of operand `k` + offset for each lane of w->mask. Stops at the first lane whose
 * `bytes` are not inside one buffer, or not aligned to `bytes`. */
void mem_resolve(Warp *w, Ins *i, int k, uint32_t bytes, Access access, unsigned char *at[LANES]);
/* The same for one lane and an address that is already known. */
unsigned char *mem_resolve_one(Warp *w, Ins *i, int lane, Space space, uint64_t address,
                               uint32_t bytes, Access access);
uint64_t mem_address(const Warp *w, const Ins *i, int k, int lane);
