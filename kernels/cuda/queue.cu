/* cuda/queue: a stream a queue, pinned host memory, events as marks,
 * captured streams as graphs. */
#include "kernels/cuda/cuda.cuh"

void *FN(host_alloc)(size_t bytes) {
    void *p = NULL;
    device_stream();
    CUDA(cudaHostAlloc(&p, size_max(bytes, 1), cudaHostAllocDefault));
    return p;
}

void FN(host_release)(void *p) {
    if (p) CUDA(cudaFreeHost(p));
}

void FN(upload_start)(Queue q, void *dst, const void *host, size_t bytes) {
    if (bytes && !device_planning())
        CUDA(cudaMemcpyAsync(dst, host, bytes, cudaMemcpyHostToDevice, device_queue(q)));
}

void FN(download_start)(Queue q, void *host, const void *src, size_t bytes) {
    if (bytes && !device_planning())
        CUDA(cudaMemcpyAsync(host, src, bytes, cudaMemcpyDeviceToHost, device_queue(q)));
}

Mark *FN(mark_new)(void) {
    cudaEvent_t event;
    device_stream();
    CUDA(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    return (Mark *)event;
}

void FN(mark_free)(Mark *m) {
    if (m) CUDA(cudaEventDestroy((cudaEvent_t)m));
}

void FN(mark_set)(Mark *m, Queue q) { CUDA(cudaEventRecord((cudaEvent_t)m, device_queue(q))); }

void FN(queue_wait)(Queue q, Mark *m) {
    CUDA(cudaStreamWaitEvent(device_queue(q), (cudaEvent_t)m, 0));
}

void FN(mark_wait)(Mark *m) {
    CUDA(cudaEventSynchronize((cudaEvent_t)m));
    device_timers_book();
}

bool FN(graph_begin)(Graph **g) { return device_graph_begin(g); }

void FN(graph_end)(Graph **g) { device_graph_end(g); }

void FN(graph_call)(void (*call)(const void *context), const void *context, size_t bytes) {
    device_graph_call(call, context, bytes);
}

void FN(graph_free)(Graph *g) { device_graph_free(g); }
