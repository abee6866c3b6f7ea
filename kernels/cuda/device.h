/* device: the GPU of the process, shared by the two builds of the backend: its compute stream, its
 * memory, transfers through pinned blocks, scratch memory, and error messages. Private to
 * kernels/cuda/.
 *
 * There is a compute stream and a stream for the copies of QUEUE_COPY. The host waits only in
 * device_fetch, device_sync, device_mark_wait, and in device_send if all pinned blocks are in
 * flight. */
#pragma once
#include <assert.h>
#include <cuda_runtime.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif
#include "kernels/kernels.h"

/* Exits with an error that names the call if its status is not success. */
#define CUDA(call) device_check(call, #call, __FILE__, __LINE__)
void device_check(cudaError_t status, const char *call, const char *file, int line);

/* NULL if a GPU is usable, else one line with the reason. Needs no device. */
const char *device_problem(void);
/* Returns true if the device multiplies matrices of 8-bit floats. */
bool device_has_fp8(void);
/* Opens the device at the first call; on failure exits with device_problem's line. */
cudaStream_t device_stream(void); /* QUEUE_COMPUTE's */
cudaStream_t device_queue(Queue q);
int device_multiprocessors(void);
/* Largest size of a block in bytes. */
size_t device_shared_memory(void);

/* The device's slots. While kernel_stats_on is set, nothing is captured: each slot is timed. */
#define X(slot) DEVICE_TYPE(slot) device_##slot;
DEVICE_LIST(X)
#undef X
extern const Device cuda_device;
/* In a dry run nothing may be launched. */
bool device_planning(void);
void *device_plan_host(size_t bytes); /* counts it for host_alloc; an address without memory */
/* Returns true between graph_begin and graph_end of a capture; if there was one since the last
 * device_close. */
bool device_capturing(void);
bool device_captured(void);
/* kernels_close; its parts. */
void device_close(void);
void device_graphs_close(void);
void device_memory_close(void);
void device_stages_close(void);
/* upload and download without timers, as parts of other slots. The source may be overwritten as
 * soon as device_send returns. */
void device_send(void *dst, const void *host, size_t bytes);
void device_fetch(void *host, const void *src, size_t bytes);

/* Blocks of scratch memory, owned by the backend: parts of the arena if they were planned, grown
 * when a larger one is requested (contents are lost). There is one block for each use, so that uses
 * do not conflict. If graphs were captured, an outgrown block is kept too, because they may use
 * it. */
enum ScratchUse {
    SCRATCH_BLAS,
    SCRATCH_SUMS,
    SCRATCH_COPIES, /* not planned: nothing that a model multiplies is refused */
    SCRATCH_CAST,
    SCRATCH_PARTIAL,
    SCRATCH_SORT,
    SCRATCH_COLUMNS,
    SCRATCH_WEIGHTS,
    SCRATCH_FP8_A,
    SCRATCH_FP8_B,
    SCRATCH_COUNT
};
void *device_scratch(enum ScratchUse use, size_t bytes);

/* A slot starts with GPU_TIMER(linear_fwd, flops, bytes). While kernel_stats_on is set, the time of
 * the function's work on the stream is recorded, at the latest when the host waits for the device
 * (device_sync, mark_wait). Slots do not call slots. */
typedef struct DeviceTimer {
    enum KernelSlot slot;
    bool on;
    double flops, bytes;
} DeviceTimer;
DeviceTimer device_timer_start(enum KernelSlot slot, double flops, double bytes);
void device_timer_stop(DeviceTimer *t);
void device_timers_book(void); /* waits for timers in flight */
#define GPU_TIMER(slot_name, flops_, bytes_)                                                       \
    __attribute__((cleanup(device_timer_stop))) DeviceTimer timer_ =                               \
        device_timer_start(SLOT_##slot_name, (double)(flops_), (double)(bytes_))
#ifdef __cplusplus
}
#endif
