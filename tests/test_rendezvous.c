/* How processes find rank 0: all connect, other connections do no harm, and every failure ends in
 * time with one line on each side. */
#include "tests/support.h"
#include "train/ranks/rendezvous.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { RANKS = 3 };
static const double timeout = 2;

/* A socket that listens at a separate port, returned in *port. */
static int listener(int *port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof a;
    int s = socket(AF_INET, SOCK_STREAM, 0);
    assert_true(s >= 0 && !bind(s, (struct sockaddr *)&a, size) && !listen(s, 8));
    assert_int_equal(getsockname(s, (struct sockaddr *)&a, &size), 0);
    *port = ntohs(a.sin_port);
    return s;
}

static int free_port(void) {
    int port, s = listener(&port);
    close(s);
    return port;
}

static int connect_to(int port) {
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons((uint16_t)port),
                            .sin_addr = {htonl(INADDR_LOOPBACK)}};
    for (int tries = 0; tries < 200; tries++) {
        int s = socket(AF_INET, SOCK_STREAM, 0);
        if (s >= 0 && !connect(s, (struct sockaddr *)&a, sizeof a)) return s;
        close(s);
        usleep(10000);
    }
    _exit(2);
}

/* A rank as a process: its output ("" if it received rank 0's bytes) goes to a file. */
static pid_t start(const char *name, Rendezvous r) {
    pid_t pid = fork();
    if (pid) return pid;
    unsigned char bytes[RENDEZVOUS_BYTES] = {0};
    for (size_t i = 0; i < sizeof bytes && r.rank == 0; i++) bytes[i] = (unsigned char)(3 * i + 1);
    Error err = {""};
    bool ok = rendezvous_meet(&r, bytes, &err);
    for (size_t i = 0; i < sizeof bytes && ok; i++)
        if (bytes[i] != (unsigned char)(3 * i + 1)) ok = false;
    test_write_file(name, err.text, strlen(err.text));
    _exit(ok ? 0 : 1);
}

