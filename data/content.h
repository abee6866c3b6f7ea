/* content: a set of hashes that finds files with the same bytes. */
#pragma once
#include "kernels/hash.h"

/* Hashes, each with a number. Zero-initialised. */
typedef struct ContentSet {
    struct ContentSlot *slots;
    size_t count, capacity;
} ContentSet;
/* True: h is new and is stored with `number`. False: *earlier is its stored number. */
bool content_set_add(ContentSet *s, Hash128 h, uint64_t number, uint64_t *earlier);
void content_set_free(ContentSet *s);
