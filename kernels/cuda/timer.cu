/* cuda/timer: times of slots on the device. Two events surround a slot. They are read when the host
 * waits for the device anyway, so that the host stays ahead and no slot waits for its launch on an
 * idle device. */
#include "kernels/cuda/device.h"

enum { TIMERS = 1024 };

static struct {
    cudaEvent_t start[TIMERS], stop[TIMERS];
    DeviceTimer what[TIMERS];
    size_t made, count; /* existing events; timers not read yet */
    bool open;          /* a timer is running: start[count] */
} timers;

void device_timers_book(void) {
    for (size_t i = 0; i < timers.count; i++) {
        float ms = 0;
        CUDA(cudaEventSynchronize(timers.stop[i]));
        CUDA(cudaEventElapsedTime(&ms, timers.start[i], timers.stop[i]));
        const DeviceTimer *t = &timers.what[i];
        KernelStat *s = &kernel_stats[t->slot];
        s->calls++;
        s->seconds += 1e-3 * (double)ms;
        s->flops += t->flops;
        s->bytes += t->bytes;
    }
    if (timers.open) {
        cudaEvent_t first = timers.start[0];
        timers.start[0] = timers.start[timers.count];
        timers.start[timers.count] = first;
    }
    timers.count = 0;
}

DeviceTimer device_timer_start(enum KernelSlot slot, double flops, double bytes) {
    DeviceTimer t = {slot, kernel_stats_on && !device_planning(), flops, bytes};
    if (!t.on) return t;
    cudaStream_t stream = device_stream();
    if (timers.count == TIMERS) device_timers_book();
    size_t i = timers.count;
    if (i == timers.made) {
        CUDA(cudaEventCreateWithFlags(&timers.start[i], cudaEventDefault));
        CUDA(cudaEventCreateWithFlags(&timers.stop[i], cudaEventDefault));
        timers.made++;
    }
    CUDA(cudaEventRecord(timers.start[i], stream));
    timers.open = true;
    return t;
}

void device_timer_stop(DeviceTimer *t) {
    if (!t->on) return;
    CUDA(cudaEventRecord(timers.stop[timers.count], device_stream()));
    timers.what[timers.count++] = *t;
    timers.open = false;
}
