#include "train/metrics_file.h"

#include "data/io/file.h"
#include "data/io/lines.h"
#include "data/io/machine.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* False: f wants no more lines. */
static bool each_of_block(const Lines *l, const char *block, size_t n, MetricsLine *f, void *arg) {
    const char *start = block, *line;
    for (size_t line_n; lines_take(&block, &n, &line, &line_n);)
        if (block[-1] == '\n' && !f(arg, line, line_n, l->from + (uint64_t)(block - start)))
            return false;
    return true;
}

bool metrics_each(const char *path, MetricsLine *f, void *arg, Error *err) {
    FileStamp st;
    if (!machine_access(path, F_OK) && errno == ENOENT) return true;
    if (!file_stamp(path, &st, err)) return false;
    FILE *file = fopen(path, "rb");
    if (!file) return error_set(err, "%s: %s", path, strerror(errno));
    Lines l;
    lines_open(&l, file);
    const char *block;
    size_t n;
    while (lines_next_block(&l, &block, &n) && each_of_block(&l, block, n, f, arg)) {
    }
    bool ok = !ferror(file) || error_set(err, "%s: %s", path, strerror(errno));
    lines_close(&l);
    fclose(file);
    return ok;
}

typedef struct Kept {
    uint64_t keep_step, keep; /* keep: bytes */
} Kept;

static bool keep_line(void *arg, const char *line, size_t n, uint64_t end) {
    Kept *kept = arg;
    char head[64];
    unsigned long long step;
    snprintf(head, sizeof head, "%.*s", (int)size_min(n, sizeof head), line);
    if (sscanf(head, "{\"step\": %llu", &step) != 1) return true;
    if (step > kept->keep_step || !kept->keep_step) return false;
    kept->keep = end;
    return true;
}

bool metrics_cut(const char *path, uint64_t keep_step, Error *err) {
    Kept kept = {.keep_step = keep_step};
    if (!machine_access(path, F_OK) && errno == ENOENT) return true;
    if (!metrics_each(path, keep_line, &kept, err)) return false;
    return !truncate(path, (off_t)kept.keep) || error_set(err, "%s: %s", path, strerror(errno));
}
