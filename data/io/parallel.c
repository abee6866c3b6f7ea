#include "data/io/parallel.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

typedef struct Job {
    size_t n;
    atomic_size_t next;
    void (*fn)(void *, size_t, size_t);
    void *context;
} Job;

typedef struct Worker {
    pthread_t thread;
    Job *job;
    size_t number;
} Worker;

static void *worker_main(void *arg) {
    Worker *w = arg;
    for (;;) {
        size_t i = atomic_fetch_add(&w->job->next, 1);
        if (i >= w->job->n) return NULL;
        w->job->fn(w->job->context, i, w->number);
    }
}

void parallel_for(size_t n, size_t threads, void (*fn)(void *context, size_t i, size_t thread),
                  void *context) {
    threads = size_max(1, size_min(threads, n));
    Job job = {.n = n, .fn = fn, .context = context};
    Worker *workers = xcalloc(threads, sizeof *workers);
    size_t started = 1;
    for (size_t i = 0; i < threads; i++) workers[i] = (Worker){.job = &job, .number = i};
    /* fewer threads than requested do the same work more slowly */
    while (started < threads &&
           pthread_create(&workers[started].thread, NULL, worker_main, &workers[started]) == 0)
        started++;
    worker_main(&workers[0]);
    for (size_t i = 1; i < started; i++) pthread_join(workers[i].thread, NULL);
    free(workers);
}

size_t cpu_count(void) {
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (size_t)n : 1;
}

void condition_wait(pthread_cond_t *condition, pthread_mutex_t *lock, double seconds) {
    double until = clock_now() + seconds;
    struct timespec t = {.tv_sec = (time_t)until};
    t.tv_nsec = (long)((until - (double)t.tv_sec) * 1e9);
    pthread_cond_clockwait(condition, lock, CLOCK_MONOTONIC, &t);
}
