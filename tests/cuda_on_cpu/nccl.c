/* nccl: NCCL's collectives between processes. Reductions add in rank order, so all ranks get the
 * same bits. Errors between ranks become asynchronous errors and results of NaN. A captured
 * collective matches only the same one of the same capture on the other ranks, according to NCCL's
 * user guide ("Using NCCL with CUDA Graphs"). */
#include "tests/cuda_on_cpu/ptx.h"
#include "tests/cuda_on_cpu/ranks.h"
#include "tests/cuda_on_cpu/runtime.h"
#include "tests/cuda_on_cpu/stream.h"
#include <nccl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { LARGE = 1 << 16, KINDS = 5 };
struct ncclComm {
    Ranks *ranks;
    Buffer *channels[KINDS]; /* memory of each kind of collective */
    int rank, size, device;
    uint64_t captured; /* number of captured collectives so far */
    _Atomic int async;
    char error[256];
};
typedef enum CollectiveKind {
    ALL_REDUCE,
    REDUCE,
    REDUCE_SCATTER,
    ALL_GATHER,
    BROADCAST
} CollectiveKind;
static const char *const kind_names[] = {"ncclAllReduce", "ncclReduce", "ncclReduceScatter",
                                         "ncclAllGather", "ncclBroadcast"};
typedef struct Call { /* parameters that must be equal on all ranks */
    int32_t kind, type, op, root;
    uint64_t count;
    uint64_t captured; /* number among the communicator's captured calls; 0: not in a graph */
} Call;
typedef struct Collective {
    Call call;
    ncclComm_t comm;
    const void *send;
    void *recv;
} Collective;
typedef struct Pending {
    Collective c;
    cudaStream_t stream;
} Pending;
/* the header declares these two without a prototype */
ncclResult_t ncclGroupStart(void);
ncclResult_t ncclGroupEnd(void);

static Pending *pending;
static int pending_count, group_depth;
static char last_error[256];

