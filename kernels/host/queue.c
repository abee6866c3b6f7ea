/* host/queue: work is done when it is enqueued, so both queues are always empty and a mark has no
 * state. */
#include "kernels/host/host.h"

#include <stdlib.h>

void *host_device_host_alloc(size_t bytes) { return host_device_alloc(bytes); }

void host_device_host_release(void *p) { host_device_release(p); }

void host_device_upload_start(Queue q, void *dst, const void *host, size_t bytes) {
    (void)q;
    host_device_upload(dst, host, bytes);
}

void host_device_download_start(Queue q, void *host, const void *src, size_t bytes) {
    (void)q;
    host_device_download(host, src, bytes);
}

Mark *host_device_mark_new(void) { return xmalloc(1); }

void host_device_mark_free(Mark *m) { free(m); }

void host_device_mark_set(Mark *m, Queue q) { (void)m, (void)q; }

void host_device_queue_wait(Queue q, Mark *m) { (void)q, (void)m; }

void host_device_mark_wait(Mark *m) { (void)m; }

bool host_device_graph_begin(Graph **g) {
    (void)g;
    return true;
}

void host_device_graph_end(Graph **g) { (void)g; }

void host_device_graph_call(void (*call)(const void *context), const void *context, size_t bytes) {
    (void)bytes;
    call(context);
}

void host_device_graph_free(Graph *g) { (void)g; }
