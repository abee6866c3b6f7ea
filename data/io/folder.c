#include "data/io/folder.h"
#include "data/io/machine.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

const char *path_base(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

bool ends_with(const char *name, const char *suffix) {
    size_t n = strlen(name), m = strlen(suffix);
    return n >= m && strcasecmp(name + n - m, suffix) == 0;
}

bool has_extension(const char *name, const char *list) {
    size_t length = strlen(name);
    for (size_t n; *list; list += n + (list[n] == ';')) {
        n = strcspn(list, ";");
        if (n && n < length && name[length - n - 1] == '.' &&
            !strncasecmp(name + length - n, list, n))
            return true;
    }
    return false;
}

char *folder_path(const char *folder, const char *name) { return xasprintf("%s/%s", folder, name); }

bool folder_is(const char *path) {
    struct stat s;
    return machine_stat(path, &s, 0) && S_ISDIR(s.st_mode);
}

char *path_absolute(const char *path) {
    while (!strncmp(path, "./", 2)) path += 2 + strspn(path + 2, "/");
    char *here = *path == '/' ? NULL : getcwd(NULL, 0),
         *full = here && strcmp(path, ".") ? folder_path(here, path) : xstrdup(here ? here : path);
    free(here);
    return full;
}

char *folder_beside(const char *path, const char *name) {
    if (folder_is(path)) return folder_path(path, name);
    return xasprintf("%.*s%s", (int)(path_base(path) - path), path, name);
}

static int compare_names(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

typedef struct Names {
    char **list;
    size_t count, capacity;
} Names;

static void add_name(Names *n, const char *name) {
    if (n->count == n->capacity) {
        n->capacity = size_max(64, n->capacity * 2);
        n->list = xrealloc(n->list, size_mul(n->capacity, sizeof *n->list));
    }
    n->list[n->count++] = xstrdup(name);
}

static bool entry_is_folder(DIR *dir, const struct dirent *e) {
    struct stat st;
    if (e->d_type == DT_DIR || e->d_type == DT_REG) return e->d_type == DT_DIR;
    for (int tries = 0; fstatat(dirfd(dir), e->d_name, &st, 0);)
        if (!machine_again(e->d_name, &tries)) return false;
    return S_ISDIR(st.st_mode);
}

/* Returns 0, or errno. */
static int read_names(const char *path, Names *names, Names *folders) {
    DIR *dir = opendir(path);
    if (!dir) return errno;
    errno = 0;
    for (struct dirent *e; (e = readdir(dir)); errno = 0)
        if (e->d_name[0] != '.')
            add_name(folders && entry_is_folder(dir, e) ? folders : names, e->d_name);
    int failed = errno;
    closedir(dir);
    return failed;
}

static void forget_names(Names *n) {
    names_free(n->list, n->count);
    *n = (Names){0};
}

static void sort_names(Names *n) {
    if (n->count) qsort(n->list, n->count, sizeof *n->list, compare_names);
}

/* Sorted names; folders apart if `folders` is not NULL. */
static bool list_names(const char *path, Names *names, Names *folders, Error *err) {
    *names = (Names){0};
    if (folders) *folders = (Names){0};
    for (int failed, tries = 0; (failed = read_names(path, names, folders));) {
        forget_names(names);
        if (folders) forget_names(folders);
        errno = failed;
        if (!machine_again(path, &tries)) return error_set(err, "%s: %s", path, strerror(failed));
    }
    sort_names(names);
    if (folders) sort_names(folders);
    return true;
}

bool folder_list(const char *path, char ***names, size_t *count, Error *err) {
    Names all;
    bool ok = list_names(path, &all, NULL, err);
    *names = all.list;
    *count = all.count;
    return ok;
}

bool folder_list_apart(const char *path, char ***files, size_t *file_count, char ***folders,
                       size_t *folder_count, Error *err) {
    Names plain, below;
    bool ok = list_names(path, &plain, &below, err);
    *files = plain.list;
    *file_count = plain.count;
    *folders = below.list;
    *folder_count = below.count;
    return ok;
}

void names_free(char **names, size_t count) {
    for (size_t i = 0; i < count; i++) free(names[i]);
    free(names);
}

bool names_have(char *const *names, size_t count, const char *name) {
    return bsearch(&name, names, count, sizeof *names, compare_names) != NULL;
}

/* Works on descriptors and never follows links: nothing outside the folder can be reached. */
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

bool folder_make(const char *path, Error *err) {
    char *part = xstrdup(path);
    bool ok = true;
    for (char *at = part + 1; ok; at++) {
        if (*at != '/' && *at != 0) continue;
        char keep = *at;
        *at = 0;
        if (mkdir(part, 0777) && errno != EEXIST)
            ok = error_set(err, "cannot create the folder %s: %s", part, strerror(errno));
        *at = keep;
        if (!keep) break;
    }
    free(part);
    return ok;
}

bool folder_private(const char *path, Error *err) {
    struct stat s;
    if (!machine_stat(path, &s, 0)) {
        char *copy = xstrdup(path);
        bool ok = folder_make(dirname(copy), err);
        free(copy);
        if (!ok) return false;
        if (mkdir(path, 0700) && errno != EEXIST)
            return error_set(err, "cannot create the folder %.300s: %s", path, strerror(errno));
        if (!machine_stat(path, &s, 0)) return error_set(err, "%.300s: %s", path, strerror(errno));
    }
    if (!S_ISDIR(s.st_mode)) return error_set(err, "%.300s: not a folder", path);
    if (s.st_uid != geteuid() && s.st_uid) return error_set(err, "%.300s is another user's", path);
    return !(s.st_mode & (S_IWGRP | S_IWOTH)) ||
           error_set(err, "others can write to %.300s (chmod go-w)", path);
}

char *folder_cache(void) {
    const char *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (xdg && *xdg) return xasprintf("%s/clipc", xdg);
    return home && *home ? xasprintf("%s/.cache/clipc", home) : NULL;
}

bool folder_holds(const char *folder, const char *path) {
    char *outer = realpath(folder, NULL), *inner = realpath(path, NULL);
    size_t n = outer ? strlen(outer) : 0;
    bool holds = outer && inner && !strncmp(outer, inner, n) && inner[n] == '/';
    FREE_ALL(outer, inner);
    return holds;
}

void folder_make_or_die(const char *path) {
    Error err;
    if (!folder_make(path, &err)) die("%s", err.text);
}

bool folder_sync(const char *path) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return false;
    bool ok = !fsync(fd) || errno == EINVAL; /* EINVAL: a file system that does not support it */
    close(fd);
    return ok;
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
    if (!ok && (errno == EINVAL || errno == ENOSYS)) { /* flag not supported */
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
