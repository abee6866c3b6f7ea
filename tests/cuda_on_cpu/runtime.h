/* runtime: errors and handles that the parts which stand in for CUDA's libraries share. */
#ifndef CUDAEMU_RUNTIME_H
#define CUDAEMU_RUNTIME_H
#include "tests/cuda_on_cpu/emu.h"
#include <cuda_runtime_api.h>
#include <pthread.h>

/* How often the host took or gave back memory, waited for a stream or an event, asked for a kernel
 * or a product by itself, for a product that sums an operand; for tests, which know it as a weak
 * symbol: on a GPU it is not there. */
typedef enum { COUNT_MEMORY, COUNT_WAITS, COUNT_LAUNCHES, COUNT_SUMS, COUNTS } EmuCount;
unsigned long cudaemuCount(EmuCount what);
void emu_count(EmuCount what);
/* Keeps e for cudaGetLastError and returns it. */
cudaError_t emu_error(cudaError_t e);
/* Says at the first call that this is the CPU; every call of the API passes here. */
void emu_enter(void);
/* Work is done by one thread, the first that calls. Others may set the device, query events and
 * communicators, and abort these: they see what is done and move nothing on. */
bool emu_bystander(void);

#define LIMIT_SHARED_DEFAULT (48 * 1024)
/* Shared memory that a block can opt in to, by compute capability. */
int emu_shared_limit(void);
#endif
