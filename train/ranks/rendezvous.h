/* rendezvous: sends a few bytes from rank 0 to processes that know only rank, size and rank 0's
 * address. Rank 0 listens, the others connect and send their rank; once all are connected, rank 0
 * sends them its bytes (NCCL's id). */
#ifndef TRAIN_RANKS_RENDEZVOUS_H
#define TRAIN_RANKS_RENDEZVOUS_H
#include "kernels/base.h"

enum { RENDEZVOUS_BYTES = 128 };

typedef struct Rendezvous {
    int rank, size;
    const char *address; /* rank 0's, a name or a number */
    int port;
    double timeout; /* seconds, of the whole exchange */
} Rendezvous;

/* bytes[RENDEZVOUS_BYTES]: input on rank 0, output on the others. False with a line: no or another
 * program at that address, a missing rank, ranks of another world size. Received bytes are neither
 * secret nor trusted: length and a magic number are checked. */
bool rendezvous_meet(const Rendezvous *r, void *bytes, Error *err);
#endif
