#include "train/memory.h"

#include <stdio.h>
#include <stdlib.h>

/* The memory is allocated if it is at most `most`. */
static void plan_run(const DryRun *r, size_t most, RunPlan *plan) {
    const Kernels *k = r->k;
    /* a dry run sends nothing: any transport of that size is suitable */
    Comm comm = *comm_self(k);
    Learner l;
    *plan = (RunPlan){.count = 0};
    comm.size = r->ranks;
    k->device->plan_begin();
    learner_plan(&l, k, &comm, r->config, r->opt, plan);
    r->open(r->context, &l, plan);
    plan->host = k->device->memory().host;
    kernel_fp8_products = (Fp8Products){0};
    step_plan(l.step);
    r->close(r->context);
    learner_close(&l);
    plan->total = k->device->plan_end(most);
    plan_add(plan, "scratch memory", plan->total - plan->sum);
}

/* Of the step that plan_run has planned. */
static void report_fp8(const Kernels *k) {
    const Fp8Products *p = &kernel_fp8_products;
    char refused[160] = "";
    if (!k->fp8) return;
    if (p->in_act)
        snprintf(
            refused, sizeof refused,
            "; the others in bf16, because cuBLASLt takes rows in multiples of %d and sides of "
            "16 (one is %zu rows, %zu x %zu)",
            FP8_ROWS, p->M, p->N, p->K);
    log_info("amp_fp8: %llu of a step's %llu products with block matrices are in 8 bits%s",
             (unsigned long long)(p->all - p->in_act), (unsigned long long)p->all, refused);
}

void memory_plan(const DryRun *r, RunPlan *plan) {
    plan_run(r, 0, plan);
    report_fp8(r->k);
    if (!r->k->device->gpu || r->ranks == 1) return;
    plan_add(plan, "ranks: what host memory travels through", COMM_MEMORY);
    plan->total += COMM_MEMORY;
}

/* Options that use less memory, with nearly the same result. */
typedef struct Way {
    bool moments, checkpointing, sharded;
    int halved; /* number of halvings of the batch, which double the micro-batches */
} Way;

static size_t way_memory(const DryRun *r, const Way *w) {
    TrainOptions opt = *r->opt;
    DryRun other = *r;
    RunPlan plan;
    opt.batch_size >>= w->halved;
    opt.accum_freq <<= w->halved;
    if (w->moments) opt.moments = MOMENTS_BF16;
    opt.grad_checkpointing |= w->checkpointing;
    opt.kept_blocks = 0;
    opt.shard_optimizer |= w->sharded;
    other.opt = &opt;
    plan_run(&other, 0, &plan);
    return plan.total;
}

static bool is_new(const Way *w, const TrainOptions *opt, int ranks) {
    if (w->moments && opt->moments == MOMENTS_BF16) return false;
    if (w->checkpointing && opt->grad_checkpointing) return false;
    if (w->sharded && (opt->shard_optimizer || ranks == 1)) return false;
    return opt->batch_size >> w->halved << w->halved == opt->batch_size;
}

static char *way_text(const Way *w, const TrainOptions *opt, size_t bytes) {
    char batch[80] = "";
    if (w->halved)
        snprintf(batch, sizeof batch, " --batch-size %lld --accum-freq %lld",
                 (long long)opt->batch_size >> w->halved, (long long)opt->accum_freq << w->halved);
    return xasprintf("%s%s%s%s (%.1f MiB)", w->moments ? " --moments bf16" : "",
                     w->sharded ? " --shard-optimizer" : "",
                     w->checkpointing ? " --grad-checkpointing" : "", batch,
                     (double)bytes / (1 << 20));
}

static void die_of_memory(const DryRun *r, size_t needed, const MemoryUse *m, size_t nccl)
    __attribute__((noreturn));
static void die_of_memory(const DryRun *r, size_t needed, const MemoryUse *m, size_t nccl) {
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
        size_t bytes = is_new(&ways[i], r->opt, r->ranks) ? way_memory(r, &ways[i]) : 0;
        if (!bytes || bytes > m->unused) continue;
        char *way = way_text(&ways[i], r->opt, bytes);
        char *joined = xasprintf("%s%s%s", fitting, shown++ ? ";" : "", way);
        FREE_ALL(fitting, way);
        fitting = joined;
    }
    char beside[60] = "";
    if (nccl) snprintf(beside, sizeof beside, " (NCCL has %.1f)", (double)nccl / (1 << 20));
    die("GPU memory: this run takes %.1f MiB, %.1f of %.1f MiB are free for it%s; %s%s",
        (double)needed / (1 << 20), (double)m->unused / (1 << 20), (double)m->total / (1 << 20),
        beside,
        shown ? "it would fit with"
              : "no --batch-size, --grad-checkpointing or --moments bf16 "
                "would do: choose a smaller --model or --device cpu",
        fitting);
}

/* 512 MiB or a hundredth is reserved for memory outside buffers: kernels, loaded at their first
 * use, and graphs; of a small GPU at most an eighth. */
static MemoryUse memory_there(const Kernels *k) {
    enum { RESERVED = 512 << 20 };
    MemoryUse m = k->device->memory();
    size_t reserved = size_max(m.total / 100, size_min(RESERVED, m.total / 8));
    m.unused -= size_min(m.unused, reserved);
    return m;
}

size_t memory_kept_blocks(const DryRun *r) {
    MemoryUse m = memory_there(r->k);
    size_t fits = 0, most = size_max(r->config->image.layers, r->config->text.layers);
    if (!m.total || !r->opt->grad_checkpointing) return 0;
    while (fits < most) {
        TrainOptions opt = *r->opt;
        DryRun other = *r;
        RunPlan plan;
        other.opt = &opt;
        opt.kept_blocks = (fits + most + 1) / 2;
        plan_run(&other, 0, &plan);
        if (plan.total <= m.unused)
            fits = opt.kept_blocks;
        else
            most = opt.kept_blocks - 1;
    }
    return fits;
}

void memory_reserve(const DryRun *r, const Comm *comm) {
    MemoryUse m = memory_there(r->k);
    RunPlan plan;
    if (!m.total) return;
    comm_rank0_begin(comm);
    plan_run(r, m.unused, &plan);
    if (plan.total > m.unused) die_of_memory(r, plan.total, &m, comm->memory);
    report_fp8(r->k);
    comm_rank0_end(comm);
}

void memory_report(const Kernels *k) {
    MemoryUse m = k->device->memory();
    if (m.total)
        log_info("GPU memory: %.2f MiB were taken of %.1f, %.2f used, %.2f not planned",
                 (double)m.most / (1 << 20), (double)m.total / (1 << 20),
                 (double)m.used / (1 << 20), (double)m.unplanned / (1 << 20));
    else
        log_info("memory: %.2f MiB were taken", (double)m.most / (1 << 20));
}
