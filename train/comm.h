/* comm: how ranks talk. One table a transport; f32/f64 `acc` device buffers. `self` is the one-rank
 * transport. */
#ifndef TRAIN_COMM_H
#define TRAIN_COMM_H
#include "kernels/kernels.h"

typedef struct Comm {
    const char *name;
    int rank, size;
    /* all[size·n] = every rank's part[n], in rank order; part may be all + rank·n. */
    void (*all_gather)(acc *all, const acc *part, size_t n);
    /* part[n] = Σ over ranks of their all[rank·n …]. */
    void (*reduce_scatter)(acc *part, const acc *all, size_t n);
    void (*all_reduce_sum)(acc *x, size_t n);
    void (*all_reduce_max)(acc *x, size_t n);
    void (*broadcast)(acc *x, size_t n, int root);
    void (*barrier)(void);
} Comm;

const Comm *comm_self(const Kernels *k);
#endif
