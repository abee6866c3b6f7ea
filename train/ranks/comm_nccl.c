/* comm_nccl: GPU ranks through NCCL. Collectives run on a separate stream: each waits for the
 * computation enqueued before it, and the computation enqueued after it waits for the collective,
 * unless it was started to run concurrently. The host waits only for host memory.
 *
 * A collective is a host call between two graphs (graph_call). If it were captured, all ranks would
 * have to capture and launch the same graphs at the same time (NCCL's user guide, "Using NCCL with
 * CUDA Graphs"), and the ranks' packed captions differ in rows.
 *
 * A flight is a collective from its enqueueing until the host has observed its completion. The
 * watchdog's thread checks the oldest one, and NCCL's asynchronous errors. */
#include "train/ranks/comm_open.h"
#include "train/ranks/rendezvous.h"
#include "train/ranks/watchdog.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef HAVE_NCCL
bool comm_nccl_built(void) { return false; }

const Comm *comm_nccl(const Kernels *k, const Comm *host, const Launch *launch, double timeout) {
    (void)k, (void)host, (void)launch, (void)timeout;
    die("this program was built without NCCL: build/clipc-cuda has it where make finds nvcc and "
        "nccl.h; CPU ranks talk through --comm mpi");
}
#else
#include <cuda_runtime.h>
#include <nccl.h>
#include <pthread.h>

bool comm_nccl_built(void) { return true; }

/* kernels/cuda: the compute stream */
extern cudaStream_t device_stream(void);
/* the header declares these two without a prototype */
ncclResult_t ncclGroupStart(void);
ncclResult_t ncclGroupEnd(void);

/* FLIGHTS: more than two steps have, otherwise the host would wait for one of them */
enum { FLIGHTS = 1024, STAGE = COMM_MEMORY - 256, CONNECT_LEAST = 1 << 20, CONNECT = 32 << 20 };

typedef struct Flight {
    CommOp op;
    uint64_t step;
    double bytes;
    bool all_asked; /* event `after` is recorded */
    bool waited;    /* the computation waits for its end, from `asked` on */
    cudaEvent_t ready, before, after, asked;
} Flight;

static struct {
    const Kernels *k;
    const Comm *host; /* for host memory, if MPI is available; NULL: none */
    Comm table;
    ncclComm_t comm;
    cudaStream_t stream;
    int device;
    char *stage, *bounce; /* STAGE bytes on the device and on the host, for host memory */
    acc *one;
    pthread_mutex_t lock; /* of the flights */
    Flight flight[FLIGHTS];
    uint64_t done, begun; /* flights: completed as observed by the host, enqueued */
    uint64_t seen;        /* completed as observed by the watchdog */
    bool closing;
} nccl = {.lock = PTHREAD_MUTEX_INITIALIZER};

#define CUDA(call) cuda_check(call, #call)
static void cuda_check(cudaError_t status, const char *call) {
    if (status != cudaSuccess) die("CUDA: %s failed: %s", call, cudaGetErrorString(status));
}

#define NCCL(call) nccl_check(call, #call)
static void nccl_check(ncclResult_t status, const char *call) {
    if (status == ncclSuccess || status == ncclInProgress) return;
    const char *more = ncclGetLastError(nccl.comm);
    MemoryUse m = nccl.k->device->memory();
    die("NCCL: %.40s failed: %s%s%s (NCCL_DEBUG=INFO says more; two ranks cannot share a GPU; %.1f "
        "of %.1f MiB of GPU memory are free)",
        call, ncclGetErrorString(status), more && *more ? ": " : "", more && *more ? more : "",
        (double)m.unused / (1 << 20), (double)m.total / (1 << 20));
}

/* ---- flights ---- */

static Flight *flight_at(uint64_t i) { return &nccl.flight[i % FLIGHTS]; }

static double seconds_between(cudaEvent_t from, cudaEvent_t to) {
    float ms = 0;
    CUDA(cudaEventElapsedTime(&ms, from, to));
    return ms > 0 ? 1e-3 * (double)ms : 0;
}

