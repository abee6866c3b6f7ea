/* Reports of a run: metrics.jsonl and its truncation, TensorBoard's records, the progress line. */
#include "train/log.h"

#include "data/io/folder.h"
#include "data/io/progress.h"
#include "tests/support.h"
#include "train/metrics_file.h"
#include "train/summary.h"
#include <fcntl.h>
#include <glob.h>
#include <jansson.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static StepMetrics step(uint64_t n) {
    return (StepMetrics){.step = n,
                         .epoch = n / 4,
                         .loss = 1.0 / (double)n,
                         .logit_scale = 14.2857142857,
                         .grad_norm = n == 3 ? NAN : 1e-12,
                         .lr = 5e-4,
                         .samples_per_s = 123456789,
                         .data_wait = 0.25,
                         .samples = n * 1000,
                         .bad = n > 2,
                         .skipped = n == 3};
}

static void run(const char *dir, uint64_t keep, uint64_t last) {
    TrainLog *l = train_log_open(dir, keep, last, 1000);
    for (uint64_t i = keep + 1; i <= last; i++) {
        StepMetrics m = step(i);
        train_log_step(l, &m);
    }
    train_log_close(l);
}

/* stderr goes to a file while f runs. */
static char *stderr_of(void (*f)(const char *), const char *argument) {
    const char *path = test_path("stderr");
    fflush(stderr);
    int was = dup(2), fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    dup2(fd, 2);
    f(argument);
    fflush(stderr);
    dup2(was, 2);
    close(fd);
    close(was);
    return test_read_file(path, NULL);
}

static void run_1_to_5(const char *dir) { run(dir, 0, 5); }
static void run_4_to_6(const char *dir) { run(dir, 3, 6); }

/* The line was written since the tests began, in the order of lines, and time is its last field. */
static double check_time(json_t *j, const char *line, double previous) {
    double t = json_number_value(json_object_get(j, "time"));
    assert_true(t >= previous && t <= (double)time(NULL) + 1);
    const char *last = strrchr(line, ',');
    assert_memory_equal(last, ", \"time\": ", 10);
    assert_int_equal(strlen(strchr(last, '.')), strlen(".123}"));
    return t;
}

static time_t began;

/* Steps first … last and nothing else. */
static void check_steps(const char *dir, uint64_t last) {
    char path[512];
    snprintf(path, sizeof path, "%s/metrics.jsonl", dir);
    char *text = test_read_file(path, NULL), *save;
    uint64_t n = 0;
    double written = (double)began;
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        json_t *j = json_loads(line, 0, NULL);
        assert_non_null(j);
        written = check_time(j, line, written);
        StepMetrics m = step(++n);
        assert_int_equal(json_integer_value(json_object_get(j, "step")), n);
        assert_int_equal(json_integer_value(json_object_get(j, "epoch")), n / 4);
        assert_int_equal(json_integer_value(json_object_get(j, "samples")), n * 1000);
        assert_int_equal(json_integer_value(json_object_get(j, "bad")), n > 2);
        assert_true(json_is_true(json_object_get(j, "skipped")) == (n == 3));
        const double loss = json_number_value(json_object_get(j, "loss"));
        assert_true(fabs(loss / m.loss - 1) < 5e-9);
        assert_true(json_number_value(json_object_get(j, "samples_per_s")) == 123456789);
        if (n == 3)
            assert_true(json_is_null(json_object_get(j, "grad_norm")));
        else
            assert_true(json_number_value(json_object_get(j, "grad_norm")) == 1e-12);
        json_decref(j);
    }
    assert_int_equal(n, last);
    free(text);
}

