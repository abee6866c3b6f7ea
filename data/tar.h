/* tar: the members of an archive one after the other (ustar and old tar, pax `path` and `size`, GNU
 * long names, base-256 sizes), and the header blocks to write one. */
#pragma once
#include "data/io/stream.h"

enum { TAR_BLOCK = 512, TAR_NAME_MAX = 4095, TAR_EXTENDED_MAX = 1 << 20 };

typedef struct TarReader {
    Stream *stream;
    char name[TAR_NAME_MAX + 1]; /* of the current member */
    uint64_t offset, size;       /* of its data, in decompressed bytes */
    uint64_t left, padding;      /* of the data not read yet; after the data */
} TarReader;

typedef enum { TAR_END, TAR_FILE, TAR_BAD } TarStatus;

/* Returns true if an archive can begin with these n bytes; n < TAR_BLOCK: they are all of it. */
bool tar_begins(const uint8_t *bytes, size_t n);

void tar_reader_init(TarReader *t, Stream *stream);
/* Advances to the next regular file. TAR_END: the zero block that ends an archive was read.
 * TAR_BAD: the archive is truncated or damaged from here on; err has the reason. */
TarStatus tar_next(TarReader *t, Error *err);
/* Up to n bytes of the current member's data; *got < n only at its end. */
bool tar_read(TarReader *t, void *out, size_t n, size_t *got, Error *err);
/* Skips the rest of the member; false if the archive does not hold all of it. */
bool tar_finish(TarReader *t, Error *err);

/* A ustar header of a regular file (mode 644, no owner, time 0: the same input gives the same
 * archive). The name must be shorter than 100 bytes. */
void tar_header(uint8_t block[TAR_BLOCK], const char *name, uint64_t size);
