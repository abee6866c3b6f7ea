/* comm_mpi: CPU ranks through MPI. Started collectives run on a second thread, with a separate
 * communicator, concurrently with the computation. If the library does not allow threads, a start
 * does all of the work. */
#include "train/ranks/comm_open.h"
#include "train/ranks/watchdog.h"

#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#ifndef HAVE_MPI
bool comm_mpi_built(void) { return false; }

const Comm *comm_mpi(const Kernels *k, double timeout) {
    (void)k, (void)timeout;
    die("this build has no MPI: install libopenmpi-dev and run make again");
}
#else
#include <mpi.h>

bool comm_mpi_built(void) { return true; }

enum { PIECE = 1 << 28, QUEUE = 64 };

typedef struct Task {
    CommOp op;
    void *to;
    const void *from;
    size_t n; /* elements; of a gather, bytes */
} Task;

static struct {
    MPI_Datatype type;
    size_t elem;
    MPI_Comm lane[LANES];
    Comm table;
    /* the side thread and its queue */
    bool threaded, stop;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    Task queue[QUEUE];
    size_t head, tail; /* tasks done, tasks started */
} mpi = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

/* ---- single operations, in either lane ---- */

static double begin(CommLane lane, CommOp op) {
    watchdog_enter(lane, op);
    return clock_now();
}

/* bytes: the minimum that this rank sends. */
static void end(CommLane lane, double from, double bytes) {
    double seconds = clock_now() - from;
    watchdog_leave(lane);
    pthread_mutex_lock(&mpi.lock);
    comm_stats.seconds += seconds;
    comm_stats.bytes += bytes;
    if (lane == LANE_MAIN) comm_stats.waited += seconds;
    pthread_mutex_unlock(&mpi.lock);
}

static int int_count(size_t n) {
    if (n > INT_MAX) die("%zu elements of one rank are more than MPI can take at once", n);
    return (int)n;
}

static acc *at(const acc *x, size_t i) { return (acc *)((char *)x + i * mpi.elem); }
static double others(void) { return (double)(mpi.table.size - 1); }

static void reduce(CommLane lane, acc *x, size_t n, MPI_Op op) {
    double from = begin(lane, OP_ALL_REDUCE);
    for (size_t i = 0; i < n; i += PIECE)
        MPI_Allreduce(MPI_IN_PLACE, at(x, i), int_count(size_min(PIECE, n - i)), mpi.type, op,
                      mpi.lane[lane]);
    end(lane, from, 2 * others() / mpi.table.size * (double)(n * mpi.elem));
}

static void scatter(CommLane lane, acc *part, const acc *all, size_t n) {
    double from = begin(lane, OP_REDUCE_SCATTER);
    if (part == at(all, (size_t)mpi.table.rank * n)) {
        acc *first = at(all, 0); /* MPI writes the part there */
        MPI_Reduce_scatter_block(MPI_IN_PLACE, first, int_count(n), mpi.type, MPI_SUM,
                                 mpi.lane[lane]);
        memmove(part, first, n * mpi.elem);
    } else {
        MPI_Reduce_scatter_block(all, part, int_count(n), mpi.type, MPI_SUM, mpi.lane[lane]);
    }
    end(lane, from, others() * (double)(n * mpi.elem));
}

static void gather(CommLane lane, void *all, const void *part, size_t n, MPI_Datatype type,
                   size_t elem) {
    double from = begin(lane, OP_ALL_GATHER);
    bool in_place = part == (char *)all + (size_t)mpi.table.rank * n * elem;
    MPI_Allgather(in_place ? MPI_IN_PLACE : part, int_count(n), type, all, int_count(n), type,
                  mpi.lane[lane]);
    end(lane, from, others() * (double)(n * elem));
}

static void all_gather(acc *all, const acc *part, size_t n) {
    gather(LANE_MAIN, all, part, n, mpi.type, mpi.elem);
}

static void gather_pieces(const CommPiece *pieces, size_t count) {
    for (size_t i = 0; i < count; i++)
        gather(LANE_MAIN, pieces[i].all, pieces[i].part, pieces[i].bytes, MPI_BYTE, 1);
}

static void reduce_scatter(acc *part, const acc *all, size_t n) {
    scatter(LANE_MAIN, part, all, n);
}
static void all_reduce_sum(acc *x, size_t n) { reduce(LANE_MAIN, x, n, MPI_SUM); }
static void all_reduce_max(acc *x, size_t n) { reduce(LANE_MAIN, x, n, MPI_MAX); }

static void broadcast_bytes(void *x, size_t n, int root) {
    double from = begin(LANE_MAIN, OP_BROADCAST);
    for (size_t i = 0; i < n; i += PIECE)
        MPI_Bcast((char *)x + i, int_count(size_min(PIECE, n - i)), MPI_BYTE, root,
                  mpi.lane[LANE_MAIN]);
    end(LANE_MAIN, from, mpi.table.rank == root ? (double)n : 0);
}

static void broadcast(acc *x, size_t n, int root) {
    broadcast_bytes(x, size_mul(n, mpi.elem), root);
}

