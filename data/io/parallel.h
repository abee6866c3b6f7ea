/* parallel: a parallel-for over pthreads, for work that waits for disks or decodes. */
#pragma once
#include "kernels/base.h"

#include <pthread.h>

/* Calls fn(context, i, thread) for every i in 0 … n-1, each once, on up to `threads` threads
 * (thread: 0 … threads-1); i are assigned in increasing order. Returns when all are done. */
void parallel_for(size_t n, size_t threads, void (*fn)(void *context, size_t i, size_t thread),
                  void *context);
/* Processors that are online, ≥ 1. */
size_t cpu_count(void);
/* Waits for the condition (the lock is held) for at most `seconds` of the monotonic clock, which
 * changes of the system time do not affect. */
void condition_wait(pthread_cond_t *condition, pthread_mutex_t *lock, double seconds);
