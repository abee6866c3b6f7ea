/* progress: how far a long command has come: a bar on a terminal, a line now and then elsewhere. */
#ifndef TOOLS_PROGRESS_H
#define TOOLS_PROGRESS_H
#include "kernels/base.h"

typedef struct Progress {
    const char *what;
    double started, shown; /* clock_now(); 0: not yet */
    bool drawn;
} Progress; /* starts as zeros but for `what` */

/* words: what else there is to say, or "". */
void progress_show(Progress *p, size_t done, size_t all, const char *words);
void progress_end(Progress *p); /* leaves the cursor on a fresh line */
#endif
