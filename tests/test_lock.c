/* A folder's lock: one process at a time; a dead process of this host does not count, a process of
 * another host that may be alive does. */
#include "tests/support.h"

#include "data/io/folder.h"
#include "data/io/lock.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static char said[1024];

static void write_lock(const char *text) {
    FILE *f = fopen(test_path("run/lock"), "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

/* A child tries to lock the folder and exits: 0 if it could, 1 if not (then `said` has the line),
 * 77 if flock cannot be made to fail here. */
static int locks(bool without_flock) {
    int ends[2], status;
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    if (!child) {
        Error err = {""};
        if (without_flock && !test_deny(SYS_flock, ENOLCK)) _exit(77);
        bool ok = folder_lock(test_path("run"), &err);
        if (write(ends[1], err.text, strlen(err.text) + 1) < 0) _exit(99);
        if (ok) folder_unlock();
        _exit(!ok);
    }
    close(ends[1]);
    assert_true(read(ends[0], said, sizeof said) >= 0);
    close(ends[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    return WEXITSTATUS(status);
}

/* A process that has locked the folder and waits; it ends by kill alone. */
static pid_t holder(void) {
    int ready[2];
    char byte = 0;
    test_dir(); /* of this process, not of the child */
    assert_int_equal(pipe(ready), 0);
    pid_t child = fork();
    if (!child) {
        Error err;
        if (!folder_lock(test_path("run"), &err) || write(ready[1], "", 1) < 0) _exit(1);
        for (;;) pause();
    }
    close(ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    return child;
}

static void end(pid_t child) {
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
}

static void test_one_at_a_time(void **state) {
    (void)state;
    pid_t child = holder();
    char name[64];
    snprintf(name, sizeof name, ":%d", (int)child);
    assert_int_equal(locks(false), 1);
    assert_non_null(strstr(said, name));
    end(child);
    assert_int_equal(access(test_path("run/lock"), F_OK), 0); /* it had no time to remove it */
    assert_int_equal(locks(false), 0);
    assert_false(folder_is(test_path("run"))); /* nothing else was in it */
}

static void test_others_stay_in_the_folder(void **state) {
    (void)state;
    folder_make_or_die(test_path("run"));
    test_write_file(test_path("run/other"), "x", 1);
    assert_int_equal(locks(false), 0);
    assert_int_equal(access(test_path("run/other"), F_OK), 0);
    assert_int_not_equal(access(test_path("run/lock"), F_OK), 0);
}

static void test_without_flock_the_process_is_asked(void **state) {
    (void)state;
    pid_t child = holder();
    int code = locks(true);
    end(child);
    if (code == 77) {
        printf("SKIP: test_without_flock: no seccomp filter can be set here\n");
        skip();
    }
    assert_int_equal(code, 1);
    assert_int_equal(locks(true), 0);
    static const char *const none[] = {"4294967296", "0", "-1"};
    char host[256], text[300];
    assert_int_equal(gethostname(host, sizeof host), 0);
    for (size_t i = 0; i < COUNT(none); i++) {
        snprintf(text, sizeof text, "%s:%s\n", host, none[i]);
        write_lock(text);
        if (locks(true)) fail_msg("%s is no process: %s", none[i], said);
    }
}

static void test_another_host(void **state) {
    (void)state;
    char path[600];
    folder_make_or_die(test_path("run"));
    unsetenv("SLURM_JOB_ID");
    unsetenv("SLURM_RESTART_COUNT");
    write_lock("elsewhere:123\n");
    snprintf(path, sizeof path, "remove %s", test_path("run/lock"));
    assert_int_equal(locks(false), 1);
    assert_true(strstr(said, "elsewhere:123") && strstr(said, path));
    assert_int_equal(access(test_path("run/lock"), F_OK), 0);
    /* the same job, started again: SLURM has ended its first start */
    write_lock("elsewhere:123 77 1\n");
    setenv("SLURM_JOB_ID", "77", 1);
    assert_int_equal(locks(false), 1);
    setenv("SLURM_RESTART_COUNT", "1", 1);
    assert_int_equal(locks(false), 1);
    setenv("SLURM_RESTART_COUNT", "2", 1);
    assert_int_equal(locks(false), 0);
    setenv("SLURM_JOB_ID", "78", 1);
    write_lock("elsewhere:123 77 1\n");
    assert_int_equal(locks(false), 1);
    remove(test_path("run/lock"));
}

static void test_what_is_no_lock(void **state) {
    (void)state;
    folder_make_or_die(test_path("run"));
    write_lock(""); /* its process was killed before it could write */
    assert_int_equal(locks(false), 0);
    folder_make_or_die(test_path("run"));
    test_write_file(test_path("target"), "x", 1);
    assert_int_equal(symlink(test_path("target"), test_path("run/lock")), 0);
    assert_int_equal(locks(false), 1);
    size_t n;
    char *kept = test_read_file(test_path("target"), &n);
    assert_true(n == 1 && *kept == 'x');
    free(kept);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_at_a_time),
        cmocka_unit_test(test_others_stay_in_the_folder),
        cmocka_unit_test(test_without_flock_the_process_is_asked),
        cmocka_unit_test(test_another_host),
        cmocka_unit_test(test_what_is_no_lock),
    };
    return cmocka_run_group_tests_name("lock", tests, NULL, NULL);
}
