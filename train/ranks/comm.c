#include "train/ranks/comm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

CommStats comm_stats;

void comm_die(const Comm *c, const char *fmt, ...) {
    char line[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    if (c->size == 1) die("%s", line);
    if (c->rank == 0) log_warn("%s", line);
    c->barrier(); /* a launcher may kill the others as soon as the first one exits */
    exit_at_once(EXIT_ERROR);
}

void comm_rank0_begin(const Comm *c) {
    if (c->rank > 0) c->barrier();
}

void comm_rank0_end(const Comm *c) {
    if (c->rank == 0) c->barrier();
}

char *comm_string(const Comm *c, char *s) {
    size_t n = c->rank == 0 && s ? strlen(s) + 1 : 0;
    c->broadcast_bytes(&n, sizeof n, 0);
    if (c->rank > 0) s = n ? xmalloc(n) : NULL;
    if (n) c->broadcast_bytes(s, n, 0);
    return s;
}

void *comm_join(const Comm *c, const void *own, size_t bytes) {
    size_t *all_bytes = xcalloc((size_t)c->size, sizeof *all_bytes), most = 0, total = 0, at = 0;
    c->gather_bytes(all_bytes, &bytes, sizeof bytes);
    for (int r = 0; r < c->size; r++) {
        most = size_max(most, all_bytes[r]);
        total = size_add(total, all_bytes[r]);
    }
    char *padded = xcalloc(most, 1), *all = xmalloc(size_mul(most, (size_t)c->size));
    if (bytes) memcpy(padded, own, bytes);
    c->gather_bytes(all, padded, most);
    for (int r = 0; r < c->size; r++) {
        memmove(all + at, all + (size_t)r * most, all_bytes[r]);
        at += all_bytes[r];
    }
    FREE_ALL(padded, all_bytes);
    return xrealloc(all, total);
}

void comm_report(const Comm *c, uint64_t steps) {
    const CommStats *s = &comm_stats;
    if (c->size == 1 || !steps) return;
    c->barrier(); /* the last step's collectives are counted */
    double n = (double)steps, hidden = s->seconds > 0 ? 1 - s->waited / s->seconds : 0;
    log_info("communication: a rank sent %.2f MiB a step and took %.2f ms for it, %.0f %% of that "
             "beside the computation",
             s->bytes / n / (1 << 20), 1e3 * s->seconds / n, hidden > 0 ? 100 * hidden : 0);
}
