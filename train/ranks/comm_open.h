/* comm_open: selects and opens the transport of this process, by option or by the environment that
 * mpirun, torchrun or SLURM set. */
#pragma once
#include "train/ranks/comm.h"

#define TRANSPORTS(X)                                                                              \
    X(COMM_AUTO, "auto") X(COMM_SELF, "self") X(COMM_MPI, "mpi") X(COMM_NCCL, "nccl")
typedef enum { TRANSPORTS(CHOICE_NAME) } CommChoice;

typedef struct CommOptions {
    CommChoice choice;
    double timeout;  /* seconds of a collective */
    int64_t port;    /* on which rank 0 serves NCCL's id; 0: MASTER_PORT + 1 */
    const char *key; /* names the job; NULL: TORCHELASTIC_RUN_ID or SLURM_JOB_ID */
} CommOptions;
#define COMM_DEFAULTS                                                                              \
    { .timeout = 300 }

/* The transport of this process; COMM_AUTO: by the launcher's environment. With several ranks,
 * lines on stderr are marked with the rank, only rank 0 logs information (warnings and errors come
 * from all), CPU ranks use one instruction set (agree.h), and the OpenMP threads are this rank's
 * share of the CPUs it may use (node.h). Exits with an error if the transport is not available. */
const Comm *comm_open(const CommOptions *o, const Kernels *k);

/* ---- transports; each exits with an error in a build without its library ---- */
bool comm_mpi_built(void);
const Comm *comm_mpi(const Kernels *k, double timeout);

/* Position of this process among its ranks, from a launcher other than MPI's. */
typedef struct Launch {
    int rank, size;
    const char *address; /* rank 0's, with several ranks */
    int port;
    const char *key; /* of the job, or NULL */
} Launch;
bool comm_nccl_built(void);
/* host: the transport mpi, if there is one; NULL: `launch` has the address of rank 0. */
const Comm *comm_nccl(const Kernels *k, const Comm *host, const Launch *launch, double timeout);
