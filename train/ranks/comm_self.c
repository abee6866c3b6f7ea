/* comm_self: the transport of a run with one rank: collectives are copies or do nothing. */
#include "train/ranks/comm.h"

#include <string.h>

static const Kernels *kernels; /* one process drives one device */

static void copy(acc *dst, const acc *src, size_t n) {
    if (dst != src) kernels->device->copy(dst, src, size_mul(n, kernels->acc_size));
}
static void all_gather(acc *all, const acc *part, size_t n) { copy(all, part, n); }
static void gather_pieces(const CommPiece *pieces, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (pieces[i].all != pieces[i].part)
            kernels->device->copy(pieces[i].all, pieces[i].part, pieces[i].bytes);
}
static void reduce_scatter(acc *part, const acc *all, size_t n) { copy(part, all, n); }
static void all_reduce(acc *x, size_t n) { (void)x, (void)n; }
static void broadcast(acc *x, size_t n, int root) { (void)x, (void)n, assert(root == 0); }
static void nothing(void) {}
static void gather_bytes(void *all, const void *part, size_t n) { memmove(all, part, n); }
static void broadcast_bytes(void *x, size_t n, int root) { (void)x, (void)n, assert(root == 0); }

const Comm *comm_self(const Kernels *k) {
    static const Comm self = {.name = "self",
                              .rank = 0,
                              .size = 1,
                              .all_gather = all_gather,
                              .gather_pieces = gather_pieces,
                              .reduce_scatter = reduce_scatter,
                              .all_reduce_sum = all_reduce,
                              .all_reduce_max = all_reduce,
                              .broadcast = broadcast,
                              .barrier = nothing,
                              .all_reduce_start = all_reduce,
                              .reduce_scatter_start = reduce_scatter,
                              .gather_start = gather_pieces,
                              .wait = nothing,
                              .gather_bytes = gather_bytes,
                              .broadcast_bytes = broadcast_bytes,
                              .check = nothing,
                              .close = nothing};
    kernels = k;
    return &self;
}
