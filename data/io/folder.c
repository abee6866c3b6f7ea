#include "data/io/folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

char *folder_path(const char *folder, const char *name) { return xasprintf("%s/%s", folder, name); }

bool folder_is(const char *path) {
    struct stat s;
    return !stat(path, &s) && S_ISDIR(s.st_mode);
}

char *folder_beside(const char *path, const char *name) {
    if (folder_is(path)) return folder_path(path, name);
    const char *slash = strrchr(path, '/');
    return xasprintf("%.*s%s", slash ? (int)(slash + 1 - path) : 0, path, name);
}

/* By descriptors, never through a link: nothing outside the folder can be reached. */
static void remove_at(int parent, const char *name) {
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (!d) {
        if (fd >= 0) close(fd);
        return;
    }
    for (struct dirent *e; (e = readdir(d));)
        if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..") && unlinkat(fd, e->d_name, 0))
            remove_at(fd, e->d_name);
    closedir(d);
    unlinkat(parent, name, AT_REMOVEDIR);
}

void folder_remove(const char *path) { remove_at(AT_FDCWD, path); }

void folder_make(const char *path) {
    char *part = xstrdup(path);
    for (char *slash = part + 1;; slash++) {
        if (*slash && *slash != '/') continue;
        char was = *slash;
        *slash = 0;
        if (mkdir(part, 0777) && errno != EEXIST) die("folder %s: %s", part, strerror(errno));
        *slash = was;
        if (!was) break;
    }
    free(part);
}

bool folder_sync(const char *path) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return false;
    bool ok = !fsync(fd) || errno == EINVAL; /* EINVAL: a file system without it */
    close(fd);
    return ok;
}

bool file_write(const char *path, const void *bytes, size_t n) {
    FILE *f = fopen(path, "wb");
    if (!f) return false;
    bool ok = fwrite(bytes, 1, n, f) == n && !fflush(f) && !fsync(fileno(f));
    return !fclose(f) && ok;
}

bool folder_replace(const char *from, const char *to) {
    if (!rename(from, to)) return true;
    if (errno != ENOTEMPTY && errno != EEXIST) return false;
    if (!renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_EXCHANGE)) {
        folder_remove(from);
        return true;
    }
    char *old = xasprintf("%s.old", to);
    folder_remove(old);
    bool ok = !rename(to, old) && !rename(from, to);
    if (ok) folder_remove(old);
    free(old);
    return ok;
}

bool folder_place(const char *from, const char *to, Error *err) {
    bool ok = !renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE);
    if (!ok && (errno == EINVAL || errno == ENOSYS)) { /* a file system without the flag */
        struct stat s;
        if (!lstat(to, &s))
            errno = EEXIST;
        else
            ok = !rename(from, to);
    }
    if (ok) return true;
    return error_set(err, "%.200s: %s", to,
                     errno == EEXIST ? "exists already, and nothing is written over"
                                     : strerror(errno));
}

bool file_copy(const char *from, const char *to) {
    FILE *f = fopen(from, "rb");
    if (!f) return false;
    struct stat s;
    size_t size = fstat(fileno(f), &s) ? 0 : (size_t)s.st_size;
    char *bytes = xmalloc(size);
    bool ok = fread(bytes, 1, size, f) == size;
    fclose(f);
    ok = ok && file_write(to, bytes, size);
    free(bytes);
    return ok;
}
