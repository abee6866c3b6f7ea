/* lock: a folder in which one process at a time works, said by its file `lock`: held by flock, and
 * with "HOST:PID" in it for file systems that hosts share and where flock does not reach. */
#ifndef DATA_IO_LOCK_H
#define DATA_IO_LOCK_H
#include "kernels/base.h"

/* For the life of the process, which locks one folder at most; makes the folder. False: another
 * process has it, or a process of another host that ended without a word may have it. The lock of
 * this host's dead process is taken over, also that of a SLURM job's earlier start on any host. */
bool folder_lock(const char *folder, Error *err);
/* At a normal end or exit it is called by itself; before _exit it is called. Removes the file, and
 * the folder if nothing else is in it. */
void folder_unlock(void);
#endif
