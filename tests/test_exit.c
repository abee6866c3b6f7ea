/* The end of the process by die: any thread may call it while others compute. */
#include "kernels/kernels.h"
#include "tests/support.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ENDS = 100, PAGE = 4096 };

static void *died(void *line) {
    die("%s", (const char *)line);
    return NULL;
}

static pthread_t thread(void *(*body)(void *), void *arg) {
    pthread_t t;
    if (pthread_create(&t, NULL, body, arg)) _exit(77);
    return t;
}

/* ---- a library that tears down what its threads use ---- */

static volatile char *library_memory;

__attribute__((destructor)) static void tear_down(void) {
    if (!library_memory) return;
    munmap((void *)library_memory, PAGE);
    usleep(200000);
}

static void *use_memory(void *unused) {
    (void)unused;
    for (;;) library_memory[0]++;
    return NULL;
}

static void die_beside_a_library(void *unused) {
    (void)unused;
    library_memory = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    thread(use_memory, NULL);
    thread(died, "no memory");
    for (;;) pause();
}

static void no_destructor_runs(void **state) {
    (void)state;
    test_dies(die_beside_a_library, NULL, EXIT_ERROR, "clipc: no memory\n");
}

/* ---- products in one thread ---- */

static atomic_int products;

static void *compute(void *kernels) {
    enum { MOST = 160 };
    static float x[MOST * MOST], w[MOST * MOST], y[MOST * MOST];
    const Kernels *k = kernels;
    /* each shape is a new primitive of oneDNN */
    for (size_t i = 0;; i++, products++)
        k->linear_fwd((act *)y, (act *)x, (act *)w, NULL, 1 + i % MOST, 8 + i / MOST % 100, MOST);
    return NULL;
}

static void die_beside_products(void *arg) {
    const int wait = *(const int *)arg;
    const Kernels *k = kernels_open_device(DEVICE_CPU, PRECISION_FP32);
    thread(compute, (void *)k);
    while (products < 1 + wait % 10) usleep(100);
    usleep((unsigned)wait * 37);
    died("while another thread computes");
}

static void a_thread_computes(void **state) {
    (void)state;
    for (int i = 0; i < ENDS; i++)
        test_dies(die_beside_products, &i, EXIT_ERROR, "clipc: while another thread computes\n");
}

/* ---- what runs at the end ---- */

static void first(void) { fputs("first", stderr); }
static void second(void) { fputs("second, ", stderr); }
static void failing(void) { die("a clean-up failed"); }

static void die_with_cleanups(void *unused) {
    (void)unused;
    dup2(STDERR_FILENO, STDOUT_FILENO);
    if (!at_every_exit(first) || !at_every_exit(second)) _exit(77);
    printf("printed, ");
    died("a line");
}

static void exit_with_cleanups(void *unused) {
    (void)unused;
    if (!at_every_exit(first) || !at_every_exit(second)) _exit(77);
    exit(EXIT_STOPPED);
}

static void die_in_a_cleanup(void *unused) {
    (void)unused;
    at_every_exit(failing);
    exit_at_once(EXIT_USAGE);
}

static void cleanups(void **state) {
    (void)state;
    test_dies(die_with_cleanups, NULL, EXIT_ERROR, "clipc: a line\nprinted, second, first");
    test_dies(exit_with_cleanups, NULL, EXIT_STOPPED, "second, first");
    test_dies(die_in_a_cleanup, NULL, EXIT_ERROR, "clipc: a clean-up failed\n");
}

static void clean_up_slowly(void) {
    usleep(50000);
    fputs("clean\n", stderr);
}

static void die_many_times(void *unused) {
    (void)unused;
    at_every_exit(clean_up_slowly);
    fputs("all die\n", stderr);
    for (int i = 0; i < 8; i++) thread(died, "once");
    for (;;) pause();
}

/* Of threads that die at the same time one has its line, and its clean-ups complete. */
static void one_of_many(void **state) {
    (void)state;
    for (int i = 0; i < 10; i++)
        test_dies(die_many_times, NULL, EXIT_ERROR, "all die\nclipc: once\nclean\n");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_destructor_runs),
        cmocka_unit_test(a_thread_computes),
        cmocka_unit_test(cleanups),
        cmocka_unit_test(one_of_many),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
