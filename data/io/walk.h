/* walk: every file below a folder, in one fixed order. */
#pragma once
#include "kernels/base.h"

typedef struct FolderWalk {
    /* Called for each folder: path is ROOT or ROOT/within; names[count] of its files are sorted
     * bytewise and belong to the caller of walk_folder. False: folders in it are not entered, but
     * skipped. */
    bool (*folder)(void *context, const char *path, const char *within, char *const *names,
                   size_t count);
    /* A folder below the root that is not entered, and why. */
    void (*skipped)(void *context, const char *within, const char *why);
    void *context;
} FolderWalk;

/* Visits the folder, then those in it, sorted bytewise, each with all below it before the next.
 * Names that begin with a dot are ignored. Links are followed; a link to a folder that contains it
 * is not entered. False: err says why the root cannot be read. */
bool walk_folder(const FolderWalk *w, const char *path, Error *err);
