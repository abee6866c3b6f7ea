/* spool: a stream that is read at random is first copied whole into a file without a name. */
#pragma once
#include "data/source.h"

/* Copies the stream's bytes, decompressed, into an unnamed file in c->options->cache_dir and
 * returns its descriptor. Nothing is copied unless it begins as a tar, and no more than
 * c->options->spool_gib for all streams of a data set together. -1: err names the stream; also if
 * its command failed. Thread-safe. */
int spool_stream(const Source *source, const char *path, const SourceContext *c, Error *err);
