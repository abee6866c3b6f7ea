/* clipc bench loss: the contrastive loss alone, forward and backward: whole, or one rank's share of
 * a global batch, with random features of the other ranks. */
#include "tools/bench.h"
#include "tools/common.h"
#include "kernels/rng.h"
#include "train/loss.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static int64_t n = 4096, global_batch, ranks_simulated = 1, dim = 512, logit_memory = 64, reps = 3;
static DeviceOption device;
static Precision precision;
static GatherType gather_dtype;
static bool siglip, json;

static Option options[] = {
    INT("n", &n, 1, 1e7, "pairs of one rank"),
    INT("global-batch", &global_batch, 0, 1e8, "pairs of all ranks, instead of --n"),
    INT("ranks-simulated", &ranks_simulated, 1, 1e6, "do the work of one of so many ranks"),
    INT("dim", &dim, 1, 65536, "embedding"),
    INT_OF("logit-memory", &logit_memory, "MIB", 1, 1e6, "for logits"),
    CHOICE("gather-dtype", &gather_dtype, GATHER_TYPES, "features on the wire"),
    FLAG("siglip", &siglip, "sigmoid loss"),
    INT("reps", &reps, 1, 100, "timed runs; the median is reported"),
    CHOICE("device", &device, DEVICES, "where to compute"),
    KERNEL_TUNING_OPTIONS,
    CHOICE("precision", &precision, PRECISIONS, "of the model around it; the loss itself is fp32"),
    FLAG("json", &json, "one JSON object on stdout"),
};

static const Command command = {
    "bench loss",
    "The contrastive loss, forward and backward.",
    "clipc bench loss [--n N | --global-batch N --ranks-simulated R] [--dim 512]",
    "  clipc bench loss --n 16384\n"
    "  clipc bench loss --global-batch 1048576 --ranks-simulated 1024\n",
    options,
    COUNT(options),
};

static acc *random_features(const Kernels *k, size_t rows, size_t E, uint64_t seed) {
    float *host = xmalloc(size_mul(rows, E * sizeof *host));
#pragma omp parallel for
    for (size_t i = 0; i < rows; i++) {
        double sum = 0;
        for (size_t j = 0; j < E; j++) {
            host[i * E + j] = (float)(rng_uniform(seed, RNG_TEST, i * E + j) - 0.5);
            sum += (double)host[i * E + j] * host[i * E + j];
        }
        for (size_t j = 0; j < E; j++) host[i * E + j] /= (float)sqrt(sum);
    }
    acc *x = k->device->alloc(size_mul(rows, E * k->acc_size));
    k->acc_set_f32(x, host, rows * E);
    free(host);
    return x;
}

/* ---- rank 0 of simulated ranks: their features repeat the first MADE_UP random rows, and they
 * send nothing back ---- */

enum { MADE_UP = 8192 };
static const Kernels *kernels;
static double sent; /* bytes */

static acc *made_up; /* [MADE_UP,E] */

/* row_bytes: of a row as sent. */
static void gather_rows(char *all, const void *part, size_t bytes, const void *others,
                        size_t row_bytes) {
    size_t total = bytes * (size_t)ranks_simulated, made = MADE_UP * row_bytes;
    for (size_t at = bytes; at < total; at += made)
        kernels->device->copy(all + at, others, size_min(made, total - at));
    if (part != all) kernels->device->copy(all, part, bytes);
    sent += (double)(ranks_simulated - 1) * (double)bytes;
}
static void fake_gather(const CommPiece *pieces, size_t count) {
    bool bf16 = gather_dtype == GATHER_BF16;
    size_t elements = MADE_UP * (size_t)dim, size = bf16 ? 2 : kernels->acc_size;
    void *narrow = bf16 ? kernels->device->alloc(2 * elements) : NULL;
    if (bf16) kernels->bf16_from_acc(narrow, made_up, elements);
    for (size_t i = 0; i < count; i++)
        gather_rows(pieces[i].all, pieces[i].part, pieces[i].bytes, bf16 ? narrow : made_up,
                    (size_t)dim * size);
    kernels->device->release(narrow);
}
static void nothing(void) {}
static void fake_scatter(acc *part, const acc *all, size_t count) {
    kernels->device->copy(part, all, count * kernels->acc_size);
    sent += (double)(ranks_simulated - 1) * (double)(count * kernels->acc_size);
}
static void fake_reduce(acc *x, size_t count) {
    (void)x;
    double r = (double)ranks_simulated;
    sent += 2 * (r - 1) / r * (double)(count * kernels->acc_size);
}

