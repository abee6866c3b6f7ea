/* race: detects two unordered accesses to the same bytes, at least one of which writes.
 *
 * Accesses are ordered if they are of one thread; of one block with a barrier between; of one warp
 * with a __syncwarp between; of two blocks if the earlier one's block has passed a fence since (of
 * the same thread, or after a barrier). Atomics do not race with each other. Granules of two bytes
 * remember the last write and the last reads of two threads. */
#include "tests/cuda_on_cpu/ptx.h"
#include <stdlib.h>
#include <string.h>

typedef struct Record {
    uint32_t launch, block, epoch, sync, stmt;
    uint64_t stamp;
    uint16_t thread;
    uint8_t bytes; /* which of the granule's two */
    bool atomic;
} Record;
typedef struct Granule {
    Record write, read[2];
} Granule;
typedef struct Fence {
    uint64_t stamp;
    uint32_t epoch;
    uint16_t thread;
} Fence;

bool race_on;
static uint32_t launches;
static uint64_t stamps;
static Fence *fences;
static Granule *shared;
static size_t shared_bytes;

void race_launch(const Block *b) {
    race_on = emu_options()->race;
    if (!race_on) return;
    launches++;
    free(fences);
    fences = calloc((size_t)b->grid.x * b->grid.y * b->grid.z, sizeof *fences);
    if (b->shared_bytes > shared_bytes) {
        free(shared);
        shared_bytes = b->shared_bytes;
        shared = NULL;
    }
    if (!shared) shared = malloc((shared_bytes / 2 + 1) * sizeof *shared);
    memset(shared, 0, (b->shared_bytes / 2 + 1) * sizeof *shared);
}

void race_fence(const Warp *w) {
    if (!race_on) return;
    fences[w->block->linear] = (Fence){
        ++stamps, w->block->epoch, (uint16_t)(w->index * LANES + (uint32_t)__builtin_ctz(w->mask))};
}

static bool ordered(const Warp *w, const Record *old, const Record *now) {
    if (old->launch != now->launch) return true;
    if (old->block != now->block) {
        const Fence *f = &fences[old->block];
        return f->stamp > old->stamp && (f->thread == old->thread || f->epoch > old->epoch);
    }
    if (old->thread == now->thread || old->epoch < now->epoch) return true;
    bool same_warp = old->thread / LANES == now->thread / LANES;
    return same_warp && w->sync[now->thread % LANES] > old->sync;
}
static void report(const Warp *w, const Ins *i, int lane, Space space, const Record *old,
                   const char *kinds) {
    const Stmt *s = &w->block->kernel->stmts[old->stmt];
    const Module *m = w->block->kernel->module;
    ptx_fault(w, i, lane,
              "race in %s memory: %s, unordered; the earlier access: block %u, thread %u, line %d, "
              "%.*s",
              space == SHARED ? "shared" : "global", kinds, old->block, old->thread,
              s->loc < 0 ? 0 : m->locs[s->loc].line, (int)strcspn(s->text, ";\n"), s->text);
}

static Granule *granules(const Warp *w, Space space, uint64_t address) {
    if (space == SHARED) {
        if (address - SHARED_START >= w->block->shared_bytes) return NULL;
        return shared + (address - SHARED_START) / 2;
    }
    Buffer *b = (Buffer *)(uintptr_t)mem_find(address);
    if (!b) return NULL;
    uint64_t start = b->start & ~(uint64_t)1;
    if (!b->shadow) b->shadow = calloc(b->size / 2 + 2, sizeof(Granule));
    return (Granule *)b->shadow + (address - start) / 2;
}

void race_access(Warp *w, const Ins *i, int lane, Space space, uint64_t address, uint32_t bytes,
                 bool write, bool atomic) {
    Granule *g = granules(w, space, address);
    if (!g) return; /* the bounds check reports it */
    Record now = {.launch = launches,
                  .block = (uint32_t)w->block->linear,
                  .epoch = w->block->epoch,
                  .sync = w->sync[lane],
                  .stmt = i->stmt,
                  .stamp = ++stamps,
                  .thread = (uint16_t)(w->index * LANES + (uint32_t)lane),
                  .atomic = atomic};
    /* shared memory begins anew with each block */
    for (uint32_t n = 0; n < (bytes + 1) / 2; n++, g++) {
        now.bytes = bytes > 1 ? 3 : 1u << (address & 1);
        bool fresh = space == SHARED && g->write.block != now.block;
        if (fresh) g->write = (Record){.block = now.block};
        const Record *old = &g->write;
        if ((old->bytes & now.bytes) && !(old->atomic && atomic) && !ordered(w, old, &now))
            report(w, i, lane, space, old, write ? "write after write" : "read after write");
        for (int r = 0; write && r < 2; r++) {
            old = &g->read[r];
            bool stale = space == SHARED && old->block != now.block;
            if (!stale && (old->bytes & now.bytes) && !(old->atomic && atomic) &&
                !ordered(w, old, &now))
                report(w, i, lane, space, old, "write after read");
        }
        if (write)
            g->write = now;
        else {
            if (g->read[0].thread != now.thread || g->read[0].block != now.block)
                g->read[1] = g->read[0];
            g->read[0] = now;
        }
    }
}
