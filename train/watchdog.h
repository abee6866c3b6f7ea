/* watchdog: no silent hang. A thread that ends the process, naming rank, step and operation, when a
 * collective takes longer than the timeout; where the ranks of a node share a table, it also names
 * those that have not come. Called by transports; train.c says the step. */
#ifndef TRAIN_WATCHDOG_H
#define TRAIN_WATCHDOG_H
#include "kernels/base.h"

typedef enum {
    OP_NONE,
    OP_START, /* of the transport, and its end */
    OP_END,
    OP_ALL_GATHER,
    OP_REDUCE_SCATTER,
    OP_ALL_REDUCE,
    OP_BROADCAST,
    OP_BARRIER,
    OP_GATHER_BYTES
} CommOp;

/* Two streams of collectives, each in one order on all ranks: those the computation waits for, and
 * those beside it. */
typedef enum { LANE_MAIN, LANE_SIDE, LANES } CommLane;

/* What one rank is doing; in memory that the ranks of a node share. */
typedef struct Beat {
    _Atomic int rank, pid;
    _Atomic int said;             /* of the first rank: one line a node is enough */
    _Atomic uint64_t step, alive; /* alive: clock in milliseconds, at the last sign of life */
    struct {
        _Atomic uint64_t entered; /* collectives begun */
        _Atomic int op;           /* the one it is in, or OP_NONE */
    } lane[LANES];
} Beat;

/* table[n]: zeroed, this rank's entry is table[own]. timeout in seconds. */
void watchdog_start(Beat *table, size_t n, size_t own, int rank, double timeout);
/* From now on in this table. Before ranks can share one, and after, each has a table of its own. */
void watchdog_move(Beat *table, size_t n, size_t own, int rank);
void watchdog_enter(CommLane lane, CommOp op);
void watchdog_leave(CommLane lane);
/* The step that is being worked on, for messages; may be called without a watchdog. */
void watchdog_step(uint64_t step);
void watchdog_stop(void);
#endif
