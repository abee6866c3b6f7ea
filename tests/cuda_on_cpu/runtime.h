/* runtime: errors and handles shared by the parts that replace CUDA's libraries. */
#pragma once
#include "tests/cuda_on_cpu/emu.h"
#include <cuda_runtime_api.h>
#include <pthread.h>

/* How often the host allocated or freed memory, waited for a stream or an event, enqueued a single
 * kernel or product, enqueued a product that sums an operand. Tests refer to it as a weak symbol,
 * which is absent on a GPU. */
typedef enum { COUNT_MEMORY, COUNT_WAITS, COUNT_LAUNCHES, COUNT_SUMS, COUNTS } EmuCount;
unsigned long cudaemuCount(EmuCount what);
void emu_count(EmuCount what);
/* For tests likewise: a kernel of the program, as "mma_fwd<4,2,2>" until the next call, and how
 * often it was launched; NULL: there are no more. */
const char *cudaemuKernel(int index, unsigned long *launches);
/* Keeps e for cudaGetLastError and returns it. */
cudaError_t emu_error(cudaError_t e);
/* Every call of the API starts here; the first one prints that this is the CPU. */
void emu_enter(void);
/* Work is done by one thread, the first that calls. Others may set the device, query events and
 * communicators, and abort communicators: they observe progress and make none. */
bool emu_bystander(void);

#define LIMIT_SHARED_DEFAULT (48 * 1024)
/* Shared memory that a block can opt in to, by compute capability. */
int emu_shared_limit(void);
