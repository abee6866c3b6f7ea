/* work_folder: an empty folder for parsers that read files beside others. */
#pragma once
#include "data/io/folder.h"

#include <stdio.h>
#include <stdlib.h>

static char work_path[256];

static inline void work_folder_remove(void) { folder_remove(work_path); }

/* Its path, under $TMPDIR; it is removed at the end. */
static inline const char *work_folder(void) {
    if (*work_path) return work_path;
    const char *tmp = getenv("TMPDIR");
    snprintf(work_path, sizeof work_path, "%s/fuzz.XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(work_path) || atexit(work_folder_remove)) abort();
    return work_path;
}

/* The file `name` in it, with these bytes; malloc'd path. */
static inline char *work_file(const char *name, const uint8_t *bytes, size_t n) {
    char *path = folder_path(work_folder(), name);
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(bytes, 1, n, f) != n || fclose(f)) abort();
    return path;
}
