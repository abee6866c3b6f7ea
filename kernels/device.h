/* THE SEAM's other half: where arrays live and in what order work is done. A device is one filled
 * table of these slots: memory, copies, two queues of work, recorded work. It knows bytes, never
 * element types; what is computed is in kernels.h. */
#ifndef KERNELS_DEVICE_H
#define KERNELS_DEVICE_H
#include <stdbool.h>
#include <stddef.h>

typedef enum { QUEUE_COMPUTE, QUEUE_COPY, QUEUES } Queue;
typedef struct Mark Mark;   /* never defined: a place in a queue */
typedef struct Graph Graph; /* a device's own: recorded work */

/* Bytes of a device's memory: what this process took (now, and at most) and used of it (at most);
 * what it took beside the plan (at most; plan_end); what is left of it all. */
typedef struct MemoryUse {
    size_t taken, most, used, unplanned, unused, total;
} MemoryUse;

typedef struct Device {
    bool gpu;          /* NCCL reaches its memory */
    bool asynchronous; /* slots return before their work is done: results are worth waiting for
                          later. false: every slot returns with its work done */

    /* ---- mem ---- */
    /* Device memory, 64-byte aligned; dies naming the size if there is none. */
    void *(*alloc)(size_t bytes);
    void (*release)(void *p);
    /* Zeros if the device's memory is the host's. */
    MemoryUse (*memory)(void);
    /* Dry run. Between plan_begin and plan_end no slot does any work: alloc returns addresses that
     * are not backed by memory, downloads leave the host's memory as it is, and the device counts
     * what would be taken: by alloc, and the most scratch memory that the slots called would work
     * in. plan_end returns the sum. If that is at most `most`, it is taken now as one allocation,
     * which later calls of alloc and the slots' scratch memory divide; what exceeds it is allocated
     * separately. (With CLIPC_ARENA=0 in the environment each has a separate allocation, so that a
     * tool that watches memory knows where it ends.)
     * plan_begin is false if there is nothing to plan: the backend takes scratch as it goes. */
    bool (*plan_begin)(void);
    size_t (*plan_end)(size_t most);
    /* Raw bytes host → device, device → host, device → device; zero fill. */
    void (*upload)(void *dst, const void *host, size_t bytes);
    void (*download)(void *host, const void *src, size_t bytes);
    void (*copy)(void *dst, const void *src, size_t bytes);
    void (*zero)(void *dst, size_t bytes);
    /* Returns when all work enqueued so far is done. */
    void (*sync)(void);

    /* ---- queue ---- (two queues of work, each done in the order it was enqueued; nothing but
     * marks orders one by the other. All other slots work in QUEUE_COMPUTE) */
    /* Host memory for the two copies below: from any other they may wait for the queue. */
    void *(*host_alloc)(size_t bytes);
    void (*host_release)(void *p);
    /* Copies that may still be under way on return: what they read must not change until then. */
    void (*upload_start)(Queue q, void *dst, const void *host, size_t bytes);
    void (*download_start)(Queue q, void *host, const void *src, size_t bytes);
    Mark *(*mark_new)(void);
    void (*mark_free)(Mark *m);
    /* Sets the mark after what q holds so far. */
    void (*mark_set)(Mark *m, Queue q);
    /* What q is given from now on is done after the mark; a mark never set delays nothing. */
    void (*queue_wait)(Queue q, Mark *m);
    /* The host waits until the work before the mark is done. */
    void (*mark_wait)(Mark *m);
    /* Calls that are repeated with the same arguments, *g NULL before the first time:
     *     if (k->device->graph_begin(&g)) { calls; k->device->graph_end(&g); }
     * A device that records has them made twice (the first time takes what memory they need), and
     * then replays all of them at once; others have them made every time. They are slots that work
     * in QUEUE_COMPUTE and involve no host memory. */
    bool (*graph_begin)(Graph **g);
    void (*graph_end)(Graph **g);
    /* call(context) now and, among recorded calls, at its place in every replay. It is never
     * captured, nor is what it enqueues: the graph is cut there. A copy of the context's bytes is
     * kept. */
    void (*graph_call)(void (*call)(const void *context), const void *context, size_t bytes);
    void (*graph_free)(Graph *g);
} Device;

/* Every slot, in the order above. */
/* clang-format off */
#define DEVICE_LIST(X) \
    X(alloc) X(release) X(memory) X(plan_begin) X(plan_end) X(upload) X(download) X(copy) X(zero) X(sync) \
    X(host_alloc) X(host_release) X(upload_start) X(download_start) \
    X(mark_new) X(mark_free) X(mark_set) X(queue_wait) X(mark_wait) \
    X(graph_begin) X(graph_end) X(graph_call) X(graph_free)
/* clang-format on */

/* A device declares its functions with the table's own types. */
#define DEVICE_TYPE(slot) __typeof__(*((Device *)0)->slot)

/* The device of the CPU backends (kernels/host/): its memory is the host's, and every slot returns
 * with its work done. */
extern const Device host_device;
#endif
