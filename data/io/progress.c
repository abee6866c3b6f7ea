#include "data/io/progress.h"

#include <stdio.h>
#include <unistd.h>

enum { BAR = 30 };

/* Seconds between two updates: a bar should be seen to move, a log needs fewer lines. */
static const double on_terminal = 0.2, in_log = 10;

const char *duration_text(char out[32], double seconds) {
    unsigned long long s = seconds > 0 ? (unsigned long long)(seconds + 0.5) : 0;
    if (s >= 24 * 3600)
        snprintf(out, 32, "%llud%02lluh", s / (24 * 3600), s / 3600 % 24);
    else
        snprintf(out, 32, "%llu:%02llu:%02llu", s / 3600, s / 60 % 60, s % 60);
    return out;
}

static bool busy; /* one that is shown has started and not ended */

Progress progress_start(const char *what) {
    double now = clock_now();
    if (busy) what = NULL;
    busy |= what != NULL;
    return (Progress){what, now, now};
}

void progress_show(Progress *p, size_t done, size_t all, const char *words) {
    double now = clock_now();
    bool terminal = isatty(STDERR_FILENO), last = terminal && done == all;
    if (!p->what || (now - p->shown < (terminal ? on_terminal : in_log) && !last)) return;
    p->shown = now;
    double share = all ? (double)done / (double)all : 1, spent = now - p->started;
    char left[32];
    duration_text(left, share > 0 ? spent / share - spent : 0);
    int full = (int)(share * BAR);
    if (terminal)
        log_live("%s [%.*s%*s] %3.0f %%  %s  %s left", p->what, full,
                 "##############################", BAR - full, "", 100 * share, words, left);
    else
        log_info("%s: %zu of %zu (%.0f %%)%s%s, %s left", p->what, done, all, 100 * share,
                 *words ? ", " : "", words, left);
}

void progress_end(Progress *p) {
    if (!p->what) return;
    busy = false;
    log_live_end();
}
