#include "train/comm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

CommStats comm_stats;

static long env_number(const char *name) {
    const char *text = getenv(name);
    return text ? strtol(text, NULL, 10) : 0;
}

/* Ranks that a launcher with MPI's process-management interface has started; 0: none has. */
static long mpi_ranks(void) {
    static const char *const sizes[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS"};
    for (size_t i = 0; i < COUNT(sizes); i++)
        if (env_number(sizes[i]) > 0) return env_number(sizes[i]);
    return getenv("PMIX_RANK") ? size_max(1, (size_t)env_number("SLURM_STEP_NUM_TASKS")) : 0;
}

/* Many processes that know nothing of each other would each train alone and overwrite each other's
 * run. */
static CommChoice choose(void) {
    long ranks = mpi_ranks(), slurm = env_number("SLURM_STEP_NUM_TASKS"),
         torch = getenv("RANK") ? env_number("WORLD_SIZE") : 0;
    if (ranks > 1 && !comm_mpi_built())
        die("started as one of %ld ranks, but this build has no MPI: install libopenmpi-dev and "
            "run make again, or say --comm self",
            ranks);
    if (ranks > 1) return COMM_MPI;
    if (ranks == 0 && slurm > 1)
        die("started as one of %ld SLURM tasks without MPI's process management: use srun "
            "--mpi=pmix or mpirun, or say --comm self",
            slurm);
    if (ranks == 0 && torch > 1)
        die("torchrun's ranks need the NCCL transport, which this build lacks: start CPU ranks "
            "with mpirun -np %ld, or say --comm self",
            torch);
    return COMM_SELF;
}

const Comm *comm_open(CommChoice choice, const Kernels *k, double timeout) {
    if (choice == COMM_AUTO) choice = choose();
    if (choice == COMM_NCCL)
        die("this build has no NCCL transport: CPU ranks talk through --comm mpi");
    if (choice == COMM_MPI && !strncmp(k->name, "cuda", 4))
        die("MPI joins CPU ranks: GPU ranks need the NCCL transport, which this build lacks (use "
            "--device cpu, or one rank)");
    const Comm *c = choice == COMM_MPI ? comm_mpi(k, timeout) : comm_self(k);
    if (c->size > 1) {
        char mark[32];
        snprintf(mark, sizeof mark, "rank %d: ", c->rank);
        log_mark(mark);
        log_quiet(c->rank > 0);
    }
    return c;
}

void comm_die(const Comm *c, const char *fmt, ...) {
    char line[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    if (c->size == 1) die("%s", line);
    if (c->rank == 0) log_warn("%s", line);
    c->barrier(); /* a launcher may end the others as soon as the first one is gone */
    exit(EXIT_ERROR);
}

void comm_rank0_begin(const Comm *c) {
    if (c->rank > 0) c->barrier();
}

void comm_rank0_end(const Comm *c) {
    if (c->rank == 0) c->barrier();
}

char *comm_string(const Comm *c, char *s) {
    size_t n = c->rank == 0 && s ? strlen(s) + 1 : 0;
    c->broadcast_bytes(&n, sizeof n, 0);
    if (c->rank > 0) s = n ? xmalloc(n) : NULL;
    if (n) c->broadcast_bytes(s, n, 0);
    return s;
}

void *comm_join(const Comm *c, const void *own, size_t bytes) {
    size_t *all_bytes = xcalloc((size_t)c->size, sizeof *all_bytes), most = 0, total = 0, at = 0;
    c->gather_bytes(all_bytes, &bytes, sizeof bytes);
    for (int r = 0; r < c->size; r++) {
        most = size_max(most, all_bytes[r]);
        total = size_add(total, all_bytes[r]);
    }
    char *padded = xcalloc(most, 1), *all = xmalloc(size_mul(most, (size_t)c->size));
    if (bytes) memcpy(padded, own, bytes);
    c->gather_bytes(all, padded, most);
    for (int r = 0; r < c->size; r++) {
        memmove(all + at, all + (size_t)r * most, all_bytes[r]);
        at += all_bytes[r];
    }
    free(padded);
    free(all_bytes);
    return xrealloc(all, total);
}
