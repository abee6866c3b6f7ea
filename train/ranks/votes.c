#include "train/ranks/votes.h"

#include <stdlib.h>
#include <string.h>

enum { OPEN = 2 };

struct Votes {
    const Kernels *k;
    const Comm *comm;
    acc *sums;  /* device [VOTES] */
    char *host; /* [OPEN, VOTES] acc: pinned staging to and from the device */
    double alone[OPEN][VOTES];
    Mark *back[OPEN];
    uint64_t cast, counted;
};

Votes *votes_new(const Kernels *k, const Comm *comm) {
    Votes *v = xcalloc(1, sizeof *v);
    v->k = k;
    v->comm = comm;
    if (comm->size == 1) return v;
    v->sums = k->device->alloc(VOTES * k->acc_size);
    v->host = k->device->host_alloc(OPEN * VOTES * k->acc_size);
    for (size_t i = 0; i < OPEN; i++) v->back[i] = k->device->mark_new();
    return v;
}

void votes_free(Votes *v) {
    if (!v) return;
    v->k->device->sync();
    for (size_t i = 0; i < OPEN && v->comm->size > 1; i++) v->k->device->mark_free(v->back[i]);
    v->k->device->host_release(v->host);
    v->k->device->release(v->sums);
    free(v);
}

bool votes_deferred(const Votes *v) { return v->comm->size > 1 && v->k->device->asynchronous; }

void votes_cast(Votes *v, const double own[VOTES]) {
    const Kernels *k = v->k;
    size_t place = v->cast++ % OPEN, bytes = VOTES * k->acc_size;
    char *host = v->host + place * bytes;
    assert(v->cast - v->counted <= OPEN);
    if (v->comm->size == 1) {
        memcpy(v->alone[place], own, sizeof v->alone[place]);
        return;
    }
    for (size_t i = 0; i < VOTES; i++) acc_put(k, host, i, own[i]);
    k->device->upload_start(QUEUE_COMPUTE, v->sums, host, bytes);
    v->comm->all_reduce_sum(v->sums, VOTES);
    k->device->download_start(QUEUE_COMPUTE, host, v->sums, bytes);
    k->device->mark_set(v->back[place], QUEUE_COMPUTE);
}

void votes_count(Votes *v, double sum[VOTES]) {
    const Kernels *k = v->k;
    size_t place = v->counted++ % OPEN;
    assert(v->counted <= v->cast);
    if (v->comm->size == 1) {
        memcpy(sum, v->alone[place], sizeof v->alone[place]);
        return;
    }
    k->device->mark_wait(v->back[place]);
    v->comm->check();
    for (size_t i = 0; i < VOTES; i++)
        sum[i] = acc_value(k, v->host + place * VOTES * k->acc_size, i);
}
