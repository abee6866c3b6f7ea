#include "data/sources.h"
#include "data/io/folder.h"
#include "data/io/machine.h"
#include "data/io/stream.h"
#include "data/io/utf8.h"
#include "data/io/walk.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SOURCES_MAX = 10 * 1000 * 1000, LIST_BYTES_MAX = 1 << 30 };
/* A short text with braces names much: braces in one name, all names from braces, their bytes. */
enum { BRACES_MAX = 8, EXPANDED_MAX = 2 * 1000 * 1000, EXPANDED_BYTES_MAX = 256 << 20 };

static bool add(Sources *s, const Source *source, const char *path, Error *err) {
    if (s->count >= SOURCES_MAX) return error_set(err, "more than %d shards", SOURCES_MAX);
    if (s->count == s->capacity) {
        s->capacity = size_max(64, s->capacity * 2);
        s->items = xrealloc(s->items, size_mul(s->capacity, sizeof *s->items));
    }
    s->items[s->count++] = (SourceItem){source, xstrdup(path), s->parts};
    return true;
}

/* A path that belongs to the item before it, if that is of the same kind. */
static bool add_joined(Sources *s, const Source *source, const char *path, Error *err) {
    if (strchr(path, '\n')) return error_set(err, "a name with a line break: %s", path);
    SourceItem *last = s->count ? &s->items[s->count - 1] : NULL;
    size_t n = strlen(path), need = s->last_size + n + 2;
    if (!last || last->source != source || last->part != s->parts) {
        s->last_size = n;
        s->last_capacity = n + 1;
        return add(s, source, path, err);
    }
    if (need > s->last_capacity) last->path = xrealloc(last->path, s->last_capacity = 2 * need);
    last->path[s->last_size] = '\n';
    memcpy(last->path + s->last_size + 1, path, n + 1);
    s->last_size += n + 1;
    return true;
}

typedef struct TarWalk {
    Sources *sources;
    size_t before;          /* items */
    size_t images, folders; /* that are no part of the data */
    bool ok;
    Error *err;
} TarWalk;

static bool add_tars(void *context, const char *path, const char *within, char *const *names,
                     size_t count) {
    TarWalk *w = context;
    for (size_t i = 0; w->ok && i < count; i++) {
        const Source *source = source_of(names[i]);
        w->images += source == &source_pictures;
        if (source != &source_tar) continue;
        char *full = folder_path(path, names[i]);
        w->ok = add(w->sources, &source_tar, full, w->err);
        free(full);
    }
    return w->ok && (*within || w->sources->count == w->before);
}

static void skip_folder(void *context, const char *within, const char *why) {
    (void)within;
    (void)why;
    ((TarWalk *)context)->folders++;
}

/* Adds again what a folder gave that was walked before. False: it is a new one. */
static bool add_again(Sources *s, const struct stat *st, bool *ok, Error *err) {
    char *name = xasprintf("%jx:%jx", (uintmax_t)st->st_dev, (uintmax_t)st->st_ino);
    bool added;
    uint32_t number = string_map_put(&s->folders, name, &added);
    if (added) {
        s->folder_items = xrealloc(s->folder_items, s->folders.capacity * sizeof *s->folder_items);
        return false;
    }
    free(name);
    const FolderItems *f = &s->folder_items[number];
    for (size_t i = f->first; *ok && i < f->first + f->count; i++)
        *ok = add(s, s->items[i].source, s->items[i].path, err);
    return true;
}

static bool add_folder(Sources *s, const char *path, const struct stat *st, Error *err) {
    TarWalk w = {.sources = s, .before = s->count, .ok = true, .err = err};
    if (add_again(s, st, &w.ok, err)) return w.ok;
    FolderItems *f = &s->folder_items[s->folders.count - 1];
    if (!walk_folder(&(FolderWalk){add_tars, skip_folder, &w}, path, err) || !w.ok) return false;
    *f = (FolderItems){w.before, s->count - w.before};
    if (f->count && (w.images || w.folders))
        log_info("%s: %zu shards; skipped: %zu image files and %zu folders beside them", path,
                 f->count, w.images, w.folders);
    if (f->count) return true;
    f->count = 1;
    return add(s, &source_folder, path, err);
}

static bool is_command(const char *path) { return strncmp(path, "pipe:", 5) == 0; }

char *source_short_name(const char *path) {
    const char *tar = NULL, *at = path;
    if (!is_command(path)) return xstrdup(path_base(path));
    while ((at = strstr(at, ".tar"))) tar = at++;
    if (!tar) return xstrdup(path);
    const char *from = tar, *end = tar + strcspn(tar, " ;|<>&'\"");
    while (from > path && !strchr(" /;|<>&'\"", from[-1])) from--;
    return xasprintf("%.*s", (int)(end - from), from);
}

static bool add_list(Sources *s, const char *path, Error *err);

