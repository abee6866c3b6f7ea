#include "data/io/walk.h"
#include "data/io/folder.h"
#include "data/io/machine.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* A folder that is being visited, and the one that holds it. */
typedef struct Level {
    const struct Level *above;
    dev_t device;
    ino_t inode;
    size_t depth;
} Level;

enum { DEPTH_MAX = 256 };

static bool is_above(const Level *l, const struct stat *st) {
    for (; l; l = l->above)
        if (l->device == st->st_dev && l->inode == st->st_ino) return true;
    return false;
}

static bool visit(const FolderWalk *w, const char *path, const char *within, const Level *above,
                  Error *err);

static void enter(const FolderWalk *w, const char *path, const char *within, const char *name,
                  const Level *here, bool wanted) {
    char *inner = *within ? folder_path(within, name) : xstrdup(name),
         *full = folder_path(path, name);
    struct stat st;
    Error why;
    if (!wanted)
        w->skipped(w->context, inner, "not wanted");
    else if (machine_stat(full, &st, 0) && is_above(here, &st))
        w->skipped(w->context, inner, "a link to a folder above it");
    else if (here->depth == DEPTH_MAX)
        w->skipped(w->context, inner, "too deep");
    else if (!visit(w, full, inner, here, &why))
        w->skipped(w->context, inner, why.text);
    FREE_ALL(inner, full);
}

static bool visit(const FolderWalk *w, const char *path, const char *within, const Level *above,
                  Error *err) {
    char **files, **folders;
    size_t file_count, folder_count;
    struct stat st = {0};
    if (!folder_list_apart(path, &files, &file_count, &folders, &folder_count, err)) return false;
    machine_stat(path, &st, 0);
    Level here = {above, st.st_dev, st.st_ino, above ? above->depth + 1 : 0};
    bool wanted = w->folder(w->context, path, within, files, file_count);
    for (size_t i = 0; i < folder_count; i++) enter(w, path, within, folders[i], &here, wanted);
    names_free(files, file_count);
    names_free(folders, folder_count);
    return true;
}

bool walk_folder(const FolderWalk *w, const char *path, Error *err) {
    return visit(w, path, "", NULL, err);
}
