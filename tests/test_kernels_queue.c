/* queue: copies under way, and the marks that order two queues. On a backend whose queues really
 * run apart a missing wait shows where streams run late (CUDAEMU_ASYNC). */
#include "tests/support_kernels.h"

#include <stdlib.h>
#include <string.h>

static const size_t sizes[] = {0, 1, 3, 64, 1000, 70000};

/* host → device by one queue, device → host by the other, in a chain of marks. */
static void copies_are_ordered_by_marks(void **state) {
    (void)state;
    Mark *mark[QUEUES] = {backend->mark_new(), backend->mark_new()};
    for (size_t i = 0; i < COUNT(sizes); i++)
        for (int q = 0; q < QUEUES; q++) {
            size_t n = sizes[i];
            Queue there = (Queue)q, back = (Queue)!q;
            unsigned char *sent = backend->host_alloc(n + 1), *got = backend->host_alloc(n + 1);
            unsigned char *device = backend->alloc(n + 1);
            for (size_t j = 0; j < n; j++) sent[j] = (unsigned char)test_random_below(256);
            memset(got, 0, n + 1);
            got[n] = 77;
            backend->upload_start(there, device, sent, n);
            backend->mark_set(mark[0], there);
            backend->queue_wait(back, mark[0]);
            backend->download_start(back, got, device, n);
            backend->mark_set(mark[1], back);
            backend->mark_wait(mark[1]);
            assert_memory_equal(got, sent, n);
            assert_int_equal(got[n], 77);
            /* the next content may come as soon as the last was fetched */
            memset(sent, 5, n);
            backend->queue_wait(there, mark[1]);
            backend->upload_start(there, device, sent, n);
            backend->mark_set(mark[0], there);
            backend->queue_wait(back, mark[0]);
            backend->download_start(back, got, device, n);
            backend->mark_set(mark[1], back);
            backend->mark_wait(mark[1]);
            assert_memory_equal(got, sent, n);
            backend->release(device);
            backend->host_release(sent);
            backend->host_release(got);
        }
    for (int q = 0; q < QUEUES; q++) backend->mark_free(mark[q]);
}

/* A mark that was never set holds nobody up; other slots work in the compute queue. */
static void slots_compute(void **state) {
    (void)state;
    enum { N = 1000 };
    Mark *never = backend->mark_new(), *set = backend->mark_new();
    char *got = backend->host_alloc(N), *sent = backend->host_alloc(N), *device = backend->alloc(N);
    memset(sent, 9, N);
    backend->queue_wait(QUEUE_COMPUTE, never);
    backend->queue_wait(QUEUE_COPY, never);
    backend->upload_start(QUEUE_COMPUTE, device, sent, N);
    backend->zero(device, N / 2);
    backend->mark_set(set, QUEUE_COMPUTE);
    backend->queue_wait(QUEUE_COPY, set);
    backend->download_start(QUEUE_COPY, got, device, N);
    backend->mark_set(set, QUEUE_COPY);
    backend->mark_wait(set);
    backend->mark_wait(never);
    for (size_t i = 0; i < N; i++) assert_int_equal(got[i], i < N / 2 ? 0 : 9);
    backend->mark_free(never);
    backend->mark_free(set);
    backend->release(device);
    backend->host_release(got);
    backend->host_release(sent);
}

int main(void) {
    const struct CMUnitTest each[] = {cmocka_unit_test(copies_are_ordered_by_marks),
                                      cmocka_unit_test(slots_compute)};
    return kernel_tests_run("kernels_queue", each, COUNT(each), NULL, 0);
}
