/* feed: samples of streams: every one once an epoch, in an order that is a pure function of seed,
 * epoch and rank; resuming in the middle; streams that fail, hang or are empty; no process left.
 * And the same streams as data sets that are read by number. */
#include "data/io/pipe.h"
#include "data/dataset.h"
#include "tests/support_data.h"
#include "data/io/file.h"
#include "data/io/folder.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SHARDS = 4, EACH = 10, ALL = SHARDS * EACH };

/* Shards s0.tar … s3.tar of EACH samples; the caption of sample i is "i". */
static int make_shards(void **state) {
    (void)state;
    for (size_t k = 0; k < SHARDS; k++) {
        TarBytes t = {NULL, 0};
        char name[32], text[32];
        for (size_t i = k * EACH; i < (k + 1) * EACH; i++) {
            snprintf(name, sizeof name, "%03zu.jpg", i);
            tar_bytes_text(&t, name, "image");
            snprintf(name, sizeof name, "%03zu.txt", i);
            snprintf(text, sizeof text, "%zu", i);
            tar_bytes_text(&t, name, text);
        }
        tar_bytes_text(&t, "last.jpg", "no caption");
        snprintf(name, sizeof name, "s%zu.tar", k);
        tar_bytes_write(&t, name);
    }
    return 0;
}

static FeedOptions feed_options(void) {
    return (FeedOptions){
        .samples = ALL, .ranks = 1, .seed = 7, .shuffle = true, .buffer = 13, .seconds = 20};
}

/* command: of the shell, in the folder of the shards. */
static Dataset *open_command(const char *command, const FeedOptions *o) {
    DatasetOptions d = dataset_options_default();
    d.cache_dir = test_path("cache");
    d.feed = o;
    char *spec = xasprintf("pipe:cd %s || exit; %s", test_dir(), command);
    Dataset *data = open_data_set(spec, &d);
    free(spec);
    return data;
}

/* Captions of rows first … first+n-1 as numbers; rows: of an epoch. */
static void collect_ids(Dataset *d, uint64_t epoch, uint64_t first, size_t n, size_t rows,
                        long *out) {
    Feed *f = dataset_feed(d);
    feed_start(f, epoch, first, rows, 0.5);
    for (size_t i = 0; i < n; i++) {
        FeedRow row;
        Error err;
        if (!feed_take(f, epoch + (first + i) / rows, (first + i) % rows, &row, &err))
            fail_msg("%s", err.text);
        out[i] = atol(row.candidates[0]->s.text);
        assert_false(row.candidates[0]->bad);
        assert_true(row.count > 1 && row.count <= FEED_CANDIDATES);
        feed_release(&row);
    }
}

static void check_once(const long *rows, size_t n, size_t times) {
    size_t seen[ALL] = {0};
    for (size_t i = 0; i < n; i++) seen[rows[i]]++;
    for (size_t i = 0; i < ALL; i++) assert_int_equal(seen[i], times);
}

#define CAT "cat s{0..3}.tar"

static void test_order(void **state) {
    (void)state;
    FeedOptions o = feed_options();
    long a[2 * ALL], b[2 * ALL], stored[ALL];
    Dataset *d = open_command(CAT, &o);
    assert_int_equal(dataset_count(d), ALL);
    assert_int_equal(dataset_shards(d), SHARDS);
    collect_ids(d, 0, 0, 2 * ALL, ALL, a);
    check_once(a, ALL, 1);
    check_once(a + ALL, ALL, 1);
    assert_memory_not_equal(a, a + ALL, ALL * sizeof *a);
    collect_ids(d, 0, 0, 2 * ALL, ALL, b);
    assert_memory_equal(a, b, sizeof a);
    /* from any row on, in this epoch and the next */
    for (size_t from = 0; from < 2 * ALL; from += 7) {
        collect_ids(d, from / ALL, from % ALL, 2 * ALL - from, ALL, b + from);
        assert_memory_equal(a + from, b + from, (2 * ALL - from) * sizeof *a);
    }
    dataset_close(d);
    /* mixed within the buffer alone: a sample does not come before it can have been read */
    o.seed = 8;
    d = open_command(CAT, &o);
    collect_ids(d, 0, 0, ALL, ALL, b);
    assert_memory_not_equal(a, b, ALL * sizeof *a);
    dataset_close(d);
    o.shuffle = false;
    d = open_command(CAT, &o);
    collect_ids(d, 3, 0, ALL, ALL, stored);
    for (long i = 0; i < ALL; i++) assert_int_equal(stored[i], i);
    dataset_close(d);
}

