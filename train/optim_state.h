/* optim_state: the training state of a model in addition to its weights: gradients, moments, the
 * moving average, and their division over ranks (train/shard.h). */
#pragma once
#include "train/model/params.h"
#include "train/ranks/comm.h"

#define OPTIMIZERS(X) X(OPTIMIZER_ADAMW, "adamw") X(OPTIMIZER_LARS, "lars")
typedef enum { OPTIMIZERS(CHOICE_NAME) } Optimizer;

typedef struct OptimState {
    const Kernels *k;
    Params *p;
    const Comm *comm; /* NULL: one rank */
    size_t shards;    /* ranks that divide the moments; 1: each has all */
    size_t bucket;    /* elements whose gradients are reduced together, a multiple of shards */
    Optimizer optimizer;
    Moments moments;
    void *m, *v; /* [learning / shards] acc or bf16; LARS has no v (NULL) */
    acc *slices; /* [master_first / shards] this rank's masters of that part; or NULL */
    acc *ema;    /* [learning] moving average of the masters, or NULL */
    double ema_decay;
} OptimState;

/* Also allocates the memory of the weights. p must be laid out for `shards` shards; comm may be
 * NULL. */
OptimState *optim_state_of(Params *p, const Comm *comm, size_t shards, Moments moments,
                           Optimizer optimizer);
/* The same of AdamW. */
static inline OptimState *optim_state_new(Params *p, const Comm *comm, size_t shards,
                                          Moments moments) {
    return optim_state_of(p, comm, shards, moments, OPTIMIZER_ADAMW);
}
/* Call before params_free. */
void optim_state_free(OptimState *s);
/* Bytes of one element of a moment. */
static inline size_t moment_size(const Kernels *k, Moments moments) {
    return moments == MOMENTS_BF16 ? 2 : k->acc_size;
}
/* Starts the moving average at the current masters. */
void optim_state_track(OptimState *s, double decay);
/* Sends rank 0's masters to all. */
void optim_state_broadcast(const OptimState *s);
