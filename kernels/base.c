#include "kernels/base.h"

#include "kernels/terminal.h"

#include <dlfcn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

static bool quiet_info;
static char log_marker[32];

static atomic_bool live; /* the cursor is at the end of a live line */

/* Bytes of the first characters of shown[n] that leave the last column of the terminal free; a
 * longer line would wrap, and could not be drawn over. */
static size_t fitting(const char *shown, size_t n) {
    struct winsize size;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) || !size.ws_col) return n;
    size_t at = 0, used = 0;
    for (; at < n; at++)
        if (((unsigned char)shown[at] & 0xC0) != 0x80 && ++used >= size.ws_col) break;
    return at;
}

/* before, after: control characters of this program; an empty after: a live line. */
static void print(const char *before, const char *mark, const char *after, const char *fmt,
                  va_list args) {
    char line[2048], shown[TERMINAL_GROWTH * (sizeof line + 1)];
    vsnprintf(line, sizeof line, fmt, args);
    size_t n = terminal_escape(&(TerminalText){0}, shown, line, strlen(line));
    if (!*after) n = fitting(shown, n);
    fprintf(stderr, "%s%s%.*s%s", before, mark, (int)n, shown, after);
}

static void print_line(const char *mark, const char *fmt, va_list args) {
    print(atomic_exchange(&live, false) ? "\r\033[Kclipc: " : "clipc: ", mark, "\n", fmt, args);
}

/* ---- the end ---- */

/* One thread ends the process, the others stay here. Returns false if this one is ending it: an
 * error of what runs at the end. */
static bool take_the_end(void) {
    static atomic_flag taken = ATOMIC_FLAG_INIT;
    static _Thread_local bool ending;
    if (ending) return false;
    while (atomic_flag_test_and_set(&taken)) pause();
    return ending = true;
}

static void end(int code, bool first) __attribute__((noreturn));
static void end(int code, bool first) {
    if (!first) _exit(code);
    fflush(stdout);
    quick_exit(code);
}

void exit_at_once(int code) { end(code, take_the_end()); }

bool at_every_exit(void (*f)(void)) { return !atexit(f) && !at_quick_exit(f); }

void die(const char *fmt, ...) {
    const bool first = take_the_end();
    va_list args;
    va_start(args, fmt);
    print_line(log_marker, fmt, args);
    va_end(args);
    end(EXIT_ERROR, first);
}

void die_usage(const char *fmt, ...) {
    const bool first = take_the_end();
    va_list args;
    va_start(args, fmt);
    print_line(log_marker, fmt, args);
    va_end(args);
    end(EXIT_USAGE, first);
}

static const char *throwing;

static void on_exception(void) {
    die("%s or another C++ library gave up, most likely for lack of memory", throwing);
}

void die_of_exceptions(const char *what) {
    /* std::set_terminate, if the library brought C++'s with it */
    typedef void (*Handler)(void);
    Handler (*set_terminate)(Handler);
    *(void **)&set_terminate = dlsym(RTLD_DEFAULT, "_ZSt13set_terminatePFvvE");
    throwing = what;
    if (set_terminate) set_terminate(on_exception);
}

bool error_set(Error *err, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    vsnprintf(err->text, sizeof err->text, fmt, args);
    va_end(args);
    return false;
}

void log_info(const char *fmt, ...) {
    if (quiet_info) return;
    va_list args;
    va_start(args, fmt);
    print_line("", fmt, args);
    va_end(args);
}

void log_warn(const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    print_line(log_marker, fmt, args);
    va_end(args);
}

void log_live(const char *fmt, ...) {
    if (quiet_info) return;
    va_list args;
    va_start(args, fmt);
    print("\r\033[K", "", "", fmt, args);
    va_end(args);
    fflush(stderr);
    live = true;
}

void log_live_end(void) {
    if (atomic_exchange(&live, false)) fputc('\n', stderr);
}

void log_quiet(bool quiet) { quiet_info = quiet; }

void log_mark(const char *mark) { snprintf(log_marker, sizeof log_marker, "%s", mark); }

size_t size_mul(size_t a, size_t b) {
    size_t r;
    if (__builtin_mul_overflow(a, b, &r))
        die("a size of %zu x %zu is too large for this machine", a, b);
    return r;
}

size_t size_add(size_t a, size_t b) {
    size_t r;
    if (__builtin_add_overflow(a, b, &r))
        die("a size of %zu + %zu is too large for this machine", a, b);
    return r;
}

void *xmalloc(size_t bytes) {
    void *p = malloc(bytes ? bytes : 1);
    if (!p) die("out of memory: %zu bytes were asked for", bytes);
    return p;
}

void *xmalloc_aligned(size_t bytes) {
    const size_t huge = (size_t)2 << 20;
    void *p;
    size_t align = bytes >= huge ? huge : 64;
    if (posix_memalign(&p, align, round_up(size_max(bytes, 1), align)))
        die("out of memory: %zu bytes were asked for; try a smaller --batch-size", bytes);
    if (align == huge) madvise(p, round_up(bytes, huge), MADV_HUGEPAGE);
    return p;
}

void *xcalloc(size_t count, size_t size) {
    void *p = calloc(count ? count : 1, size ? size : 1);
    if (!p) die("out of memory: %zu x %zu bytes were asked for", count, size);
    return p;
}

void *xrealloc(void *p, size_t bytes) {
    void *q = realloc(p, bytes ? bytes : 1);
    if (!q) die("out of memory: %zu bytes were asked for", bytes);
    return q;
}

char *xstrdup(const char *s) {
    size_t n = strlen(s) + 1;
    return memcpy(xmalloc(n), s, n);
}

char *xasprintf(const char *fmt, ...) {
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    char *s = xmalloc((size_t)n + 1);
    vsnprintf(s, (size_t)n + 1, fmt, again);
    va_end(again);
    return s;
}

void free_each(void *const *p, size_t n) {
    for (size_t i = 0; i < n; i++) free(p[i]);
}

void *arena_take(Arena *a, size_t count, size_t elem_size) {
    size_t at = a->used;
    a->used = size_add(at, round_up(size_mul(count, elem_size), 64));
    if (!a->base) return NULL;
    assert(a->used <= a->size);
    return a->base + at;
}

double clock_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

size_t peak_rss(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (size_t)u.ru_maxrss * 1024;
}