/* ---- communicators ---- */
ncclResult_t ncclGetVersion(int *version) {
    *version = NCCL_VERSION_CODE;
    return ncclSuccess;
}
ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
    memset(id, 0, sizeof *id);
    ranks_name(id->internal, sizeof id->internal);
    return ncclSuccess;
}
/* NCCL refuses two ranks on one GPU of one machine; here a network namespace is a machine. */
static bool is_shared(const struct ncclComm *c) {
    struct stat network = {0};
    stat("/proc/self/ns/net", &network);
    const uint64_t own[2] = {(uint64_t)network.st_ino, (uint64_t)c->device};
    bool shared = false;
    if (!ranks_put(c->ranks, own, sizeof own)) return false;
    for (int r = 0; r < c->size; r++) {
        if (r == c->rank || memcmp(ranks_get(c->ranks, r), own, sizeof own)) continue;
        snprintf(last_error, sizeof last_error,
                 "Duplicate GPU detected : rank %d and rank %d both on CUDA device %d", c->rank, r,
                 c->device);
        shared = true;
    }
    ranks_taken(c->ranks);
    return shared;
}
ncclResult_t ncclCommInitRank(ncclComm_t *comm, int size, ncclUniqueId id, int rank) {
    emu_enter();
    if (size < 1 || size > RANKS_MOST || rank < 0 || rank >= size) return ncclInvalidArgument;
    ncclComm_t c = calloc(1, sizeof *c);
    c->rank = rank;
    c->size = size;
    cudaGetDevice(&c->device);
    c->ranks = ranks_join(id.internal, rank, size);
    if (!c->ranks) {
        free(c);
        snprintf(last_error, sizeof last_error, "ranks did not come together");
        return ncclSystemError;
    }
    if (is_shared(c)) {
        ranks_leave(c->ranks);
        free(c);
        return ncclInvalidUsage;
    }
    *comm = c;
    return ncclSuccess;
}
ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int size, ncclUniqueId id, int rank,
                                    ncclConfig_t *config) {
    (void)config;
    return ncclCommInitRank(comm, size, id, rank);
}
ncclResult_t ncclCommFinalize(ncclComm_t c) {
    stream_sync_all();
    return (ncclResult_t)c->async;
}
static void run_collective(void *ctx);
static bool is_of(const void *collective, const void *comm) {
    return ((const Collective *)collective)->comm == comm;
}
ncclResult_t ncclCommDestroy(ncclComm_t c) {
    stream_sync_all();
    if (graphs_hold(run_collective, is_of, c))
        emu_stop("ncclCommDestroy: a graph still holds collectives of the communicator");
    ranks_leave(c->ranks);
    for (int kind = 0; kind < KINDS; kind++)
        if (c->channels[kind]) mem_free((void *)(uintptr_t)c->channels[kind]->start);
    free(c);
    return ncclSuccess;
}
ncclResult_t ncclCommAbort(ncclComm_t c) {
    ranks_abort(c->ranks);
    return emu_bystander() ? ncclSuccess : ncclCommDestroy(c);
}
ncclResult_t ncclCommGetAsyncError(ncclComm_t c, ncclResult_t *error) {
    emu_enter();
    *error = (ncclResult_t)c->async;
    return ncclSuccess;
}
ncclResult_t ncclCommCount(const ncclComm_t c, int *count) {
    *count = c->size;
    return ncclSuccess;
}
ncclResult_t ncclCommUserRank(const ncclComm_t c, int *rank) {
    *rank = c->rank;
    return ncclSuccess;
}
ncclResult_t ncclCommCuDevice(const ncclComm_t c, int *device) {
    *device = c->device;
    return ncclSuccess;
}
const char *ncclGetErrorString(ncclResult_t r) {
    switch (r) {
    case ncclSuccess:
        return "no error";
    case ncclUnhandledCudaError:
        return "unhandled cuda error";
    case ncclSystemError:
        return "unhandled system error";
    case ncclInternalError:
        return "internal error";
    case ncclInvalidArgument:
        return "invalid argument";
    case ncclInvalidUsage:
        return "invalid usage";
    case ncclRemoteError:
        return "remote process exited or there was a network error";
    case ncclInProgress:
        return "NCCL operation in progress";
    default:
        return "unknown result code";
    }
}
const char *ncclGetLastError(ncclComm_t c) { return c && c->error[0] ? c->error : last_error; }

/* ---- reductions ---- */
static size_t type_bytes(int type) {
    switch (type) {
    case ncclInt8:
    case ncclUint8:
        return 1;
    case ncclBfloat16:
        return 2;
    case ncclInt32:
    case ncclUint32:
    case ncclFloat32:
        return 4;
    case ncclInt64:
    case ncclUint64:
    case ncclFloat64:
        return 8;
    default:
        return 0;
    }
}
#define REDUCE_AS(T, W, read, write)                                                               \
    for (size_t i = 0; i < n; i++) {                                                               \
        W v = read(((const T *)ranks_get(r, 0))[i]);                                               \
        for (int k = 1; k < size; k++) {                                                           \
            W x = read(((const T *)ranks_get(r, k))[i]);                                           \
            v = op == ncclProd  ? v * x                                                            \
                : op == ncclMax ? (x > v || x != x ? x : v)                                        \
                : op == ncclMin ? (x < v || x != x ? x : v)                                        \
                                : v + x;                                                           \
        }                                                                                          \
        if (op == ncclAvg) v = v / (W)size;                                                        \
        ((T *)out)[i] = (T)write(v);                                                               \
    }
/* out[n] = the ranks' elements, combined in rank order */
static void reduce(const Ranks *r, int size, int type, int op, void *out, size_t n) {
    switch (type) {
    case ncclInt8:
        REDUCE_AS(int8_t, int8_t, , ) break;
    case ncclUint8:
        REDUCE_AS(uint8_t, uint8_t, , ) break;
    case ncclInt32:
        REDUCE_AS(int32_t, int32_t, , ) break;
    case ncclUint32:
        REDUCE_AS(uint32_t, uint32_t, , ) break;
    case ncclInt64:
        REDUCE_AS(int64_t, int64_t, , ) break;
    case ncclUint64:
        REDUCE_AS(uint64_t, uint64_t, , ) break;
    case ncclFloat32:
        REDUCE_AS(float, float, , ) break;
    case ncclFloat64:
        REDUCE_AS(double, double, , ) break;
    default:
        REDUCE_AS(uint16_t, float, bf16_float, float_bf16) break;
    }
}