static void test_metrics(void **state) {
    (void)state;
    const char *dir = test_path("metrics");
    free(stderr_of(run_1_to_5, dir));
    check_steps(dir, 5);
    free(stderr_of(run_4_to_6, dir)); /* resumed from step 3 */
    check_steps(dir, 6);
    /* killed in the middle of a line */
    char path[512];
    snprintf(path, sizeof path, "%s/metrics.jsonl", dir);
    FILE *f = fopen(path, "ab");
    fputs("{\"step\": 6, \"epoch\"", f);
    fclose(f);
    train_log_close(train_log_open(dir, 6, 6, 1));
    check_steps(dir, 6);
    train_log_close(train_log_open(dir, 0, 6, 1));
    check_steps(dir, 0);
}

static void measure(const char *dir) {
    TrainLog *l = train_log_open(dir, 0, 6, 1);
    train_log_metrics(l, 3, &(Metrics){.list = {{.name = "val/loss", .value = 0.5}}, .count = 1});
    train_log_close(l);
}

static void test_measured(void **state) {
    (void)state;
    free(stderr_of(measure, test_path("measured")));
    char *line = test_read_file(test_path("measured/metrics.jsonl"), NULL);
    json_t *j = json_loads(line, 0, NULL);
    assert_memory_equal(line, "{\"step\": 3, \"val/loss\": 0.5, ", 29);
    line[strlen(line) - 1] = 0;
    check_time(j, line, (double)began);
    json_decref(j);
    free(line);
}

/* ---- TensorBoard's file ---- */

