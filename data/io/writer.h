/* writer: a file that is written atomically (temporary name, fsync, rename), plain or as zstd
 * frames of a bounded size. */
#pragma once
#include "data/io/stream.h"

typedef struct Writer Writer;

/* frame_bytes 0: plain. Otherwise writer_border starts a new zstd frame if the current one holds
 * frame_bytes. NULL: err has the reason. */
Writer *writer_open(const char *path, size_t frame_bytes, Error *err);
/* zstd's compression level from here on; 3 unless it is set. */
void writer_level(Writer *w, int level);
bool writer_put(Writer *w, const void *bytes, size_t n, Error *err);
/* A frame may end here. */
bool writer_border(Writer *w, Error *err);
/* Bytes written so far, before compression. */
uint64_t writer_tell(const Writer *w);
/* Flushes, fsyncs, renames. frames: count entries and one more for the end of the last, malloc'd
 * (NULL for a plain file; the argument may be NULL). Frees the writer, also on failure. */
bool writer_commit(Writer *w, StreamFrame **frames, size_t *count, Error *err);
/* Removes the unfinished file. */
void writer_abort(Writer *w);

bool file_write_atomic(const char *path, const void *bytes, size_t size, Error *err);
