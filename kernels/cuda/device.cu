/* cuda/device: see device.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/device.h"
extern "C" {
#include "kernels/space.h"
}

#define STAGE_BYTES ((size_t)1 << 20)
#define STAGES 32

typedef struct Stage {
    void *host; /* pinned */
    cudaEvent_t done;
} Stage;

typedef struct Scratch {
    void *p;
    size_t bytes, used; /* used: the largest request */
    bool own;           /* an allocation, not a part of the arena */
} Scratch;

static struct Gpu {
    bool open;
    int multiprocessors, shared_memory;
    cudaStream_t queue[QUEUES];
    Stage stages[STAGES];
    size_t stage;
    Scratch scratch[SCRATCH_COUNT];
    bool capturing, recorded; /* in a capture; a graph was captured at some time */
    Graph *graph;             /* the graph in capture, or the last one */
    Space own;                /* allocations, including the arena */
    Space outgrown;           /* outgrown scratch memory that graphs may use */
    void *arena_start;        /* the arena: scratch memory, then the blocks of `arena` */
    Space arena;              /* the planned blocks; base NULL: no arena */
    size_t taken, most;       /* of allocations */
    size_t used, most_used;   /* of blocks and scratch memory */
    size_t taken_as_planned;  /* value of `taken` when the arena was allocated */
    bool planning;
    Space plan; /* addresses without memory */
    size_t plan_scratch[SCRATCH_COUNT];
    size_t plan_host; /* of host_alloc */
} device;

void device_check(cudaError_t status, const char *call, const char *file, int line) {
    if (status == cudaSuccess) return;
    die("CUDA: %s failed at %s:%d: %s; an earlier kernel may be the cause (compute-sanitizer names "
        "it), --device cpu runs without a GPU",
        call, file, line, cudaGetErrorString(status));
}

/* ---- opening ---- */

/* This rank's number on its machine, and where it is from. SLURM's variable is last, because mpirun
 * inside a job step inherits it. */
static int local_rank(const char **from) {
    static const char *const names[] = {"OMPI_COMM_WORLD_LOCAL_RANK", /* Open MPI */
                                        "MPI_LOCALRANKID",            /* MPICH, Intel MPI */
                                        "MV2_COMM_WORLD_LOCAL_RANK",  /* MVAPICH */
                                        "PALS_LOCAL_RANKID",          /* Cray PALS */
                                        "FLUX_TASK_LOCAL_ID",         /* Flux */
                                        "LOCAL_RANK",                 /* torchrun */
                                        "SLURM_LOCALID"};
    *from = "MPI";
    if (kernel_local_rank >= 0) return kernel_local_rank;
    for (size_t i = 0; i < COUNT(names); i++) {
        const char *value = getenv(names[i]);
        if (!value) continue;
        *from = names[i];
        return atoi(value);
    }
    return 0;
}

/* If a launcher shows each rank only its own GPU, that is number 0 for all. */
static int chosen_device(int count) {
    const char *from;
    int rank = local_rank(&from);
    return rank > 0 && rank < count ? rank : 0;
}

static void check_local_rank(int count) {
    const char *from;
    int rank = local_rank(&from);
    if (count > 1 && (rank < 0 || rank >= count))
        die("--device cuda: this is rank %d of its machine, counted from 0 (%s), and %d GPUs are "
            "visible: start one rank for each GPU",
            rank, from, count);
}

const char *device_problem(void) {
    static char text[256];
    int driver = 0, runtime = 0, count = 0, major = 0, minor = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    cudaError_t status = cudaGetDeviceCount(&count);
    if (driver == 0)
        return "no NVIDIA driver is installed (in a container: it was started without its GPUs)";
    if (status == cudaErrorInsufficientDriver) {
        snprintf(text, sizeof text,
                 "the NVIDIA driver is for CUDA %d.%d, this build needs %d.%d: update the driver%s",
                 driver / 1000, driver % 100 / 10, runtime / 1000, runtime % 100 / 10,
                 driver / 1000 == 12 ? ", or build with CUDA 12's toolkit (make setup CUDA=12)"
                                     : "");
        return text;
    }
    if (status != cudaSuccess || count == 0) {
        const char *visible = getenv("CUDA_VISIBLE_DEVICES");
        cudaGetLastError();
        if (visible)
            snprintf(text, sizeof text, "no GPU is visible: CUDA_VISIBLE_DEVICES is '%.60s'",
                     visible);
        else
            snprintf(text, sizeof text, "no GPU is visible (%s)", cudaGetErrorString(status));
        return text;
    }
    int d = chosen_device(count);
    CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, d));
    CUDA(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, d));
    if (major >= 8) return NULL;
    snprintf(text, sizeof text, "GPU %d has compute capability %d.%d, and 8.0 is needed", d, major,
             minor);
    return text;
}