static uint32_t masked_crc(const unsigned char *bytes, size_t n) {
    uint32_t crc = ~0u;
    for (size_t i = 0; i < n; i++)
        for (int bit = 0; bit < 8; bit++) {
            bool odd = (crc ^ (uint32_t)bytes[i] >> bit) & 1;
            crc = crc >> 1 ^ (odd ? 0x82f63b78u : 0);
        }
    crc = ~crc;
    return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

static size_t varint(const unsigned char **p) {
    size_t x = 0;
    for (int shift = 0;; shift += 7) {
        x |= (size_t)(**p & 127) << shift;
        if (!(*(*p)++ & 128)) return x;
    }
}

typedef struct Event {
    uint64_t step;
    const unsigned char *version, *summary, *session;
    size_t version_size, summary_size, session_size;
} Event;

static Event parse_event(const unsigned char *p, size_t n) {
    Event e = {0};
    for (const unsigned char *end = p + n; p < end;) {
        size_t tag = varint(&p), field = tag >> 3;
        if ((tag & 7) == 1) {
            double wall;
            memcpy(&wall, p, 8);
            assert_true(field == 1 && wall > 1.6e9 && wall < 1e11);
            p += 8;
        } else if ((tag & 7) == 0) {
            assert_int_equal(field, 2);
            e.step = varint(&p);
        } else {
            assert_int_equal(tag & 7, 2);
            size_t size = varint(&p);
            if (field == 3) e.version = p, e.version_size = size;
            if (field == 5) e.summary = p, e.summary_size = size;
            if (field == 7) e.session = p, e.session_size = size;
            p += size;
        }
        assert_true(p <= end);
    }
    return e;
}

/* The scalar called `name`; NAN without one. */
static float scalar(const Event *e, const char *name) {
    const unsigned char *p = e->summary, *end = p + e->summary_size;
    float found = NAN;
    while (p < end) {
        assert_int_equal(*p++, 1 << 3 | 2);
        size_t size = varint(&p);
        const unsigned char *value = p;
        p += size;
        assert_int_equal(*value++, 1 << 3 | 2);
        size_t length = varint(&value);
        bool match = length == strlen(name) && !memcmp(value, name, length);
        value += length;
        assert_int_equal(*value++, 2 << 3 | 5);
        if (match) memcpy(&found, value, 4);
        assert_ptr_equal(value + 4, p);
    }
    return found;
}

static size_t read_events(const char *path, Event *events, size_t most, char **bytes) {
    size_t size, n = 0;
    *bytes = test_read_file(path, &size);
    for (const unsigned char *p = (unsigned char *)*bytes, *end = p + size; p < end; n++) {
        uint64_t length;
        uint32_t head, body;
        memcpy(&length, p, 8);
        memcpy(&head, p + 8, 4);
        assert_true(end - p >= 16 && length <= (size_t)(end - p) - 16);
        memcpy(&body, p + 12 + length, 4);
        assert_int_equal(head, masked_crc(p, 8));
        assert_int_equal(body, masked_crc(p + 12, length));
        assert_true(n < most);
        events[n] = parse_event(p + 12, length);
        p += 16 + length;
    }
    return n;
}

static void test_events(void **state) {
    (void)state;
    /* the check value of CRC-32C, masked */
    uint32_t want = 0xe3069283u;
    want = (want >> 15 | want << 17) + 0xa282ead8u;
    assert_int_equal(masked_crc((const unsigned char *)"123456789", 9), want);

    const char *dir = test_path("events");
    free(stderr_of(run_1_to_5, dir));
    free(stderr_of(run_4_to_6, dir));
    glob_t g;
    char pattern[512];
    snprintf(pattern, sizeof pattern, "%s/tensorboard/events.out.tfevents.??????????.*", dir);
    assert_int_equal(glob(pattern, 0, NULL, &g), 0);
    assert_int_equal(g.gl_pathc, 2);
    const size_t first[] = {1, 4}, last[] = {5, 6};
    for (size_t f = 0; f < 2; f++) {
        Event e[16];
        char *bytes;
        size_t n = read_events(g.gl_pathv[f], e, COUNT(e), &bytes);
        assert_int_equal(n, 2 + last[f] - first[f] + 1);
        assert_int_equal(e[0].version_size, 13);
        assert_memory_equal(e[0].version, "brain.Event:2", 13);
        /* SessionLog { status: START } */
        assert_int_equal(e[1].step, first[f]);
        assert_int_equal(e[1].session_size, 2);
        assert_memory_equal(e[1].session, "\x08\x01", 2);
        for (size_t i = 2; i < n; i++) {
            StepMetrics m = step(first[f] + i - 2);
            assert_int_equal(e[i].step, m.step);
            assert_true(scalar(&e[i], "train/loss") == (float)m.loss);
            assert_true(scalar(&e[i], "train/lr") == (float)m.lr);
            assert_true(scalar(&e[i], "train/logit_scale") == (float)m.logit_scale);
        }
        free(bytes);
    }
    globfree(&g);
}

/* ---- the progress line ---- */

static void plain(const char *dir) {
    TrainLog *l = train_log_open(dir, 0, 25, 10);
    for (uint64_t i = 1; i <= 25; i++) {
        StepMetrics m = step(i);
        train_log_step(l, &m);
    }
    train_log_close(l);
}

static void test_plain_lines(void **state) {
    (void)state;
    char *text = stderr_of(plain, test_path("plain")), *save, *line;
    static const char *const want[] = {"step 1/25  ", "step 10/25  ", "step 20/25  ",
                                       "step 25/25  "};
    line = strtok_r(text, "\n", &save);
    for (size_t i = 0; i < COUNT(want); i++, line = strtok_r(NULL, "\n", &save)) {
        assert_non_null(line);
        assert_memory_equal(line, want[i], strlen(want[i]));
        assert_non_null(strstr(line, "wait 25%"));
        assert_null(strchr(line, '\r'));
        assert_true(!strstr(line, "bad 1") == (i == 0));
    }
    assert_null(line);
    free(text);
}

static unsigned short columns; /* of the terminal; 0: not known */

/* The output of f on a terminal, up to its last line break; malloc'd. NULL: no pseudo-terminals. */
static char *terminal_of(void (*f)(const char *), const char *argument) {
    int terminal = posix_openpt(O_RDWR | O_NOCTTY);
    if (terminal < 0 || grantpt(terminal) || unlockpt(terminal)) return NULL;
    int other = open(ptsname(terminal), O_RDWR | O_NOCTTY);
    assert_true(other >= 0);
    assert_int_equal(ioctl(other, TIOCSWINSZ, &(struct winsize){.ws_col = columns}), 0);
    fflush(NULL);
    pid_t child = fork();
    if (!child) {
        dup2(other, 2);
        f(argument);
        fputs("\nEND\n", stderr);
        _exit(0);
    }
    enum { ROOM = 4096 };
    char *text = xcalloc(ROOM, 1), *end;
    for (size_t n = 0; !(end = strstr(text, "\r\nEND"));) {
        ssize_t got = read(terminal, text + n, ROOM - 1 - n);
        assert_true(got > 0);
        n += (size_t)got;
    }
    *end = 0;
    int status;
    waitpid(child, &status, 0);
    assert_int_equal(status, 0);
    close(other);
    close(terminal);
    return text;
}

static void live(const char *dir) {
    TrainLog *l = train_log_open(dir, 0, 1000, 1000);
    double before = 0;
    for (uint64_t i = 1; i <= 3; i++) {
        StepMetrics m = step(i);
        if (i == 2) before = clock_now();
        train_log_step(l, &m);
        if (i == 1) usleep(300 * 1000);
    }
    if (clock_now() - before > 0.2) fputs("slow", stderr);
    log_warn("a warning");
    train_log_close(l);
}

static void test_live_line(void **state) {
    (void)state;
    char *text = terminal_of(live, test_path("live"));
    if (!text) {
        puts("SKIP: test_live_line: no pseudo-terminals here");
        skip();
    }
    /* step 2 came late enough to be drawn, step 3 too soon after it unless the machine is busy */
    assert_non_null(strstr(text, "\r\033[Kstep 2/1000"));
    if (!strstr(text, "slow")) assert_null(strstr(text, "step 3/1000"));
    /* a message replaces the line, after which there is no line to end */
    const char *warning = strstr(text, "\r\033[Kclipc: a warning");
    assert_non_null(warning);
    assert_string_equal(warning + strlen("\r\033[Kclipc: a warning"), "\r\n");
    free(text);
}

static void bar(const char *what) {
    Progress p = progress_start(what);
    progress_show(&p, 1, 4, "early"); /* too soon */
    p.started -= 3660, p.shown -= 1;
    progress_show(&p, 2, 4, "half");
    progress_show(&p, 4, 4, "all"); /* the end is shown however soon */
    progress_end(&p);
}

static void accented(const char *text) {
    log_live("%s", text);
    log_live_end();
}

static void test_live_line_fits(void **state) {
    (void)state;
    columns = 20; /* a step's kept line is whole, the live one is not */
    char *steps = terminal_of(live, test_path("narrow"));
    if (steps) {
        assert_non_null(strstr(steps, "\r\033[Kstep 1/1000  epoch 0  loss"));
        assert_non_null(strstr(steps, "ETA ?\r\n\r\033[Kstep 2/1000  epoch \r"));
    }
    free(steps);
    columns = 12;
    char *text = terminal_of(bar, "work");
    if (!text) {
        columns = 0;
        puts("SKIP: test_live_line_fits: no pseudo-terminals here");
        skip();
    }
    /* a column is free: the cursor is in it */
    assert_string_equal(text, "\r\033[Kwork [#####\r\033[Kwork [#####\r\n");
    free(text);
    text = terminal_of(accented, "\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9"
                                 "123456789");
    assert_string_equal(text, "\r\033[K\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9"
                              "123456\r\n");
    free(text);
    columns = 0;
}

static void in_log(const char *what) {
    Progress p = progress_start(what);
    progress_show(&p, 1, 4, "early");
    p.started -= 3660, p.shown -= 11;
    progress_show(&p, 2, 4, "");
    p.shown -= 11;
    progress_show(&p, 3, 4, "some");
    progress_show(&p, 4, 4, "all"); /* the work's own last line follows */
    progress_end(&p);
}

static void test_progress(void **state) {
    (void)state;
    char *text = stderr_of(in_log, "work");
    assert_string_equal(text, "clipc: work: 2 of 4 (50 %), 1:01:00 left\n"
                              "clipc: work: 3 of 4 (75 %), some, 0:20:20 left\n");
    free(text);
    text = stderr_of(in_log, NULL);
    assert_string_equal(text, "");
    free(text);
    text = terminal_of(bar, "work");
    if (!text) {
        puts("SKIP: test_progress: no pseudo-terminals here");
        skip();
    }
    assert_string_equal(
        text, "\r\033[Kwork [###############               ]  50 %  half  1:01:00 left"
              "\r\033[Kwork [##############################] 100 %  all  0:00:00 left\r\n");
    free(text);
}

/* ---- write errors ---- */

static void fill_up(void *dir) {
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &(struct rlimit){600, 600});
    run(dir, 0, 100);
}

