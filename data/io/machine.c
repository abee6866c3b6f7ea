#include "data/io/machine.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { TRIES = 6, FIRST_MS = 50 }; /* each pause is twice the one before: 3 s in all */

bool machine_again(const char *what, int *tries) {
    static const int kinds[] = {EMFILE, ENFILE, ENOMEM, EIO, ESTALE, ETIMEDOUT};
    size_t i = 0;
    while (i < COUNT(kinds) && kinds[i] != errno) i++;
    if (i == COUNT(kinds)) return false;
    if (*tries == TRIES)
        die("%s: %s, tried %d times: this machine or its storage fails, not the data%s", what,
            strerror(errno), TRIES, errno == EMFILE ? " (raise ulimit -n)" : "");
    long ms = (long)FIRST_MS << (*tries)++;
    nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL);
    return true;
}

bool machine_access(const char *path, int mode) {
    for (int tries = 0; access(path, mode);)
        if (!machine_again(path, &tries)) return false;
    return true;
}

bool machine_stat(const char *path, struct stat *st, int flags) {
    for (int tries = 0; fstatat(AT_FDCWD, path, st, flags);)
        if (!machine_again(path, &tries)) return false;
    return true;
}
