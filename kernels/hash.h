/* hash: FNV-1a (Fowler, Noll, Vo, Eastlake, "The FNV non-cryptographic hash algorithm"). File
 * formats and the seeds of initial weights depend on its values. */
#pragma once
#include "kernels/base.h"

/* Adds n bytes to the 64-bit hash h; a hash starts at FNV_START. */
#define FNV_START 0xcbf29ce484222325u
uint64_t fnv_hash(uint64_t h, const void *bytes, size_t n);

typedef struct Hash128 {
    uint64_t high, low;
} Hash128;
Hash128 fnv_hash128(const void *bytes, size_t n);
