#include "data/io/mapfile.h"

#include "data/io/machine.h"
#include "kernels/terminal.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- a mapped file that cannot be read: it was cut, or its storage fails ---- */

enum { NAMED = 256, LINE = 512, PATH_SHOWN = 400 };

/* The first mapped files, each with its line; `from` is set last and cleared first. */
static struct {
    atomic_uintptr_t from;
    uintptr_t to;
    size_t length;
    char line[TERMINAL_GROWTH * (LINE + 1)];
} named[NAMED];

/* The kernel's answer to a read of a mapped file that fails. Only async-signal-safe calls. */
static void on_bus_error(int sig, siginfo_t *info, void *context) {
    (void)context;
    uintptr_t at = (uintptr_t)info->si_addr;
    for (size_t i = 0; i < NAMED; i++) {
        uintptr_t from = atomic_load(&named[i].from);
        if (!from || at < from || at >= named[i].to) continue;
        if (write(STDERR_FILENO, named[i].line, named[i].length) < 0) _exit(EXIT_ERROR);
        _exit(EXIT_ERROR);
    }
    signal(sig, SIG_DFL); /* not of a file: raised again on return */
}

static void install(void) {
    struct sigaction on = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigaction(SIGBUS, &on, NULL);
}

static pthread_mutex_t naming = PTHREAD_MUTEX_INITIALIZER;

static void name(const MapFile *m, const char *path) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, install);
    pthread_mutex_lock(&naming);
    size_t i = 0;
    while (i < NAMED && atomic_load(&named[i].from)) i++;
    if (i < NAMED) {
        char line[LINE];
        size_t n = strlen(path);
        snprintf(line, sizeof line, "clipc: %s%s: it was cut while in use, or its storage fails\n",
                 n > PATH_SHOWN ? "..." : "", n > PATH_SHOWN ? path + n - PATH_SHOWN : path);
        named[i].length = terminal_escape(&(TerminalText){0}, named[i].line, line, strlen(line));
        named[i].to = (uintptr_t)m->bytes + m->size;
        atomic_store(&named[i].from, (uintptr_t)m->bytes);
    }
    pthread_mutex_unlock(&naming);
}

static void forget(const MapFile *m) {
    for (size_t i = 0; i < NAMED; i++)
        if (atomic_load(&named[i].from) == (uintptr_t)m->bytes) atomic_store(&named[i].from, 0);
}

/* ---- mapping ---- */

bool map_file(MapFile *m, const char *path, Error *err) {
    *m = (MapFile){0};
    struct stat s;
    int fd, tries = 0, failed = 0;
    if (!machine_stat(path, &s, 0)) return error_set(err, "%s", strerror(errno));
    if (!S_ISREG(s.st_mode)) return error_set(err, "not a regular file");
    while ((fd = open(path, O_RDONLY | O_CLOEXEC)) < 0)
        if (!machine_again(path, &tries)) return error_set(err, "%s", strerror(errno));
    while (!failed && fstat(fd, &s))
        if (!machine_again(path, &tries)) failed = errno;
    if (failed || !S_ISREG(s.st_mode)) {
        close(fd);
        return error_set(err, "%s", failed ? strerror(failed) : "not a regular file");
    }
    void *bytes = NULL;
    if (s.st_size) do
            bytes = mmap(NULL, (size_t)s.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        while (bytes == MAP_FAILED && machine_again(path, &tries));
    if (bytes == MAP_FAILED) failed = errno;
    close(fd);
    if (failed) return error_set(err, "%s", strerror(failed));
    *m = (MapFile){bytes, (size_t)s.st_size};
    if (bytes) name(m, path);
    return true;
}

void map_drop(const MapFile *m) {
    if (m->bytes) madvise((void *)m->bytes, m->size, MADV_DONTNEED);
}

void unmap_file(MapFile *m) {
    if (m->bytes) {
        forget(m);
        munmap((void *)m->bytes, m->size);
    }
    *m = (MapFile){0};
}
