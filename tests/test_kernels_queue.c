/* queue: copies in flight, the marks that order two queues, captured work. On a backend with truly
 * asynchronous queues a missing wait is detected if streams run late (CUDAEMU_ASYNC). */
#include "tests/support_kernels.h"

#include <stdlib.h>
#include <string.h>

static const size_t sizes[] = {0, 1, 3, 64, 1000, 70000};

/* host → device by one queue, device → host by the other, in a chain of marks. */
static void copies_are_ordered_by_marks(void **state) {
    (void)state;
    const Device *d = backend->device;
    Mark *mark[QUEUES] = {d->mark_new(), d->mark_new()};
    for (size_t i = 0; i < COUNT(sizes); i++)
        for (int q = 0; q < QUEUES; q++) {
            size_t n = sizes[i];
            Queue there = (Queue)q, back = (Queue)!q;
            unsigned char *sent = d->host_alloc(n + 1), *got = d->host_alloc(n + 1);
            unsigned char *device = d->alloc(n + 1);
            memset(got, 0, n + 1);
            got[n] = 77;
            /* the second content may come as soon as the first was fetched */
            for (int again = 0; again < 2; again++) {
                for (size_t j = 0; j < n; j++) sent[j] = (unsigned char)test_random_below(256);
                if (again) d->queue_wait(there, mark[1]);
                d->upload_start(there, device, sent, n);
                d->mark_set(mark[0], there);
                d->queue_wait(back, mark[0]);
                d->download_start(back, got, device, n);
                d->mark_set(mark[1], back);
                d->mark_wait(mark[1]);
                assert_memory_equal(got, sent, n);
                assert_int_equal(got[n], 77);
            }
            d->release(device);
            d->host_release(sent);
            d->host_release(got);
        }
    for (int q = 0; q < QUEUES; q++) d->mark_free(mark[q]);
}

/* A mark that was never set blocks nothing; other slots use the compute queue. */
static void slots_compute(void **state) {
    (void)state;
    enum { N = 1000 };
    Mark *never = backend->device->mark_new(), *set = backend->device->mark_new();
    char *got = backend->device->host_alloc(N), *sent = backend->device->host_alloc(N),
         *device = backend->device->alloc(N);
    memset(sent, 9, N);
    backend->device->queue_wait(QUEUE_COMPUTE, never);
    backend->device->queue_wait(QUEUE_COPY, never);
    backend->device->upload_start(QUEUE_COMPUTE, device, sent, N);
    backend->device->zero(device, N / 2);
    backend->device->mark_set(set, QUEUE_COMPUTE);
    backend->device->queue_wait(QUEUE_COPY, set);
    backend->device->download_start(QUEUE_COPY, got, device, N);
    backend->device->mark_set(set, QUEUE_COPY);
    backend->device->mark_wait(set);
    backend->device->mark_wait(never);
    for (size_t i = 0; i < N; i++) assert_int_equal(got[i], i < N / 2 ? 0 : 9);
    backend->device->mark_free(never);
    backend->device->mark_free(set);
    backend->device->release(device);
    backend->device->host_release(got);
    backend->device->host_release(sent);
}

/* Captured calls do the same at every replay, in order with other calls; changing values are read
 * from device memory. */