/* Records the costs of the flights before number `end`, which are complete. */
static void retire(uint64_t end) {
    for (; nccl.done < end; nccl.done++) {
        const Flight *f = flight_at(nccl.done);
        comm_stats.bytes += f->bytes;
        comm_stats.seconds += seconds_between(f->before, f->after);
        if (f->waited) comm_stats.waited += seconds_between(f->asked, f->after);
        pthread_mutex_lock(&nccl.lock); /* from here on its events may be reused */
        if (nccl.seen <= nccl.done) nccl.seen = nccl.done + 1;
        pthread_mutex_unlock(&nccl.lock);
    }
}

/* The host waits for the flight, and until the computation has reached its wait for the flight. */
static void come_to_end(const Flight *f) {
    const cudaEvent_t ends[] = {f->after, f->asked};
    for (size_t i = 0; i < 1u + f->waited; i++) {
        if (cudaEventQuery(ends[i]) == cudaSuccess) continue;
        cudaGetLastError(); /* "not ready" is no error of the next call */
        CUDA(cudaEventSynchronize(ends[i]));
    }
}

/* The oldest incomplete flight, or NULL. Under lock. */
static const Flight *look(void) {
    while (nccl.seen < nccl.begun && flight_at(nccl.seen)->all_asked &&
           cudaEventQuery(flight_at(nccl.seen)->after) == cudaSuccess)
        nccl.seen++;
    return nccl.seen < nccl.begun ? flight_at(nccl.seen) : NULL;
}

/* Results of a collective after a failed one would be meaningless. */
static void check(void) {
    ncclResult_t error = ncclSuccess;
    if (ncclCommGetAsyncError(nccl.comm, &error) != ncclSuccess) error = ncclInternalError;
    if (error == ncclSuccess || error == ncclInProgress) return;
    char why[400];
    const char *more = ncclGetLastError(nccl.comm);
    snprintf(why, sizeof why, "NCCL: %s%s%s", ncclGetErrorString(error), more && *more ? ": " : "",
             more && *more ? more : "");
    pthread_mutex_lock(&nccl.lock);
    const Flight *f = look();
    if (!f && nccl.begun) f = flight_at(nccl.begun - 1);
    CommOp op = f ? f->op : OP_START;
    uint64_t step = f ? f->step : watchdog_now();
    pthread_mutex_unlock(&nccl.lock);
    watchdog_fail(op, step, why);
}

static void poll_device(void) {
    static bool ready;
    if (!ready) {
        /* this thread queries while the other one may be capturing a graph */
        enum cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
        CUDA(cudaSetDevice(nccl.device));
        CUDA(cudaThreadExchangeStreamCaptureMode(&mode));
        ready = true;
    }
    pthread_mutex_lock(&nccl.lock);
    if (!nccl.comm || nccl.closing) {
        pthread_mutex_unlock(&nccl.lock);
        return;
    }
    const Flight *f = look();
    bool runs = f && cudaEventQuery(f->before) == cudaSuccess;
    watchdog_at(LANE_SIDE, runs ? f->op : OP_NONE, nccl.seen + runs, runs ? f->step : 0);
    pthread_mutex_unlock(&nccl.lock);
    check();
}

/* Aborts a collective that would not end. */
static void leave_device(void) {
    if (nccl.comm && !nccl.closing) ncclCommAbort(nccl.comm);
}

static Flight *begin(CommOp op, double bytes) {
    check();
    if (nccl.begun - nccl.done == FLIGHTS) {
        come_to_end(flight_at(nccl.done));
        retire(nccl.done + 1);
    }
    Flight *f = flight_at(nccl.begun);
    f->op = op;
    f->step = watchdog_now();
    f->bytes = bytes;
    f->all_asked = f->waited = false;
    CUDA(cudaEventRecord(f->ready, device_stream()));
    CUDA(cudaStreamWaitEvent(nccl.stream, f->ready, 0));
    CUDA(cudaEventRecord(f->before, nccl.stream));
    pthread_mutex_lock(&nccl.lock);
    nccl.begun++;
    pthread_mutex_unlock(&nccl.lock);
    return f;
}

