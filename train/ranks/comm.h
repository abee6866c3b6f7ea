/* comm: how ranks talk. One table a transport; f32/f64 `acc` device buffers unless said otherwise.
 * `self` is the one-rank transport, `mpi` joins CPU ranks, `nccl` GPU ranks. All ranks call the
 * same operations with the same sizes in the same order; sums have a fixed order, so that the same
 * number of ranks gives the same bits, equal on all of them. A collective that takes longer than
 * the timeout ends the process with a line (watchdog.h).
 *
 * A collective on device memory comes after the kernels asked for before it and before those asked
 * for after it; the host need not wait. Among recorded calls (graph_begin) it is one of the host's
 * (graph_call): never part of a graph, so ranks need not record or launch the same ones. */
#ifndef TRAIN_RANKS_COMM_H
#define TRAIN_RANKS_COMM_H
#include "kernels/kernels.h"

enum { COMM_PIECES = 64 }; /* gathered in one call at most */

/* A piece of device memory, as bytes. */
typedef struct CommPiece {
    void *all;
    const void *part;
    size_t bytes;
} CommPiece;

typedef struct Comm {
    const char *name;
    int rank, size;
    /* all[size·n] = every rank's part[n], in rank order; part may be all + rank·n. */
    void (*all_gather)(acc *all, const acc *part, size_t n);
    /* The same of pieces, whose bytes are not looked at: all[size·bytes], part[bytes]. */
    void (*gather_pieces)(const CommPiece *pieces, size_t count);
    /* part[n] = Σ over ranks of their all[rank·n …]; part may be all + rank·n (the rest of all is
     * undefined then). */
    void (*reduce_scatter)(acc *part, const acc *all, size_t n);
    void (*all_reduce_sum)(acc *x, size_t n);
    void (*all_reduce_max)(acc *x, size_t n);
    void (*broadcast)(acc *x, size_t n, int root);
    void (*barrier)(void);
    /* The same as all_reduce_sum and reduce_scatter, perhaps not done before wait() returns; until
     * then the buffers belong to the transport. They run one after another, and beside those
     * above. */
    void (*all_reduce_start)(acc *x, size_t n);
    void (*reduce_scatter_start)(acc *part, const acc *all, size_t n);
    void (*wait)(void);
    /* Bytes in host memory: all[size·n], x[n]. */
    void (*gather_bytes)(void *all, const void *part, size_t n);
    void (*broadcast_bytes)(void *x, size_t n, int root);
    /* Dies where a collective of this rank has failed, so that what it left may not be used. To be
     * called after a sync, before results leave the process. */
    void (*check)(void);
    /* Every rank says goodbye; nothing may be called afterwards. */
    void (*close)(void);
} Comm;

#define TRANSPORTS(X)                                                                              \
    X(COMM_AUTO, "auto") X(COMM_SELF, "self") X(COMM_MPI, "mpi") X(COMM_NCCL, "nccl")
typedef enum { TRANSPORTS(CHOICE_NAME) } CommChoice;

/* Device memory that ranks on GPUs take for themselves, at most: what host memory travels through.
 */
enum { COMM_MEMORY = 1 << 20 };

/* The transport of this process; auto: by the launcher's environment. With several ranks, lines on
 * stderr are marked with the rank, only rank 0 gives information (warnings and errors come from
 * all), and the OpenMP threads are this rank's share of the CPUs it may use (node.h). timeout:
 * seconds of a collective. port: where rank 0 gives out NCCL's id, 0: MASTER_PORT + 1. Dies where
 * the transport is not to be had. */
const Comm *comm_open(CommChoice choice, const Kernels *k, double timeout, int port);
/* Called on all ranks at the same point: one line from rank 0, then all of them exit 1. */
void comm_die(const Comm *c, const char *fmt, ...) PRINTF_LIKE(2, 3) __attribute__((noreturn));
/* Rank 0 goes first through what lies between: what it builds is there for the others, and a
 * mistake of the user is reported once. */
void comm_rank0_begin(const Comm *c);
void comm_rank0_end(const Comm *c);
/* Rank 0's string, malloc'd, or NULL, on every rank; takes `s`, which only rank 0 needs to have. */
char *comm_string(const Comm *c, char *s);
/* What the ranks hold, own[bytes] each, end to end in rank order; malloc'd, on every rank. */
void *comm_join(const Comm *c, const void *own, size_t bytes);

/* What collectives cost this rank since the start: bytes it has to send at least, seconds they
 * took, seconds the computation waited for them. */
typedef struct CommStats {
    double bytes, seconds, waited;
} CommStats;
extern CommStats comm_stats;
/* One line about them, by step. All ranks call it. */
void comm_report(const Comm *c, uint64_t steps);

/* ---- transports ---- */
const Comm *comm_self(const Kernels *k);
const Comm *comm_mpi(const Kernels *k, double timeout); /* dies in a build without MPI */
bool comm_mpi_built(void);
/* What a launcher has told a process that is not MPI's. */
typedef struct Launch {
    int rank, size;
    const char *address; /* rank 0's, with several ranks */
    int port;
} Launch;
/* host: mpi, where that is there; NULL: `launch` says where rank 0 is. Dies in a build without
 * NCCL.
 */
const Comm *comm_nccl(const Kernels *k, const Comm *host, const Launch *launch, double timeout);
bool comm_nccl_built(void);
#endif
