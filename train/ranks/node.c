#include "train/ranks/node.h"

#include "kernels/hash.h"
#include "train/ranks/watchdog.h"

#include <fcntl.h>
#include <omp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

typedef struct Member {
    uint64_t node, token;
    cpu_set_t cpus;
} Member;

/* Identifies the machine by name and boot: containers have separate names, and hosts may have equal
 * ones. */
static uint64_t node_key(void) {
    char name[256] = "", boot[64] = "";
    if (gethostname(name, sizeof name - 1)) *name = 0;
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "r");
    if (f && !fgets(boot, sizeof boot, f)) *boot = 0;
    if (f) fclose(f);
    return fnv_hash(fnv_hash(FNV_START, name, strlen(name)), boot, strlen(boot));
}

static double cpus; /* 0: node_join was not called */

double node_cpus(void) {
    cpu_set_t own;
    if (cpus > 0) return cpus;
    return sched_getaffinity(0, sizeof own, &own) ? 1 : CPU_COUNT(&own);
}

static void share_cpus(const Member *all, int size, int rank) {
    double share = 0;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        int users = 0;
        for (int r = 0; r < size; r++)
            users += all[r].node == all[rank].node && CPU_ISSET(cpu, &all[r].cpus);
        if (CPU_ISSET(cpu, &all[rank].cpus)) share += 1.0 / users;
    }
    cpus = share;
    if (!getenv("OMP_NUM_THREADS")) omp_set_num_threads(share < 1 ? 1 : (int)(share + 1e-6));
}

/* A rank without shared memory keeps a private table; its messages then name no other rank. */
static void share_beats(const Comm *c, uint64_t token, size_t n, size_t own) {
    char name[40];
    size_t bytes = n * sizeof(Beat);
    snprintf(name, sizeof name, "/clipc.%016llx", (unsigned long long)token);
    int file = -1;
    if (own == 0) {
        file = shm_open(name, O_CREAT | O_EXCL | O_RDWR, 0600);
        if (file >= 0 && ftruncate(file, (off_t)bytes)) close(file), file = -1;
    }
    c->barrier();
    if (own > 0) file = shm_open(name, O_RDWR, 0600);
    Beat *table = MAP_FAILED;
    if (file >= 0) table = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (table != MAP_FAILED) watchdog_share(table, n, own);
    if (file >= 0) close(file);
    c->barrier();
    if (own == 0) shm_unlink(name);
}

void node_join(const Comm *c) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    int64_t seed[3] = {getpid(), t.tv_sec, t.tv_nsec};
    Member mine = {.node = node_key(), .token = fnv_hash(FNV_START, seed, sizeof seed)};
    if (sched_getaffinity(0, sizeof mine.cpus, &mine.cpus)) CPU_ZERO(&mine.cpus);
    Member *all = xcalloc((size_t)c->size, sizeof *all);
    c->gather_bytes(all, &mine, sizeof mine);
    share_cpus(all, c->size, c->rank);
    size_t n = 0, own = 0;
    uint64_t token = 0;
    for (int r = 0; r < c->size; r++) {
        if (all[r].node != mine.node) continue;
        if (n++ == 0) token = all[r].token;
        own += r < c->rank;
    }
    free(all);
    share_beats(c, token, n, own);
}
