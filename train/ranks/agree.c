#include "train/ranks/agree.h"
#include "kernels/cpu_sets.h"
#include "kernels/hash.h"

#include <stdio.h>
#include <stdlib.h>

static uint64_t program_hash(void) {
    FILE *f = fopen("/proc/self/exe", "rb");
    if (!f) return 0;
    unsigned char chunk[1 << 16];
    uint64_t h = FNV_START;
    for (size_t n; (n = fread(chunk, 1, sizeof chunk, f)) > 0;) h = fnv_hash(h, chunk, n);
    fclose(f);
    return h;
}

/* The first rank whose hash is not rank 0's; 0: all agree. */
static int first_other(const Comm *c, uint64_t hash) {
    uint64_t *all = xcalloc((size_t)c->size, sizeof *all);
    c->gather_bytes(all, &hash, sizeof hash);
    int other = 0;
    for (int r = c->size - 1; r > 0; r--)
        if (all[r] != all[0]) other = r;
    free(all);
    return other;
}

void agree_on(const Comm *c, const char *what, uint64_t hash) {
    int other = c->size > 1 ? first_other(c, hash) : 0;
    if (other)
        comm_die(c, "rank %d has another %s than rank 0: all ranks need the same", other, what);
}

void agree_on_start(const Comm *c, const NamedHash *options, size_t count) {
    if (c->size == 1) return;
    agree_on(c, "clipc program", program_hash());
    uint64_t all = FNV_START;
    for (size_t i = 0; i < count; i++)
        all = fnv_hash(all, &options[i].hash, sizeof options[i].hash);
    if (!first_other(c, all)) return;
    for (size_t i = 0; i < count; i++) {
        char what[80];
        snprintf(what, sizeof what, "--%s", options[i].name);
        agree_on(c, what, options[i].hash);
    }
}

void agree_on_cpu_set(const Comm *c) {
    struct Own {
        int set, named;
    } own = {cpu_set(), cpu_set_named()}, *all = xcalloc((size_t)c->size, sizeof *all);
    c->gather_bytes(all, &own, sizeof own);
    int first = 0, last = 0, refuses = -1;
    for (int r = 1; r < c->size; r++) {
        if (all[r].set < all[first].set) first = r;
        if (all[r].set > all[last].set) last = r;
    }
    for (int r = c->size - 1; r >= 0; r--)
        if (all[r].named && all[r].set > all[first].set) refuses = r;
    const char *least = cpu_set_names[all[first].set];
    if (refuses >= 0)
        comm_die(c,
                 "rank %d has CLIPC_CPU=%s and rank %d uses %s, with which results differ: "
                 "CLIPC_CPU=%s on all",
                 refuses, cpu_set_names[all[refuses].set], first, least, least);
    if (all[last].set != all[first].set)
        log_info("instruction set %s on all ranks, because rank %d uses no later one (rank %d has "
                 "%s)",
                 least, first, last, cpu_set_names[all[last].set]);
    cpu_set_lower((CpuSet)all[first].set);
    free(all);
}

void agree_on_algorithms(const Comm *c) {
    if (c->size == 1) return;
    size_t bytes;
    void *choices = kernels_algorithms(&bytes);
    c->broadcast_bytes(&bytes, sizeof bytes, 0);
    if (bytes && c->rank > 0) choices = xrealloc(choices, bytes);
    if (bytes) c->broadcast_bytes(choices, bytes, 0);
    if (c->rank > 0) kernels_set_algorithms(choices, bytes);
    free(choices);
}
