/* support_ranks: commands that run as ranks: CPU ranks under mpirun, GPU ranks started as torchrun,
 * SLURM or mpirun would. */
#pragma once
#include <stdbool.h>

enum { RANKS_MOST = 4 };

/* How the ranks find each other. */
typedef enum { BY_MPI, BY_TORCHRUN, BY_SLURM } Launcher;
extern const Launcher ranks_usual;

bool test_shell(const char *line);
/* Runs the command on a number of ranks (0: alone, no launcher). False: one of them failed; their
 * output is shown. Rank 0's output goes to `out`. */
bool ranks_run(Launcher by, int ranks, const char *command, const char *out);
/* The number of ranks that this machine supports; *why_not (may be NULL): the reason for the
 * limit. */
int ranks_possible(const char **why_not);
bool ranks_have_mpirun(void);
/* Skips the test if the machine supports fewer ranks. */
void need_ranks(const char *test, int ranks);
