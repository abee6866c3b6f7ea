#include "tests/cuda_on_cpu/ranks.h"
#include "tests/cuda_on_cpu/emu.h"
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { CALL_BYTES = 64 };
typedef enum Failure { FINE, DEAD, LATE, DIFFERENT, ABORTED } Failure;
typedef struct Seat {
    _Atomic uint64_t arrived; /* number of meetings reached */
    _Atomic int pid;
    unsigned char call[CALL_BYTES];
    unsigned char data[RANKS_CHUNK];
} Seat;
typedef struct Shared {
    _Atomic int failure, who;
    Seat seats[];
} Shared;
struct Ranks {
    Shared *shared;
    size_t bytes;
    char name[64];
    int rank, count;
    uint64_t meetings;
};

void ranks_name(char *name, size_t size) {
    static int made;
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    snprintf(name, size, "/cudaemu.%d.%d.%llx", (int)getpid(), made++,
             (unsigned long long)t.tv_nsec ^ (unsigned long long)t.tv_sec << 30);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
/* A killed process that is not yet reaped (a zombie) still answers to kill(). */
static bool dead(int pid) {
    char path[64], line[256];
    if (kill(pid, 0) && errno == ESRCH) return true;
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *f = fopen(path, "r");
    if (!f) return true;
    char *s = fgets(line, sizeof line, f);
    fclose(f);
    const char *state = s ? strrchr(s, ')') : NULL;
    return state && (state[2] == 'Z' || state[2] == 'X');
}
static void fail(Ranks *r, Failure f, int who) {
    int fine = FINE;
    if (atomic_compare_exchange_strong(&r->shared->failure, &fine, (int)f))
        atomic_store(&r->shared->who, who);
}

/* Waits until every rank has reached as many meetings as this one. */
static bool meet(Ranks *r) {
    uint64_t mine = ++r->meetings;
    atomic_store(&r->shared->seats[r->rank].arrived, mine);
    double start = now();
    for (int n = 0; n < r->count; n++) {
        Seat *s = &r->shared->seats[n];
        for (unsigned tries = 0; atomic_load(&s->arrived) < mine; tries++) {
            if (atomic_load(&r->shared->failure)) return false;
            if (tries < 200) {
                sched_yield();
                continue;
            }
            nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
            int pid = atomic_load(&s->pid);
            if (tries % 64 == 0 && pid && dead(pid) && atomic_load(&s->arrived) < mine)
                fail(r, DEAD, n);
            if (now() - start > emu_options()->timeout) fail(r, LATE, n);
        }
    }
    return true; /* all have arrived: a later failure belongs to the next call */
}

Ranks *ranks_join(const char *name, int rank, int count) {
    Ranks *r = calloc(1, sizeof *r);
    snprintf(r->name, sizeof r->name, "%s", name);
    r->rank = rank;
    r->count = count;
    r->bytes = sizeof(Shared) + (size_t)count * sizeof(Seat);
    int file = shm_open(name, O_CREAT | O_RDWR, 0600);
    if (file < 0 || ftruncate(file, (off_t)r->bytes))
        emu_stop("NCCL: shared memory %s: %s", name, strerror(errno));
    r->shared = mmap(NULL, r->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (r->shared == MAP_FAILED) emu_stop("NCCL: shared memory %s: %s", name, strerror(errno));
    atomic_store(&r->shared->seats[rank].pid, (int)getpid());
    bool all = meet(r);
    shm_unlink(name);
    if (all) return r;
    ranks_leave(r);
    return NULL;
}
void ranks_leave(Ranks *r) {
    munmap(r->shared, r->bytes);
    free(r);
}

bool ranks_same(Ranks *r, const void *call, size_t bytes) {
    unsigned char *mine = r->shared->seats[r->rank].call;
    if (bytes > CALL_BYTES) emu_stop("NCCL: a call of %zu bytes", bytes);
    memcpy(mine, call, bytes);
    if (!meet(r)) return false;
    for (int n = 0; n < r->count; n++)
        if (memcmp(r->shared->seats[n].call, mine, bytes)) fail(r, DIFFERENT, n);
    return meet(r) && !atomic_load(&r->shared->failure);
}
bool ranks_put(Ranks *r, const void *data, size_t bytes) {
    memcpy(r->shared->seats[r->rank].data, data, bytes);
    return meet(r);
}
const void *ranks_get(const Ranks *r, int rank) { return r->shared->seats[rank].data; }
bool ranks_taken(Ranks *r) { return meet(r); }
void ranks_abort(Ranks *r) { fail(r, ABORTED, r->rank); }

const char *ranks_error(const Ranks *r) {
    static char text[96];
    static const char *const what[] = {
        "", "is dead", "did not come in time",
        "calls another collective, or with other sizes, or in another graph", "has aborted"};
    int f = atomic_load(&r->shared->failure);
    if (!f) return NULL;
    snprintf(text, sizeof text, "rank %d %s", atomic_load(&r->shared->who), what[f]);
    return text;
}
