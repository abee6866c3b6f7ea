/* content: files that are the same byte for byte: 128-bit FNV-1a, and a set of such hashes. Called
 * by data/pack.c and `clipc data check`. */
#ifndef DATA_CONTENT_H
#define DATA_CONTENT_H
#include "kernels/base.h"

typedef struct ContentHash {
    uint64_t high, low;
} ContentHash;
/* Offset and prime: Fowler, Noll, Vo, Eastlake, "The FNV non-cryptographic hash algorithm". */
ContentHash content_hash(const void *bytes, size_t n);

/* Hashes with a number each; starts as zeros. */
typedef struct ContentSet {
    struct ContentSlot *slots;
    size_t count, capacity;
} ContentSet;
/* True: h is new, and has `number` from now on. False: *earlier is the number it has. */
bool content_set_add(ContentSet *s, ContentHash h, uint64_t number, uint64_t *earlier);
void content_set_free(ContentSet *s);
#endif
