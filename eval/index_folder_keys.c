/* index_folder: its keys, and the files that they name. */
#include "eval/index_folder.h"

#include "data/io/folder.h"
#include "data/io/machine.h"
#include "data/pdf.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The length of the file's path in a key: all of it, or that of "SHARD:KEY" or "FILE.pdf#PAGE". */
static size_t path_length(const char *key) {
    size_t page, pdf = pdf_key_path(key, &page);
    if (pdf) return pdf;
    const char *tar = strstr(key, ".tar");
    size_t n = tar ? (size_t)(tar - key) + strcspn(tar, ":") : 0;
    return n && key[n] == ':' ? n : strlen(key);
}

/* The key's file under a folder (NULL: the current one), malloc'd; *n: how much of the key names
 * it. NULL: there is none. */
static char *file_under(const char *folder, const char *key, size_t *n) {
    size_t lengths[2] = {strlen(key), path_length(key)};
    for (size_t i = 0; i < 2; i++) {
        char *path = folder && *key != '/' ? xasprintf("%s/%.*s", folder, (int)lengths[i], key)
                                           : xasprintf("%.*s", (int)lengths[i], key);
        *n = lengths[i];
        if (machine_access(path, F_OK)) return path;
        free(path);
    }
    return NULL;
}

static char *key_file(const IndexFolder *x, const char *key, size_t *n) {
    char *path = file_under(x->base, key, n);
    return path || x->anchored ? path : file_under(NULL, key, n);
}

char *index_folder_key_file(const IndexFolder *x, const char *key) {
    size_t n;
    return key_file(x, key, &n);
}

/* The path with its folder's real path, malloc'd; as it is, if there is no such folder. */
static char *real_folder(IndexFolder *x, const char *path) {
    char *folder = xasprintf("%.*s", (int)(path_base(path) - path), path);
    if (!x->seen[0] || strcmp(x->seen[0], folder)) {
        FREE_ALL(x->seen[0], x->seen[1]);
        x->seen[0] = xstrdup(folder);
        x->seen[1] = realpath(*folder ? folder : ".", NULL);
    }
    free(folder);
    if (!x->seen[1]) return xstrdup(path);
    return xasprintf("%s/%s", strcmp(x->seen[1], "/") ? x->seen[1] : "", path_base(path));
}

char *index_folder_meaning(IndexFolder *x, const char *key) {
    size_t n = path_length(key);
    /* keys of this version need no look at the file */
    char *path = x->anchored || *key == '/' ? NULL : key_file(x, key, &n);
    if (!path)
        path = *key == '/' || !x->base ? xasprintf("%.*s", (int)n, key)
                                       : xasprintf("%s/%.*s", x->base, (int)n, key);
    char *real = real_folder(x, path), *meaning = xasprintf("%s%s", real, key + n);
    FREE_ALL(path, real);
    return meaning;
}

/* An absolute path relative to the base, if it is below it. */
static const char *from_base(const IndexFolder *x, const char *path) {
    size_t n = x->base ? strlen(x->base) : 0;
    return n > 1 && !strncmp(path, x->base, n) && path[n] == '/' ? path + n + 1 : path;
}

char *index_folder_make_key(IndexFolder *x, const char *name) {
    size_t n;
    char *path = *name == '/' || !x->base ? NULL : file_under(NULL, name, &n);
    if (!path) return xstrdup(name);
    char *real = real_folder(x, path), *key = xasprintf("%s%s", from_base(x, real), name + n);
    FREE_ALL(real, path);
    return key;
}

void index_folder_anchor(IndexFolder *x) {
    size_t lost = 0, changed = 0, living = x->rows - x->removed, rows = x->rows;
    char **made = xcalloc(rows + 1, sizeof *made);
    for (Segment *s = x->segments; !x->anchored && s < x->segments + x->count; s++)
        for (size_t i = 0; i < s->rows; i++) {
            if (*s->keys[i] == '/' || index_folder_removed(x, s->first + i)) continue;
            char *file = index_folder_key_file(x, s->keys[i]),
                 *meaning = index_folder_meaning(x, s->keys[i]);
            made[s->first + i] = file ? xstrdup(from_base(x, meaning)) : NULL;
            lost += !file;
            changed += file && strcmp(made[s->first + i], s->keys[i]);
            FREE_ALL(meaning, file);
        }
    if (10 * lost > living)
        log_warn("%s: an older version made it, and %zu of its %zu keys name no file from here: "
                 "call clipc once in the folder where it was made",
                 x->folder, lost, living);
    else if (!x->anchored) {
        x->anchored = true;
        if (changed) {
            for (Segment *s = x->segments; s < x->segments + x->count; s++)
                for (size_t i = 0; i < s->rows; i++)
                    if (made[s->first + i]) s->keys[i] = made[s->first + i];
            index_folder_compact(x); /* ends the use of these keys */
        } else {
            index_folder_commit(x);
        }
        log_info("%s: relative keys start at %s from now on (%zu have changed)", x->folder, x->base,
                 changed);
    }
    for (size_t i = 0; i < rows; i++) free(made[i]);
    free(made);
}
