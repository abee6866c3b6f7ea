/* space: blocks of memory and how they divide a range of addresses. For devices alone. */
#pragma once
#include <stddef.h>

typedef struct SpaceBlock {
    char *p;
    size_t bytes;
} SpaceBlock;

/* Blocks by address, which divide `size` bytes from base on; or separate allocations, in any order
 * (base NULL). */
typedef struct Space {
    char *base;
    size_t size, most; /* most: up to where it was in use */
    SpaceBlock *list;
    size_t count;
} Space;

/* Addresses without memory, for a dry run; no device has them. */
Space space_unbacked(void);
/* A block in the first gap that is large enough: equal calls get equal places. NULL: there is none.
 */
void *space_take(Space *s, size_t bytes);
/* A separate allocation. */
void space_add(Space *s, void *p, size_t bytes);
/* Bytes of the block at p; 0: it is none of these. */
size_t space_find(const Space *s, const void *p);
size_t space_remove(Space *s, const void *p);
size_t space_sum(const Space *s); /* bytes of all blocks */