bool device_has_fp8(void) {
    int count, major, minor;
    if (device_problem()) return false;
    CUDA(cudaGetDeviceCount(&count));
    int d = chosen_device(count);
    CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, d));
    CUDA(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, d));
    return major * 10 + minor >= 89;
}

static void device_open(void) {
    if (device.open) return;
    const char *problem = device_problem();
    if (problem) die("--device cuda: %s; --device cpu runs without a GPU", problem);
    int count;
    CUDA(cudaGetDeviceCount(&count));
    check_local_rank(count);
    int d = chosen_device(count);
    CUDA(cudaSetDevice(d));
    CUDA(cudaDeviceGetAttribute(&device.multiprocessors, cudaDevAttrMultiProcessorCount, d));
    CUDA(cudaDeviceGetAttribute(&device.shared_memory, cudaDevAttrMaxSharedMemoryPerBlockOptin, d));
    for (size_t q = 0; q < QUEUES; q++)
        CUDA(cudaStreamCreateWithFlags(&device.queue[q], cudaStreamNonBlocking));
    for (size_t i = 0; i < STAGES; i++)
        CUDA(cudaEventCreateWithFlags(&device.stages[i].done, cudaEventDisableTiming));
    device.open = true;
}

cudaStream_t device_stream(void) {
    device_open();
    return device.queue[QUEUE_COMPUTE];
}

cudaStream_t device_queue(Queue q) {
    device_open();
    return device.queue[q];
}

int device_multiprocessors(void) {
    device_open();
    return device.multiprocessors;
}

size_t device_shared_memory(void) {
    device_open();
    return (size_t)device.shared_memory;
}

/* ---- memory ---- */

enum { ALIGN = 256 };
static void use(size_t bytes) {
    device.used += bytes;
    device.most_used = size_max(device.most_used, device.used);
}

static void *own_take(size_t bytes) {
    void *p = NULL;
    cudaError_t status = cudaMalloc(&p, bytes);
    if (status == cudaSuccess) {
        space_add(&device.own, p, bytes);
        device.taken += bytes;
        device.most = size_max(device.most, device.taken);
        return p;
    }
    cudaGetLastError();
    MemoryUse m = device_memory();
    die("GPU memory: %zu bytes were asked for, %zu of %zu are free, this process has %zu (%s); try "
        "a smaller --batch-size, --grad-checkpointing, --accum-freq, or --device cpu",
        bytes, m.unused, m.total, m.taken, cudaGetErrorString(status));
}

static size_t own_give(void *p) {
    size_t bytes = space_remove(&device.own, p);
    assert(bytes);
    device.taken -= bytes;
    CUDA(cudaFree(p));
    return bytes;
}

void *device_alloc(size_t bytes) {
    device_open();
    assert(!device.capturing);
    bytes = size_max(bytes, 1);
    size_t padded = round_up(bytes, ALIGN);
    if (device.planning) return space_take(&device.plan, padded);
    void *p = device.arena.base ? space_take(&device.arena, padded) : NULL;
    use(p ? padded : bytes);
    return p ? p : own_take(bytes);
}

void device_release(void *p) {
    if (!p) return;
    if (device.planning) {
        space_remove(&device.plan, p);
        return;
    }
    /* like cudaFree, waits until work that uses it is done */
    CUDA(cudaDeviceSynchronize());
    size_t bytes = space_remove(&device.arena, p);
    device.used -= bytes ? bytes : own_give(p);
}

size_t device_size(const void *p) {
    if (device.planning) return space_find(&device.plan, p);
    size_t bytes = space_find(&device.arena, p);
    return bytes ? bytes : space_find(&device.own, p);
}

MemoryUse device_memory(void) {
    if (device.planning) {
        size_t planned = space_sum(&device.plan);
        return {planned, device.plan.most, planned, 0, 0, 0, device.plan_host};
    }
    MemoryUse m = {device.taken, device.most, device.most_used, 0, 0, 0, 0};
    device_open();
    if (device.arena.base) m.unplanned = device.most - device.taken_as_planned;
    if (cudaMemGetInfo(&m.unused, &m.total) != cudaSuccess) cudaGetLastError();
    return m;
}

