/* rendezvous: processes that know only rank, size and rank 0's address exchange a few common bytes
 * (NCCL's unique id). Rank 0 listens; the others connect and send their identity; when all have
 * connected, all receive rank 0's bytes. */
#pragma once
#include "kernels/base.h"

enum { RENDEZVOUS_BYTES = 128 };

typedef struct Rendezvous {
    int rank, size;
    const char *address; /* rank 0's, a name or a number */
    int port;
    double timeout;  /* seconds for the whole exchange */
    const char *key; /* names the job, so that two jobs at one port do not mix; NULL: none */
} Rendezvous;

/* bytes[RENDEZVOUS_BYTES]: input on rank 0, output on the others. False with a line: no process or
 * another program at that address, a missing rank, a rank of another size or job. Rank 0 refuses
 * such a rank and waits for the right one. It listens only at the address if that is one of its
 * machine's, otherwise at every interface (a name that resolves to loopback, an address behind
 * NAT). Data on the network is neither secret nor trusted. */
bool rendezvous_meet(const Rendezvous *r, void *bytes, Error *err);
