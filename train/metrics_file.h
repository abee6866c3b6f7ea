/* metrics_file: reads metrics.jsonl of a run folder. Any bytes may be in it: a killed run leaves
 * part of a line. */
#pragma once
#include "kernels/base.h"

/* Takes a complete line without its line feed, which ends at byte `end` of the file; false: no more
 * lines. */
typedef bool MetricsLine(void *arg, const char *line, size_t n, uint64_t end);
/* Calls f for every line of up to LINES_BLOCK bytes; others are skipped. A missing file has no
 * line. Anything except a regular file is refused. */
bool metrics_each(const char *path, MetricsLine *f, void *arg, Error *err);
/* Truncates the file after its last complete line of a step up to keep_step (0: all lines go). */
bool metrics_cut(const char *path, uint64_t keep_step, Error *err);
