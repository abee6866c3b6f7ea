#include "tests/support.h"
#include "kernels/rng.h"

#include <dirent.h>
#include <errno.h>
#include <ftw.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { DEFAULT_SEED = 20210226 };

uint64_t test_seed(void) {
    static bool ready;
    static uint64_t seed;
    if (!ready) {
        const char *env = getenv("TEST_SEED");
        seed = env ? strtoull(env, NULL, 10) : DEFAULT_SEED;
        printf("seed %llu\n", (unsigned long long)seed);
        ready = true;
    }
    return seed;
}

static char dir[512];
static pid_t dir_owner;

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *ftw) {
    (void)st, (void)kind, (void)ftw;
    return remove(path);
}

static void remove_dir(void) {
    /* A child that exits must not delete its parent's folder. */
    if (getpid() == dir_owner) nftw(dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

const char *test_dir(void) {
    if (!dir_owner) {
        const char *tmp = getenv("TMPDIR");
        snprintf(dir, sizeof dir, "%s/clipc-test-XXXXXX", tmp ? tmp : "/tmp");
        if (!mkdtemp(dir)) fail_msg("cannot make the folder %s: %s", dir, strerror(errno));
        dir_owner = getpid();
        at_every_exit(remove_dir);
    }
    return dir;
}

const char *test_path(const char *name) {
    static char paths[16][768];
    static unsigned next;
    char *path = paths[next++ % COUNT(paths)];
    snprintf(path, sizeof paths[0], "%s/%s", test_dir(), name);
    return path;
}

void test_write_file(const char *path, const void *bytes, size_t n) {
    FILE *f = fopen(path, "wb");
    if (!f) fail_msg("cannot write %s: %s", path, strerror(errno));
    size_t written = n ? fwrite(bytes, 1, n, f) : 0;
    if (fclose(f) || written != n) fail_msg("cannot write %s: %s", path, strerror(errno));
}

const char *test_program(void) {
    static char path[4096];
    const char *clipc = getenv("CLIPC"), *name = program_invocation_short_name;
    snprintf(path, sizeof path, "%s%s", clipc ? clipc : "build/clipc",
             !strncmp(name, "cuda_", 5)  ? "-cudaemu"
             : !strncmp(name, "gpu_", 4) ? "-cuda"
                                         : "");
    return path;
}

static char *read_all(FILE *f, size_t *n) {
    size_t size = 0, room = 4096, got;
    char *bytes = xmalloc(room);
    while ((got = fread(bytes + size, 1, room - size - 1, f)) > 0) {
        size += got;
        if (room - size < 2) bytes = xrealloc(bytes, room *= 2);
    }
    bytes[size] = 0;
    if (n) *n = size;
    return bytes;
}

char *test_read_file(const char *path, size_t *n) {
    FILE *f = fopen(path, "rb");
    if (!f) fail_msg("cannot read %s: %s", path, strerror(errno));
    char *bytes = read_all(f, n);
    fclose(f);
    return bytes;
}

char *test_clipc(int want, const char *fmt, ...) {
    char args[8192];
    va_list list;
    va_start(list, fmt);
    vsnprintf(args, sizeof args, fmt, list);
    va_end(list);
    char *line = xasprintf("%s %s 2>&1", test_program(), args);
    FILE *f = popen(line, "r");
    if (!f) fail_msg("%s: %s", line, strerror(errno));
    char *text = read_all(f, NULL);
    int status = pclose(f);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != want) fail_msg("%s: %s", line, text);
    free(line);
    return text;
}

void test_says(const char *text, const char *needle) {
    if (!strstr(text, needle)) fail_msg("no '%s' in: %s", needle, text);
}

void test_near(double got, double want, double tolerance, const char *what, const char *file,
               int line) {
    if (fabs(got - want) <= tolerance) return;
    print_error("%s = %.12g, wanted %.12g within %.3g (off by %.3g)\n", what, got, want, tolerance,
                got - want);
    _fail(file, line);
}

double test_error_max(const double *got, const double *want, size_t n) {
    double error = 0, largest = 0;
    for (size_t i = 0; i < n; i++) {
        double e = fabs(got[i] - want[i]);
        if (isnan(e)) return INFINITY;
        error = fmax(error, e);
        largest = fmax(largest, fabs(want[i]));
    }
    return largest > 0 ? error / largest : error;
}

double test_error_l2(const double *got, const double *want, size_t n) {
    double error = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        error += (got[i] - want[i]) * (got[i] - want[i]);
        norm += want[i] * want[i];
    }
    if (isnan(error)) return INFINITY;
    return sqrt(norm > 0 ? error / norm : error);
}

float *test_tied_rows(size_t n, size_t E, uint64_t stream) {
    float *x = xmalloc(n * E * sizeof *x);
    for (size_t i = 0; i < n * E; i++) x[i] = (float)rng_below(test_seed(), stream, i, 3) - 1;
    return x;
}

float test_dot_f32(const float *a, const float *b, size_t E) {
    float s = 0;
    for (size_t j = 0; j < E; j++) s += a[j] * b[j];
    return s;
}

void test_obey_modes(void) {
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct caps[2];
    if (geteuid() != 0) return;
    if (syscall(SYS_capget, &header, caps) != 0) die("cannot read the capabilities");
    caps[0].effective &= ~(1u << CAP_DAC_OVERRIDE);
    if (syscall(SYS_capset, &header, caps) != 0) die("cannot drop a capability");
}

static bool set_filter(struct sock_filter *f, size_t n) {
    struct sock_fprog p = {(unsigned short)n, f};
    return !prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) &&
           !prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &p);
}

bool test_deny(int call, int error) {
    struct sock_filter f[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)call, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    return set_filter(f, COUNT(f));
}

bool test_deny_bits(int call, int argument, unsigned bits, int error) {
    struct sock_filter f[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)call, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
                 (unsigned)(offsetof(struct seccomp_data, args) + 8 * (size_t)argument)),
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, bits, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    return set_filter(f, COUNT(f));
}

void test_dies(void (*f)(void *), void *arg, int code, const char *needle) {
    int ends[2];
    char text[4096];
    size_t size = 0;
    fflush(NULL);
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    if (child < 0) fail_msg("cannot fork: %s", strerror(errno));
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        close(ends[1]);
        f(arg);
        _exit(EXIT_OK);
    }
    close(ends[1]);
    for (ssize_t got; (got = read(ends[0], text + size, sizeof text - 1 - size)) > 0;)
        size += (size_t)got;
    close(ends[0]);
    text[size] = 0;
    int status;
    waitpid(child, &status, 0);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != code || !strstr(text, needle))
        fail_msg("wanted exit code %d and \"%s\" on stderr, got status %#x and \"%s\"", code,
                 needle, (unsigned)status, text);
}

size_t test_entries(const char *folder, bool hidden) {
    DIR *d = opendir(folder);
    assert_non_null(d);
    size_t n = 0;
    for (struct dirent *e; (e = readdir(d));)
        n += strcmp(e->d_name, ".") && strcmp(e->d_name, "..") && (e->d_name[0] == '.') == hidden;
    closedir(d);
    return n;
}
