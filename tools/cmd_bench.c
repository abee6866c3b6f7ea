/* clipc bench: a table of benchmarks. */
#include "tools/bench.h"
#include "tools/commands.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *summary;
} benches[] = {
    {"step", bench_step, "whole training steps: samples/s, GFLOP/s, time per kernel, memory"},
    {"kernels", bench_kernels, "single kernels against this machine's matrix and copy ceilings"},
    {"loss", bench_loss, "contrastive loss, forward and backward"},
    {"loader", bench_loader, "shards -> batches: images/s"},
    {"search", bench_search, "exact top-k over features: seconds, GB/s"},
    {"tok", bench_tok, "captions -> ids: captions/s"},
};

int cmd_bench(int argc, char **argv) {
    for (size_t i = 0; argc > 1 && i < COUNT(benches); i++)
        if (!strcmp(argv[1], benches[i].name)) return benches[i].run(argc - 1, argv + 1);
    bool help = argc > 1 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"));
    if (argc > 1 && !help)
        die_usage("clipc bench: unknown benchmark '%s' (see clipc bench --help)", argv[1]);
    printf("usage: clipc bench NAME [OPTIONS]\n\n");
    for (size_t i = 0; i < COUNT(benches); i++)
        printf("  %-10s %s\n", benches[i].name, benches[i].summary);
    printf("\n`clipc bench NAME --help` lists a benchmark's options.\n");
    return help ? EXIT_OK : EXIT_USAGE;
}

static int compare_double(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double bench_median(double *values, size_t n) {
    assert(n);
    qsort(values, n, sizeof *values, compare_double);
    return n % 2 ? values[n / 2] : 0.5 * (values[n / 2 - 1] + values[n / 2]);
}