static void open_below_file(void *dir) { train_log_open(dir, 0, 1, 1); }

static void test_disk_full(void **state) {
    (void)state;
    test_dies(fill_up, (void *)test_path("full"), EXIT_ERROR, "File too large");
    test_write_file(test_path("file"), "", 0);
    test_dies(open_below_file, (void *)test_path("file/run"), EXIT_ERROR, "file/run: Not a dir");
}

/* ---- what may lie in its place ---- */

static void put_metrics(const char *dir, const char *name) {
    assert_int_equal(mkdir(dir, 0777), 0);
    char *path = folder_path(dir, "metrics.jsonl");
    assert_int_equal(!strcmp(name, "FIFO") ? mkfifo(path, 0666) : mkdir(path, 0777), 0);
    free(path);
}

static void summarise(const char *dir) { summary_print(dir, NULL); }

static void test_other_files(void **state) {
    (void)state;
    static const char *const names[] = {"FIFO", "FOLDER"};
    for (size_t i = 0; i < COUNT(names); i++) {
        char *dir = xstrdup(test_path(names[i]));
        put_metrics(dir, names[i]);
        test_dies(open_below_file, dir, EXIT_ERROR,
                  "/metrics.jsonl: not a regular file: what this run reports would be lost");
        char *text = stderr_of(summarise, dir);
        test_says(text, "/metrics.jsonl: not a regular file");
        free(text);
        free(dir);
    }
}

