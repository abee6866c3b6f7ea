/* Steps of two ranks: captured ones give the same bits as uncaptured ones for any number of rows of
 * each rank; enqueuing a step allocates no memory and never waits; the messages between ranks; more
 * collectives than are remembered. The program starts itself as the ranks. */
#include "tests/support.h"
#include "tests/support_model.h"
#include "tests/support_ranks.h"
#include "train/ranks/agree.h"
#include "train/ranks/comm_open.h"
#include "train/shard.h"
#include "train/ranks/votes.h"
#include "train/step.h"
#include "kernels/hash.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { B = 4, MICRO = 2, BUCKET = 16, STEPS = 10, ALL_RECORDED = 8, BATCHES = 3 };
enum { FORWARDS = 2 * MICRO - 1 }; /* of a step: all micro-batches except the last run twice */

static const Comm *comm;

#define NEED(what)                                                                                 \
    do {                                                                                           \
        if (!(what)) die("%s:%d: not so: %s", __FILE__, __LINE__, #what);                          \
    } while (0)

/* ---- counts of the layer that runs CUDA without a GPU (cuda_on_cpu/runtime.h) ---- */

enum { MEMORY, WAITS, LAUNCHES, COUNTS };
unsigned long cudaemuCount(int what) __attribute__((weak));

static void count(unsigned long counts[COUNTS]) {
    for (int i = 0; i < COUNTS; i++) counts[i] = cudaemuCount ? cudaemuCount(i) : 0;
}

/* ---- steps ---- */

typedef struct Setup {
    Precision precision;
    LossKind kind;
    bool sharded, narrow;
} Setup;

typedef struct Trained {
    double *weights; /* [size]: trainable weights */
    size_t size;
    StepResult results[STEPS];
} Trained;

/* Rank 0 has seen all of its batches after three steps; rank 1 meets new ones until the fifth:
 * while one replays its graphs, the other captures or does neither. */
static size_t batch_of(size_t t, size_t j) {
    return comm->rank == 0 ? (t + j) % BATCHES : t < 2 ? j : (t + j) % BATCHES;
}

/* Once every batch has occurred twice, everything is captured except the kernel that fetches
 * pixels and, if texts are sent as bf16, the one that rounds them. */
static void check_counts(const unsigned long before[COUNTS], bool graphs, bool narrow, size_t t) {
    unsigned long after[COUNTS];
    count(after);
    if (!cudaemuCount || t < ALL_RECORDED) return;
    NEED(after[MEMORY] == before[MEMORY]);
    NEED(after[WAITS] == before[WAITS]);
    unsigned long launches = after[LAUNCHES] - before[LAUNCHES];
    NEED(graphs ? launches == (narrow ? FORWARDS + 1 : FORWARDS) : launches > 100 * FORWARDS);
}

static void run_steps(Step *s, const ClipConfig *c, bool graphs, bool narrow, StepResult *results) {
    TestBatch b[BATCHES];
    Batch batch[2][MICRO], *list[2][MICRO];
    for (size_t i = 0; i < BATCHES; i++)
        b[i] = random_batch(c, B, test_seed() + (uint64_t)comm->rank * BATCHES + i);
    kernel_graphs_on = graphs;
    for (size_t t = 0; t < STEPS; t++) {
        for (size_t j = 0; j < MICRO; j++) {
            const TestBatch *x = &b[batch_of(t, j)];
            batch[t % 2][j] = (Batch){
                .size = B, .pixels = x->u8, .ids = x->ids, .start = x->start, .sample = x->sample};
            list[t % 2][j] = &batch[t % 2][j];
        }
        unsigned long before[COUNTS];
        count(before);
        step_start(s, list[t % 2], 1e-2, t + 1);
        check_counts(before, graphs, narrow, t);
        if (t > 0) results[t - 1] = step_result(s);
    }
    results[STEPS - 1] = step_result(s);
    kernel_graphs_on = true;
    for (size_t i = 0; i < BATCHES; i++) batch_free(&b[i]);
}

static Trained train(const Setup *setup, bool graphs) {
    const Kernels *k = kernels_open(TEST_DEVICE, setup->precision);
    ClipConfig c = odd_config();
    c.has_logit_bias = setup->kind == LOSS_SIGLIP;
    ClipOptions o = {.max_batch = B, .training = true, .text_bucket = BUCKET, .seed = 5};
    OptimOptions oo = {0.9, 0.98, 1e-6, 0.1, WD_HEAD, 1};
    size_t shards = setup->sharded ? (size_t)comm->size : 1;
    Params *p = params_declare(k, &c);
    params_layout(p, shards);
    OptimState *state = optim_state_new(p, comm, shards, MOMENTS_FP32);
    params_init(p, 7);
    params_round(p);
    if (setup->sharded && params_are_rounded(p)) shard_masters(state);
    Clip *clip = clip_new(k, &c, p, &o);
    Optim *optim = optim_new(state, &oo);
    Step *s =
        step_new(k, comm, clip, state, optim, setup->kind, B, MICRO, c.embed_dim, 1 << 20, NULL);
    if (setup->narrow) step_gather_bf16(s);
    Trained result = {.size = p->learning};
    run_steps(s, &c, graphs, setup->narrow, result.results);
    result.weights = host_copy(k, shard_whole_masters(state), p->learning);
    agree_on(comm, "weights", fnv_hash(FNV_START, result.weights, p->learning * sizeof(double)));
    step_free(s);
    optim_free(optim);
    clip_free(clip);
    state_free(state);
    return result;
}

static void check_recorded(const Setup *setup) {
    Trained plain = train(setup, false), recorded = train(setup, true);
    for (size_t t = 0; t < STEPS; t++) {
        NEED(plain.results[t].loss == recorded.results[t].loss);
        NEED(plain.results[t].grad_norm == recorded.results[t].grad_norm);
        NEED(plain.results[t].logit_scale == recorded.results[t].logit_scale);
        NEED(!plain.results[t].skipped);
    }
    NEED(plain.results[STEPS - 1].loss < plain.results[0].loss);
    NEED(!memcmp(plain.weights, recorded.weights, plain.size * sizeof(double)));
    free(plain.weights);
    free(recorded.weights);
}

/* ---- the rest ---- */

static void check_votes(const Kernels *k) {
    Votes *v = votes_new(k, comm);
    double first = comm->rank, sum[VOTES];
    NEED(votes_deferred(v) == k->device->asynchronous);
    for (int round = 0; round < 3; round++) {
        votes_cast(v, (double[VOTES]){first, 0, 5});
        votes_cast(v, (double[VOTES]){0, 1, 7 + round});
        votes_count(v, sum);
        NEED(sum[VOTE_STOP] == 1 && sum[VOTE_SAVE] == 0 && sum[VOTE_BAD] == 10);
        votes_count(v, sum);
        NEED(sum[VOTE_STOP] == 0 && sum[VOTE_SAVE] == 2 && sum[VOTE_BAD] == 14 + 2 * round);
    }
    votes_free(v);
}

/* Without a wait of the host in between. */
static void check_many(const Kernels *k) {
    enum { MANY = 1100 };
    acc *x = k->device->alloc(2 * k->acc_size);
    double got[2];
    k->acc_set(x, (double[2]){comm->rank, -comm->rank}, 2);
    for (size_t i = 0; i < MANY; i++) {
        if (i % 2)
            comm->all_reduce_max(x, 2);
        else
            comm->all_reduce_start(acc_at(k, x, 1), 1), comm->wait();
        k->axpy(acc_at(k, x, 1), -0.5, acc_at(k, x, 1), 1);
    }
    k->device->sync();
    comm->check();
    k->acc_get(got, x, 2);
    NEED(got[0] == 1 && got[1] > -1 && got[1] <= 0);
    k->device->release(x);
}

static const Setup setups[] = {
    {PRECISION_AMP_BF16, LOSS_CLIP, true, true},
    {PRECISION_FP32, LOSS_CLIP, false, false},
    {PRECISION_FP32, LOSS_SIGLIP, true, false},
};

/* With the first setups. */
/* Ranks measure algorithms of their own, until they agree on rank 0's. */
static void check_algorithms(const Kernels *k) {
    enum { N = 32 };
    act *x = k->device->alloc(4 * N * N * k->act_size),
        *y = k->device->alloc(4 * N * N * k->act_size);
    k->device->zero(x, 4 * N * N * k->act_size);
    kernel_tuning.autotune = true;
    for (size_t i = 1; i <= 2 + (size_t)comm->rank; i++) k->linear_fwd(y, x, x, NULL, i * N, N, N);
    kernel_tuning.autotune = false;
    for (int agreed = 0; agreed < 2; agreed++) {
        size_t bytes, joined[2];
        void *own = kernels_algorithms(&bytes);
        NEED(bytes);
        comm->gather_bytes(joined, &bytes, sizeof bytes);
        NEED((joined[0] == joined[1]) == agreed);
        char *all = comm_join(comm, own, bytes);
        NEED(!agreed || !memcmp(all, all + bytes, bytes));
        free(all);
        free(own);
        agree_on_algorithms(comm);
    }
    k->linear_fwd(y, x, x, NULL, N, N, N); /* with the choice that it has taken */
    k->device->sync();
    k->device->release(x);
    k->device->release(y);
}

static int rank_main(size_t count) {
    const Kernels *k = kernels_open(TEST_DEVICE, PRECISION_FP32);
    comm = comm_open(&(CommOptions){.timeout = 30}, k);
    NEED(comm->size == 2);
    for (size_t i = 0; i < count; i++) check_recorded(&setups[i]);
    check_votes(k);
    if (k->device->asynchronous) check_many(k);
    if (k->device->gpu) check_algorithms(k);
    comm->close();
    return 0;
}

static void run(const char *test, Launcher by, size_t count) {
    char self[4000], command[4100];
    need_ranks(test, 2);
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    assert_true(n > 0);
    self[n] = 0;
    snprintf(command, sizeof command, "'%s' rank %zu", self, count);
    assert_true(ranks_run(by, 2, command, "/dev/null"));
}

static void test_steps(void **state) {
    (void)state;
    run("steps", ranks_usual,
        kernels_open(TEST_DEVICE, PRECISION_FP32)->device->asynchronous ? 3 : 1);
}

#if defined TEST_CUDA
/* On the layer, streams then run only work that is waited for. */
static void test_late_streams(void **state) {
    (void)state;
    run("late_streams", BY_SLURM, 1);
}
#endif

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_steps),
#if defined TEST_CUDA
        cmocka_unit_test(test_late_streams),
#endif
    };
    if (argc > 2 && !strcmp(argv[1], "rank")) return rank_main((size_t)atoi(argv[2]));
    return cmocka_run_group_tests_name("rank_steps", tests, NULL, NULL);
}
