/* cuda/queue: the device's table; copies, pinned host memory, events as marks. A stream is a queue.
 */
#include <string.h>

#include "kernels/cuda/device.h"

#define STAGE_BYTES ((size_t)1 << 20)
#define STAGES 32

typedef struct Stage {
    void *host; /* pinned */
    cudaEvent_t done;
} Stage;
static Stage stages[STAGES];
static size_t stage;

const Device cuda_device = {.gpu = true,
                            .asynchronous = true,
#define X(slot) .slot = device_##slot,
                            DEVICE_LIST(X)
#undef X
};

/* The next pinned block, once the copy that used it last is done. */
static Stage *stage_next(void) {
    device_stream(); /* opens the device */
    Stage *s = &stages[stage++ % STAGES];
    if (!s->done) CUDA(cudaEventCreateWithFlags(&s->done, cudaEventDisableTiming));
    if (!s->host)
        CUDA(cudaHostAlloc(&s->host, STAGE_BYTES, cudaHostAllocDefault));
    else
        CUDA(cudaEventSynchronize(s->done));
    return s;
}

void device_send(void *dst, const void *host, size_t bytes) {
    if (device_planning()) return;
    for (size_t done = 0; done < bytes; done += STAGE_BYTES) {
        size_t n = size_min(bytes - done, STAGE_BYTES);
        Stage *s = stage_next();
        memcpy(s->host, (const char *)host + done, n);
        CUDA(cudaMemcpyAsync((char *)dst + done, s->host, n, cudaMemcpyHostToDevice,
                             device_stream()));
        CUDA(cudaEventRecord(s->done, device_stream()));
    }
}

void device_fetch(void *host, const void *src, size_t bytes) {
    if (device_planning()) return;
    for (size_t done = 0; done < bytes; done += STAGE_BYTES) {
        size_t n = size_min(bytes - done, STAGE_BYTES);
        Stage *s = stage_next();
        CUDA(cudaMemcpyAsync(s->host, (const char *)src + done, n, cudaMemcpyDeviceToHost,
                             device_stream()));
        CUDA(cudaEventRecord(s->done, device_stream()));
        CUDA(cudaEventSynchronize(s->done));
        memcpy((char *)host + done, s->host, n);
    }
}

void device_sync(void) {
    CUDA(cudaStreamSynchronize(device_stream()));
    device_timers_book();
}

void device_stages_close(void) {
    for (Stage *s = stages; s < stages + STAGES; s++) {
        if (s->host) CUDA(cudaFreeHost(s->host));
        s->host = NULL;
    }
}

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
