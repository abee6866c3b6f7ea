#include "train/ranks/signals.h"

#include <stdlib.h>
#include <string.h>

enum { UNDER_WAY = 2 };

struct Signals {
    const Kernels *k;
    const Comm *comm;
    acc *sums;  /* device [SIGNALS] */
    char *host; /* [UNDER_WAY, SIGNALS] acc: on their way there and back */
    double alone[UNDER_WAY][SIGNALS];
    Mark *back[UNDER_WAY];
    uint64_t said, heard;
};

Signals *signals_new(const Kernels *k, const Comm *comm) {
    Signals *s = xcalloc(1, sizeof *s);
    s->k = k;
    s->comm = comm;
    if (comm->size == 1) return s;
    s->sums = k->alloc(SIGNALS * k->acc_size);
    s->host = k->host_alloc(UNDER_WAY * SIGNALS * k->acc_size);
    for (size_t i = 0; i < UNDER_WAY; i++) s->back[i] = k->mark_new();
    return s;
}

void signals_free(Signals *s) {
    if (!s) return;
    s->k->sync();
    for (size_t i = 0; i < UNDER_WAY && s->comm->size > 1; i++) s->k->mark_free(s->back[i]);
    s->k->host_release(s->host);
    s->k->release(s->sums);
    free(s);
}

bool signals_travel(const Signals *s) { return s->comm->size > 1 && s->k->asynchronous; }

void signals_say(Signals *s, const double said[SIGNALS]) {
    const Kernels *k = s->k;
    size_t place = s->said++ % UNDER_WAY, bytes = SIGNALS * k->acc_size;
    char *host = s->host + place * bytes;
    assert(s->said - s->heard <= UNDER_WAY);
    if (s->comm->size == 1) {
        memcpy(s->alone[place], said, sizeof s->alone[place]);
        return;
    }
    for (size_t i = 0; i < SIGNALS; i++) acc_put(k, host, i, said[i]);
    k->upload_start(QUEUE_COMPUTE, s->sums, host, bytes);
    s->comm->all_reduce_sum(s->sums, SIGNALS);
    k->download_start(QUEUE_COMPUTE, host, s->sums, bytes);
    k->mark_set(s->back[place], QUEUE_COMPUTE);
}

void signals_hear(Signals *s, double sum[SIGNALS]) {
    const Kernels *k = s->k;
    size_t place = s->heard++ % UNDER_WAY;
    assert(s->heard <= s->said);
    if (s->comm->size == 1) {
        memcpy(sum, s->alone[place], sizeof s->alone[place]);
        return;
    }
    k->mark_wait(s->back[place]);
    s->comm->check();
    for (size_t i = 0; i < SIGNALS; i++)
        sum[i] = acc_value(k, s->host + place * SIGNALS * k->acc_size, i);
}
