/* string_map: strings to the numbers 0, 1, … in the order of their first appearance. */
#ifndef DATA_IO_STRING_MAP_H
#define DATA_IO_STRING_MAP_H
#include "kernels/base.h"

typedef struct StringMap {
    const char **strings; /* [count] borrowed: they must outlive the map */
    size_t count, capacity;
    uint32_t *slots; /* [slot_count], a power of 2: number + 1, open addressing */
    size_t slot_count;
} StringMap; /* starts as zeros */

/* The string's number; *added (may be NULL): whether it is new, so that its pointer is kept. */
uint32_t string_map_put(StringMap *m, const char *s, bool *added);
/* UINT32_MAX: not there. */
uint32_t string_map_find(const StringMap *m, const char *s);
void string_map_free(StringMap *m);
#endif
