/* stream: bytes of a file one after the other, plain or zstd (recognised by the first bytes; any
 * number of frames), and exact reads of ranges. */
#pragma once
#include "data/io/file.h"

typedef struct Stream Stream;

/* The start of a zstd frame: offset in the file, and in the decompressed bytes. */
typedef struct StreamFrame {
    uint64_t at, raw;
} StreamFrame;

/* NULL: err has the reason. */
Stream *stream_open(const char *path, Error *err);
/* Reads a source without random access: up to n bytes, at least one except at the end. */
typedef bool (*StreamSource)(void *context, void *out, size_t n, size_t *got, Error *err);
/* NULL: err has the reason. */
Stream *stream_open_source(StreamSource read, void *context, Error *err);
/* The bytes must outlive the stream. */
Stream *stream_open_memory(const uint8_t *bytes, size_t size);
/* Reads up to n bytes; *got < n only at the end. False: unreadable, or a zstd frame is truncated or
 * damaged. */
bool stream_read(Stream *s, void *out, size_t n, size_t *got, Error *err);
/* Skips n bytes; false if there are fewer. In a plain file this reads nothing. */
bool stream_skip(Stream *s, uint64_t n, Error *err);
/* Decompressed bytes read so far. */
uint64_t stream_tell(const Stream *s);
/* The complete frames so far (0 for a plain file), and one more entry: the end of the last one.
 * Valid until the next call on s. */
size_t stream_frames(const Stream *s, const StreamFrame **frames);
void stream_close(Stream *s);

/* Bytes of one zstd frame [from, to) decompressed to out[to.raw - from.raw]. Thread-safe. */
bool frame_read(const File *f, StreamFrame from, StreamFrame to, uint8_t *out, Error *err);