static const Comm *simulated(const Kernels *k) {
    static Comm fake = {.name = "simulated",
                        .gather_start = fake_gather,
                        .wait = nothing,
                        .reduce_scatter = fake_scatter,
                        .all_reduce_sum = fake_reduce,
                        .all_reduce_max = fake_reduce};
    kernels = k;
    fake.size = (int)ranks_simulated;
    if (ranks_simulated > 1) made_up = random_features(k, MADE_UP, (size_t)dim, 3);
    return ranks_simulated > 1 ? &fake : comm_self(k);
}

/* Bytes and products of the two-matrix form (separate logits for each direction, both features
 * gathered and both gradients scattered), compared with ours. */
static void report(size_t rows, size_t N, size_t E, double t, double memory, double loss,
                   double flops, size_t elem) {
    double product = 2e-9 * (double)rows * (double)N * (double)E;
    int products = (int)lround(1e-9 * flops / product);
    double wire =
        sent / (double)(reps + (kernels && kernels->device->asynchronous ? 3 : 1)) / (1 << 20);
    double two_matrix = 4 * (double)(N - rows) * (double)(E * elem) / (1 << 20);
    if (json) {
        print_json(json_pack("{s:I, s:I, s:I, s:I, s:f, s:f, s:i, s:f, s:f, s:f, s:f}", "n",
                             (json_int_t)rows, "global_batch", (json_int_t)N, "ranks",
                             (json_int_t)ranks_simulated, "dim", (json_int_t)E, "seconds", t,
                             "gflop_per_product", product, "products", products, "memory_mib",
                             memory, "sent_mib", wire, "two_matrix_sent_mib", two_matrix, "loss",
                             loss));
        return;
    }
    printf(
        "%zu of %zu pairs, E %zu: %.1f ms forward and backward, %.0f MiB above a rank's features "
        "and gradients, loss %.6f\n"
        "%d products of %zu x %zu, %.1f GFLOP each: %.1f GFLOP/s\n",
        rows, N, E, 1e3 * t, memory, loss, products, rows, N, product, products * product / t);
    if (ranks_simulated > 1)
        printf("a rank sends %.1f MiB; two matrices a rank (open_clip's --local-loss "
               "--gather-with-grad) send %.1f MiB and take 6 products\n",
               wire, two_matrix);
}

int bench_loss(int argc, char **argv) {
    options_parse(&command, argc, argv, NULL);
    const Kernels *k = kernels_open_device(device, precision);
    if (global_batch % ranks_simulated)
        die_usage("clipc bench loss: --global-batch must be a multiple of --ranks-simulated");
    if (global_batch) n = global_batch / ranks_simulated;
    size_t N = (size_t)n, E = (size_t)dim, bytes = N * E * k->acc_size;
    acc *images = random_features(k, N, E, 1), *texts = random_features(k, N, E, 2);
    acc *dimages = k->device->alloc(bytes), *dtexts = k->device->alloc(bytes),
        *scalars = k->device->alloc(5 * k->acc_size);
    k->device->zero(dimages, bytes);
    k->device->zero(dtexts, bytes);
    double before = bench_device_memory(k);
    Loss *l = loss_new(k, simulated(k), siglip ? LOSS_SIGLIP : LOSS_CLIP, N, E,
                       size_mul((size_t)logit_memory, 1 << 20));
    if (gather_dtype == GATHER_BF16) loss_gather_bf16(l);
    double *seconds = xcalloc((size_t)reps, sizeof *seconds), out;
    /* one run to warm up, whose products are counted; on a GPU two more, until it is a graph */
    int64_t first = k->device->asynchronous ? -3 : -1;
    Graph *graph = NULL;
    for (int64_t i = first; i < reps; i++) {
        kernel_stats_on = i == first;
        k->device->zero(scalars, 5 * k->acc_size);
        k->acc_set(scalars, (double[]){siglip ? log(10) : log(1 / 0.07), siglip ? -10 : 0}, 2);
        k->device->sync();
        double t0 = clock_now();
        if (ranks_simulated > 1 || k->device->graph_begin(&graph)) {
            loss_run(l, acc_at(k, scalars, 2), dimages, dtexts, acc_at(k, scalars, 3),
                     acc_at(k, scalars, 4), images, texts, scalars,
                     siglip ? acc_at(k, scalars, 1) : NULL, N);
            if (ranks_simulated == 1) k->device->graph_end(&graph);
        }
        k->device->sync();
        if (i >= 0) seconds[i] = clock_now() - t0;
    }
    k->acc_get(&out, acc_at(k, scalars, 2), 1);
    double t = bench_median(seconds, (size_t)reps),
           mib = (bench_device_memory(k) - before) / (1 << 20);
    report(N, size_mul(N, (size_t)ranks_simulated), E, t, mib, out, kernel_stats[SLOT_gemm].flops,
           k->acc_size);
    k->device->graph_free(graph);
    loss_free(l);
    return EXIT_OK;
}
