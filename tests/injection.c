/* injection: the calls of build/tests/clipc-injected that take memory, change or read files, one of
 * which fails. The linker (--wrap) leads the program's own calls here, never a library's;
 * build/clipc holds nothing of this file.
 *
 * Calls are counted by place: a chain of callers. CLIPC_FAULT="FAULT N": the first call from the
 * place N of the fault's kind (from 1, in the order in which a run meets them) fails; "FAULT N+":
 * and all later calls (a disc stays full). Faults: alloc (ENOMEM), write (ENOSPC), read (EIO),
 * stale (the places of read; ESTALE), short (a read returns half of what it could).
 * CLIPC_FAULT_REPORT=FILE: "failed CALL" for each failure, and at exit a line with the number of
 * places of each kind. */
#include "kernels/base.h"
#include "kernels/hash.h"

#include <dirent.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <jansson.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdio_ext.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { ALLOC, WRITE, READ, SHORT, KINDS };
static const char *const kind_name[KINDS] = {"alloc", "write", "read", "short"};
static const struct {
    const char *name;
    int kind, code; /* errno */
} faults[] = {
    {"alloc", ALLOC, ENOMEM}, {"write", WRITE, ENOSPC}, {"read", READ, EIO},
    {"stale", READ, ESTALE},  {"short", SHORT, 0},
};

static struct {
    pthread_mutex_t lock;
    uint64_t seen[KINDS][1 << 14]; /* hashes of places, an open table; 0: free */
    long places[KINDS];
    long at; /* 0: none fails */
    int kind, code;
    bool stays, failing;
    int report; /* -1: none */
} fault = {.lock = PTHREAD_MUTEX_INITIALIZER, .report = -1};

int __real_open(const char *path, int flags, ...);

static uint64_t place(void) {
    void *callers[48];
    int n = backtrace(callers, COUNT(callers));
    return fnv_hash(FNV_START, callers, (size_t)n * sizeof *callers) | 1;
}

/* True if this call fails; errno is set. */
static bool fails(int kind, const char *call) {
    const uint64_t h = place();
    pthread_mutex_lock(&fault.lock);
    size_t i = h % COUNT(fault.seen[kind]);
    while (fault.seen[kind][i] && fault.seen[kind][i] != h) i = (i + 1) % COUNT(fault.seen[kind]);
    bool first = !fault.seen[kind][i];
    fault.seen[kind][i] = h;
    if (first) fault.places[kind]++;
    bool fail = kind == fault.kind && first && fault.places[kind] == fault.at;
    if (fail && fault.stays) fault.failing = true;
    fail = fail || (fault.failing && kind == fault.kind);
    pthread_mutex_unlock(&fault.lock);
    if (!fail) return false;
    if (fault.report >= 0) dprintf(fault.report, "failed %s\n", call);
    errno = fault.code;
    return true;
}

__attribute__((constructor)) static void start(void) {
    const char *spec = getenv("CLIPC_FAULT"), *report = getenv("CLIPC_FAULT_REPORT");
    for (size_t i = 0; spec && i < COUNT(faults); i++) {
        size_t n = strlen(faults[i].name);
        char *end;
        if (strncmp(spec, faults[i].name, n)) continue;
        fault.at = strtol(spec + n, &end, 10);
        fault.stays = *end == '+';
        fault.kind = faults[i].kind;
        fault.code = faults[i].code;
    }
    /* not among the numbers that the program's files get */
    int fd = report ? __real_open(report, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666) : -1;
    if (fd >= 0) fault.report = fcntl(fd, F_DUPFD_CLOEXEC, 200), close(fd);
}

__attribute__((destructor)) static void end(void) {
    if (fault.report < 0) return;
    for (int kind = 0; kind < KINDS; kind++)
        dprintf(fault.report, "%s %ld%c", kind_name[kind], fault.places[kind],
                kind + 1 < KINDS ? ' ' : '\n');
}

/* REDIRECT(kind, value if it fails, type, name, (parameters), (arguments)) */
#define REDIRECT(kind, failed, type, name, parameters, arguments)                                  \
    type __real_##name parameters;                                                                 \
    type __wrap_##name parameters;                                                                 \
    type __wrap_##name parameters {                                                                \
        return fails(kind, #name) ? (failed) : __real_##name arguments;                            \
    }

/* Calls that fail for two reasons. */
#define REDIRECT2(kind, other, failed, type, name, parameters, arguments)                          \
    type __real_##name parameters;                                                                 \
    type __wrap_##name parameters;                                                                 \
    type __wrap_##name parameters {                                                                \
        return fails(kind, #name) || fails(other, #name) ? (failed) : __real_##name arguments;     \
    }

/* ---- memory, and what else runs short: maps, threads ---- */

