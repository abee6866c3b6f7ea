/* progress: reports the progress of long work on stderr: a bar on a terminal, otherwise occasional
 * lines. log_quiet silences it. */
#pragma once
#include "kernels/base.h"

typedef struct Progress {
    const char *what;      /* NULL: not shown */
    double started, shown; /* clock_now() */
} Progress;

/* what: name of the work; NULL: nothing is shown. Until progress_end, work that is started within
 * it is not shown; of the main thread alone. */
Progress progress_start(const char *what);
/* words: additional text, or "". */
void progress_show(Progress *p, size_t done, size_t all, const char *words);
void progress_end(Progress *p);
/* "1:02:03"; from one day on "2d03h". */
const char *duration_text(char out[32], double seconds);
