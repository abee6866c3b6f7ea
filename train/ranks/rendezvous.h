/* rendezvous: processes that know only rank, size and rank 0's address exchange a few common bytes
 * (NCCL's unique id). Rank 0 listens; the others connect and say who they are; when all have come,
 * all receive rank 0's bytes. */
#ifndef TRAIN_RANKS_RENDEZVOUS_H
#define TRAIN_RANKS_RENDEZVOUS_H
#include "kernels/base.h"

enum { RENDEZVOUS_BYTES = 128 };

typedef struct Rendezvous {
    int rank, size;
    const char *address; /* rank 0's, a name or a number */
    int port;
    double timeout;  /* seconds that all of it may take */
    const char *key; /* names the job, so that two jobs at one port do not mix; NULL: none */
} Rendezvous;

/* bytes[RENDEZVOUS_BYTES]: rank 0's are given, the others' written. False with a line: nobody or
 * somebody else at that address, a rank that did not come, a rank of another size or job. Rank 0
 * refuses such a rank and waits for the right one. It listens at the address alone if that is one
 * of its machine's, and at every interface if not (a name that resolves to loopback, an address
 * behind NAT). What is sent over the network is neither secret nor trusted. */
bool rendezvous_meet(const Rendezvous *r, void *bytes, Error *err);
#endif