static bool add_path(Sources *s, const char *path, bool in_list, Error *err) {
    if (is_command(path) && s->pipes != PIPES_ALL && (in_list || s->pipes))
        return error_set(err, "%.400s: the command of a %s is run only with --allow-pipe", path,
                         in_list ? "list file" : "recipe");
    if (strstr(path, "://") && !is_command(path))
        return error_set(err, "%s: no address is fetched here: use \"pipe:curl -sf %s\"", path,
                         path);
    const Source *source = source_of(path);
    if (source) return (source->name ? add_joined : add)(s, source, path, err);
    if (ends_with(path, ".txt")) {
        if (in_list) return error_set(err, "%s: a list inside a list", path);
        return add_list(s, path, err);
    }
    struct stat st;
    if (stat(path, &st) != 0) return error_set(err, "%s: %s", path, strerror(errno));
    if (S_ISDIR(st.st_mode)) return add_folder(s, path, &st, err);
    return error_set(
        err, "%s: not a .tar, .tar.zst, .csv, .tsv, .jsonl, .txt list, image or folder", path);
}

/* "{007..010}": both ends into lo and hi, the width of zero-padded numbers into width. */
static bool parse_range(const char *body, size_t n, unsigned long long *lo, unsigned long long *hi,
                        int *width) {
    char text[64], rest;
    if (n >= sizeof text) return false;
    memcpy(text, body, n);
    text[n] = 0;
    if (text[strspn(text, "0123456789.")] || sscanf(text, "%18llu..%18llu%c", lo, hi, &rest) != 2)
        return false;
    *width = text[0] == '0' ? (int)(strchr(text, '.') - text) : 0;
    return *lo <= *hi;
}

static bool expand(Sources *s, const char *path, bool in_list, int depth, Error *err);

static bool expand_one(Sources *s, const char *path, size_t before, const char *middle,
                       const char *after, bool in_list, int depth, Error *err) {
    char *full = xasprintf("%.*s%s%s", (int)before, path, middle, after);
    bool ok = expand(s, full, in_list, depth + 1, err);
    free(full);
    return ok;
}

