/* cuda/memory: the GPU's memory: allocations, the arena and its plan, scratch memory. */
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/device.h"
extern "C" {
#include "kernels/space.h"
}

typedef struct Scratch {
    void *p;
    size_t bytes, used; /* used: the largest request */
    bool own;           /* an allocation, not a part of the arena */
} Scratch;

static struct {
    Scratch scratch[SCRATCH_COUNT];
    Space own;               /* allocations, including the arena */
    Space outgrown;          /* outgrown scratch memory that graphs may use */
    void *arena_start;       /* the arena: scratch memory, then the blocks of `arena` */
    Space arena;             /* the planned blocks; base NULL: no arena */
    size_t taken, most;      /* of allocations */
    size_t used, most_used;  /* of blocks and scratch memory */
    size_t taken_as_planned; /* value of `taken` when the arena was allocated */
    bool planning;
    Space plan; /* addresses without memory */
    size_t plan_scratch[SCRATCH_COUNT];
    size_t plan_host; /* of host_alloc */
} memory;

enum { ALIGN = 256 };
static void use(size_t bytes) {
    memory.used += bytes;
    memory.most_used = size_max(memory.most_used, memory.used);
}

static void *own_take(size_t bytes) {
    void *p = NULL;
    cudaError_t status = cudaMalloc(&p, bytes);
    if (status == cudaSuccess) {
        space_add(&memory.own, p, bytes);
        memory.taken += bytes;
        memory.most = size_max(memory.most, memory.taken);
        return p;
    }
    cudaGetLastError();
    MemoryUse m = device_memory();
    die("GPU memory: %zu bytes were asked for, %zu of %zu are free, this process has %zu (%s); try "
        "a smaller --batch-size, --grad-checkpointing, --accum-freq, or --device cpu",
        bytes, m.unused, m.total, m.taken, cudaGetErrorString(status));
}

static size_t own_give(void *p) {
    size_t bytes = space_remove(&memory.own, p);
    assert(bytes);
    memory.taken -= bytes;
    CUDA(cudaFree(p));
    return bytes;
}

void *device_alloc(size_t bytes) {
    device_stream();
    assert(!device_capturing());
    bytes = size_max(bytes, 1);
    size_t padded = round_up(bytes, ALIGN);
    if (memory.planning) return space_take(&memory.plan, padded);
    void *p = memory.arena.base ? space_take(&memory.arena, padded) : NULL;
    use(p ? padded : bytes);
    return p ? p : own_take(bytes);
}

void device_release(void *p) {
    if (!p) return;
    if (memory.planning) {
        space_remove(&memory.plan, p);
        return;
    }
    /* like cudaFree, waits until work that uses it is done */
    CUDA(cudaDeviceSynchronize());
    size_t bytes = space_remove(&memory.arena, p);
    memory.used -= bytes ? bytes : own_give(p);
}

size_t device_size(const void *p) {
    if (memory.planning) return space_find(&memory.plan, p);
    size_t bytes = space_find(&memory.arena, p);
    return bytes ? bytes : space_find(&memory.own, p);
}

MemoryUse device_memory(void) {
    if (memory.planning) {
        size_t planned = space_sum(&memory.plan);
        return {planned, memory.plan.most, planned, 0, 0, 0, memory.plan_host};
    }
    MemoryUse m = {memory.taken, memory.most, memory.most_used, 0, 0, 0, 0};
    device_stream();
    if (memory.arena.base) m.unplanned = memory.most - memory.taken_as_planned;
    if (cudaMemGetInfo(&m.unused, &m.total) != cudaSuccess) cudaGetLastError();
    return m;
}

static void scratch_drop(Scratch *s) {
    if (s->own && device_captured())
        space_add(&memory.outgrown, s->p, s->bytes);
    else if (s->own)
        own_give(s->p);
    s->p = NULL;
    s->bytes = 0;
}

static void scratch_take(Scratch *s, size_t bytes) {
    device_sync();
    scratch_drop(s);
    assert(!device_capturing());
    *s = {own_take(bytes), bytes, s->used, true};
}

void *device_scratch(enum ScratchUse what, size_t bytes) {
    Scratch *s = &memory.scratch[what];
    bytes = size_max(bytes, 1);
    if (memory.planning) {
        memory.plan_scratch[what] = size_max(memory.plan_scratch[what], bytes);
        return memory.plan.base;
    }
    if (bytes > s->used) use(bytes - s->used), s->used = bytes;
    if (bytes > s->bytes) scratch_take(s, bytes + bytes / 4);
    return s->p;
}

/* ---- planning ---- */

void *device_plan_host(size_t bytes) {
    memory.plan_host += bytes;
    return memory.plan.base;
}

bool device_planning(void) { return memory.planning; }

void device_plan_begin(void) {
    device_stream();
    memory.planning = true;
    memory.plan = space_unbacked();
    memory.plan_host = 0;
    memset(memory.plan_scratch, 0, sizeof memory.plan_scratch);
}

/* Allocates the arena: scratch memory, then space for the blocks. */
static void arena_take_planned(size_t bytes) {
    char *p = (char *)own_take(bytes);
    memory.arena_start = p;
    for (int what = 0; what < SCRATCH_COUNT; what++) {
        Scratch *s = &memory.scratch[what];
        size_t n = round_up(memory.plan_scratch[what], ALIGN);
        if (memory.plan_scratch[what] <= s->bytes) continue;
        scratch_drop(s);
        *s = {p, n, s->used, false};
        p += n;
    }
    memory.arena = {p, bytes - (size_t)(p - (char *)memory.arena_start), 0, NULL, 0};
    memory.taken_as_planned = memory.most = memory.taken;
}

static void arena_give(void) {
    if (!memory.arena.base || memory.arena.count) return;
    for (int what = 0; what < SCRATCH_COUNT; what++)
        if (!memory.scratch[what].own) scratch_drop(&memory.scratch[what]);
    own_give(memory.arena_start);
    free(memory.arena.list);
    memory.arena = {};
}

/* CLIPC_ARENA=0: a separate allocation for each block, so that memory checkers know its bounds. */
static bool wants_arena(void) {
    const char *value = getenv("CLIPC_ARENA");
    return !value || strcmp(value, "0");
}

size_t device_plan_end(size_t most) {
    size_t bytes = memory.plan.most;
    memory.planning = false;
    free(memory.plan.list);
    for (int what = 0; what < SCRATCH_COUNT; what++)
        bytes += round_up(memory.plan_scratch[what], ALIGN);
    if (bytes > most) return bytes;
    device_sync();
    if (!device_captured()) arena_give();
    if (bytes && wants_arena() && !memory.arena.base) {
        arena_take_planned(bytes);
        return bytes;
    }
    for (int what = 0; what < SCRATCH_COUNT; what++)
        if (memory.plan_scratch[what] > memory.scratch[what].bytes)
            scratch_take(&memory.scratch[what], memory.plan_scratch[what]);
    return bytes;
}

void device_memory_close(void) {
    while (memory.outgrown.count) own_give(memory.outgrown.list[--memory.outgrown.count].p);
    for (int what = 0; what < SCRATCH_COUNT; what++)
        if (memory.scratch[what].own) scratch_drop(&memory.scratch[what]);
    arena_give();
}
