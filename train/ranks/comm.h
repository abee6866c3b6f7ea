/* comm: how ranks communicate. One table a transport; buffers are `acc` (f32 or f64) in device
 * memory unless stated otherwise. `self` is the transport of one rank, `mpi` of CPU ranks, `nccl`
 * of GPU ranks. All ranks call the same operations with the same sizes in the same order. Sums have
 * a fixed order: the same number of ranks gives the same bits, equal on all of them (over NCCL:
 * with the same placement of ranks and version of NCCL, which choose the order). A collective that
 * takes longer than the timeout ends the process with an error (watchdog.h).
 *
 * A collective on device memory is ordered between the kernels enqueued before it and those
 * enqueued after it; the host does not wait. It is never captured into a graph: between graph_begin
 * and graph_end it is a host call (graph_call), so ranks may capture and launch different graphs.
 */
#pragma once
#include "kernels/kernels.h"

enum { COMM_PIECES = 64 }; /* largest number of pieces of one gather */

/* A piece of device memory, as bytes. */
typedef struct CommPiece {
    void *all;
    const void *part;
    size_t bytes;
} CommPiece;

typedef struct Comm {
    const char *name;
    int rank, size;
    size_t memory; /* device memory that the transport's library has taken */
    /* all[size·n] = every rank's part[n], in rank order; part may be all + rank·n. */
    void (*all_gather)(acc *all, const acc *part, size_t n);
    /* The same for pieces of any type: all[size·bytes], part[bytes]. */
    void (*gather_pieces)(const CommPiece *pieces, size_t count);
    /* part[n] = Σ over ranks of their all[rank·n …]; part may be all + rank·n (the rest of all is
     * undefined then). */
    void (*reduce_scatter)(acc *part, const acc *all, size_t n);
    void (*all_reduce_sum)(acc *x, size_t n);
    void (*all_reduce_max)(acc *x, size_t n);
    void (*broadcast)(acc *x, size_t n, int root);
    void (*barrier)(void);
    /* all_reduce_sum, reduce_scatter and gather_pieces that may complete as late as wait(); until
     * then the buffers belong to the transport. They run in order among themselves, concurrently
     * with the operations above. */
    void (*all_reduce_start)(acc *x, size_t n);
    void (*reduce_scatter_start)(acc *part, const acc *all, size_t n);
    void (*gather_start)(const CommPiece *pieces, size_t count);
    void (*wait)(void);
    /* Bytes in host memory: all[size·n], x[n]. */
    void (*gather_bytes)(void *all, const void *part, size_t n);
    void (*broadcast_bytes)(void *x, size_t n, int root);
    /* Exits with an error if a collective of this rank has failed: its results are invalid. Call it
     * after a sync, before results leave the process. */
    void (*check)(void);
    /* Collective; the last call. */
    void (*close)(void);
} Comm;

/* Largest device memory of a GPU rank for staging host memory. */
enum { COMM_MEMORY = 1 << 20 };

/* Collective: one line from rank 0, then all ranks exit 1. */
void comm_die(const Comm *c, const char *fmt, ...) PRINTF_LIKE(2, 3) __attribute__((noreturn));
/* Rank 0 runs the code between the two calls before the others, so that its files exist for them
 * and a user error is reported once. */
void comm_rank0_begin(const Comm *c);
void comm_rank0_end(const Comm *c);
/* Rank 0's string, malloc'd, or NULL, on every rank; takes ownership of `s`, which only rank 0 must
 * pass. */
char *comm_string(const Comm *c, char *s);
/* The ranks' blocks own[bytes] (sizes may differ), concatenated in rank order; malloc'd. */
void *comm_join(const Comm *c, const void *own, size_t bytes);

/* Cost of this rank's collectives since the start: minimum bytes sent, seconds that they took,
 * seconds that the computation waited for them. */
typedef struct CommStats {
    double bytes, seconds, waited;
} CommStats;
extern CommStats comm_stats;
/* Collective: logs them per step. */
void comm_report(const Comm *c, uint64_t steps);

/* The transport of a run with one rank. */
const Comm *comm_self(const Kernels *k);