static void gather_bytes(void *all, const void *part, size_t n) {
    double from = begin(LANE_MAIN, OP_GATHER_BYTES);
    MPI_Allgather(part, int_count(n), MPI_BYTE, all, int_count(n), MPI_BYTE, mpi.lane[LANE_MAIN]);
    end(LANE_MAIN, from, others() * (double)n);
}

static void barrier(void) {
    double from = begin(LANE_MAIN, OP_BARRIER);
    MPI_Barrier(mpi.lane[LANE_MAIN]);
    end(LANE_MAIN, from, 0);
}

/* ---- concurrent collectives ---- */

static void run_task(CommLane lane, const Task *t) {
    if (t->op == OP_REDUCE_SCATTER)
        scatter(lane, t->to, t->from, t->n);
    else if (t->op == OP_ALL_GATHER)
        gather(lane, t->to, t->from, t->n, MPI_BYTE, 1);
    else
        reduce(lane, t->to, t->n, MPI_SUM);
}

static void *side_main(void *unused) {
    (void)unused;
    pthread_mutex_lock(&mpi.lock);
    for (;;) {
        while (mpi.head == mpi.tail && !mpi.stop) pthread_cond_wait(&mpi.changed, &mpi.lock);
        if (mpi.head == mpi.tail) break;
        Task t = mpi.queue[mpi.head % QUEUE];
        pthread_mutex_unlock(&mpi.lock);
        run_task(LANE_SIDE, &t);
        pthread_mutex_lock(&mpi.lock);
        mpi.head++;
        pthread_cond_broadcast(&mpi.changed);
    }
    pthread_mutex_unlock(&mpi.lock);
    return NULL;
}

static void start(Task t) {
    if (!mpi.threaded) {
        run_task(LANE_MAIN, &t);
        return;
    }
    pthread_mutex_lock(&mpi.lock);
    while (mpi.tail - mpi.head == QUEUE) pthread_cond_wait(&mpi.changed, &mpi.lock);
    mpi.queue[mpi.tail++ % QUEUE] = t;
    pthread_cond_broadcast(&mpi.changed);
    pthread_mutex_unlock(&mpi.lock);
}

static void all_reduce_start(acc *x, size_t n) { start((Task){OP_ALL_REDUCE, x, NULL, n}); }
static void reduce_scatter_start(acc *part, const acc *all, size_t n) {
    start((Task){OP_REDUCE_SCATTER, part, all, n});
}
static void gather_start(const CommPiece *pieces, size_t count) {
    for (size_t i = 0; i < count; i++)
        start((Task){OP_ALL_GATHER, pieces[i].all, pieces[i].part, pieces[i].bytes});
}

static void wait_all(void) {
    double from = clock_now();
    pthread_mutex_lock(&mpi.lock);
    while (mpi.head != mpi.tail) pthread_cond_wait(&mpi.changed, &mpi.lock);
    comm_stats.waited += clock_now() - from;
    pthread_mutex_unlock(&mpi.lock);
}

/* ---- start and end ---- */

static void nothing(void) {}

static void close_mpi(void) {
    pthread_mutex_lock(&mpi.lock);
    mpi.stop = true;
    pthread_cond_broadcast(&mpi.changed);
    pthread_mutex_unlock(&mpi.lock);
    if (mpi.threaded) pthread_join(mpi.thread, NULL);
    barrier();
    watchdog_enter(LANE_MAIN, OP_END);
    MPI_Finalize();
    watchdog_stop();
}

static int local_rank(int rank) {
    MPI_Comm machine;
    int local;
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL, &machine);
    MPI_Comm_rank(machine, &local);
    MPI_Comm_free(&machine);
    return local;
}

const Comm *comm_mpi(const Kernels *k, double timeout) {
    assert(!mpi.elem);
    int level;
    const char *rank = getenv("OMPI_COMM_WORLD_RANK");
    if (!rank) rank = getenv("PMIX_RANK");
    watchdog_start(rank ? atoi(rank) : 0, timeout);
    watchdog_enter(LANE_MAIN, OP_START);
    MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &level);
    mpi.type = k->acc_size == sizeof(double) ? MPI_DOUBLE : MPI_FLOAT;
    mpi.elem = k->acc_size;
    mpi.table = (Comm){.name = "mpi",
                       .all_gather = all_gather,
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
                       .check = nothing,
                       .close = close_mpi};
    MPI_Comm_rank(MPI_COMM_WORLD, &mpi.table.rank);
    MPI_Comm_size(MPI_COMM_WORLD, &mpi.table.size);
    kernel_local_rank = local_rank(mpi.table.rank);
    for (int lane = 0; lane < LANES; lane++) MPI_Comm_dup(MPI_COMM_WORLD, &mpi.lane[lane]);
    watchdog_leave(LANE_MAIN);
    mpi.threaded =
        level == MPI_THREAD_MULTIPLE && !pthread_create(&mpi.thread, NULL, side_main, NULL);
    return &mpi.table;
}
#endif
