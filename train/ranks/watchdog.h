/* watchdog: prevents silent hangs. A thread ends the process with an error that names rank, step
 * and operation if a collective takes longer than the timeout or has failed. If the ranks of a node
 * share a table, the error also names the ranks that have not reached the collective. */
#pragma once
#include "kernels/base.h"

/* Operations by the names that errors give them. START and END are the transport's own. */
#define COMM_OPS(X)                                                                                \
    X(OP_NONE, "nothing")                                                                          \
    X(OP_START, "the ranks' start")                                                                \
    X(OP_END, "the ranks' end")                                                                    \
    X(OP_ALL_GATHER, "all_gather")                                                                 \
    X(OP_REDUCE_SCATTER, "reduce_scatter")                                                         \
    X(OP_ALL_REDUCE, "all_reduce")                                                                 \
    X(OP_BROADCAST, "broadcast") X(OP_BARRIER, "barrier") X(OP_GATHER_BYTES, "gather_bytes")
typedef enum { COMM_OPS(CHOICE_NAME) } CommOp;

/* Two sequences of collectives, each in the same order on all ranks: those the host waits for, and
 * concurrent ones (a second thread's, a device's). */
typedef enum { LANE_MAIN, LANE_SIDE, LANES } CommLane;

/* State of one rank, in memory that the ranks of a node share. */
typedef struct Beat {
    _Atomic int rank, pid;
    _Atomic int reported;         /* in the first rank's entry: one line per node */
    _Atomic uint64_t step, alive; /* alive: clock in milliseconds, at the last sign of life */
    struct {
        _Atomic uint64_t entered; /* collectives entered */
        _Atomic int op;           /* the current one, or OP_NONE */
        _Atomic uint64_t step;    /* the step of this collective */
    } lane[LANES];
} Beat;

/* A transport whose collectives run on a device. `poll` is called several times within a timeout,
 * at least once a second, and reports the device's position by watchdog_at; `leave` is called
 * before the process ends because of a collective, and gets two seconds. Both run on the watchdog's
 * thread or a separate one. */
typedef struct WatchdogDevice {
    void (*poll)(void), (*leave)(void);
} WatchdogDevice;

/* timeout in seconds. */
void watchdog_start(int rank, double timeout);
void watchdog_device(const WatchdogDevice *device);
/* The ranks of a node in one table[n], zeroed; this rank's entry is table[own]. */
void watchdog_share(Beat *table, size_t n, size_t own);
void watchdog_enter(CommLane lane, CommOp op);
void watchdog_leave(CommLane lane);
/* Reports that the lane is in its `entered`th collective, `op` of a step, or (OP_NONE) has
 * completed `entered`. */
void watchdog_at(CommLane lane, CommOp op, uint64_t entered, uint64_t step);
/* Ends the process with a line: `op` of that step failed, and the reason. */
void watchdog_fail(CommOp op, uint64_t step, const char *why) __attribute__((noreturn));
/* The step that the host works on, for messages; may be called without a watchdog. */
void watchdog_step(uint64_t step);
uint64_t watchdog_now(void);
void watchdog_stop(void);
