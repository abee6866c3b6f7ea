#include "data/io/file.h"

#include "data/io/machine.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* A kind of storage. */
typedef struct Storage {
    const char *prefix; /* of the paths that it serves */
    bool (*stamp)(const char *path, FileStamp *s, Error *err);
    bool (*open)(File *f, const char *path, Error *err); /* sets f->stamp and its own fields */
    bool (*read)(const File *f, void *out, size_t n, uint64_t offset, Error *err);
    void (*close)(File *f);
} Storage;

struct File {
    const Storage *storage;
    FileStamp stamp;
    int fd;               /* disk */
    char *path;           /* disk */
    const uint8_t *bytes; /* memory */
};

/* ---- disk ---- */

static bool take_stamp(FileStamp *s, const struct stat *st) {
    *s = (FileStamp){(uint64_t)st->st_size, st->st_mtim.tv_sec, (uint32_t)st->st_mtim.tv_nsec};
    return S_ISREG(st->st_mode);
}

static bool disk_stamp(const char *path, FileStamp *s, Error *err) {
    struct stat st;
    if (!machine_stat(path, &st, 0)) return error_set(err, "%s: %s", path, strerror(errno));
    return take_stamp(s, &st) || error_set(err, "%s: not a regular file", path);
}

static bool disk_open(File *f, const char *path, Error *err) {
    struct stat st;
    /* opening a device may do something, and opening a FIFO waits: the file is looked at first */
    if (!disk_stamp(path, &f->stamp, err)) return false;
    for (int tries = 0; (f->fd = open(path, O_RDONLY | O_CLOEXEC)) < 0;)
        if (!machine_again(path, &tries)) return error_set(err, "%s: %s", path, strerror(errno));
    int failed = 0;
    for (int tries = 0; !failed && fstat(f->fd, &st);)
        if (!machine_again(path, &tries)) failed = errno;
    if (!failed && take_stamp(&f->stamp, &st)) {
        f->path = xstrdup(path);
        return true;
    }
    close(f->fd);
    return error_set(err, "%s: %s", path, failed ? strerror(failed) : "not a regular file");
}

static bool disk_read(const File *f, void *out, size_t n, uint64_t offset, Error *err) {
    int tries = 0;
    for (uint8_t *to = out; n > 0;) {
        ssize_t got = pread(f->fd, to, n, (off_t)offset);
        if (got < 0 && (errno == EINTR || machine_again(f->path, &tries))) continue;
        if (got < 0) return error_set(err, "cannot read: %s", strerror(errno));
        if (got == 0) return error_set(err, "cut at byte %llu", (unsigned long long)offset);
        to += got;
        n -= (size_t)got;
        offset += (uint64_t)got;
    }
    return true;
}

static void disk_close(File *f) {
    close(f->fd);
    free(f->path);
}

/* ---- memory ---- */

static bool memory_read(const File *f, void *out, size_t n, uint64_t offset, Error *err) {
    uint64_t size = f->stamp.size;
    if (offset > size || n > size - offset)
        return error_set(err, "cut at byte %llu", (unsigned long long)size);
    if (n) memcpy(out, f->bytes + offset, n);
    return true;
}

static void memory_close(File *f) { (void)f; }

/* ---- files ---- */

static const Storage memory = {.read = memory_read, .close = memory_close};
/* By path: the first row whose prefix fits. */
static const Storage storages[] = {{"", disk_stamp, disk_open, disk_read, disk_close}};

static const Storage *storage_of(const char *path) {
    const Storage *s = storages;
    while (strncmp(path, s->prefix, strlen(s->prefix))) s++;
    return s;
}

File *file_open(const char *path, Error *err) {
    File *f = xcalloc(1, sizeof *f);
    f->storage = storage_of(path);
    if (f->storage->open(f, path, err)) return f;
    free(f);
    return NULL;
}

File *file_open_memory(const uint8_t *bytes, size_t size) {
    File *f = xcalloc(1, sizeof *f);
    *f = (File){.storage = &memory, .stamp = {.size = size}, .bytes = bytes};
    return f;
}

uint64_t file_size(const File *f) { return f->stamp.size; }