REDIRECT(ALLOC, NULL, void *, malloc, (size_t n), (n))
REDIRECT(ALLOC, NULL, void *, calloc, (size_t count, size_t size), (count, size))
REDIRECT(ALLOC, NULL, void *, realloc, (void *p, size_t n), (p, n))
REDIRECT(ALLOC, NULL, void *, aligned_alloc, (size_t align, size_t n), (align, n))
REDIRECT(ALLOC, ENOMEM, int, posix_memalign, (void **p, size_t align, size_t n), (p, align, n))
REDIRECT2(ALLOC, READ, MAP_FAILED, void *, mmap,
          (void *at, size_t n, int prot, int flags, int fd, off_t from),
          (at, n, prot, flags, fd, from))
REDIRECT(ALLOC, NULL, char *, realpath, (const char *path, char *to), (path, to))
REDIRECT2(ALLOC, READ, NULL, DIR *, opendir, (const char *path), (path))
REDIRECT(ALLOC, NULL, DIR *, fdopendir, (int fd), (fd))
REDIRECT(ALLOC, NULL, FILE *, open_memstream, (char **text, size_t *n), (text, n))
REDIRECT(ALLOC, EAGAIN, int, pthread_create,
         (pthread_t * thread, const pthread_attr_t *a, void *(*body)(void *), void *arg),
         (thread, a, body, arg))

/* ---- files ---- */

REDIRECT(WRITE, -1, ssize_t, pwrite, (int fd, const void *bytes, size_t n, off_t at),
         (fd, bytes, n, at))
REDIRECT(WRITE, -1, int, ftruncate, (int fd, off_t n), (fd, n))
REDIRECT(WRITE, -1, int, truncate, (const char *path, off_t n), (path, n))
REDIRECT(WRITE, -1, int, mkdir, (const char *path, mode_t mode), (path, mode))
REDIRECT(WRITE, -1, int, rename, (const char *from, const char *to), (from, to))
REDIRECT(WRITE, -1, int, renameat2,
         (int a, const char *from, int b, const char *to, unsigned flags), (a, from, b, to, flags))
REDIRECT(WRITE, -1, int, symlink, (const char *to, const char *path), (to, path))
REDIRECT(WRITE, -1, int, unlink, (const char *path), (path))
REDIRECT(WRITE, -1, int, unlinkat, (int fd, const char *path, int flags), (fd, path, flags))
REDIRECT(WRITE, -1, int, remove, (const char *path), (path))
REDIRECT(WRITE, -1, int, rmdir, (const char *path), (path))

/* waits for no disc */
int __wrap_fsync(int fd);
int __wrap_fsync(int fd) { return (void)fd, fails(WRITE, "fsync") ? -1 : 0; }

ssize_t __real_write(int fd, const void *bytes, size_t n);
ssize_t __wrap_write(int fd, const void *bytes, size_t n);
ssize_t __wrap_write(int fd, const void *bytes, size_t n) {
    return fd != STDERR_FILENO && fails(WRITE, "write") ? -1 : __real_write(fd, bytes, n);
}

static bool changes(int flags) {
    return (flags & O_ACCMODE) != O_RDONLY || (flags & (O_CREAT | O_TRUNC));
}

