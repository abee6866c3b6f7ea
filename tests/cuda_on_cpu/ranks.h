/* ranks: processes that meet in POSIX shared memory. For nccl.c. */
#ifndef CUDAEMU_RANKS_H
#define CUDAEMU_RANKS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { RANKS_MOST = 64, RANKS_CHUNK = 1 << 18 };
typedef struct Ranks Ranks;

/* A name that no other group of this machine has. */
void ranks_name(char *name, size_t size);
/* Joins and waits for the others; NULL when they do not come in time. */
Ranks *ranks_join(const char *name, int rank, int count);
void ranks_leave(Ranks *r);

/* Every rank calls the same functions in the same order. All return false once a rank is dead, has
 * given up or does not come in time, or what the ranks call differs; ranks_error says which. */
bool ranks_same(Ranks *r, const void *call, size_t bytes); /* compares what each one calls */
bool ranks_put(Ranks *r, const void *data, size_t bytes);  /* at most RANKS_CHUNK; waits for all */
const void *ranks_get(const Ranks *r, int rank);           /* what that rank has put */
bool ranks_taken(Ranks *r);                                /* nobody needs the data any more */
void ranks_abort(Ranks *r);
const char *ranks_error(const Ranks *r); /* NULL: all is well */
#endif
