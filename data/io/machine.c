#include "data/io/machine.h"

#include <errno.h>
#include <string.h>
#include <time.h>

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
