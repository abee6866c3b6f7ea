/* ranks: processes that communicate through POSIX shared memory. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { RANKS_MOST = 64, RANKS_CHUNK = 1 << 18 };
typedef struct Ranks Ranks;

/* A name that is unique on this machine. */
void ranks_name(char *name, size_t size);
/* Joins and waits for the others; NULL: a timeout. */
Ranks *ranks_join(const char *name, int rank, int count);
void ranks_leave(Ranks *r);

/* Every rank calls the same functions in the same order. All return false once a rank is dead, has
 * given up or is late, or if the ranks' calls differ; ranks_error has the reason. */
bool ranks_same(Ranks *r, const void *call, size_t bytes); /* compares the calls of all ranks */
bool ranks_put(Ranks *r, const void *data, size_t bytes);  /* at most RANKS_CHUNK; waits for all */
const void *ranks_get(const Ranks *r, int rank);           /* the data that the rank has put */
bool ranks_taken(Ranks *r); /* the data is no longer needed by any rank */
void ranks_abort(Ranks *r);
const char *ranks_error(const Ranks *r); /* NULL: no error */
