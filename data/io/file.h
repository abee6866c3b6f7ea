/* file: bytes of a known size that can be read at any offset, wherever they are stored. file.c has
 * a table with one row for each kind of storage. */
#pragma once
#include "kernels/base.h"

/* Size and time of the last change; equal stamps mean equal bytes. */
typedef struct FileStamp {
    uint64_t size;
    int64_t mtime_sec;
    uint32_t mtime_nsec;
} FileStamp;

typedef struct File File;
/* NULL: err names the path. Anything except a regular file is refused. */
File *file_open(const char *path, Error *err);
/* The bytes must outlive the file. */
File *file_open_memory(const uint8_t *bytes, size_t size);
uint64_t file_size(const File *f);
/* Exactly n bytes at `offset`; false if there are fewer (err without the path). Thread-safe. */
bool file_read(const File *f, void *out, size_t n, uint64_t offset, Error *err);
void file_close(File *f);
/* The stamp of a path, without opening it. */
bool file_stamp(const char *path, FileStamp *s, Error *err);
bool file_readable(const char *path); /* true if it can be opened */

/* Creates a file to write and read. It fails if anything has the path, also a link, so that nothing
 * that is there is written to. -1: errno. */
int file_create(const char *path);
/* A name beside `path` for a file that becomes it by rename; no two calls and processes get the
 * same. malloc'd. */
char *file_temporary(const char *path);
/* A new file in the folder that has no name and is gone with its last descriptor, readable and
 * writable by this user. -1: err names the folder. */
int file_unnamed(const char *folder, Error *err);
/* The path by which this process opens a descriptor's file again; malloc'd. */
char *file_of_fd(int fd);
/* Writes all n bytes. False: errno. */
bool file_write_fd(int fd, const void *bytes, size_t n);

/* ---- whole files, malloc'd with a NUL after them ---- */

/* Refuses more than `limit` bytes. */
bool file_read_all(const char *path, uint8_t **bytes, size_t *size, size_t limit, Error *err);
/* At most the first `most` bytes of any local file, which may be a pipe. False: err without the
 * path, and errno. */
bool file_read_first(const char *path, uint8_t **bytes, size_t *size, size_t most, Error *err);
/* Local files; written ones are new (file_create) and fsynced. False: errno. */
bool file_write(const char *path, const void *bytes, size_t n);
bool file_copy(const char *from, const char *to);