static int exit_code(pid_t pid) {
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void said(const char *name, const char *needle) {
    char *text = test_read_file(test_path(name), NULL);
    if (!strstr(text, needle)) fail_msg("%s: '%s' has no '%s'", name, text, needle);
    free(text);
}

static void test_all_meet(void **state) {
    (void)state;
    int port = free_port();
    pid_t pid[RANKS];
    for (int r = RANKS - 1; r >= 0; r--) { /* rank 0 last: the others must wait for it */
        pid[r] = start(test_path("all"), (Rendezvous){r, RANKS, "localhost", port, 5, NULL});
        if (r == 1) usleep(250000);
    }
    for (int r = 0; r < RANKS; r++) assert_int_equal(exit_code(pid[r]), 0);
}

/* One sends something else, one nothing, one half of a greeting: none of them counts. */
static void test_strangers(void **state) {
    (void)state;
    int port = free_port();
    pid_t first = start(test_path("0"), (Rendezvous){0, 2, "127.0.0.1", port, 60, NULL});
    int s = connect_to(port);
    assert_true(write(s, "GET / HTTP/1.0\r\n\r\n", 18) == 18);
    int half = connect_to(port);
    assert_true(write(half, "clipcid2\0\0", 10) == 10);
    close(half);
    int silent = connect_to(port);
    pid_t second = start(test_path("1"), (Rendezvous){1, 2, "127.0.0.1", port, 60, NULL});
    assert_int_equal(exit_code(first), 0);
    assert_int_equal(exit_code(second), 0);
    close(s);
    close(silent);
}

static void test_missing_rank(void **state) {
    (void)state;
    int port = free_port();
    pid_t pid[2] = {
        start(test_path("0"), (Rendezvous){0, RANKS, "127.0.0.1", port, timeout, NULL}),
        start(test_path("2"), (Rendezvous){2, RANKS, "127.0.0.1", port, timeout, NULL})};
    for (int i = 0; i < 2; i++) assert_int_equal(exit_code(pid[i]), 1);
    said("0", "2 of 3 ranks came");
    said("0", "missing: 1");
    said("2", "missing: 1");
}

/* A rank of another size, of another job, or a duplicate is refused at once; rank 0 waits for the
 * right one and, if none connects, names those it refused. */
static void test_wrong_ranks(void **state) {
    (void)state;
    static const struct {
        int rank, size;
        const char *key, *says;
    } wrong[] = {{1, 4, "a", "says it is rank 1 of 4, and rank 0 is one of 2"},
                 {1, 2, "b", "rank 1 is of another job"},
                 {1, 2, NULL, "rank 1 is of another job"}};
    for (size_t i = 0; i < COUNT(wrong); i++) {
        for (int right = 0; right < 2; right++) {
            int port = free_port();
            pid_t first = start(test_path("0"),
                                (Rendezvous){0, 2, "127.0.0.1", port, right ? 60 : timeout, "a"});
            pid_t other =
                start(test_path("wrong"), (Rendezvous){wrong[i].rank, wrong[i].size, "127.0.0.1",
                                                       port, 60, wrong[i].key});
            assert_int_equal(exit_code(other), 1);
            said("wrong", wrong[i].says); /* not that it waited */
            if (right) {
                pid_t second =
                    start(test_path("1"), (Rendezvous){1, 2, "127.0.0.1", port, 60, "a"});
                assert_int_equal(exit_code(second), 0);
            }
            assert_int_equal(exit_code(first), !right);
            if (!right) said("0", "1 of 2 ranks came");
            if (!right) said("0", wrong[i].says);
        }
    }
}

static void test_same_rank_twice(void **state) {
    (void)state;
    int port = free_port(), codes = 0;
    pid_t first = start(test_path("0"), (Rendezvous){0, RANKS, "127.0.0.1", port, 60, NULL});
    pid_t twice[2];
    for (int i = 0; i < 2; i++)
        twice[i] =
            start(test_path(i ? "b" : "a"), (Rendezvous){1, RANKS, "127.0.0.1", port, 60, NULL});
    usleep(300000);
    pid_t last = start(test_path("2"), (Rendezvous){2, RANKS, "127.0.0.1", port, 60, NULL});
    for (int i = 0; i < 2; i++) {
        int code = exit_code(twice[i]);
        if (code) said(i ? "b" : "a", "two processes say they are rank 1");
        codes += code;
    }
    assert_int_equal(codes, 1);
    assert_int_equal(exit_code(first), 0);
    assert_int_equal(exit_code(last), 0);
}

/* Many silent connections cost no time: they are polled together with the ranks. */
static void test_silent_crowd(void **state) {
    (void)state;
    enum { CROWD = 20 };
    int port = free_port(), crowd[CROWD];
    pid_t first = start(test_path("0"), (Rendezvous){0, 2, "127.0.0.1", port, 38, NULL});
    for (int i = 0; i < CROWD; i++) crowd[i] = connect_to(port);
    pid_t second = start(test_path("1"), (Rendezvous){1, 2, "127.0.0.1", port, 38, NULL});
    assert_int_equal(exit_code(first), 0); /* one after the other: two seconds a stranger */
    assert_int_equal(exit_code(second), 0);
    for (int i = 0; i < CROWD; i++) close(crowd[i]);
}

static void test_nobody_there(void **state) {
    (void)state;
    int port = free_port();
    pid_t pid = start(test_path("1"), (Rendezvous){1, 2, "127.0.0.1", port, timeout, NULL});
    assert_int_equal(exit_code(pid), 1);
    said("1", "rank 0 could not be reached at 127.0.0.1");
    said("1", "refused");
    pid = start(test_path("1"), (Rendezvous){1, 2, "no such host!", port, timeout, NULL});
    assert_int_equal(exit_code(pid), 1);
    said("1", "no such address");
}

static void test_port_is_taken(void **state) {
    (void)state;
    int port, s = listener(&port);
    pid_t pid = start(test_path("0"), (Rendezvous){0, 2, "127.0.0.1", port, timeout, NULL});
    assert_int_equal(exit_code(pid), 1);
    said("0", "choose another --comm-port");
    close(s);
}

/* Something else listens there: it closes, it answers nonsense, it never answers. */
static void test_someone_else_there(void **state) {
    (void)state;
    static const char nonsense[400] = "HTTP/1.0 400 Bad Request\r\n";
    for (int kind = 0; kind < 3; kind++) {
        int port, s = listener(&port);
        pid_t pid = start(test_path("1"), (Rendezvous){1, 2, "127.0.0.1", port, timeout, NULL});
        int c = accept(s, NULL, NULL);
        if (kind == 1) assert_true(write(c, nonsense, sizeof nonsense) > 0);
        if (kind == 0) close(c);
        assert_int_equal(exit_code(pid), 1);
        said("1", "is not rank 0 of this run, or it has ended");
        if (kind) close(c);
        close(s);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_meet),           cmocka_unit_test(test_strangers),
        cmocka_unit_test(test_missing_rank),       cmocka_unit_test(test_wrong_ranks),
        cmocka_unit_test(test_silent_crowd),       cmocka_unit_test(test_same_rank_twice),
        cmocka_unit_test(test_nobody_there),       cmocka_unit_test(test_port_is_taken),
        cmocka_unit_test(test_someone_else_there),
    };
    return cmocka_run_group_tests_name("rendezvous", tests, NULL, NULL);
}
