/* mapfile: a whole regular file, mapped read-only. For parsers that read large files in place. */
#pragma once
#include "kernels/base.h"

typedef struct MapFile {
    const unsigned char *bytes; /* NULL for an empty file */
    size_t size;
} MapFile;

/* err: without the path. If bytes cannot be read later (the file was cut, the storage fails), the
 * program ends with a line that names the file and exit code 1. */
bool map_file(MapFile *m, const char *path, Error *err);
/* The bytes read so far no longer count as this process's memory; they can be read again. */
void map_drop(const MapFile *m);
void unmap_file(MapFile *m);
