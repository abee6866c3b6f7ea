#include "data/io/lock.h"

#include "data/io/folder.h"
#include "data/io/machine.h"

#include <errno.h>
#include <limits.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { TEXT = 512, WAIT_MS = 2000, PAUSE_MS = 50, ATTEMPTS = 100 };

static struct {
    char *folder, *file; /* absolute */
    int fd;
    pid_t pid; /* of the process that has it; 0: none */
} held;

/* Who has a lock: "HOST:PID", and in a SLURM job " JOB START" (scontrol requeue counts starts). */
typedef struct Owner {
    char host[256], job[64];
    long pid;
    unsigned long start;
} Owner;

static Owner this_process(void) {
    Owner o = {.host = "?", .pid = (long)getpid()};
    gethostname(o.host, sizeof o.host - 1);
    const char *job = getenv("SLURM_JOB_ID"), *start = getenv("SLURM_RESTART_COUNT");
    if (job && strlen(job) < sizeof o.job && !strpbrk(job, " \n")) strcpy(o.job, job);
    o.start = start ? strtoul(start, NULL, 10) : 0;
    return o;
}

/* pid 0: the file is empty, or names no process. */
static Owner read_owner(int fd) {
    char text[TEXT];
    ssize_t n;
    for (int tries = 0; (n = pread(fd, text, sizeof text - 1, 0)) < 0;)
        if (!machine_again("a lock", &tries)) break;
    text[n > 0 ? n : 0] = 0;
    Owner o = {.host = "?"};
    if (sscanf(text, "%255[^:\n]:%ld %63s %lu", o.host, &o.pid, o.job, &o.start) < 2 || o.pid < 1 ||
        o.pid > INT_MAX) /* kill() takes an int, and 0 and less are groups */
        o.pid = 0;
    return o;
}

static bool write_owner(int fd, const Owner *o) {
    char text[TEXT];
    int n = snprintf(text, sizeof text, "%s:%ld", o->host, o->pid);
    if (*o->job) n += snprintf(text + n, sizeof text - (size_t)n, " %s %lu", o->job, o->start);
    text[n++] = '\n';
    /* fsync, since other hosts read the server's copy */
    return !ftruncate(fd, 0) && pwrite(fd, text, (size_t)n, 0) == n && !fsync(fd);
}

/* A killed process holds its lock until the system has reclaimed its memory. */
static bool flock_soon(int fd) {
    for (int waited = 0; flock(fd, LOCK_EX | LOCK_NB); waited += PAUSE_MS) {
        if (errno != EWOULDBLOCK || waited >= WAIT_MS) return false;
        usleep(1000 * PAUSE_MS);
    }
    return true;
}

static bool in_use(const char *folder, const Owner *by, Error *err) {
    return error_set(err, "%.300s is in use by process %s:%ld: wait for its end, or choose another",
                     folder, by->host, by->pid);
}

/* why: 0, or flock's errno. */
static bool is_free(const char *folder, const Owner *was, const Owner *self, int why, Error *err) {
    if (why == EWOULDBLOCK) return in_use(folder, was, err);
    if (!was->pid) return true;
    if (!strcmp(was->host, self->host)) /* if flock does not work, the process is queried */
        return !why || (kill((pid_t)was->pid, 0) && errno == ESRCH) || in_use(folder, was, err);
    if (*was->job && !strcmp(was->job, self->job) && was->start < self->start) return true;
    return error_set(err,
                     "%.200s was locked by process %s:%ld, which cannot be seen from here: if it "
                     "no longer runs, remove %.200s/lock",
                     folder, was->host, was->pid, folder);
}

/* Returns true if the path still names the opened file: its owner removes it. */
static bool is_same(int fd, const char *file) {
    struct stat a, b;
    return !fstat(fd, &a) && !lstat(file, &b) && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

/* The file's descriptor; -1: err. */
static int lock_file(const char *folder, const char *file, Error *err) {
    for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
        if (!folder_make(folder, err)) return -1;
        int fd = open(file, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0666);
        error_set(err, "cannot write %.300s: %s", file, strerror(errno));
        if (fd < 0 && errno == ENOENT) continue; /* the folder went with its last lock */
        if (fd < 0) return -1;
        const Owner self = this_process();
        int why = flock_soon(fd) ? 0 : errno;
        if (!why && !is_same(fd, file)) {
            close(fd);
            continue;
        }
        const Owner was = read_owner(fd);
        bool ok = is_free(folder, &was, &self, why, err);
        if (ok && !write_owner(fd, &self))
            ok = error_set(err, "cannot write %.300s: %s", file, strerror(errno));
        if (ok) return fd;
        close(fd);
        return -1;
    }
    return -1;
}

bool folder_lock(const char *folder, Error *err) {
    assert(!held.pid);
    char *file = folder_path(folder, "lock");
    int fd = lock_file(folder, file, err);
    if (fd >= 0) {
        held.fd = fd;
        held.folder = realpath(folder, NULL);
        held.file = realpath(file, NULL);
        held.pid = getpid();
        at_every_exit(folder_unlock);
    }
    free(file);
    return fd >= 0;
}

void folder_unlock(void) {
    if (held.pid != getpid()) return; /* none, or that of the process that forked this one */
    held.pid = 0;
    if (held.file && is_same(held.fd, held.file)) unlink(held.file);
    close(held.fd);
    if (held.folder) rmdir(held.folder);
    FREE_ALL(held.file, held.folder);
}