static void scratch_drop(Scratch *s) {
    if (s->own && device.recorded)
        space_add(&device.outgrown, s->p, s->bytes);
    else if (s->own)
        own_give(s->p);
    s->p = NULL;
    s->bytes = 0;
}

static void scratch_take(Scratch *s, size_t bytes) {
    device_sync();
    scratch_drop(s);
    assert(!device.capturing);
    *s = {own_take(bytes), bytes, s->used, true};
}

void *device_scratch(enum ScratchUse what, size_t bytes) {
    Scratch *s = &device.scratch[what];
    bytes = size_max(bytes, 1);
    if (device.planning) {
        device.plan_scratch[what] = size_max(device.plan_scratch[what], bytes);
        return device.plan.base;
    }
    if (bytes > s->used) use(bytes - s->used), s->used = bytes;
    if (bytes > s->bytes) scratch_take(s, bytes + bytes / 4);
    return s->p;
}

/* ---- planning ---- */

void *device_plan_host(size_t bytes) {
    device.plan_host += bytes;
    return device.plan.base;
}

bool device_planning(void) { return device.planning; }

void device_plan_begin(void) {
    device_open();
    device.planning = true;
    device.plan = space_unbacked();
    device.plan_host = 0;
    memset(device.plan_scratch, 0, sizeof device.plan_scratch);
}

/* Allocates the arena: scratch memory, then space for the blocks. */
static void arena_take_planned(size_t bytes) {
    char *p = (char *)own_take(bytes);
    device.arena_start = p;
    for (int what = 0; what < SCRATCH_COUNT; what++) {
        Scratch *s = &device.scratch[what];
        size_t n = round_up(device.plan_scratch[what], ALIGN);
        if (device.plan_scratch[what] <= s->bytes) continue;
        scratch_drop(s);
        *s = {p, n, s->used, false};
        p += n;
    }
    device.arena = {p, bytes - (size_t)(p - (char *)device.arena_start), 0, NULL, 0};
    device.taken_as_planned = device.most = device.taken;
}

static void arena_give(void) {
    if (!device.arena.base || device.arena.count) return;
    for (int what = 0; what < SCRATCH_COUNT; what++)
        if (!device.scratch[what].own) scratch_drop(&device.scratch[what]);
    own_give(device.arena_start);
    free(device.arena.list);
    device.arena = {};
}

/* CLIPC_ARENA=0: a separate allocation for each block, so that memory checkers know its bounds. */
static bool wants_arena(void) {
    const char *value = getenv("CLIPC_ARENA");
    return !value || strcmp(value, "0");
}

size_t device_plan_end(size_t most) {
    size_t bytes = device.plan.most;
    device.planning = false;
    free(device.plan.list);
    for (int what = 0; what < SCRATCH_COUNT; what++)
        bytes += round_up(device.plan_scratch[what], ALIGN);
    if (bytes > most) return bytes;
    device_sync();
    if (!device.recorded) arena_give();
    if (bytes && wants_arena() && !device.arena.base) {
        arena_take_planned(bytes);
        return bytes;
    }
    for (int what = 0; what < SCRATCH_COUNT; what++)
        if (device.plan_scratch[what] > device.scratch[what].bytes)
            scratch_take(&device.scratch[what], device.plan_scratch[what]);
    return bytes;
}

void device_close(void) {
    if (!device.open) return;
    device.recorded = false;
    while (device.outgrown.count) own_give(device.outgrown.list[--device.outgrown.count].p);
    for (int what = 0; what < SCRATCH_COUNT; what++)
        if (device.scratch[what].own) scratch_drop(&device.scratch[what]);
    arena_give();
    for (size_t i = 0; i < STAGES; i++) {
        if (device.stages[i].host) CUDA(cudaFreeHost(device.stages[i].host));
        device.stages[i].host = NULL;
    }
}

/* ---- transfers ---- */

/* The next pinned block, once the copy that used it last is done. */
static Stage *stage_next(void) {
    Stage *s = &device.stages[device.stage++ % STAGES];
    if (!s->host)
        CUDA(cudaHostAlloc(&s->host, STAGE_BYTES, cudaHostAllocDefault));
    else
        CUDA(cudaEventSynchronize(s->done));
    return s;
}

