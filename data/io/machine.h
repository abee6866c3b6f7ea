/* machine: calls that fail because of the machine, not because of a file: too many open files, no
 * memory, a disk or a server that fails. */
#pragma once
#include "kernels/base.h"

#include <sys/stat.h>

/* After a call that failed with errno; *tries starts at 0. True: it was the machine, which has had
 * some time, so call again; after a few tries exits with an error that names `what`. */
bool machine_again(const char *what, int *tries);
/* access and fstatat of a path, tried again like that: what was not seen for lack of an answer is
 * not taken as missing. False: errno says why. flags: 0 or AT_SYMLINK_NOFOLLOW. */
bool machine_access(const char *path, int mode);
bool machine_stat(const char *path, struct stat *st, int flags);
