#include "tests/support_comm.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static __thread int my_rank;
static const Kernels *k;
static int ranks;
static pthread_barrier_t meeting;
static double *shared; /* inputs of all ranks, in rank order */

static void meet(void) { pthread_barrier_wait(&meeting); }

static void publish(const acc *x, size_t n) {
    if (my_rank == 0) shared = malloc((size_t)ranks * n * sizeof *shared);
    meet();
    k->acc_get(shared + (size_t)my_rank * n, x, n);
    meet();
}

static void retire(void) {
    meet();
    if (my_rank == 0) free(shared);
    meet();
}

static void all_gather(acc *all, const acc *part, size_t n) {
    publish(part, n);
    k->acc_set(all, shared, (size_t)ranks * n);
    retire();
}

/* out[i] = Σ or max over the ranks' inputs at first + i; n for each rank. */
static void combine(acc *out, size_t first, size_t count, size_t n, bool max) {
    double *x = malloc(count * sizeof *x);
    for (size_t i = 0; i < count; i++) {
        x[i] = shared[first + i];
        for (size_t r = 1; r < (size_t)ranks; r++) {
            double y = shared[r * n + first + i];
            x[i] = max ? fmax(x[i], y) : x[i] + y;
        }
    }
    k->acc_set(out, x, count);
    free(x);
}

static void reduce_scatter(acc *part, const acc *all, size_t n) {
    publish(all, n * (size_t)ranks);
    combine(part, (size_t)my_rank * n, n, n * (size_t)ranks, false);
    retire();
}
static void sum(acc *x, size_t n) {
    publish(x, n);
    combine(x, 0, n, n, false);
    retire();
}
static void max_of_all(acc *x, size_t n) {
    publish(x, n);
    combine(x, 0, n, n, true);
    retire();
}

static void gather_bytes(void *all, const void *part, size_t n) {
    static char *bytes;
    if (my_rank == 0) bytes = malloc((size_t)ranks * n);
    meet();
    memcpy(bytes + (size_t)my_rank * n, part, n);
    meet();
    memcpy(all, bytes, (size_t)ranks * n);
    meet();
    if (my_rank == 0) free(bytes);
    meet();
}

static void nothing(void) {}

/* Of bytes; for pieces in place. */
static void pieces(const CommPiece *list, size_t count) {
    for (size_t i = 0; i < count; i++) {
        size_t n = list[i].bytes;
        if (my_rank == 0) shared = malloc((size_t)ranks * n);
        meet();
        k->device->download((char *)shared + (size_t)my_rank * n, list[i].part, n);
        meet();
        k->device->upload(list[i].all, shared, (size_t)ranks * n);
        retire();
    }
}

void comm_of_threads_begin(const Kernels *kernels, int count) {
    k = kernels;
    ranks = count;
    pthread_barrier_init(&meeting, NULL, (unsigned)count);
}

void comm_of_threads_end(void) { pthread_barrier_destroy(&meeting); }

Comm comm_of_threads(int rank) {
    my_rank = rank;
    return (Comm){.name = "threads",
                  .rank = rank,
                  .size = ranks,
                  .all_gather = all_gather,
                  .gather_start = pieces,
                  .wait = nothing,
                  .reduce_scatter = reduce_scatter,
                  .all_reduce_sum = sum,
                  .all_reduce_max = max_of_all,
                  .gather_bytes = gather_bytes};
}
