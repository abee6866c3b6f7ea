#include "train/memory.h"

#include "train/train_options.h"

#include <stdio.h>
#include <stdlib.h>

static const TrainOptions *const opt = &train_options;

/* The memory is allocated if it is at most `most`. */
static size_t plan(const MemoryPlan *p, size_t most) {
    /* a dry run sends nothing: any transport of that size is suitable */
    Comm comm = *comm_self(p->k);
    Learner l;
    comm.size = p->ranks;
    if (!p->k->device->plan_begin()) return 0;
    learner_plan(&l, p->k, &comm, p->config);
    p->open(p->context, &l);
    step_plan(l.step);
    p->close(p->context);
    learner_close(&l);
    return p->k->device->plan_end(most);
}

size_t memory_needed(const MemoryPlan *p) {
    size_t bytes = plan(p, 0);
    return bytes && p->ranks > 1 ? bytes + COMM_MEMORY : bytes;
}

/* Options that use less memory, with nearly the same result. */
typedef struct Way {
    bool moments, checkpointing, sharded;
    int halved; /* number of halvings of the batch, which double the micro-batches */
} Way;

static size_t way_memory(const MemoryPlan *p, const Way *w) {
    TrainOptions given = train_options;
    train_options.batch_size >>= w->halved;
    train_options.accum_freq <<= w->halved;
    if (w->moments) train_options.moments = MOMENTS_BF16;
    train_options.grad_checkpointing |= w->checkpointing;
    train_options.shard_optimizer |= w->sharded;
    size_t bytes = plan(p, 0);
    train_options = given;
    return bytes;
}

static bool is_new(const Way *w, int ranks) {
    if (w->moments && opt->moments == MOMENTS_BF16) return false;
    if (w->checkpointing && opt->grad_checkpointing) return false;
    if (w->sharded && (opt->shard_optimizer || ranks == 1)) return false;
    return opt->batch_size >> w->halved << w->halved == opt->batch_size;
}

static char *way_text(const Way *w, size_t bytes) {
    char batch[80] = "";
    if (w->halved)
        snprintf(batch, sizeof batch, " --batch-size %lld --accum-freq %lld",
                 (long long)opt->batch_size >> w->halved, (long long)opt->accum_freq << w->halved);
    return xasprintf("%s%s%s%s (%.1f MiB)", w->moments ? " --moments bf16" : "",
                     w->sharded ? " --shard-optimizer" : "",
                     w->checkpointing ? " --grad-checkpointing" : "", batch,
                     (double)bytes / (1 << 20));
}

static void die_of_memory(const MemoryPlan *p, size_t needed, const MemoryUse *m)
    __attribute__((noreturn));
static void die_of_memory(const MemoryPlan *p, size_t needed, const MemoryUse *m) {
    enum { SHOWN = 3, HALVED = 8 };
    Way ways[4 + 2 * HALVED] = {{.sharded = true},
                                {.moments = true},
                                {.checkpointing = true},
                                {.moments = true, .checkpointing = true}};
    for (int i = 0; i < 2 * HALVED; i++)
        ways[4 + i] = (Way){.halved = 1 + i / 2, .checkpointing = i % 2};
    char *fitting = xstrdup("");
    int shown = 0;
    for (size_t i = 0; i < COUNT(ways) && shown < SHOWN; i++) {
        size_t bytes = is_new(&ways[i], p->ranks) ? way_memory(p, &ways[i]) : 0;
        if (!bytes || bytes > m->unused) continue;
        char *way = way_text(&ways[i], bytes);
        char *joined = xasprintf("%s%s%s", fitting, shown++ ? ";" : "", way);
        free(fitting);
        free(way);
        fitting = joined;
    }
    die("GPU memory: this run takes %.1f MiB, %.1f of %.1f MiB are free for it; %s%s",
        (double)needed / (1 << 20), (double)m->unused / (1 << 20), (double)m->total / (1 << 20),
        shown ? "it would fit with"
              : "no --batch-size, --grad-checkpointing or --moments bf16 "
                "would do: choose a smaller --model or --device cpu",
        fitting);
}

/* A hundredth is reserved for memory outside buffers: kernels, loaded at their first use, and
 * graphs. */
static MemoryUse memory_there(const Kernels *k) {
    MemoryUse m = k->device->memory();
    m.unused -= size_min(m.unused, m.total / 100);
    return m;
}

void memory_take(const MemoryPlan *p, const Comm *comm) {
    comm_rank0_begin(comm);
    MemoryUse m = memory_there(p->k);
    size_t needed = plan(p, m.unused);
    if (needed > m.unused) die_of_memory(p, needed, &m);
    comm_rank0_end(comm);
}

void memory_report(const Kernels *k) {
    MemoryUse m = k->device->memory();
    if (m.total)
        log_info("GPU memory: %.2f MiB were taken of %.1f, %.2f used, %.2f not planned",
                 (double)m.most / (1 << 20), (double)m.total / (1 << 20),
                 (double)m.used / (1 << 20), (double)m.unplanned / (1 << 20));
}
