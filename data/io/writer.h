/* writer: a file that appears whole or not at all: written beside, fsynced, renamed; plain or as
 * zstd frames of a bounded size. */
#ifndef DATA_IO_WRITER_H
#define DATA_IO_WRITER_H
#include "data/io/stream.h"

typedef struct Writer Writer;

/* frame_bytes 0: plain. Otherwise a new zstd frame may begin at a border once the current one holds
 * frame_bytes. NULL: err says why. */
Writer *writer_open(const char *path, size_t frame_bytes, Error *err);
/* zstd's compression level of what follows; 3 unless it is set. */
void writer_level(Writer *w, int level);
bool writer_put(Writer *w, const void *bytes, size_t n, Error *err);
/* Here a frame may end. */
bool writer_border(Writer *w, Error *err);
/* Bytes put so far, before compression. */
uint64_t writer_tell(const Writer *w);
/* Flushes, fsyncs, renames. frames: count entries and one more where the last ends, malloc'd (NULL
 * of a plain file; the argument may be NULL). Frees the writer, also on failure. */
bool writer_commit(Writer *w, StreamFrame **frames, size_t *count, Error *err);
/* Removes what was written. */
void writer_abort(Writer *w);

bool file_write_atomic(const char *path, const void *bytes, size_t size, Error *err);
#endif
