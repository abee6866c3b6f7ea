/* The watchdog uses the monotonic clock: it ends a rank in time although the time of day is
 * wrong. */
#include "train/ranks/watchdog.h"
#include "tests/support.h"

#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Replaces libc's function: the time of day is an hour ahead of the system's, as if the system's
 * had been set back meanwhile. */
int clock_gettime(clockid_t clock, struct timespec *t) {
    long failed = syscall(SYS_clock_gettime, clock, t);
    if (!failed && clock == CLOCK_REALTIME) t->tv_sec += 3600;
    return (int)failed;
}

static void hang(void *unused) {
    (void)unused;
    watchdog_start(0, 0.5);
    watchdog_step(7);
    watchdog_enter(LANE_MAIN, OP_BARRIER);
    sleep(20);
}

static void test_clock_set_back(void **state) {
    (void)state;
    double start = clock_now();
    test_dies(hang, NULL, EXIT_ERROR, "step 7: barrier has waited");
    assert_true(clock_now() - start < 19);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_clock_set_back)};
    return cmocka_run_group_tests_name("watchdog", tests, NULL, NULL);
}
