/* cpu/queue: work is done when it is asked for, so both queues are always empty and a mark has
 * nothing to remember. */
#include "kernels/cpu/cpu.h"

#include <stdlib.h>

void *FN(host_alloc)(size_t bytes) {
    KERNEL_TIMER(host_alloc, 0, 0);
    return FN(alloc)(bytes);
}

void FN(host_release)(void *p) {
    KERNEL_TIMER(host_release, 0, 0);
    FN(release)(p);
}

void FN(upload_start)(Queue q, void *dst, const void *host, size_t bytes) {
    (void)q;
    FN(upload)(dst, host, bytes);
}

void FN(download_start)(Queue q, void *host, const void *src, size_t bytes) {
    (void)q;
    FN(download)(host, src, bytes);
}

Mark *FN(mark_new)(void) { return xmalloc(1); }

void FN(mark_free)(Mark *m) { free(m); }

void FN(mark_set)(Mark *m, Queue q) { (void)m, (void)q; }

void FN(queue_wait)(Queue q, Mark *m) { (void)q, (void)m; }

void FN(mark_wait)(Mark *m) { (void)m; }

bool FN(graph_begin)(Graph **g) {
    (void)g;
    return true;
}

void FN(graph_end)(Graph **g) { (void)g; }

void FN(graph_call)(void (*call)(const void *context), const void *context, size_t bytes) {
    (void)bytes;
    call(context);
}

void FN(graph_free)(Graph *g) { (void)g; }
