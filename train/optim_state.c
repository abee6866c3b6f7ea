#include "train/optim_state.h"

#include "train/model/lora.h"

#include <stdlib.h>

/* Elements of a bucket: large ones use links well, several let communication start early. */
enum { BUCKET_LEAST = 4096, BUCKET_MOST = 25 << 18, BUCKETS = 16 };

OptimState *optim_state_of(Params *p, const Comm *comm, size_t shards, Moments moments,
                           Optimizer optimizer) {
    const Kernels *k = p->k;
    OptimState *s = xcalloc(1, sizeof *s);
    *s = (OptimState){.k = k, .p = p, .shards = shards, .optimizer = optimizer, .moments = moments};
    if (comm && comm->size > 1) s->comm = comm;
    assert(shards == 1 || shards == (size_t)s->comm->size);
    size_t bucket = size_min(BUCKET_MOST, size_max(BUCKET_LEAST, p->learning / BUCKETS));
    s->bucket = round_up(bucket, size_mul(PARAM_ALIGN, shards));
    params_alloc(p);
    lora_alloc(p);
    p->grad = params_block(p, p->learning, k->acc_size);
    p->unused_grad = params_block(p, 2 * p->longest, k->acc_size);
    s->m = params_block(p, p->learning / shards, moment_size(k, moments));
    if (optimizer == OPTIMIZER_ADAMW)
        s->v = params_block(p, p->learning / shards, moment_size(k, moments));
    fp8_start(p);
    params_alloc_masters(p);
    return s;
}

void optim_state_free(OptimState *s) {
    if (!s) return;
    void *const blocks[] = {s->p->grad, s->p->unused_grad, s->m, s->v, s->slices, s->ema};
    fp8_stop(s->p);
    lora_release(s->p);
    for (size_t i = 0; i < COUNT(blocks); i++)
        if (blocks[i]) s->k->device->release(blocks[i]);
    s->p->grad = s->p->unused_grad = NULL;
    free(s);
}

void optim_state_track(OptimState *s, double decay) {
    size_t bytes = size_mul(s->p->learning, s->k->acc_size);
    s->ema_decay = decay;
    if (!s->ema) s->ema = s->k->device->alloc(bytes);
    s->k->device->copy(s->ema, s->p->master, bytes);
}

void optim_state_broadcast(const OptimState *s) {
    const Params *p = s->p;
    s->comm->broadcast(p->master, p->learning, 0);
    if (p->frozen) s->comm->broadcast(p->frozen, p->size - p->learning, 0);
}
