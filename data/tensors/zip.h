/* zip: the members of a zip archive in memory, without unpacking: PyTorch's checkpoints are
 * archives whose data is stored, not compressed. Zip64 is supported. Source: PKWARE's APPNOTE
 * 6.3.9, 4.3. */
#pragma once
#include "kernels/base.h"

typedef struct ZipMember {
    char *name;
    bool stored; /* false: compressed or encrypted, so without data here */
    uint32_t crc;
    size_t size;
    const unsigned char *data; /* inside the archive; NULL if not stored */
} ZipMember;

typedef struct Zip {
    ZipMember *members;
    size_t count;
} Zip;

/* The archive's bytes must outlive the Zip. False: damaged, or a member is out of bounds. */
bool zip_open(Zip *z, const unsigned char *bytes, size_t n, Error *err);
const ZipMember *zip_find(const Zip *z, const char *name); /* NULL if absent */
/* Returns true if a stored member's bytes match its checksum; 0 means that the writer computed
 * none. */
bool zip_verify(const ZipMember *m, Error *err);
void zip_close(Zip *z);