/* A line that is longer than memory, as a file system may leave it, costs none. */
static void test_endless_line(void **state) {
    (void)state;
    enum { HOLE = 1 << 28 };
    const char *dir = test_path("long"), *path = test_path("long/metrics.jsonl");
    size_t n, m;
    run(dir, 0, 3);
    char *kept = test_read_file(path, &n);
    assert_int_equal(truncate(path, (off_t)n + HOLE), 0);
    FILE *f = fopen(path, "ab");
    assert_non_null(f);
    fputs("\n{\"step\": 2, \"x\": 1}\n{\"step\": 4", f);
    fclose(f);
    const size_t before = peak_rss();
    char *text = stderr_of(summarise, dir);
    assert_string_equal(text, "");
    Error err;
    assert_true(metrics_cut(path, 5, &err));
    assert_in_range(peak_rss() - before, 0, HOLE / 8);
    struct stat st;
    assert_int_equal(stat(path, &st), 0); /* the line after it counts; the last is not complete */
    assert_int_equal(st.st_size, n + HOLE + sizeof "\n{\"step\": 2, \"x\": 1}");
    assert_true(metrics_cut(path, 1, &err));
    char *first = test_read_file(path, &m);
    assert_memory_equal(first, kept, m);
    assert_ptr_equal(strchr(first, '\n'), first + m - 1);
    FREE_ALL(text, first, kept);
}

int main(void) {
    began = time(NULL);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_metrics),     cmocka_unit_test(test_measured),
        cmocka_unit_test(test_events),      cmocka_unit_test(test_plain_lines),
        cmocka_unit_test(test_live_line),   cmocka_unit_test(test_live_line_fits),
        cmocka_unit_test(test_progress),    cmocka_unit_test(test_disk_full),
        cmocka_unit_test(test_other_files), cmocka_unit_test(test_endless_line),
    };
    return cmocka_run_group_tests_name("log", tests, NULL, NULL);
}