/* Returns true for braces in a shell command that are left to the shell. */
static bool is_foreign(const char *path, const char *open, const char *close) {
    static const char plain[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./,";
    size_t n = (size_t)(close - open - 1);
    unsigned long long lo, hi;
    int width;
    if (open > path && open[-1] == '$') return true;
    if (parse_range(open + 1, n, &lo, &hi, &width)) return false;
    return strspn(open + 1, plain) < n || !memchr(open, ',', n + 1);
}

static const char *next_braces(const char *path, const char **close) {
    for (const char *open = path; (open = strchr(open, '{')); open++) {
        *close = strchr(open, '}');
        if (!*close) return NULL;
        if (!is_command(path) || !is_foreign(path, open, *close)) return open;
    }
    return NULL;
}

/* A name that braces gave. */
static bool add_expanded(Sources *s, const char *path, bool in_list, Error *err) {
    s->expanded_bytes += strlen(path);
    if (++s->expanded > EXPANDED_MAX)
        return error_set(err, "%.200s: braces give more than %d names", path, EXPANDED_MAX);
    if (s->expanded_bytes > EXPANDED_BYTES_MAX)
        return error_set(err, "%.200s: braces give names of more than %d MiB", path,
                         EXPANDED_BYTES_MAX >> 20);
    return add_path(s, path, in_list, err);
}

/* Expands the first braces of path, then those of every result. */
static bool expand(Sources *s, const char *path, bool in_list, int depth, Error *err) {
    const char *close = NULL, *open = next_braces(path, &close);
    if (!open) return (depth ? add_expanded : add_path)(s, path, in_list, err);
    if (depth == BRACES_MAX) return error_set(err, "%s: more than %d braces", path, BRACES_MAX);
    size_t before = (size_t)(open - path), n = (size_t)(close - open - 1);
    unsigned long long lo, hi;
    int width;
    if (parse_range(open + 1, n, &lo, &hi, &width)) {
        if (hi - lo >= EXPANDED_MAX)
            return error_set(err, "%.200s: braces give more than %d names", path, EXPANDED_MAX);
        for (unsigned long long i = lo; i <= hi; i++) {
            char number[32];
            snprintf(number, sizeof number, "%0*llu", width, i);
            if (!expand_one(s, path, before, number, close + 1, in_list, depth, err)) return false;
        }
        return true;
    }
    if (!memchr(open, ',', n + 1))
        return error_set(err, "%s: braces are {000..999} or {a,b,c}", path);
    for (const char *at = open + 1; at <= close;) {
        size_t part = strcspn(at, ",}");
        char *middle = xasprintf("%.*s", (int)part, at);
        bool ok = expand_one(s, path, before, middle, close + 1, in_list, depth, err);
        free(middle);
        if (!ok) return false;
        at += part + 1;
    }
    return true;
}

/* Returns true for a path, not a command, an address or standard input. */
static bool is_local(const char *name) {
    return !strstr(name, "://") && !is_command(name) && strcmp(name, "-") != 0;
}

static bool is_relative(const char *name) { return *name != '/' && is_local(name); }

/* The folder of a list's relative names with a slash after it, "" for the current one; malloc'd. */
static char *list_folder(const char *list, const char *first) {
    const char *name = path_base(list);
    char *folder = xasprintf("%.*s", (int)(name - list), list), *beside;
    beside = xasprintf("%s%s", folder, first);
    if (!machine_access(beside, F_OK) && machine_access(first, F_OK)) *folder = 0;
    free(beside);
    return folder;
}

bool sources_list(const char *path, char ***names, size_t *count, Error *err) {
    uint8_t *bytes;
    size_t size, capacity = 0;
    char *folder = NULL, *save;
    *names = NULL;
    *count = 0;
    if (!file_read_all(path, &bytes, &size, LIST_BYTES_MAX, err)) return false;
    char *line = strtok_r((char *)bytes + text_mark((char *)bytes, size), "\r\n", &save);
    for (; line; line = strtok_r(NULL, "\r\n", &save)) {
        line += strspn(line, " \t");
        size_t n = strlen(line);
        while (n && (line[n - 1] == ' ' || line[n - 1] == '\t')) line[--n] = 0;
        if (n == 0 || *line == '#') continue;
        if (*count == capacity) {
            capacity = size_max(64, 2 * capacity);
            *names = xrealloc(*names, size_mul(capacity, sizeof **names));
        }
        bool relative = is_relative(line);
        if (relative && !folder) folder = list_folder(path, line);
        (*names)[(*count)++] = relative ? xasprintf("%s%s", folder, line) : xstrdup(line);
    }
    FREE_ALL(folder, bytes);
    return true;
}

static bool add_list(Sources *s, const char *path, Error *err) {
    char **names;
    size_t count;
    bool ok = sources_list(path, &names, &count, err);
    for (size_t i = 0; ok && i < count; i++) ok = expand(s, names[i], true, 0, err);
    names_free(names, count);
    return ok;
}

bool sources_expand(Sources *s, const char *spec, Pipes pipes, Error *err) {
    *s = (Sources){.pipes = pipes};
    for (const char *at = spec;;) {
        const char *end = strstr(at, "::");
        size_t n = end ? (size_t)(end - at) : strlen(at);
        if (n == 0) return error_set(err, "\"%s\" names no data", spec);
        char *part = xasprintf("%.*s", (int)n, at);
        bool ok = *part == '@' ? add_list(s, part + 1, err) : expand(s, part, false, 0, err);
        free(part);
        if (!ok) return false;
        s->parts++;
        if (!end) break;
        at = end + 2;
    }
    if (s->count == 0) return error_set(err, "%s: names no shard", spec);
    return true;
}

/* A path after `prefix`. */
static char *map_path(const char *prefix, const char *name,
                      char *(*path)(const void *context, const char *path), const void *context) {
    char *new = path(context, name), *all = xasprintf("%s%s", prefix, new);
    free(new);
    return all;
}

static char *map_part(const char *part, char *(*path)(const void *context, const char *path),
                      const void *context) {
    const char *comma = strchr(part, ',');
    if (*part == '@') return map_path("@", part + 1, path, context);
    if (strncmp(part, ARRAYS_PREFIX, strlen(ARRAYS_PREFIX)) != 0)
        return is_local(part) ? map_path("", part, path, context) : xstrdup(part);
    if (!comma) return map_path(ARRAYS_PREFIX, part + strlen(ARRAYS_PREFIX), path, context);
    char *images = xasprintf("%.*s", (int)(comma - part), part),
         *first = map_part(images, path, context),
         *second = map_path(",", comma + 1, path, context),
         *both = xasprintf("%s%s", first, second);
    FREE_ALL(images, first, second);
    return both;
}

char *sources_map(const char *spec, char *(*path)(const void *context, const char *path),
                  const void *context) {
    char *all = xstrdup("");
    for (const char *at = spec, *end; at; at = end ? end + 2 : NULL) {
        end = strstr(at, "::");
        char *part = xasprintf("%.*s", (int)(end ? (size_t)(end - at) : strlen(at)), at),
             *new = map_part(part, path, context),
             *longer = xasprintf("%s%s%s", all, at == spec ? "" : "::", new);
        FREE_ALL(part, new, all);
        all = longer;
    }
    return all;
}

void sources_free(Sources *s) {
    for (size_t i = 0; i < s->count; i++) free(s->items[i].path);
    for (size_t i = 0; i < s->folders.count; i++) free((char *)s->folders.strings[i]);
    string_map_free(&s->folders);
    FREE_ALL(s->items, s->folder_items);
    *s = (Sources){.items = NULL};
}

bool parse_factors(double *factor, size_t parts, const char *text, Error *err) {
    double sum = 0;
    for (size_t i = 0; i < parts; i++) factor[i] = 1;
    if (!text) return true;
    const char *at = text;
    for (size_t i = 0; i < parts; i++) {
        char *end;
        factor[i] = strtod(at, &end);
        bool last = i + 1 == parts;
        if (end == at || !(factor[i] >= 0 && factor[i] < HUGE_VAL) ||
            strncmp(end, last ? "" : "::", last ? 1 : 2) != 0)
            return error_set(err,
                             "factors \"%s\": one number for each of the %zu sources, as in 2::1",
                             text, parts);
        sum += factor[i];
        at = end + 2;
    }
    return sum > 0 || error_set(err, "factors \"%s\": all are 0", text);
}
