/* The ceilings of the benchmarks: the backend's large product, and its fastest pass over memory. */
#include "tools/bench.h"
#include "tools/common.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

act *bench_filled(const Kernels *k, size_t n, double v) {
    enum { PIECE = 1 << 20 };
    size_t first = size_min(n, PIECE), size = k->act_size;
    double *host = xmalloc(first * sizeof *host);
    acc *wide = k->device->alloc(first * k->acc_size);
    for (size_t i = 0; i < first; i++)
        host[i] = v * (double)((i * 2654435761u >> 8) % 1000) / 1000 - v / 2;
    act *x = k->device->alloc(n * size);
    k->acc_set(wide, host, first);
    k->act_from_acc(x, wide, first);
    k->device->release(wide);
    for (size_t done = first; done < n;) {
        size_t more = size_min(done, n - done);
        k->device->copy((char *)x + done * size, x, more * size);
        done += more;
    }
    free(host);
    return x;
}

double bench_device_memory(const Kernels *k) {
    MemoryUse m = k->device->memory();
    return (double)(m.total ? m.most : peak_rss());
}

/* ---- the time of one slot ---- */

typedef struct Operands {
    const Kernels *k;
    act *x, *w, *y;
    size_t n;
} Operands;

static void product(const Operands *o) {
    o->k->linear_fwd(o->y, o->x, o->w, NULL, o->n, o->n, o->n);
}
static void copy(const Operands *o) { o->k->device->copy(o->y, o->x, o->n * o->k->act_size); }
/* x = x + y reads two and writes one: like a copy, but on every core */
static void add(const Operands *o) { o->k->add(o->x, o->x, o->y, o->n); }

/* Seconds of the fastest of some runs, as recorded by the backend; earlier records are kept. */
static double fastest(const Operands *o, enum KernelSlot slot, void (*run)(const Operands *)) {
    enum { RUNS = 6, RUNS_MOST = 200 };
    KernelStat saved[SLOT_COUNT];
    bool on = kernel_stats_on;
    memcpy(saved, kernel_stats, sizeof saved);
    kernel_stats_on = true;
    run(o);
    o->k->device->sync();
    double best = INFINITY, all = 0;
    for (int i = 0; i < RUNS || (i < RUNS_MOST && all < 0.1); i++) {
        kernel_stats_reset();
        run(o);
        o->k->device->sync();
        double t = kernel_stats[slot].seconds;
        all += t;
        best = fmin(best, t);
    }
    kernel_stats_on = on;
    memcpy(kernel_stats, saved, sizeof saved);
    return best;
}

/* ---- ceilings ---- */

/* On a GPU the product grows until its launch cost is negligible. Values are not 0, because a
 * product of zeros uses less power and raises the clock. */
static double product_seconds(const Kernels *k, size_t n) {
    Operands o = {k, bench_filled(k, n * n, 1), bench_filled(k, n * n, 1),
                  k->device->alloc(n * n * k->act_size), n};
    double t = fastest(&o, SLOT_linear_fwd, product);
    k->device->release(o.x);
    k->device->release(o.w);
    k->device->release(o.y);
    return t;
}

double bench_gemm_peak(const Kernels *k) {
    enum { LARGEST = 8192 };
    size_t n = k->device->asynchronous ? 512 : 2048;
    double t = product_seconds(k, n);
    while (k->device->asynchronous && t < 1e-3 && n < LARGEST) t = product_seconds(k, n *= 2);
    return 2e-9 * (double)n * (double)n * (double)n / t;
}

double bench_copy_peak(const Kernels *k) {
    const size_t most = (size_t)256 << 20;
    size_t bytes = k->device->asynchronous ? (size_t)1 << 20 : (size_t)128 << 20;
    MemoryUse m = k->device->memory();
    for (;;) {
        Operands o = {k, bench_filled(k, bytes / k->act_size, 1), NULL,
                      bench_filled(k, bytes / k->act_size, 1), bytes / k->act_size};
        double t = fastest(&o, SLOT_add, add), u = fastest(&o, SLOT_copy, copy);
        k->device->release(o.x);
        k->device->release(o.y);
        bool room = !m.total || 6 * bytes < m.unused;
        if (!k->device->asynchronous || t > 1e-3 || bytes >= most || !room)
            return 1e-9 * (double)bytes * fmax(3 / t, 2 / u);
        bytes *= 2;
    }
}
