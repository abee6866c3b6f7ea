/* device: the one GPU that the process drives, shared by the two builds of the backend: its compute
 * stream, its memory, transfers through pinned blocks, scratch memory, and what to say when a call
 * fails. Private to kernels/cuda/.
 *
 * There is a stream for computing and one for the copies of QUEUE_COPY. The host waits only in
 * device_download, device_sync, mark_wait, and where an upload finds all pinned blocks in flight.
 */
#ifndef KERNELS_CUDA_DEVICE_H
#define KERNELS_CUDA_DEVICE_H
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

/* Dies naming the call where its status is not success. */
#define CUDA(call) device_check(call, #call, __FILE__, __LINE__)
void device_check(cudaError_t status, const char *call, const char *file, int line);

/* NULL where a GPU is usable, else one line that says why not. Needs no device. */
const char *device_problem(void);
/* Whether it multiplies matrices of 8-bit floats. */
bool device_has_fp8(void);
/* Opens the device at the first call; dies with device_problem's line. */
cudaStream_t device_stream(void); /* QUEUE_COMPUTE's */
cudaStream_t device_queue(Queue q);
int device_multiprocessors(void);
/* Bytes that one block can have. */
size_t device_shared_memory(void);

/* The slots memory, plan_begin and plan_end; while device_planning nothing may be launched. */
MemoryUse device_memory(void);
bool device_planning(void);
bool device_plan_begin(void);
size_t device_plan_end(size_t most);
/* kernels_close. */
void device_close(void);
void *device_alloc(size_t bytes);
void device_release(void *p);
/* The source may be overwritten as soon as this returns. */
void device_upload(void *dst, const void *host, size_t bytes);
void device_download(void *host, const void *src, size_t bytes);
void device_sync(void);

/* Blocks of scratch memory: owned by the backend, parts of the arena where they were planned, grown
 * when a larger one is asked for (what was in it is lost). One per use, so that no two uses meet.
 * Where graphs were recorded, an outgrown block stays too: they may work in it. */
enum ScratchUse {
    SCRATCH_BLAS,
    SCRATCH_SUMS,
    SCRATCH_CAST,
    SCRATCH_PARTIAL,
    SCRATCH_SORT,
    SCRATCH_COLUMNS,
    SCRATCH_FP8_A,
    SCRATCH_FP8_B,
    SCRATCH_COUNT
};
void *device_scratch(enum ScratchUse use, size_t bytes);
/* The slots of that name. While kernel_stats_on, nothing is recorded: each slot is timed. */
bool device_graph_begin(Graph **g);
void device_graph_end(Graph **g);
void device_graph_call(void (*call)(const void *context), const void *context, size_t bytes);
void device_graph_free(Graph *g);

/* A slot opens with GPU_TIMER(linear_fwd, flops, bytes): while kernel_stats_on, the time that the
 * stream takes for what the function asks for is booked, at the latest when the host waits for the
 * device (device_sync, mark_wait). Slots do not call slots. */
typedef struct DeviceTimer {
    enum KernelSlot slot;
    bool on;
    double flops, bytes;
} DeviceTimer;
DeviceTimer device_timer_start(enum KernelSlot slot, double flops, double bytes);
void device_timer_stop(DeviceTimer *t);
void device_timers_book(void); /* waits for those under way */
#define GPU_TIMER(slot_name, flops_, bytes_)                                                       \
    __attribute__((cleanup(device_timer_stop))) DeviceTimer timer_ =                               \
        device_timer_start(SLOT_##slot_name, (double)(flops_), (double)(bytes_))
#ifdef __cplusplus
}
#endif
#endif
