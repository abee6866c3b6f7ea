/* folder: folders and the names in them; folders that are replaced atomically, such as checkpoints:
 * written under a temporary name, fsynced, renamed. */
#pragma once
#include "kernels/base.h"

const char *path_base(const char *path); /* the part after the last slash */
/* Case-insensitive. */
bool ends_with(const char *name, const char *suffix);
/* Likewise: an extension of the list "jpg;png". */
bool has_extension(const char *name, const char *list);
char *folder_path(const char *folder, const char *name); /* "folder/name", malloc'd */
bool folder_is(const char *path);
/* The path from the root on, by the current folder; links are kept. malloc'd. */
char *path_absolute(const char *path);
/* `name` in the folder `path`, or in the folder of the file `path`; malloc'd. */
char *folder_beside(const char *path, const char *name);
/* Creates the folder and its parents; existing ones are fine. */
bool folder_make(const char *path, Error *err);
void folder_make_or_die(const char *path);
/* A folder for a cache, whose files are believed: creates it for this user alone, or checks that it
 * is this user's (or root's) and that nobody else can write to it. False: it may not be used; err
 * says why. */
bool folder_private(const char *path, Error *err);
/* The path of the user's cache folder, $XDG_CACHE_HOME/clipc or ~/.cache/clipc, malloc'd; NULL:
 * neither variable is set. */
char *folder_cache(void);
/* Returns true if the file or folder is below the folder, links followed. */
bool folder_holds(const char *folder, const char *path);
/* The names in a folder that do not begin with a dot, sorted bytewise; malloc'd list of malloc'd
 * names. */
bool folder_list(const char *path, char ***names, size_t *count, Error *err);
/* The same, with the names of folders, and of links to them, apart from all others. */
bool folder_list_apart(const char *path, char ***files, size_t *file_count, char ***folders,
                       size_t *folder_count, Error *err);
void names_free(char **names, size_t count);
bool names_have(char *const *names, size_t count, const char *name); /* names: sorted bytewise */
/* Removes the folder and its contents; a file that cannot be removed keeps the folder. Links are
 * removed, never followed. If `path` itself is a link or a file, it is kept. */
void folder_remove(const char *path);
bool folder_sync(const char *path); /* false: errno */
/* Replaces `to` by `from`; the old `to` is deleted. A crash at any point leaves a complete folder:
 * under the name `to` if the file system can exchange names, else possibly as `to`.old. */
bool folder_replace(const char *from, const char *to);
/* Renames `from`, a file or folder, to `to`, which must not exist. */
bool folder_place(const char *from, const char *to, Error *err);
