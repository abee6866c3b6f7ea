/* lock: exclusive use of a folder by one process. Its file `lock` is locked by flock and contains
 * "HOST:PID" for shared file systems on which flock does not work across hosts. */
#pragma once
#include "kernels/base.h"

/* Locks a folder until the process ends, at most one for each process; creates the folder. False:
 * another process holds the lock, or a process of another host that may have died holds it. The
 * lock of a dead process of this host is taken over, and so is that of an earlier start of the same
 * SLURM job on any host. */
bool folder_lock(const char *folder, Error *err);
/* Runs automatically at a normal end or exit; must be called before _exit. Removes the file, and
 * the folder if it is then empty. */
void folder_unlock(void);