/* An epoch with more samples than exist reads all again, in another order. */
static void test_passes(void **state) {
    (void)state;
    FeedOptions o = feed_options();
    long a[3 * ALL];
    o.samples = 3 * ALL;
    Dataset *d = open_command(CAT, &o);
    collect_ids(d, 0, 0, 3 * ALL, 3 * ALL, a);
    for (size_t pass = 0; pass < 3; pass++) check_once(a + pass * ALL, ALL, 1);
    assert_memory_not_equal(a, a + ALL, ALL * sizeof *a);
    dataset_close(d);
}

static void test_ranks(void **state) {
    (void)state;
    FeedOptions o = feed_options();
    long a[ALL];
    o.ranks = 2;
    for (o.rank = 0; o.rank < 2; o.rank++) {
        Dataset *d = open_command(CAT, &o);
        collect_ids(d, 1, 0, ALL / 2, ALL / 2, a + o.rank * ALL / 2);
        dataset_close(d);
    }
    check_once(a, ALL, 1);
    o.ranks = 5;
    DatasetOptions options = dataset_options_default();
    options.feed = &o;
    refuse_data_set("pipe:true {0..3}", &options, "4 streams for 5 ranks");
}

typedef struct Taker {
    Feed *f;
    const long *want;
    pthread_mutex_t lock;
    size_t next, wrong;
} Taker;

static void *taker_main(void *arg) {
    Taker *t = arg;
    for (;;) {
        pthread_mutex_lock(&t->lock);
        size_t i = t->next++;
        pthread_mutex_unlock(&t->lock);
        FeedRow row;
        Error err;
        if (i >= 2 * ALL || !feed_take(t->f, i / ALL, i % ALL, &row, &err)) return NULL;
        bool ok = atol(row.candidates[0]->s.text) == t->want[i];
        feed_release(&row);
        pthread_mutex_lock(&t->lock);
        t->wrong += !ok;
        pthread_mutex_unlock(&t->lock);
    }
}

