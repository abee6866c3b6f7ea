#include "data/pack_folder.h"
#include "data/io/file.h"
#include "data/io/folder.h"
#include "data/io/machine.h"
#include "data/io/writer.h"
#include "data/sources.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

enum { PROGRESS_MAX = 1 << 30 };

/* Returns true if file is NAME-NNNNNN.tar, .tar.zst, or the index of one, or (part) an unfinished
 * file of such a name; number: NNNNNN. */
static bool is_ours(const char *file, const char *name, bool part, size_t *number) {
    static const char *const unfinished[] = {".progress.json.tmp.", ".sizes.json"};
    size_t n = strlen(name);
    char *end;
    for (size_t i = 0; part && i < COUNT(unfinished); i++)
        if (strncmp(file, name, n) == 0 &&
            strncmp(file + n, unfinished[i], strlen(unfinished[i])) == 0)
            return true;
    if (strncmp(file, name, n) != 0 || file[n] != '-' || strspn(file + n + 1, "0123456789") < 6)
        return false;
    *number = strtoull(file + n + 1, &end, 10);
    const char *endings[] = {".tar", ".tar.zst", ".tar.idx", ".tar.zst.idx"};
    for (size_t i = 0; i < COUNT(endings); i++) {
        size_t length = strlen(endings[i]);
        if (strcmp(end, endings[i]) == 0) return !part;
        if (part && strncmp(end, endings[i], length) == 0 && strncmp(end + length, ".tmp.", 5) == 0)
            return true;
    }
    return false;
}

/* Removes files of this pack: unfinished ones, or shards that are not among the first `keep`. */
static bool remove_files(const PackFolder *f, bool part, size_t keep, bool zstd, Error *err) {
    char **files;
    size_t count, number;
    if (!folder_list(f->folder, &files, &count, err)) return false;
    bool ok = true;
    for (size_t i = 0; i < count; i++) {
        if (!is_ours(files[i], f->name, part, &number)) continue;
        if (!part && number < keep && (strstr(files[i], ".tar.zst") != NULL) == zstd) continue;
        char *path = xasprintf("%s/%s", f->folder, files[i]);
        if (unlink(path) != 0) ok = error_set(err, "cannot remove %s: %s", path, strerror(errno));
        free(path);
    }
    names_free(files, count);
    return ok;
}

static bool refuse_shards(const PackFolder *f, Error *err) {
    char **files;
    size_t count, number;
    if (!folder_list(f->folder, &files, &count, err)) return false;
    bool ok = true;
    for (size_t i = 0; ok && i < count; i++)
        if (is_ours(files[i], f->name, false, &number))
            ok = error_set(err, "%s/%s is there already: --force replaces it", f->folder, files[i]);
    names_free(files, count);
    return ok;
}