/* Computation enqueued from now on waits for the flight. */
static void await(Flight *f) {
    f->waited = true;
    CUDA(cudaEventRecord(f->asked, device_stream()));
    CUDA(cudaStreamWaitEvent(device_stream(), f->after, 0));
}

static void asked(Flight *f) {
    CUDA(cudaEventRecord(f->after, nccl.stream));
    pthread_mutex_lock(&nccl.lock);
    f->all_asked = true;
    pthread_mutex_unlock(&nccl.lock);
}

/* ---- device memory ---- */

typedef struct Collective {
    CommOp op;
    bool beside; /* the computation does not wait for it */
    void *to;
    const void *from;
    size_t n; /* f32 elements; of a broadcast, bytes */
    int how;  /* ncclRedOp_t; of a broadcast, the root */
} Collective;

typedef struct Gather {
    bool beside;
    size_t count;
    CommPiece piece[COMM_PIECES];
} Gather;

static double others(void) { return (double)(nccl.table.size - 1); }
static size_t bytes_of(size_t n) { return size_mul(n, sizeof(float)); }

static double bytes_sent(const Collective *c) {
    switch (c->op) {
    case OP_ALL_REDUCE:
        return 2 * others() / nccl.table.size * (double)bytes_of(c->n);
    case OP_REDUCE_SCATTER:
        return others() * (double)bytes_of(c->n);
    default:
        return nccl.table.rank == c->how ? (double)c->n : 0;
    }
}

static void run(const void *context) {
    const Collective *c = context;
    Flight *f = begin(c->op, bytes_sent(c));
    if (c->op == OP_ALL_REDUCE)
        NCCL(ncclAllReduce(c->from, c->to, c->n, ncclFloat32, (ncclRedOp_t)c->how, nccl.comm,
                           nccl.stream));
    else if (c->op == OP_REDUCE_SCATTER)
        NCCL(ncclReduceScatter(c->from, c->to, c->n, ncclFloat32, (ncclRedOp_t)c->how, nccl.comm,
                               nccl.stream));
    else
        NCCL(ncclBroadcast(c->from, c->to, c->n, ncclUint8, c->how, nccl.comm, nccl.stream));
    asked(f);
    if (!c->beside) await(f);
}

/* One launch instead of one for each piece. */
static void run_gather(const void *context) {
    const Gather *g = context;
    size_t bytes = 0;
    for (size_t i = 0; i < g->count; i++) bytes += g->piece[i].bytes;
    Flight *f = begin(OP_ALL_GATHER, others() * (double)bytes);
    NCCL(ncclGroupStart());
    for (size_t i = 0; i < g->count; i++)
        NCCL(ncclAllGather(g->piece[i].part, g->piece[i].all, g->piece[i].bytes, ncclUint8,
                           nccl.comm, nccl.stream));
    NCCL(ncclGroupEnd());
    asked(f);
    if (!g->beside) await(f);
}

static void ask(CommOp op, bool beside, void *to, const void *from, size_t n, int how) {
    Collective c = {op, beside, to, from, n, how};
    nccl.k->device->graph_call(run, &c, sizeof c);
}

static void all_reduce_sum(acc *x, size_t n) { ask(OP_ALL_REDUCE, false, x, x, n, ncclSum); }
static void all_reduce_max(acc *x, size_t n) { ask(OP_ALL_REDUCE, false, x, x, n, ncclMax); }
static void all_reduce_start(acc *x, size_t n) { ask(OP_ALL_REDUCE, true, x, x, n, ncclSum); }
static void reduce_scatter(acc *part, const acc *all, size_t n) {
    ask(OP_REDUCE_SCATTER, false, part, all, n, ncclSum);
}
static void reduce_scatter_start(acc *part, const acc *all, size_t n) {
    ask(OP_REDUCE_SCATTER, true, part, all, n, ncclSum);
}