#define OPEN(name, parameters, arguments)                                                          \
    int __real_##name parameters;                                                                  \
    int __wrap_##name parameters;                                                                  \
    int __wrap_##name parameters {                                                                 \
        va_list args;                                                                              \
        va_start(args, flags);                                                                     \
        int mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(args, int) : 0;                          \
        va_end(args);                                                                              \
        if (fails(changes(flags) ? WRITE : ALLOC, #name)) return -1;                               \
        if (!changes(flags) && fails(READ, #name)) return -1;                                      \
        return __real_##name arguments;                                                            \
    }
OPEN(open, (const char *path, int flags, ...), (path, flags, mode))
OPEN(openat, (int fd, const char *path, int flags, ...), (fd, path, flags, mode))

FILE *__real_fopen(const char *path, const char *mode);
FILE *__wrap_fopen(const char *path, const char *mode);
FILE *__wrap_fopen(const char *path, const char *mode) {
    const bool changing = strpbrk(mode, "wa+");
    if (fails(changing ? WRITE : ALLOC, "fopen")) return NULL;
    return !changing && fails(READ, "fopen") ? NULL : __real_fopen(path, mode);
}

/* ---- streams: a failure is one of the stream as well ---- */

static bool stream_fails(FILE *f, const char *call) {
    if (f == stderr || !__fwritable(f) || !fails(WRITE, call)) return false;
    f->_flags |= _IO_ERR_SEEN;
    return true;
}
#define STREAM(failed, type, name, parameters, arguments)                                          \
    type __real_##name parameters;                                                                 \
    type __wrap_##name parameters;                                                                 \
    type __wrap_##name parameters {                                                                \
        return stream_fails(f, #name) ? (failed) : __real_##name arguments;                        \
    }
STREAM(0, size_t, fwrite, (const void *bytes, size_t size, size_t n, FILE *f), (bytes, size, n, f))
STREAM(EOF, int, fputs, (const char *text, FILE *f), (text, f))
STREAM(EOF, int, fputc, (int c, FILE *f), (c, f))
STREAM(EOF, int, putc, (int c, FILE *f), (c, f))

int __real_fflush(FILE *f);
int __wrap_fflush(FILE *f);
int __wrap_fflush(FILE *f) { return f && stream_fails(f, "fflush") ? EOF : __real_fflush(f); }
int __real_fclose(FILE *f);
int __wrap_fclose(FILE *f);
int __wrap_fclose(FILE *f) {
    bool failed = stream_fails(f, "fclose");
    int code = errno, result = __real_fclose(f);
    if (failed) errno = code;
    return failed ? EOF : result;
}
int __wrap_fprintf(FILE *f, const char *format, ...);
int __wrap_fprintf(FILE *f, const char *format, ...) {
    if (stream_fails(f, "fprintf")) return -1;
    va_list args;
    va_start(args, format);
    int n = vfprintf(f, format, args);
    va_end(args);
    return n;
}
int __wrap_printf(const char *format, ...);
int __wrap_printf(const char *format, ...) {
    if (stream_fails(stdout, "printf")) return -1;
    va_list args;
    va_start(args, format);
    int n = vprintf(format, args);
    va_end(args);
    return n;
}
int __wrap_puts(const char *text);
int __wrap_puts(const char *text) {
    return stream_fails(stdout, "puts")     ? EOF
           : __real_fputs(text, stdout) < 0 ? EOF
                                            : __real_putc('\n', stdout);
}

/* ---- reads ---- */

REDIRECT(READ, -1, int, stat, (const char *path, struct stat *st), (path, st))
REDIRECT(READ, -1, int, lstat, (const char *path, struct stat *st), (path, st))
REDIRECT(READ, -1, int, fstat, (int fd, struct stat *st), (fd, st))
REDIRECT(READ, -1, int, fstatat, (int fd, const char *path, struct stat *st, int flags),
         (fd, path, st, flags))
REDIRECT(READ, -1, int, access, (const char *path, int mode), (path, mode))
REDIRECT(READ, -1, ssize_t, readlink, (const char *path, char *to, size_t n), (path, to, n))
REDIRECT(READ, NULL, struct dirent *, readdir, (DIR * d), (d))

#define READS(name, parameters, ...)                                                               \
    ssize_t __real_##name parameters;                                                              \
    ssize_t __wrap_##name parameters;                                                              \
    ssize_t __wrap_##name parameters {                                                             \
        if (fails(READ, #name)) return -1;                                                         \
        if (n > 1 && fails(SHORT, #name)) n /= 2;                                                  \
        return __real_##name(__VA_ARGS__);                                                         \
    }
READS(read, (int fd, void *bytes, size_t n), fd, bytes, n)
READS(pread, (int fd, void *bytes, size_t n, off_t at), fd, bytes, n, at)

static bool reading_fails(FILE *f, const char *call) {
    if (!fails(READ, call)) return false;
    f->_flags |= _IO_ERR_SEEN;
    return true;
}
size_t __real_fread(void *bytes, size_t size, size_t n, FILE *f);
size_t __wrap_fread(void *bytes, size_t size, size_t n, FILE *f);
size_t __wrap_fread(void *bytes, size_t size, size_t n, FILE *f) {
    return reading_fails(f, "fread") ? 0 : __real_fread(bytes, size, n, f);
}
char *__real_fgets(char *line, int n, FILE *f);
char *__wrap_fgets(char *line, int n, FILE *f);
char *__wrap_fgets(char *line, int n, FILE *f) {
    return reading_fails(f, "fgets") ? NULL : __real_fgets(line, n, f);
}
/* getline */
ssize_t __real___getdelim(char **line, size_t *capacity, int end_char, FILE *f);
ssize_t __wrap___getdelim(char **line, size_t *capacity, int end_char, FILE *f);
ssize_t __wrap___getdelim(char **line, size_t *capacity, int end_char, FILE *f) {
    if (fails(ALLOC, "getline") || reading_fails(f, "getline")) return -1;
    return __real___getdelim(line, capacity, end_char, f);
}
REDIRECT(WRITE, -1, int, json_dumpf, (const json_t *j, FILE *f, size_t flags), (j, f, flags))