void device_send(void *dst, const void *host, size_t bytes) {
    device_open();
    if (device.planning) return;
    for (size_t done = 0; done < bytes; done += STAGE_BYTES) {
        size_t n = size_min(bytes - done, STAGE_BYTES);
        Stage *s = stage_next();
        memcpy(s->host, (const char *)host + done, n);
        CUDA(cudaMemcpyAsync((char *)dst + done, s->host, n, cudaMemcpyHostToDevice,
                             device.queue[QUEUE_COMPUTE]));
        CUDA(cudaEventRecord(s->done, device.queue[QUEUE_COMPUTE]));
    }
}

void device_fetch(void *host, const void *src, size_t bytes) {
    device_open();
    if (device.planning) return;
    for (size_t done = 0; done < bytes; done += STAGE_BYTES) {
        size_t n = size_min(bytes - done, STAGE_BYTES);
        Stage *s = stage_next();
        CUDA(cudaMemcpyAsync(s->host, (const char *)src + done, n, cudaMemcpyDeviceToHost,
                             device.queue[QUEUE_COMPUTE]));
        CUDA(cudaEventRecord(s->done, device.queue[QUEUE_COMPUTE]));
        CUDA(cudaEventSynchronize(s->done));
        memcpy((char *)host + done, s->host, n);
    }
}

void device_sync(void) {
    CUDA(cudaStreamSynchronize(device_stream()));
    device_timers_book();
}

/* ---- graphs ---- */

/* Kernels that are launched as one graph, and the host call after them. */
typedef struct Piece {
    cudaGraphExec_t exec; /* NULL: no kernels */
    void (*call)(const void *context);
    void *context;
} Piece;

struct Graph {
    bool seen;  /* ran once: cuBLASLt has its plans, the scratch blocks are large enough */
    bool whole; /* captured completely */
    Piece *pieces;
    size_t count;
};

static void piece_begin(void) {
    CUDA(cudaStreamBeginCapture(device.queue[QUEUE_COMPUTE], cudaStreamCaptureModeThreadLocal));
    device.capturing = device.recorded = true;
}

/* Enqueues the kernels of the graph. */
static Piece *piece_end(Graph *g) {
    cudaGraph_t graph;
    size_t nodes = 0;
    device.capturing = false;
    CUDA(cudaStreamEndCapture(device.queue[QUEUE_COMPUTE], &graph));
    CUDA(cudaGraphGetNodes(graph, NULL, &nodes));
    g->pieces = (Piece *)xrealloc(g->pieces, (g->count + 1) * sizeof *g->pieces);
    Piece *p = &g->pieces[g->count++];
    *p = {};
    if (nodes) {
        CUDA(cudaGraphInstantiate(&p->exec, graph, 0));
        CUDA(cudaGraphLaunch(p->exec, device.queue[QUEUE_COMPUTE]));
    }
    CUDA(cudaGraphDestroy(graph));
    return p;
}

static void graph_launch(const Graph *g) {
    for (size_t i = 0; i < g->count; i++) {
        const Piece *p = &g->pieces[i];
        if (p->exec) CUDA(cudaGraphLaunch(p->exec, device.queue[QUEUE_COMPUTE]));
        if (p->call) p->call(p->context);
    }
}

bool device_graph_begin(Graph **g) {
    device_open();
    assert(!device.capturing);
    if (device.planning || kernel_stats_on || !kernel_graphs_on) return true;
    if (!*g) *g = (Graph *)xcalloc(1, sizeof **g);
    if ((*g)->whole) {
        graph_launch(*g);
        return false;
    }
    if ((*g)->seen) {
        device.graph = *g;
        piece_begin();
    }
    (*g)->seen = true;
    return true;
}

void device_graph_end(Graph **g) {
    if (!device.capturing) return;
    assert(device.graph == *g);
    piece_end(*g);
    (*g)->whole = true;
}

void device_graph_call(void (*call)(const void *context), const void *context, size_t bytes) {
    if (device.planning) return;
    if (!device.capturing) {
        call(context);
        return;
    }
    Piece *p = piece_end(device.graph);
    p->call = call;
    p->context = memcpy(xmalloc(bytes + 1), context, bytes);
    call(context);
    piece_begin();
}

void device_graph_free(Graph *g) {
    if (!g) return;
    for (size_t i = 0; i < g->count; i++) {
        if (g->pieces[i].exec) CUDA(cudaGraphExecDestroy(g->pieces[i].exec));
        free(g->pieces[i].context);
    }
    free(g->pieces);
    free(g);
}