/* ---- collectives ---- */
typedef struct Sizes {
    size_t send, recv; /* elements of the two buffers */
} Sizes;
static Sizes sizes_of(const Collective *c) {
    size_t n = c->call.count, all = n * (size_t)c->comm->size;
    switch ((CollectiveKind)c->call.kind) {
    case REDUCE_SCATTER:
        return (Sizes){all, n};
    case ALL_GATHER:
        return (Sizes){n, all};
    default:
        return (Sizes){n, n};
    }
}
static void check_overlap(const Collective *c, const unsigned char *s, size_t sn,
                          const unsigned char *d, size_t dn) {
    size_t part = c->call.count * type_bytes(c->call.type) * (size_t)c->comm->rank;
    if (s + sn <= d || d + dn <= s) return;
    bool in_place = c->call.kind == ALL_GATHER       ? s == d + part
                    : c->call.kind == REDUCE_SCATTER ? d == s + part
                                                     : s == d;
    if (!in_place)
        emu_stop("%s: the buffers overlap, but not in the way of an in-place call",
                 kind_names[c->call.kind]);
}
/* Runs in pieces that fit a seat. In a reduce-scatter each rank's part is sent separately. */
static bool exchange(const Collective *c, const unsigned char *send, unsigned char *recv) {
    Ranks *r = c->comm->ranks;
    int size = c->comm->size, me = c->comm->rank, kind = c->call.kind;
    size_t bytes = type_bytes(c->call.type), total = sizes_of(c).send;
    bool receives = (kind != REDUCE || me == c->call.root);
    for (size_t at = 0; at < total;) {
        size_t n = RANKS_CHUNK / bytes < total - at ? RANKS_CHUNK / bytes : total - at;
        size_t part = kind == REDUCE_SCATTER ? at / c->call.count : 0;
        if (kind == REDUCE_SCATTER && n > (part + 1) * c->call.count - at)
            n = (part + 1) * c->call.count - at;
        if (!ranks_put(r, send + at * bytes, n * bytes)) return false;
        if (kind == ALL_GATHER)
            for (int k = 0; k < size; k++)
                memcpy(recv + ((size_t)k * c->call.count + at) * bytes, ranks_get(r, k), n * bytes);
        else if (kind == BROADCAST)
            memcpy(recv + at * bytes, ranks_get(r, c->call.root), n * bytes);
        else if (kind == REDUCE_SCATTER && part == (size_t)me)
            reduce(r, size, c->call.type, c->call.op, recv + (at - part * c->call.count) * bytes,
                   n);
        else if (kind != REDUCE_SCATTER && receives)
            reduce(r, size, c->call.type, c->call.op, recv + at * bytes, n);
        if (!ranks_taken(r)) return false;
        at += n;
    }
    return true;
}
static void run_collective(void *ctx) {
    Collective *c = ctx;
    ncclComm_t comm = c->comm;
    size_t bytes = type_bytes(c->call.type);
    Sizes n = sizes_of(c);
    bool receives = c->call.kind != REDUCE || comm->rank == c->call.root;
    bool sends = c->call.kind != BROADCAST || comm->rank == c->call.root;
    if (!c->call.count) return;
    unsigned char *recv =
        receives ? mem_range(c->recv, n.recv * bytes, kind_names[c->call.kind]) : NULL;
    const unsigned char *send =
        sends ? mem_range(c->send, n.send * bytes, kind_names[c->call.kind]) : recv;
    if (sends && receives) check_overlap(c, send, n.send * bytes, recv, n.recv * bytes);
    /* if the ranks' calls differ, the data has no meaning */
    bool fine = !comm->async && ranks_same(comm->ranks, &c->call, sizeof c->call);
    unsigned char *copy = malloc(n.send * bytes);
    memcpy(copy, send, n.send * bytes);
    if (fine) fine = exchange(c, copy, recv);
    free(copy);
    if (fine) return;
    if (!comm->async) {
        snprintf(comm->error, sizeof comm->error, "%s: %s", kind_names[c->call.kind],
                 ranks_error(comm->ranks));
        comm->async = ncclRemoteError;
    }
    if (recv) memset(recv, 0xFF, n.recv * bytes);
}

