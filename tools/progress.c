#include "tools/progress.h"

#include <stdio.h>
#include <unistd.h>

enum { BAR = 30 };

/* Seconds between two looks: people see a bar move, a log has no use for more than this. */
static const double on_terminal = 0.2, in_log = 10;

void progress_show(Progress *p, size_t done, size_t all, const char *words) {
    double now = clock_now();
    bool terminal = isatty(STDERR_FILENO), last = done == all;
    if (p->started <= 0) p->started = p->shown = now;
    if (now - p->shown < (terminal ? on_terminal : in_log) && !(last && terminal)) return;
    p->shown = now;
    double share = all ? (double)done / (double)all : 1, spent = now - p->started;
    long left = share > 0 ? (long)(spent / share - spent) : 0;
    int full = (int)(share * BAR);
    if (!terminal) {
        log_info("%s: %zu of %zu (%.0f %%), %s, %ld s left", p->what, done, all, 100 * share, words,
                 left);
        return;
    }
    p->drawn = true;
    fprintf(stderr, "\r%s [%.*s%*s] %3.0f %%  %s  %ld:%02ld left \033[K", p->what, full,
            "##############################", BAR - full, "", 100 * share, words, left / 60,
            left % 60);
}

void progress_end(Progress *p) {
    if (p->drawn) fputc('\n', stderr);
    p->drawn = false;
}
