/* rendezvous: how processes that only know rank, size and rank 0's address get a few common bytes:
 * rank 0 listens, the others connect and say who they are; when all have come, all get rank 0's
 * bytes. Called by comm_nccl, for NCCL's id. */
#ifndef TRAIN_RANKS_RENDEZVOUS_H
#define TRAIN_RANKS_RENDEZVOUS_H
#include "kernels/base.h"

enum { RENDEZVOUS_BYTES = 128 };

typedef struct Rendezvous {
    int rank, size;
    const char *address; /* rank 0's, a name or a number */
    int port;
    double timeout; /* seconds that all of it may take */
} Rendezvous;

/* bytes[RENDEZVOUS_BYTES]: rank 0's are given, the others' written. False with a line: nobody or
 * somebody else at that address, a rank that did not come, ranks of another world. What is sent
 * over the network is neither secret nor trusted: it is checked by its length and a magic. */
bool rendezvous_meet(const Rendezvous *r, void *bytes, Error *err);
#endif
