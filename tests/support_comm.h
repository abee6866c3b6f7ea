/* support_comm: ranks of one process: threads that meet at barriers. */
#pragma once
#include "train/ranks/comm.h"

/* Before the threads start, and after they have ended. */
void comm_of_threads_begin(const Kernels *k, int ranks);
void comm_of_threads_end(void);
/* The transport of the calling thread, with the exchanges that a loss has. */
Comm comm_of_threads(int rank);