bool file_read(const File *f, void *out, size_t n, uint64_t offset, Error *err) {
    return f->storage->read(f, out, n, offset, err);
}

void file_close(File *f) {
    if (!f) return;
    f->storage->close(f);
    free(f);
}

bool file_stamp(const char *path, FileStamp *s, Error *err) {
    return storage_of(path)->stamp(path, s, err);
}

bool file_readable(const char *path) {
    Error none;
    File *f = file_open(path, &none);
    file_close(f);
    return f != NULL;
}

/* ---- new files ---- */

int file_create(const char *path) {
    return open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
}

char *file_temporary(const char *path) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return xasprintf("%s.tmp.%d.%llx", path, (int)getpid(),
                     (unsigned long long)now.tv_sec * 1000000000u +
                         (unsigned long long)now.tv_nsec);
}

int file_unnamed(const char *folder, Error *err) {
    int fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0) return fd;
    /* not every file system makes one; the name is removed at once */
    char *path = xasprintf("%s/.unnamed-XXXXXX", folder);
    fd = mkostemp(path, O_CLOEXEC);
    if (fd < 0)
        error_set(err, "cannot write into %.300s: %s", folder, strerror(errno));
    else
        unlink(path);
    free(path);
    return fd;
}

char *file_of_fd(int fd) { return xasprintf("/proc/self/fd/%d", fd); }

bool file_write_fd(int fd, const void *bytes, size_t n) {
    for (const uint8_t *at = bytes; n > 0;) {
        ssize_t wrote = write(fd, at, n);
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote < 0) return false;
        at += wrote;
        n -= (size_t)wrote;
    }
    return true;
}

/* ---- whole files ---- */

bool file_read_all(const char *path, uint8_t **bytes, size_t *size, size_t limit, Error *err) {
    Error why;
    *bytes = NULL;
    *size = 0;
    File *f = file_open(path, err);
    if (!f) return false;
    bool ok = f->stamp.size <= limit || error_set(err, "%s: %llu bytes, more than the %zu allowed",
                                                  path, (unsigned long long)f->stamp.size, limit);
    if (ok) {
        size_t n = (size_t)f->stamp.size;
        uint8_t *all = xmalloc(n + 1);
        all[n] = 0;
        ok = file_read(f, all, n, 0, &why) || error_set(err, "%s: %s", path, why.text);
        if (ok) {
            *bytes = all;
            *size = n;
        } else {
            free(all);
        }
    }
    file_close(f);
    return ok;
}

bool file_read_first(const char *path, uint8_t **bytes, size_t *size, size_t most, Error *err) {
    *bytes = NULL;
    *size = 0;
    FILE *f;
    int tries = 0;
    while (!(f = fopen(path, "rb")))
        if (!machine_again(path, &tries)) return error_set(err, "%s", strerror(errno));
    uint8_t *all = NULL;
    size_t n = 0, room = 0, got = 1;
    while (got && n < most) {
        if (n == room) all = xrealloc(all, (room = room ? 2 * room : 1 << 16) + 1);
        n += got = fread(all + n, 1, size_min(room, most) - n, f);
        if (ferror(f) && machine_again(path, &tries)) {
            clearerr(f);
            got = 1;
        }
    }
    int failed = ferror(f) ? errno : 0;
    fclose(f);
    if (failed) {
        free(all);
        errno = failed;
        return error_set(err, "%s", strerror(failed));
    }
    all = all ? all : xmalloc(1);
    all[n] = 0;
    *bytes = all;
    *size = n;
    return true;
}

bool file_write(const char *path, const void *bytes, size_t n) {
    int fd = file_create(path);
    if (fd < 0) return false;
    bool ok = file_write_fd(fd, bytes, n) && !fsync(fd);
    int why = errno;
    if (close(fd)) return false;
    errno = why;
    return ok;
}

bool file_copy(const char *from, const char *to) {
    uint8_t *bytes;
    size_t n;
    Error none;
    bool ok = file_read_first(from, &bytes, &n, SIZE_MAX / 2, &none) && file_write(to, bytes, n);
    free(bytes);
    return ok;
}
