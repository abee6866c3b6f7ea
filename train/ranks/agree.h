/* agree: checks that all ranks have the same inputs. Before the first step ranks exchange hashes;
 * if one differs from rank 0's, all ranks exit with an error that names the rank and the
 * difference. */
#pragma once
#include "train/ranks/comm.h"

typedef struct NamedHash {
    const char *name;
    uint64_t hash;
} NamedHash;

/* Compares the program, and the values of options by their names without "--". */
void agree_on_start(const Comm *c, const NamedHash *options, size_t count);
/* Compares another hash, named `what` ("the data set"). */
void agree_on(const Comm *c, const char *what, uint64_t hash);
/* All CPU ranks use the earliest instruction set of them all; a rank that CLIPC_CPU forbids it ends
 * all. Before kernels are opened to compute. */
void agree_on_cpu_set(const Comm *c);
/* Rank 0's choices of algorithms (kernels_algorithms) become those of all ranks. */
void agree_on_algorithms(const Comm *c);