static void ask_gather(const CommPiece *pieces, size_t count, bool beside) {
    Gather g = {.beside = beside, .count = count};
    assert(count <= COMM_PIECES);
    memcpy(g.piece, pieces, count * sizeof *pieces);
    nccl.k->device->graph_call(run_gather, &g, sizeof g);
}
static void gather_pieces(const CommPiece *pieces, size_t count) {
    ask_gather(pieces, count, false);
}
static void gather_start(const CommPiece *pieces, size_t count) { ask_gather(pieces, count, true); }

static void all_gather(void *all, const void *part, size_t bytes) {
    gather_pieces(&(CommPiece){all, part, bytes}, 1);
}
static void all_gather_acc(acc *all, const acc *part, size_t n) {
    all_gather(all, part, bytes_of(n));
}

static void broadcast_device(void *x, size_t bytes, int root) {
    ask(OP_BROADCAST, false, x, x, bytes, root);
}
static void broadcast(acc *x, size_t n, int root) { broadcast_device(x, bytes_of(n), root); }

static void await_last(const void *context) {
    (void)context;
    if (nccl.begun > nccl.done) await(flight_at(nccl.begun - 1));
}
static void wait_all(void) { nccl.k->device->graph_call(await_last, "", 0); }

/* ---- host memory ---- */

/* The host waits for completion. */
static void settle(void) {
    nccl.k->device->sync();
    check();
    retire(nccl.begun);
}

static void gather_bytes(void *all, const void *part, size_t n) {
    if (nccl.host) {
        nccl.host->gather_bytes(all, part, n);
        return;
    }
    size_t ranks = (size_t)nccl.table.size, own = (size_t)nccl.table.rank, most = STAGE / ranks;
    for (size_t at = 0; at < n; at += most) {
        size_t k = size_min(most, n - at);
        char *mine = nccl.stage + own * k;
        nccl.k->device->upload(mine, (const char *)part + at, k);
        all_gather(nccl.stage, mine, k);
        nccl.k->device->download(nccl.bounce, nccl.stage, ranks * k);
        settle();
        for (size_t r = 0; r < ranks; r++) memcpy((char *)all + r * n + at, nccl.bounce + r * k, k);
    }
}

static void broadcast_bytes(void *x, size_t n, int root) {
    if (nccl.host) {
        nccl.host->broadcast_bytes(x, n, root);
        return;
    }
    for (size_t at = 0; at < n; at += STAGE) {
        size_t k = size_min(STAGE, n - at);
        if (nccl.table.rank == root) nccl.k->device->upload(nccl.stage, (char *)x + at, k);
        broadcast_device(nccl.stage, k, root);
        nccl.k->device->download(nccl.bounce, nccl.stage, k);
        settle();
        memcpy((char *)x + at, nccl.bounce, k);
    }
}

static void barrier(void) {
    all_reduce_sum(nccl.one, 1);
    settle();
}

/* ---- start and end ---- */

static void close_nccl(void) {
    barrier();
    pthread_mutex_lock(&nccl.lock);
    nccl.closing = true;
    pthread_mutex_unlock(&nccl.lock);
    watchdog_enter(LANE_MAIN, OP_END);
    NCCL(ncclCommDestroy(nccl.comm));
    for (size_t i = 0; i < FLIGHTS; i++) {
        const Flight *f = &nccl.flight[i];
        const cudaEvent_t events[] = {f->ready, f->before, f->after, f->asked};
        for (size_t e = 0; e < COUNT(events); e++) CUDA(cudaEventDestroy(events[e]));
    }
    CUDA(cudaStreamDestroy(nccl.stream));
    nccl.k->device->release(nccl.stage);
    free(nccl.bounce);
    watchdog_leave(LANE_MAIN);
    if (nccl.host)
        nccl.host->close();
    else
        watchdog_stop();
}

