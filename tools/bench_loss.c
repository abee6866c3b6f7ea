/* clipc bench loss: the contrastive loss alone, forward and backward. */
#include "tools/bench.h"
#include "tools/common.h"
#include "kernels/rng.h"
#include "train/loss.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static int64_t n = 4096, dim = 512, logit_memory = 64, reps = 3;
static int device, precision;
static bool siglip, json;

static Option options[] = {
    {"n", OPT_INT, &n, NULL, 1, 1e7, "pairs", 0},
    {"dim", OPT_INT, &dim, NULL, 1, 65536, "embedding", 0},
    {"logit-memory", OPT_INT, &logit_memory, "MIB", 1, 1e6, "for logits", 0},
    {"siglip", OPT_FLAG, &siglip, NULL, 0, 0, "sigmoid loss", 0},
    {"reps", OPT_INT, &reps, NULL, 1, 100, "timed runs; the median is reported", 0},
    {"device", OPT_CHOICE, &device, DEVICE_CHOICES, 0, 0, "where to compute", 0},
    {"precision", OPT_CHOICE, &precision, PRECISION_CHOICES, 0, 0,
     "of the model around it; the loss itself is fp32", 0},
    {"json", OPT_FLAG, &json, NULL, 0, 0, "one JSON object on stdout", 0},
};

static const Command command = {
    "bench loss",
    "The contrastive loss, forward and backward.",
    "clipc bench loss --n N [--dim 512] [--logit-memory MIB]",
    "  clipc bench loss --n 16384\n",
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
    acc *x = k->alloc(size_mul(rows, E * k->acc_size));
    k->acc_set_f32(x, host, rows * E);
    free(host);
    return x;
}

int bench_loss(int argc, char **argv) {
    options_parse(&command, argc, argv, NULL);
    const Kernels *k = kernels_open_choice(device, precision);
    size_t N = (size_t)n, E = (size_t)dim, bytes = N * E * k->acc_size;
    acc *images = random_features(k, N, E, 1), *texts = random_features(k, N, E, 2);
    acc *dimages = k->alloc(bytes), *dtexts = k->alloc(bytes), *scalars = k->alloc(5 * k->acc_size);
    k->zero(dimages, bytes);
    k->zero(dtexts, bytes);
    size_t before = peak_rss();
    Loss *l = loss_new(k, comm_self(k), siglip ? LOSS_SIGLIP : LOSS_CLIP, N, E,
                       size_mul((size_t)logit_memory, 1 << 20));
    double *seconds = xcalloc((size_t)reps, sizeof *seconds), out;
    for (int64_t i = -1; i < reps; i++) { /* one run to warm up */
        k->zero(scalars, 5 * k->acc_size);
        k->acc_set(scalars, (double[]){siglip ? log(10) : log(1 / 0.07), siglip ? -10 : 0}, 2);
        double t0 = clock_now();
        loss_run(l, acc_at(k, scalars, 2), dimages, dtexts, acc_at(k, scalars, 3),
                 acc_at(k, scalars, 4), images, texts, scalars,
                 siglip ? acc_at(k, scalars, 1) : NULL, N);
        k->sync();
        if (i >= 0) seconds[i] = clock_now() - t0;
    }
    k->acc_get(&out, acc_at(k, scalars, 2), 1);
    double t = bench_median(seconds, (size_t)reps), mib = (double)(peak_rss() - before) / (1 << 20);
    double product = 2e-9 * (double)N * (double)N * (double)E;
    if (json)
        print_json(json_pack("{s:I, s:I, s:f, s:f, s:f, s:f}", "n", (json_int_t)N, "dim",
                             (json_int_t)E, "seconds", t, "gflop_per_product", product,
                             "memory_mib", mib, "loss", out));
    else
        printf("N %zu, E %zu: %.1f ms forward and backward, %.0f MiB above features and gradients, "
               "loss %.6f\n"
               "one N x N product is %.1f GFLOP; four of them in this time: %.1f GFLOP/s\n",
               N, E, 1e3 * t, mib, out, product, 4 * product / t);
    loss_free(l);
    return EXIT_OK;
}