static void graphs_repeat_their_calls(void **state) {
    (void)state;
    enum { N = 3000, TIMES = 5 };
    double *x = test_randoms(N), *got = test_randoms(N), *want = xcalloc(N, sizeof *want);
    acc *a = backend->device->alloc(N * backend->acc_size),
        *sum = backend->device->alloc(N * backend->acc_size);
    Graph *g = NULL;
    int asked = 0;
    backend->device->zero(sum, N * backend->acc_size);
    for (int t = 0; t < TIMES; t++) {
        for (size_t i = 0; i < N; i++) x[i] = (double)(float)test_random();
        backend->acc_set(a, x, N);
        if (backend->device->graph_begin(&g)) {
            asked++;
            backend->axpy(sum, 2, a, N);
            backend->device->zero(a, N * backend->acc_size / 2);
            backend->axpy(sum, 1, a, N);
            backend->device->graph_end(&g);
        }
        for (size_t i = 0; i < N; i++) want[i] += i < N / 2 ? 2 * x[i] : 3 * x[i];
        backend->acc_get(got, sum, N);
        for (size_t i = 0; i < N; i++) assert_near(got[i], want[i], 1e-5);
    }
    assert_int_equal(asked, backend->device->asynchronous ? 2 : TIMES);
    /* if graphs are disabled the calls are made directly */
    kernel_graphs_on = false;
    assert_true(backend->device->graph_begin(&g));
    backend->device->zero(sum, N * backend->acc_size);
    backend->device->graph_end(&g);
    kernel_graphs_on = true;
    backend->acc_get(got, sum, N);
    for (size_t i = 0; i < N; i++) assert_true(got[i] == 0);
    backend->device->graph_free(g);
    backend->device->graph_free(NULL);
    backend->device->release(a);
    backend->device->release(sum);
    free(x);
    free(got);
    free(want);
}

typedef struct Between {
    acc *to;
    const acc *from;
    double factor;
    size_t n;
} Between;
static int calls;

static void between(const void *context) {
    const Between *b = context;
    calls++;
    backend->axpy(b->to, b->factor, b->from, b->n);
}

/* Host calls among captured ones run in order at every replay, with a copy of their context: at the
 * start, twice in a row, at the end. */
static void graphs_call_the_host_in_between(void **state) {
    (void)state;
    enum { N = 500, TIMES = 5 };
    acc *a = backend->device->alloc(N * backend->acc_size),
        *b = backend->device->alloc(N * backend->acc_size);
    double *x = test_randoms(N), *got = test_randoms(N);
    Graph *g = NULL;
    calls = 0;
    for (size_t i = 0; i < N; i++) x[i] = (double)(float)x[i];
    for (int t = 0; t < TIMES; t++) {
        backend->acc_set(a, x, N);
        backend->device->zero(b, N * backend->acc_size);
        if (backend->device->graph_begin(&g)) {
            Between c = {b, a, 1, N};
            backend->device->graph_call(between, &c, sizeof c); /* b = x */
            backend->axpy(a, 1, b, N);                          /* a = 2x */
            c.factor = 2;
            backend->device->graph_call(between, &c, sizeof c); /* b = 5x */
            c = (Between){a, b, -1, N};
            backend->device->graph_call(between, &c, sizeof c); /* a = -3x */
            backend->axpy(b, 2, a, N);                          /* b = -x */
            c = (Between){a, b, 4, N};
            backend->device->graph_call(between, &c, sizeof c); /* a = -7x */
            memset(&c, 0xFF, sizeof c);
            backend->device->graph_end(&g);
        }
        assert_int_equal(calls, 4 * (t + 1));
        backend->acc_get(got, a, N);
        for (size_t i = 0; i < N; i++) assert_near(got[i], -7 * x[i], 1e-5);
        backend->acc_get(got, b, N);
        for (size_t i = 0; i < N; i++) assert_near(got[i], -x[i], 1e-5);
    }
    Between c = {b, a, 1, N};
    backend->device->graph_call(between, &c, sizeof c); /* outside of all: just now */
    assert_int_equal(calls, 4 * TIMES + 1);
    backend->device->graph_free(g);
    backend->device->release(a);
    backend->device->release(b);
    free(x);
    free(got);
}

int main(void) {
    const struct CMUnitTest each[] = {cmocka_unit_test(copies_are_ordered_by_marks),
                                      cmocka_unit_test(slots_compute),
                                      cmocka_unit_test(graphs_repeat_their_calls),
                                      cmocka_unit_test(graphs_call_the_host_in_between)};
    return kernel_tests_run("kernels_queue", each, COUNT(each), NULL, 0);
}
