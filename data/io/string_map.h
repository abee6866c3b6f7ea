/* string_map: maps strings to 0, 1, … in the order of their first appearance. */
#pragma once
#include "kernels/base.h"

typedef struct StringMap {
    const char **strings; /* [count] borrowed: they must outlive the map */
    size_t count, capacity;
    uint32_t *slots; /* [slot_count], a power of 2: number + 1, open addressing */
    size_t slot_count;
} StringMap; /* zero-initialised */

/* Returns the string's number. *added (may be NULL): true if it is new, in which case its pointer
 * is kept. */
uint32_t string_map_put(StringMap *m, const char *s, bool *added);
/* UINT32_MAX: not there. */
uint32_t string_map_find(const StringMap *m, const char *s);
void string_map_free(StringMap *m);
