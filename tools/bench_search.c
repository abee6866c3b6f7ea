/* clipc bench search: the k best of random features for one query and for several at once. */
#include "data/tensors/half.h"
#include "eval/search.h"
#include "kernels/rng.h"
#include "tools/bench.h"
#include "tools/common.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static int64_t rows = 1000000, dim = 512, queries = 1, top = 10, reps = 5;
static NpyType dtype;
static bool json;
static const char *file;

static Option options[] = {
    INT("rows", &rows, 1, 1e9, "pictures"),
    INT("dim", &dim, 1, 65536, "embedding"),
    CHOICE("dtype", &dtype, NPY_TYPES, "of the features"),
    INT("queries", &queries, 1, 65536, "at once"),
    INT("top", &top, 1, 1e6, "hits a query"),
    INT("reps", &reps, 1, 1000, "timed runs; the median is reported"),
    STRING("file", &file, "FILE.npy",
           "map these features instead of making some (one run to load them)"),
    FLAG("json", &json, "one JSON object on stdout"),
};

static const Command command = {
    "bench search",
    "Exact top-k search over features in memory.",
    "clipc bench search [--rows N] [--dim E] [--dtype f32|f16] [--queries Q]",
    "  clipc bench search --rows 1000000 --dim 512\n"
    "  clipc bench search --rows 1000000 --dtype f16 --queries 64\n",
    options,
    COUNT(options),
};

/* Unit rows; each starts its own sequence, so that threads do not matter. */
static void random_unit(float *row, size_t E, uint64_t number) {
    uint64_t state = rng_u64(1, RNG_TEST, number) | 1;
    double sum = 0;
    for (size_t j = 0; j < E; j++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        row[j] = (float)(int32_t)(state >> 32) * 0x1p-31f;
        sum += (double)row[j] * row[j];
    }
    for (size_t j = 0; j < E; j++) row[j] /= (float)sqrt(sum);
}

static Rows make_rows(size_t N, size_t E) {
    Rows r = {.count = N, .dim = E};
    size_t width = E * (dtype == NPY_F16 ? sizeof(uint16_t) : sizeof(float));
    void *data = xmalloc(size_mul(N, width));
#pragma omp parallel
    {
        float *row = xmalloc(E * sizeof *row);
#pragma omp for
        for (size_t i = 0; i < N; i++) {
            random_unit(row, E, i);
            if (dtype == NPY_F16)
                half_from_floats((uint16_t *)data + i * E, row, E);
            else
                for (size_t j = 0; j < E; j++) ((float *)data)[i * E + j] = row[j];
        }
        free(row);
    }
    r.f16 = dtype == NPY_F16 ? data : NULL;
    r.f32 = dtype == NPY_F16 ? NULL : data;
    return r;
}

int bench_search(int argc, char **argv) {
    options_parse(&command, argc, argv, NULL);
    Rows r = file ? rows_open(file) : make_rows((size_t)rows, (size_t)dim);
    r.drop = false;
    size_t N = r.count, E = r.dim, Q = (size_t)queries, k = size_min((size_t)top, N);
    float *q = xmalloc(size_mul(Q, E * sizeof *q));
    for (size_t i = 0; i < Q; i++) random_unit(q + i * E, E, N + i);
    Hit *hits = xcalloc(Q * k, sizeof *hits);
    double *seconds = xcalloc((size_t)reps, sizeof *seconds);
    for (int64_t i = -1; i < reps; i++) { /* one run to load the pages */
        double t0 = clock_now();
        Search *s = search_new(k, q, Q, E);
        search_add(s, &r, 0, NULL);
        search_finish(s, hits);
        if (i >= 0) seconds[i] = clock_now() - t0;
    }
    double t = bench_median(seconds, (size_t)reps);
    double bytes = (double)N * (double)E * (r.f16 ? 2 : 4),
           flops = 2.0 * (double)N * (double)E * (double)Q;
    const char *type = r.f16 ? "f16" : "f32";
    if (json)
        print_json(json_pack("{s:I, s:I, s:s, s:I, s:I, s:f, s:f, s:f}", "rows", (json_int_t)N,
                             "dim", (json_int_t)E, "dtype", type, "queries", (json_int_t)Q, "top",
                             (json_int_t)k, "seconds", t, "gb_per_s", 1e-9 * bytes / t, "gflops",
                             1e-9 * flops / t));
    else
        printf("%zu rows x %zu %s, %zu quer%s, top %zu: %.1f ms (%.1f GB/s, %.1f GFLOP/s)\n", N, E,
               type, Q, Q == 1 ? "y" : "ies", k, 1e3 * t, 1e-9 * bytes / t, 1e-9 * flops / t);
    FREE_ALL(q, hits, seconds);
    if (file)
        rows_close(&r);
    else
        free(r.f16 ? (void *)r.f16 : (void *)r.f32);
    return EXIT_OK;
}
