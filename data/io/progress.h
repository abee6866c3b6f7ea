/* progress: how far long work has come, on stderr: a bar on a terminal, a line now and then
 * elsewhere. log_quiet silences it. */
#ifndef DATA_IO_PROGRESS_H
#define DATA_IO_PROGRESS_H
#include "kernels/base.h"

typedef struct Progress {
    const char *what;
    double started, shown; /* clock_now() */
} Progress;

/* what: NULL: nothing is shown. */
Progress progress_start(const char *what);
/* words: more to show, or "". */
void progress_show(Progress *p, size_t done, size_t all, const char *words);
void progress_end(void);
/* "1:02:03", or "2d03h" from a day on. */
const char *duration_text(char out[32], double seconds);
#endif
