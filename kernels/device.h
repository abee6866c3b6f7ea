/* The other half of the seam: memory and the order of work. A device is one filled table of these
 * slots: memory, copies, two queues of work, captured graphs. It knows bytes, never element types;
 * kernels.h has the mathematics. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

typedef enum { QUEUE_COMPUTE, QUEUE_COPY, QUEUES } Queue;
typedef struct Mark Mark;   /* never defined: a position in a queue */
typedef struct Graph Graph; /* defined by each device: captured work */

/* Bytes of a device's memory. taken, most: allocated by this process now, and at peak; used: peak
 * use of that; unplanned: peak allocated beyond the plan (plan_end); unused: free on the device;
 * total: of the device, 0 if it is the host's memory, for which no limit is known. host: what
 * host_alloc took, if that is another memory. */
typedef struct MemoryUse {
    size_t taken, most, used, unplanned, unused, total, host;
} MemoryUse;

typedef struct Device {
    bool gpu;          /* NCCL reaches its memory */
    bool asynchronous; /* slots return before their work is done, so results should be read later.
                          false: every slot returns with its work done */

    /* ---- mem ---- */
    /* Device memory, 64-byte aligned; exits with an error that names the size if there is none. */
    void *(*alloc)(size_t bytes);
    void (*release)(void *p);
    /* Bytes of a block that alloc returned, padding included; of NULL 0. */
    size_t (*size)(const void *p);
    /* In a dry run: what would be taken and used. */
    MemoryUse (*memory)(void);
    /* Dry run. Between plan_begin and plan_end no slot of this table or of the mathematics does any
     * work (`ref` has no dry run): alloc and host_alloc return addresses that are not backed by
     * memory, downloads leave the host's memory as it is, and the device counts the memory of
     * alloc, and on a GPU the peak scratch memory of the slots. plan_end returns the peak. If that
     * is at most `most`, plan_end takes it on a GPU as one allocation, which later calls of alloc
     * and the slots' scratch memory divide; memory beyond it is allocated separately. (With
     * CLIPC_ARENA=0 in the environment every block has a separate allocation, so that memory
     * checkers know its bounds.) */
    void (*plan_begin)(void);
    size_t (*plan_end)(size_t most);
    /* Raw bytes host → device, device → host, device → device; zero fill. */
    void (*upload)(void *dst, const void *host, size_t bytes);
    void (*download)(void *host, const void *src, size_t bytes);
    void (*copy)(void *dst, const void *src, size_t bytes);
    void (*zero)(void *dst, size_t bytes);
    /* Returns when all work enqueued so far is done. */
    void (*sync)(void);

    /* ---- queue ---- (two queues of work. Each runs in the order of enqueuing; only marks order
     * one queue relative to the other. All other slots use QUEUE_COMPUTE) */
    /* Host memory for the two copies below. With other host memory they may wait for the queue. */
    void *(*host_alloc)(size_t bytes);
    void (*host_release)(void *p);
    /* Copies that may still be in flight on return; their source must not change until they are
     * done. */
    void (*upload_start)(Queue q, void *dst, const void *host, size_t bytes);
    void (*download_start)(Queue q, void *host, const void *src, size_t bytes);
    Mark *(*mark_new)(void);
    void (*mark_free)(Mark *m);
    /* Sets the mark after all work enqueued in q so far. */
    void (*mark_set)(Mark *m, Queue q);
    /* Work enqueued in q from now on runs after the mark; a mark that was never set delays
     * nothing. */
    void (*queue_wait)(Queue q, Mark *m);
    /* The host waits until the work before the mark is done. */
    void (*mark_wait)(Mark *m);
    /* For calls that are repeated with the same arguments; *g is NULL before the first time:
     *     if (k->device->graph_begin(&g)) { calls; k->device->graph_end(&g); }
     * A device with graphs lets them run at the first occurrence (which allocates their scratch
     * memory), captures them at the second, and replays the graph from then on, when graph_begin
     * returns false. Other devices make the calls every time. The calls must be slots that use
     * QUEUE_COMPUTE and no host memory. */
    bool (*graph_begin)(Graph **g);
    void (*graph_end)(Graph **g);
    /* Makes the host call call(context) now and, between graph_begin and graph_end, at the same
     * place in every replay. Neither the call nor the work that it enqueues is captured: it ends
     * the current graph, and the following slots start another. The context's bytes are copied. */
    void (*graph_call)(void (*call)(const void *context), const void *context, size_t bytes);
    void (*graph_free)(Graph *g);
} Device;

/* Every slot, in the order above. */
/* clang-format off */
#define DEVICE_LIST(X) \
    X(alloc) X(release) X(size) X(memory) X(plan_begin) X(plan_end) X(upload) X(download) X(copy) X(zero) X(sync) \
    X(host_alloc) X(host_release) X(upload_start) X(download_start) \
    X(mark_new) X(mark_free) X(mark_set) X(queue_wait) X(mark_wait) \
    X(graph_begin) X(graph_end) X(graph_call) X(graph_free)
/* clang-format on */

/* A device declares its functions with the table's own types. */
#define DEVICE_TYPE(slot) __typeof__(*((Device *)0)->slot)

/* The device of the CPU backends (kernels/host/): its memory is the host's, and every slot returns
 * with its work done. */
extern const Device host_device;