static void open_flights(void) {
    CUDA(cudaGetDevice(&nccl.device));
    /* its blocks are placed before those of kernels that wait: a collective needs few, and others
     * wait for it */
    int low, high;
    CUDA(cudaDeviceGetStreamPriorityRange(&low, &high));
    CUDA(cudaStreamCreateWithPriority(&nccl.stream, cudaStreamNonBlocking, high));
    for (size_t i = 0; i < FLIGHTS; i++) {
        Flight *f = &nccl.flight[i];
        cudaEvent_t *const events[] = {&f->ready, &f->before, &f->after, &f->asked};
        for (size_t e = 0; e < COUNT(events); e++)
            CUDA(cudaEventCreateWithFlags(events[e], cudaEventDefault));
    }
    nccl.stage = nccl.k->device->alloc(COMM_MEMORY);
    nccl.bounce = xmalloc(STAGE);
    nccl.one = (acc *)(nccl.stage + STAGE);
    nccl.k->device->zero(nccl.one, sizeof(float));
}

/* NCCL connects, and takes memory, at the first collective of each kind. Done at the start, so that
 * the run's memory is planned from what is left; the last, small one takes other channels. */
static void connect_all(size_t unused) {
    const Device *d = nccl.k->device;
    size_t ranks = (size_t)nccl.table.size, rank = (size_t)nccl.table.rank;
    size_t bytes = size_min(CONNECT, size_max(CONNECT_LEAST, d->memory().total / 1024));
    size_t part = bytes / ranks / sizeof(float);
    size_t n = ranks * part;
    acc *all = d->alloc(bytes_of(n)), *own = acc_at(nccl.k, all, rank * part);
    d->zero(all, bytes_of(n));
    all_reduce_sum(all, n);
    all_reduce_max(all, n);
    reduce_scatter(own, all, part);
    all_gather_acc(all, own, part);
    broadcast(all, n, 0);
    barrier();
    d->release(all);
    size_t left = d->memory().unused;
    nccl.table.memory = unused > left ? unused - left : 0;
    comm_stats = (CommStats){0};
}

static void exchange_id(ncclUniqueId *id, const Launch *l, double timeout) {
    _Static_assert(sizeof *id == RENDEZVOUS_BYTES, "an id is what a rendezvous carries");
    if (l->rank == 0) NCCL(ncclGetUniqueId(id));
    if (nccl.host) {
        nccl.host->broadcast_bytes(id, sizeof *id, 0);
    } else if (l->size > 1) {
        Rendezvous r = {l->rank, l->size, l->address, l->port, timeout, l->key};
        Error err;
        if (!rendezvous_meet(&r, id, &err)) die("rank %d: %s", l->rank, err.text);
    }
}

const Comm *comm_nccl(const Kernels *k, const Comm *host, const Launch *launch, double timeout) {
    static const WatchdogDevice device = {poll_device, leave_device};
    assert(!nccl.k && k->acc_size == sizeof(float));
    ncclUniqueId id;
    ncclComm_t comm;
    nccl.k = k;
    nccl.host = host;
    device_stream(); /* opens the device of this rank */
    open_flights();
    exchange_id(&id, launch, timeout);
    if (!host) watchdog_start(launch->rank, timeout);
    watchdog_device(&device);
    size_t unused = k->device->memory().unused;
    watchdog_enter(LANE_MAIN, OP_START);
    NCCL(ncclCommInitRank(&comm, launch->size, id, launch->rank));
    watchdog_leave(LANE_MAIN);
    pthread_mutex_lock(&nccl.lock);
    nccl.comm = comm;
    pthread_mutex_unlock(&nccl.lock);
    nccl.table = (Comm){.name = "nccl",
                        .rank = launch->rank,
                        .size = launch->size,
                        .all_gather = all_gather_acc,
                        .gather_pieces = gather_pieces,
                        .reduce_scatter = reduce_scatter,
                        .all_reduce_sum = all_reduce_sum,
                        .all_reduce_max = all_reduce_max,
                        .broadcast = broadcast,
                        .barrier = barrier,
                        .all_reduce_start = all_reduce_start,
                        .reduce_scatter_start = reduce_scatter_start,
                        .gather_start = gather_start,
                        .wait = wait_all,
                        .gather_bytes = gather_bytes,
                        .broadcast_bytes = broadcast_bytes,
                        .check = check,
                        .close = close_nccl};
    if (launch->size > 1) connect_all(unused);
    return &nccl.table;
}
#endif