static void test_threads(void **state) {
    (void)state;
    FeedOptions o = feed_options();
    long want[2 * ALL];
    Dataset *d = open_command(CAT, &o);
    collect_ids(d, 0, 0, 2 * ALL, ALL, want);
    Taker t = {.f = dataset_feed(d), .want = want};
    pthread_mutex_init(&t.lock, NULL);
    feed_start(t.f, 0, 0, ALL, 0);
    pthread_t threads[4];
    for (size_t i = 0; i < 4; i++) pthread_create(&threads[i], NULL, taker_main, &t);
    for (size_t i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    assert_int_equal(t.wrong, 0);
    assert_true(t.next > 2 * ALL);
    dataset_close(d);
}

/* ---- failures ---- */

static size_t take_until_error(Dataset *d, size_t rows, double max_bad, char error[512]) {
    Feed *f = dataset_feed(d);
    Error err = {""};
    size_t n = 0;
    FeedRow row;
    feed_start(f, 0, 0, rows, max_bad);
    while (n < rows && feed_take(f, 0, n, &row, &err)) {
        feed_release(&row);
        n++;
    }
    strcpy(error, err.text);
    return n;
}

static void check_error(const char *command, double max_bad, double seconds, const char *needle) {
    FeedOptions o = feed_options();
    char error[512];
    o.seconds = seconds;
    Dataset *d = open_command(command, &o);
    take_until_error(d, 4 * ALL, max_bad, error);
    if (!strstr(error, needle)) fail_msg("\"%s\" does not say \"%s\"", error, needle);
    dataset_close(d);
}

static void test_failures(void **state) {
    (void)state;
    check_error("cat s{0..3}.tar; exit 3", 0.1, 20, "exit status 3, after 10 samples");
    check_error("cat s{0..3}.tar; kill -9 $$", 0.1, 20, "ended by signal 9");
    check_error("head -c 3000 s{0..3}.tar", 0.1, 20, "cut at byte 3000, after 1 samples");
    check_error("echo {0..3} no tar at all", 0.1, 20, "cut at byte");
    check_error("true {0..3}", 0.1, 20, "cut at byte 0");
    check_error("sleep 1000 {0..3}", 0.1, 0.2, "nothing came for 0.2 s");
    check_error("head -c 3000 s{0..3}.tar; exec sleep 1000", 0.1, 0.2, "nothing came for 0.2 s");
    check_error("no-such-command {0..3}", 0.1, 20, "exit status 127");
    /* all may fail, but then there is nothing to read */
    check_error("exit 1 {0..3}", 1, 20, "no stream has a usable sample (4 failed");
}

/* A few that fail are counted; their samples before that, and all of the others', are used. */
static void test_tolerated(void **state) {
    (void)state;
    FeedOptions o = feed_options();
    char error[512];
    Dataset *d = open_command("f=s{0..3}.tar; cat $f; [ $f != s2.tar ]", &o);
    assert_int_equal(take_until_error(d, 2 * ALL, 0.3, error), 2 * ALL);
    assert_string_equal(error, "");
    assert_int_equal(feed_failures(dataset_feed(d)), 2); /* one a pass */
    assert_true(take_until_error(d, 2 * ALL, 0.2, error) < 2 * ALL);
    assert_non_null(strstr(error, "more than --max-bad 0.2 allows"));
    dataset_close(d);
}

static void test_bad_samples(void **state) {
    (void)state;
    TarBytes t = {NULL, 0};
    tar_bytes_text(&t, "a.jpg", "A");
    tar_bytes_text(&t, "a.txt", "1");
    tar_bytes_text(&t, "a.cls", "-1");
    tar_bytes_text(&t, "b.png", "second");
    tar_bytes_text(&t, "b.jpg", "first");
    tar_bytes_text(&t, "b.txt", "2");
    tar_bytes_text(&t, "b.cls", "5");
    tar_bytes_text(&t, "b.txt", "another sample, without an image");
    tar_bytes_text(&t, "c.jpg", "C");
    tar_bytes_text(&t, "c.txt", " \n");
    tar_bytes_write(&t, "bad.tar");
    FeedOptions o = feed_options();
    o.samples = 2;
    o.shuffle = false;
    Dataset *d = open_command("cat bad.tar", &o);
    Feed *f = dataset_feed(d);
    FeedRow row;
    Error err;
    feed_start(f, 0, 0, 2, 0);
    assert_true(feed_take(f, 0, 0, &row, &err));
    assert_true(row.candidates[0]->bad);
    assert_string_equal(row.candidates[0]->why.text, "bad.tar:a: its .cls is no class number");
    assert_string_equal(row.candidates[1]->s.text, "2"); /* the spare */
    feed_release(&row);
    assert_true(feed_take(f, 0, 1, &row, &err));
    const Sample *s = &row.candidates[0]->s;
    assert_int_equal(s->label, 5);
    assert_int_equal(s->image_size, 5);
    assert_memory_equal(s->image, "first", 5);
    feed_release(&row);
    dataset_close(d);
}

/* A waiting thread is woken, and its stream is ended. */
static void *stop_soon(void *arg) {
    usleep(100 * 1000);
    feed_stop(arg);
    return NULL;
}

static void test_stop(void **state) {
    (void)state;
    FeedOptions o = feed_options();
    char error[512];
    pthread_t thread;
    Dataset *d = open_command("sleep 1000", &o);
    pthread_create(&thread, NULL, stop_soon, dataset_feed(d));
    take_until_error(d, ALL, 0, error);
    pthread_join(thread, NULL);
    assert_string_equal(error, "stopped");
    dataset_close(d);
}

/* ---- processes ---- */

/* The number that a command wrote into `name`. */
static pid_t pid_in(const char *name) {
    char path[600];
    snprintf(path, sizeof path, "%s/%s", test_dir(), name);
    for (int i = 0; i < 500 && access(path, F_OK) != 0; i++) usleep(10000);
    usleep(20000);
    char *text = test_read_file(path, NULL);
    pid_t pid = atoi(text);
    free(text);
    assert_true(pid > 1);
    return pid;
}

static void check_gone(pid_t pid) {
    for (int i = 0; i < 300; i++) {
        char path[64], state = 0;
        snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
        FILE *f = fopen(path, "r");
        if (!f) return;
        if (fscanf(f, "%*d (%*[^)]) %c", &state) == 1 && state == 'Z') state = 0;
        fclose(f);
        if (!state) return; /* a zombie of a parent that is slow to look */
        usleep(10000);
    }
    fail_msg("process %d still runs", (int)pid);
}

/* A background process of the command, the command itself, and no zombie. */
static void test_no_orphan(void **state) {
    (void)state;
    FeedOptions o = feed_options();
    char error[512];
    o.seconds = 0.3;
    Dataset *d = open_command("sleep 1000 & echo $! >child; echo $$ >shell; wait", &o);
    take_until_error(d, 1, 0, error);
    dataset_close(d);
    check_gone(pid_in("child"));
    check_gone(pid_in("shell"));
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
    assert_int_equal(errno, ECHILD);
}

/* The shell ends with the program, however that ends. */
static void check_ending(bool killed) {
    pid_t child = fork();
    if (child == 0) {
        Error err;
        char *command = xasprintf("echo $$ >%s/own; sleep 1000; true", test_dir());
        Pipe *p = pipe_start(command, 1, NULL, &err);
        if (killed) pause();
        usleep(300 * 1000);
        exit(p ? 0 : 1);
    }
    pid_t shell = pid_in("own");
    if (killed) kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    check_gone(shell);
    unlink(test_path("own"));
}

static void test_program_ends(void **state) {
    (void)state;
    check_ending(true);
    check_ending(false);
}

/* ---- as a data set ---- */

static void test_spool(void **state) {
    (void)state;
    DatasetOptions o = dataset_options_default();
    Error err;
    char *cache = xasprintf("%s/spool", test_dir());
    o.cache_dir = cache;
    char *spec =
        xasprintf("pipe:cat %s/s{1,0}.tar::pipe:zstd -qc %s/s2.tar", test_dir(), test_dir());
    Dataset *d = open_data_set(spec, &o);
    assert_int_equal(dataset_count(d), 3 * EACH);
    assert_int_equal(dataset_dropped(d), 3);
    Sample s = {.key = NULL};
    const long first[] = {EACH, 0, 2 * EACH};
    for (size_t i = 3 * EACH; i-- > 0;) {
        assert_true(dataset_read(d, i, &s, &err));
        assert_int_equal(atol(s.text), first[i / EACH] + (long)(i % EACH));
    }
    assert_string_equal(s.key, "s1.tar:010");
    sample_free(&s);
    char **names;
    size_t n;
    assert_true(
        folder_list(cache, &names, &n, &err)); /* nothing stays when the program is killed */
    assert_int_equal(n, 0);
    names_free(names, n);
    dataset_close(d);
    free(spec);
    spec = xasprintf("pipe:cat %s/s0.tar; exit 4", test_dir());
    refuse_data_set(spec, &o, "exit 4: exit status 4");
    refuse_data_set("pipe:printf '<html>no shard'; exit 22", &o, "exit status 22");
    refuse_data_set("pipe:printf '<html>no shard'", &o, "no tar and no tar.zst: it begins with");
    refuse_data_set("pipe:printf '<html>no shard'; exec cat /dev/zero", &o, "\"<html>no shard\"");
    refuse_data_set("pipe:true", &o, "no usable sample");
    o.pipe_seconds = 0.2;
    refuse_data_set("pipe:sleep 1000", &o, "nothing came for 0.2 s");
    free(spec);
    free(cache);
}

/* All streams of a data set together; what is read past the limit is not copied. */
static void test_spool_limit(void **state) {
    (void)state;
    DatasetOptions o = dataset_options_default();
    size_t bytes;
    free(test_read_file(test_path("s0.tar"), &bytes));
    char *one = xasprintf("pipe:cat %s/s0.tar", test_dir()), *two = xasprintf("%s::%s", one, one),
         *endless = xasprintf("pipe:cat %s/s0.tar; exec cat /dev/zero", test_dir());
    o.cache_dir = test_path("limited");
    o.spool_gib = (double)bytes / (1 << 30);
    dataset_close(open_data_set(one, &o));
    refuse_data_set(two, &o, "GiB of --spool-limit, the streams before it included");
    refuse_data_set(endless, &o, "GiB of --spool-limit");
    o.spool_gib *= 2;
    dataset_close(open_data_set(two, &o));
    free(one);
    free(two);
    free(endless);
}

/* A child without O_TMPFILE has a file without a name as well. */
static void unnamed(void *deny) {
    Error err;
    if (deny && !test_deny_bits(SYS_openat, 2, O_TMPFILE & ~O_DIRECTORY, EOPNOTSUPP)) _exit(77);
    int fd = file_unnamed(test_path("unnamed"), &err);
    char *again = file_of_fd(fd), got[3] = "";
    struct stat st;
    bool ok = fd >= 0 && file_write_fd(fd, "abc", 3) && pread(fd, got, 3, 0) == 3 &&
              !memcmp(got, "abc", 3) && !fstat(fd, &st) && st.st_nlink == 0 &&
              (st.st_mode & 0777) == 0600 && !access(again, R_OK);
    _exit(ok && !test_entries(test_path("unnamed"), true) ? 66 : 1);
}

static void test_unnamed(void **state) {
    (void)state;
    Error err;
    assert_int_equal(mkdir(test_path("unnamed"), 0777), 0);
    test_dies(unnamed, NULL, 66, "");
    test_dies(unnamed, &err, 66, "");
    assert_int_equal(file_unnamed(test_path("nowhere"), &err), -1);
    assert_non_null(strstr(err.text, "cannot write into"));
}

static void test_refused(void **state) {
    (void)state;
    DatasetOptions d = dataset_options_default();
    FeedOptions o = feed_options();
    d.feed = &o;
    const struct {
        const char *spec, *needle;
    } cases[] = {{"-::pipe:true", "must be the only source"},
                 {"pipe:true::x.csv", "does not mix with streams"},
                 {"http://host/{0..3}.tar", "pipe:curl -sf http://host/0.tar"}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        refuse_data_set(cases[i].spec, &d, cases[i].needle);
    }
    o.samples = 0;
    refuse_data_set("-", &d, "give --train-num-samples");
}

/* Braces of the shell's own stay. */
static void test_braces(void **state) {
    (void)state;
    Sources s;
    Error err;
    assert_true(sources_expand(&s, "pipe:awk '{print $1}' ${X}{00..01}.{a,b} {a,'b'}",
                               PIPES_OF_SPEC, &err));
    assert_int_equal(s.count, 4);
    assert_string_equal(s.items[0].path, "pipe:awk '{print $1}' ${X}00.a {a,'b'}");
    assert_string_equal(s.items[3].path, "pipe:awk '{print $1}' ${X}01.b {a,'b'}");
    sources_free(&s);
    test_write_file(test_path("list.txt"), "pipe:cat a\n-\nb.tar\n", 19);
    assert_true(sources_expand(&s, test_path("list.txt"), PIPES_ALL, &err));
    assert_string_equal(s.items[0].path, "pipe:cat a");
    assert_ptr_equal(s.items[1].source, &source_stdin);
    assert_ptr_equal(s.items[2].source, &source_tar);
    sources_free(&s);
}

/* Commands of list files and recipes need consent. */
static void test_commands(void **state) {
    (void)state;
    Sources s;
    Error err;
    const char *list = test_path("pipe.txt");
    char *at = xasprintf("@%s", list), *both = xasprintf("b.tar::%s", list);
    test_write_file(list, "b.tar\npipe:cat a{0,1}\n", 23);
    const struct {
        const char *spec;
        bool ok[3]; /* by Pipes */
    } cases[] = {{"pipe:cat a", {true, true, false}}, {"b.tar::pipe:cat a", {true, true, false}},
                 {"b.tar::-", {true, true, true}},    {list, {false, true, false}},
                 {at, {false, true, false}},          {both, {false, true, false}}};
    for (size_t i = 0; i < COUNT(cases); i++)
        for (Pipes c = PIPES_OF_SPEC; c <= PIPES_NONE; c++) {
            assert_int_equal(sources_expand(&s, cases[i].spec, c, &err), cases[i].ok[c]);
            if (!cases[i].ok[c]) assert_non_null(strstr(err.text, "only with --allow-pipe"));
            sources_free(&s);
        }
    free(at);
    free(both);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),       cmocka_unit_test(test_passes),
        cmocka_unit_test(test_ranks),       cmocka_unit_test(test_threads),
        cmocka_unit_test(test_failures),    cmocka_unit_test(test_tolerated),
        cmocka_unit_test(test_bad_samples), cmocka_unit_test(test_stop),
        cmocka_unit_test(test_no_orphan),   cmocka_unit_test(test_program_ends),
        cmocka_unit_test(test_spool),       cmocka_unit_test(test_refused),
        cmocka_unit_test(test_spool_limit), cmocka_unit_test(test_unnamed),
        cmocka_unit_test(test_braces),      cmocka_unit_test(test_commands),
    };
    return cmocka_run_group_tests_name("feed", tests, make_shards, NULL);
}