/* As users report of the library: it connects, and takes memory, at the first large collective of a
 * kind. */
static bool connect_kind(const Collective *c) {
    Buffer **own = &c->comm->channels[c->call.kind];
    if (*own || c->comm->size == 1 || c->call.count * type_bytes(c->call.type) < LARGE) return true;
    *own = mem_alloc(emu_options()->nccl);
    if (*own)
        (*own)->permanent = true;
    else
        snprintf(c->comm->error, sizeof c->comm->error, "Failed to CUDA calloc async %zu bytes",
                 emu_options()->nccl);
    return *own;
}

static ncclResult_t add(Collective c, cudaStream_t stream) {
    emu_enter();
    if (!c.comm) return ncclInvalidArgument;
    if (!type_bytes(c.call.type)) {
        snprintf(c.comm->error, sizeof c.comm->error, "type %d is not known here", c.call.type);
        return ncclInvalidArgument;
    }
    if (c.call.op < 0 || c.call.op > ncclAvg || c.call.root < 0 || c.call.root >= c.comm->size)
        return ncclInvalidArgument;
    if (!connect_kind(&c)) return ncclUnhandledCudaError;
    if (group_depth) {
        pending = realloc(pending, (size_t)(pending_count + 1) * sizeof *pending);
        pending[pending_count++] = (Pending){c, stream};
        return ncclSuccess;
    }
    Stream *s = stream_of(stream);
    if (stream_capturing(s)) c.call.captured = ++c.comm->captured;
    return stream_add(s, run_collective, &c, sizeof c) ? ncclSuccess : ncclUnhandledCudaError;
}
ncclResult_t ncclGroupStart(void) {
    group_depth++;
    return ncclSuccess;
}
ncclResult_t ncclGroupEnd(void) {
    if (!group_depth) return ncclInvalidUsage;
    if (--group_depth) return ncclSuccess;
    ncclResult_t result = ncclSuccess;
    for (int i = 0; i < pending_count; i++) {
        ncclResult_t r = add(pending[i].c, pending[i].stream);
        if (r != ncclSuccess) result = r;
    }
    pending_count = 0;
    return result;
}

ncclResult_t ncclAllReduce(const void *send, void *recv, size_t count, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
    return add((Collective){{ALL_REDUCE, (int)type, (int)op, 0, count, 0}, comm, send, recv},
               stream);
}
ncclResult_t ncclReduce(const void *send, void *recv, size_t count, ncclDataType_t type,
                        ncclRedOp_t op, int root, ncclComm_t comm, cudaStream_t stream) {
    return add((Collective){{REDUCE, (int)type, (int)op, root, count, 0}, comm, send, recv},
               stream);
}
ncclResult_t ncclReduceScatter(const void *send, void *recv, size_t count, ncclDataType_t type,
                               ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
    return add((Collective){{REDUCE_SCATTER, (int)type, (int)op, 0, count, 0}, comm, send, recv},
               stream);
}
ncclResult_t ncclAllGather(const void *send, void *recv, size_t count, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream) {
    return add((Collective){{ALL_GATHER, (int)type, 0, 0, count, 0}, comm, send, recv}, stream);
}
ncclResult_t ncclBroadcast(const void *send, void *recv, size_t count, ncclDataType_t type,
                           int root, ncclComm_t comm, cudaStream_t stream) {
    return add((Collective){{BROADCAST, (int)type, 0, root, count, 0}, comm, send, recv}, stream);
}
ncclResult_t ncclBcast(void *buffer, size_t count, ncclDataType_t type, int root, ncclComm_t comm,
                       cudaStream_t stream) {
    return ncclBroadcast(buffer, buffer, count, type, root, comm, stream);
}
