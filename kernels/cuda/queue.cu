/* cuda/queue: the device's table; copies, pinned host memory, events as marks. A stream is a queue.
 */
#include "kernels/cuda/device.h"

const Device cuda_device = {.gpu = true,
                            .asynchronous = true,
#define X(slot) .slot = device_##slot,
                            DEVICE_LIST(X)
#undef X
};

void device_upload(void *dst, const void *host, size_t bytes) {
    GPU_TIMER(upload, 0, bytes);
    device_send(dst, host, bytes);
}

void device_download(void *host, const void *src, size_t bytes) {
    GPU_TIMER(download, 0, bytes);
    device_fetch(host, src, bytes);
}

void device_copy(void *dst, const void *src, size_t bytes) {
    GPU_TIMER(copy, 0, 2 * bytes);
    if (bytes && !device_planning())
        CUDA(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, device_stream()));
}

void device_zero(void *dst, size_t bytes) {
    GPU_TIMER(zero, 0, bytes);
    if (bytes && !device_planning()) CUDA(cudaMemsetAsync(dst, 0, bytes, device_stream()));
}

void *device_host_alloc(size_t bytes) {
    void *p = NULL;
    device_stream();
    if (device_planning()) return device_plan_host(bytes);
    CUDA(cudaHostAlloc(&p, size_max(bytes, 1), cudaHostAllocDefault));
    return p;
}

void device_host_release(void *p) {
    if (p && !device_planning()) CUDA(cudaFreeHost(p));
}

void device_upload_start(Queue q, void *dst, const void *host, size_t bytes) {
    if (bytes && !device_planning())
        CUDA(cudaMemcpyAsync(dst, host, bytes, cudaMemcpyHostToDevice, device_queue(q)));
}

void device_download_start(Queue q, void *host, const void *src, size_t bytes) {
    if (bytes && !device_planning())
        CUDA(cudaMemcpyAsync(host, src, bytes, cudaMemcpyDeviceToHost, device_queue(q)));
}

Mark *device_mark_new(void) {
    cudaEvent_t event;
    device_stream();
    CUDA(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    return (Mark *)event;
}

void device_mark_free(Mark *m) {
    if (m) CUDA(cudaEventDestroy((cudaEvent_t)m));
}

void device_mark_set(Mark *m, Queue q) { CUDA(cudaEventRecord((cudaEvent_t)m, device_queue(q))); }

void device_queue_wait(Queue q, Mark *m) {
    CUDA(cudaStreamWaitEvent(device_queue(q), (cudaEvent_t)m, 0));
}

void device_mark_wait(Mark *m) {
    CUDA(cudaEventSynchronize((cudaEvent_t)m));
    device_timers_book();
}
