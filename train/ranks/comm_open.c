#include "train/ranks/comm_open.h"
#include "train/ranks/agree.h"

#include "train/ranks/node.h"

#include <stdio.h>
#include <stdlib.h>

static long env_number(const char *name) {
    const char *text = getenv(name);
    return text ? strtol(text, NULL, 10) : 0;
}

/* Number of ranks started by a launcher with MPI's process-management interface; 0: none. */
static long mpi_ranks(void) {
    static const char *const sizes[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS",
                                        "MV2_COMM_WORLD_SIZE", "FLUX_JOB_SIZE"};
    for (size_t i = 0; i < COUNT(sizes); i++)
        if (env_number(sizes[i]) > 0) return env_number(sizes[i]);
    return getenv("PMIX_RANK") ? size_max(1, (size_t)env_number("SLURM_STEP_NUM_TASKS")) : 0;
}

/* Reads torchrun's or SLURM's environment; false: neither has started this process. */
static bool find_launch(Launch *l) {
    static const char *const names[][2] = {{"RANK", "WORLD_SIZE"},
                                           {"SLURM_PROCID", "SLURM_STEP_NUM_TASKS"},
                                           {"SLURM_PROCID", "SLURM_NTASKS"}};
    for (size_t i = 0; i < COUNT(names); i++) {
        if (!getenv(names[i][0]) || !getenv(names[i][1])) continue;
        long rank = env_number(names[i][0]), size = env_number(names[i][1]);
        if (rank < 0 || size < 1 || rank >= size || size > 1 << 20)
            die("%s=%s and %s=%s: a rank goes from 0 to below the number of ranks", names[i][0],
                getenv(names[i][0]), names[i][1], getenv(names[i][1]));
        l->rank = (int)rank;
        l->size = (int)size;
        return true;
    }
    return false;
}

static void find_rank0(Launch *l, const CommOptions *o) {
    l->address = getenv("MASTER_ADDR");
    l->port = o->port                 ? (int)o->port
              : getenv("MASTER_PORT") ? (int)env_number("MASTER_PORT") + 1
                                      : 0;
    if (!l->address || !*l->address)
        die("rank %d: MASTER_ADDR is not set: the name or address of rank 0's machine, which "
            "torchrun sets and configs/slurm.sbatch exports",
            l->rank);
    if (l->port < 1 || l->port > 65535)
        die("rank %d: no port to meet rank 0 at: set MASTER_PORT (the one after it is taken) or "
            "--comm-port",
            l->rank);
    l->key = o->key                          ? o->key
             : getenv("TORCHELASTIC_RUN_ID") ? getenv("TORCHELASTIC_RUN_ID")
                                             : getenv("SLURM_JOB_ID");
}

/* Processes that do not know each other would each train alone and overwrite each other's run. */
static CommChoice choose(const Kernels *k) {
    Launch l = {0};
    long ranks = mpi_ranks();
    bool other = ranks == 0 && find_launch(&l);
    if (ranks > 1 || (other && l.size > 1)) {
        if (k->device->gpu) return COMM_NCCL;
        if (other)
            die("started as one of %d ranks of torchrun or plain srun on CPUs, which MPI has to "
                "join: use mpirun -np %d or srun --mpi=pmix, or say --comm self",
                l.size, l.size);
        if (!comm_mpi_built())
            die("started as one of %ld ranks, but this build has no MPI: install libopenmpi-dev "
                "and run make again, or say --comm self",
                ranks);
        return COMM_MPI;
    }
    return COMM_SELF;
}

static const Comm *open_nccl(const Kernels *k, const CommOptions *o) {
    Launch l = {.size = 1};
    const Comm *host = NULL;
    if (!comm_nccl_built()) return comm_nccl(k, NULL, &l, o->timeout);
    if (!k->device->gpu) die("NCCL joins GPU ranks: say --device cuda, or --comm mpi on CPUs");
    if (mpi_ranks() > 0) {
        host = comm_mpi(k, o->timeout);
        l.rank = host->rank;
        l.size = host->size;
    } else if (find_launch(&l) && l.size > 1) {
        find_rank0(&l, o);
    }
    return comm_nccl(k, host, &l, o->timeout);
}

static const Comm *open_mpi(const Kernels *k, double timeout) {
    if (k->device->gpu) die("MPI joins CPU ranks: GPU ranks talk through --comm nccl");
    return comm_mpi(k, timeout);
}

const Comm *comm_open(const CommOptions *o, const Kernels *k) {
    CommChoice choice = o->choice == COMM_AUTO ? choose(k) : o->choice;
    if (choice == COMM_SELF) return comm_self(k);
    const Comm *c = choice == COMM_MPI ? open_mpi(k, o->timeout) : open_nccl(k, o);
    if (c->size > 1) {
        char mark[32];
        snprintf(mark, sizeof mark, "rank %d: ", c->rank);
        log_mark(mark);
        log_quiet(c->rank > 0);
    }
    node_join(c);
    if (choice == COMM_MPI) agree_on_cpu_set(c);
    if (c->memory)
        log_info("NCCL took %.1f MiB of the GPU's memory", (double)c->memory / (1 << 20));
    return c;
}