/* The lock's file is never removed: who had it open would lock a file that others no longer see. */
static bool take_lock(PackFolder *f, Error *err) {
    f->lock_fd = open(f->lock, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (f->lock_fd < 0) return error_set(err, "cannot write %s: %s", f->lock, strerror(errno));
    return flock(f->lock_fd, LOCK_EX | LOCK_NB) == 0 ||
           error_set(err, "%s/%s: another clipc data pack writes it", f->folder, f->name);
}

/* ---- the state ---- */

/* Hashes without progress are leftovers, to which later ones would be appended. */
static bool remove_state(const PackFolder *f, Error *err) {
    const char *const paths[] = {f->progress, f->hashes};
    for (size_t i = 0; i < COUNT(paths); i++)
        if (unlink(paths[i]) && errno != ENOENT)
            return error_set(err, "cannot remove %s: %s", paths[i], strerror(errno));
    return true;
}

static char *identity_text(const PackFolder *f) {
    return xasprintf("%016llx", (unsigned long long)f->identity);
}

static bool read_hashes(const PackFolder *f, PackState *s, Error *err) {
    uint8_t *bytes;
    size_t size;
    if (!s->added_count) return true;
    if (!file_read_all(f->hashes, &bytes, &size, SIZE_MAX / 2, err)) return false;
    s->added = (Hash128 *)(void *)bytes;
    if (size / sizeof *s->added < s->added_count)
        return error_set(err, "%s: cut: --force begins again", f->hashes);
    const size_t want = s->added_count * sizeof *s->added;
    int fd = open(f->hashes, O_WRONLY | O_NOFOLLOW | O_CLOEXEC);
    bool ok = fd >= 0 && ftruncate(fd, (off_t)want) == 0;
    if (!ok) error_set(err, "%s: %s", f->hashes, strerror(errno));
    if (fd >= 0) close(fd);
    return ok;
}

static bool parse_state(const PackFolder *f, const json_t *all, PackState *s, Error *err) {
    const char *identity = json_string_value(json_object_get(all, "identity"));
    json_t *sizes = json_object_get(all, "sizes");
    char *own = identity_text(f);
    bool same = identity && strcmp(identity, own) == 0;
    free(own);
    if (identity && !same)
        return error_set(err,
                         "%s/%s: a pack of other data or options was not finished: --force begins "
                         "again",
                         f->folder, f->name);
    const json_int_t next = json_integer_value(json_object_get(all, "next")),
                     hashes = json_integer_value(json_object_get(all, "hashes"));
    if (!identity || !json_is_object(sizes) || next < 0 || hashes < 0 ||
        !pack_report_from_json(&s->report, json_object_get(all, "report")))
        return error_set(err, "%s: damaged: --force begins again", f->progress);
    s->next = (size_t)next;
    s->added_count = (size_t)hashes;
    json_decref(s->sizes);
    s->sizes = json_incref(sizes);
    return read_hashes(f, s, err);
}

static bool read_state(const PackFolder *f, PackState *s, Error *err) {
    uint8_t *bytes;
    size_t size;
    if (!file_read_all(f->progress, &bytes, &size, PROGRESS_MAX, err)) return false;
    json_t *all = json_loadb((char *)bytes, size, 0, NULL);
    free(bytes);
    bool ok = parse_state(f, all, s, err);
    json_decref(all);
    return ok;
}

/* Other names' entries would be lost with a file that cannot be read. NULL: err. */
static json_t *read_sizes(const PackFolder *f, Error *err) {
    uint8_t *bytes;
    size_t size;
    if (!machine_access(f->sizes, F_OK) && errno == ENOENT) return json_object();
    if (!file_read_all(f->sizes, &bytes, &size, PROGRESS_MAX, err)) return NULL;
    json_t *all = json_loadb((char *)bytes, size, 0, NULL);
    free(bytes);
    if (json_is_object(all)) return all;
    json_decref(all);
    error_set(err, "%s: damaged: mend it, or remove it if no other program reads it", f->sizes);
    return NULL;
}

bool pack_folder_open(PackFolder *f, const char *out, uint64_t identity, bool force, bool *going_on,
                      PackState *state, Error *err) {
    const char *slash = strrchr(out, '/');
    *going_on = false;
    *state = (PackState){.sizes = json_object()};
    *f = (PackFolder){.lock_fd = -1, .identity = identity};
    f->folder =
        slash ? xasprintf("%.*s", (int)size_max(1, (size_t)(slash - out)), out) : xstrdup(".");
    f->name = xstrdup(slash ? slash + 1 : out);
    f->progress = xasprintf("%s/%s.progress.json", f->folder, f->name);
    f->hashes = xasprintf("%s/.%s.hashes", f->folder, f->name);
    f->lock = xasprintf("%s/.%s.lock", f->folder, f->name);
    f->sizes = xasprintf("%s/sizes.json", f->folder);
    if (!*f->name) return error_set(err, "%s: give a folder and a name, as in %strain", out, out);
    if (!folder_make(f->folder, err) || !take_lock(f, err)) return false;
    json_t *sizes = read_sizes(f, err); /* refused now, not after the work */
    if (!sizes) return false;
    json_decref(sizes);
    if (!force && machine_access(f->progress, F_OK)) {
        *going_on = true;
        if (!read_state(f, state, err)) return false;
    } else if ((!force && !refuse_shards(f, err)) || !remove_state(f, err)) {
        return false;
    }
    return remove_files(f, true, 0, false, err);
}

static bool append_hashes(const PackFolder *f, const PackState *s, size_t old, Error *err) {
    size_t n = (s->added_count - old) * sizeof *s->added;
    if (!n) return true;
    int fd = open(f->hashes, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0666);
    bool ok = fd >= 0 && file_write_fd(fd, s->added + old, n) && fsync(fd) == 0;
    if (!ok) error_set(err, "cannot write %s: %s", f->hashes, strerror(errno));
    if (fd >= 0) close(fd);
    return ok;
}

bool pack_folder_save(PackFolder *f, const PackState *s, size_t old_added, Error *err) {
    if (!append_hashes(f, s, old_added, err)) return false;
    char *identity = identity_text(f);
    json_t *all = json_pack("{ss sI sI so sO}", "identity", identity, "next", (json_int_t)s->next,
                            "hashes", (json_int_t)s->added_count, "report",
                            pack_report_to_json(&s->report), "sizes", s->sizes);
    char *text = json_dumps(all, JSON_COMPACT);
    if (!text) die("out of memory: no room for %s", f->progress);
    bool ok = file_write_atomic(f->progress, text, strlen(text), err);
    FREE_ALL(text, identity);
    json_decref(all);
    return ok;
}

/* ---- the end ---- */

/* sizes.json lists the shards' sizes for other programs; entries of other names stay. Its
 * unfinished file has this pack's name, so that the next one removes it. */
static bool write_sizes(const PackFolder *f, json_t *all, json_t *sizes, Error *err) {
    char *beside = xasprintf("%s/%s.sizes.json", f->folder, f->name);
    const char *key;
    json_t *value;
    void *next;
    size_t number;
    json_object_foreach_safe(all, next, key, value) {
        if (is_ours(key, f->name, false, &number)) json_object_del(all, key);
    }
    json_object_update(all, sizes);
    char *text = json_dumps(all, JSON_INDENT(1) | JSON_SORT_KEYS);
    if (!text) die("out of memory: no room for %s", f->sizes);
    bool ok = file_write_atomic(beside, text, strlen(text), err);
    if (ok && rename(beside, f->sizes))
        ok = error_set(err, "cannot rename %s to %s: %s", beside, f->sizes, strerror(errno));
    FREE_ALL(text, beside);
    return ok;
}

bool pack_folder_finish(PackFolder *f, const PackState *s, bool zstd, Error *err) {
    json_t *all = read_sizes(f, err);
    bool ok = all && remove_files(f, false, (size_t)s->report.shards, zstd, err) &&
              write_sizes(f, all, s->sizes, err) && remove_state(f, err);
    json_decref(all);
    return ok;
}

void pack_folder_close(PackFolder *f) {
    if (f->lock_fd >= 0) close(f->lock_fd); /* the file stays: see take_lock */
    FREE_ALL(f->folder, f->name, f->progress, f->hashes, f->lock, f->sizes);
}

void pack_state_free(PackState *s) {
    json_decref(s->sizes);
    free(s->added);
}
