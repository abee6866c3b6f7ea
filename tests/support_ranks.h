/* support_ranks: commands that run as ranks: CPU ranks under mpirun, GPU ranks started as torchrun,
 * SLURM or mpirun would. For the tests of many ranks. */
#ifndef TESTS_SUPPORT_RANKS_H
#define TESTS_SUPPORT_RANKS_H
#include <stdbool.h>

enum { RANKS_MOST = 4 };

/* How the ranks come to know of each other. */
typedef enum { BY_MPI, BY_TORCHRUN, BY_SLURM } Launcher;
extern const Launcher ranks_usual;

bool test_shell(const char *line);
/* The command on so many ranks (0: alone, no launcher); false where one of them fails, what they
 * said is shown then. Rank 0's output goes to `out`. */
bool ranks_run(Launcher by, int ranks, const char *command, const char *out);
/* How many ranks there can be on this machine; *why_not (may be NULL): there are not more. */
int ranks_possible(const char **why_not);
bool ranks_have_mpirun(void);
/* Skips the test where so many are not possible. */
void need_ranks(const char *test, int ranks);
#endif
