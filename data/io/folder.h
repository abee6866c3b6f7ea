/* folder: folders and the names in them; folders that appear whole or not at all, such as
 * checkpoints: written beside, fsynced, renamed. */
#ifndef DATA_IO_FOLDER_H
#define DATA_IO_FOLDER_H
#include "kernels/base.h"

const char *path_base(const char *path); /* what follows the last slash */
/* Upper and lower case are the same. */
bool ends_with(const char *name, const char *suffix);
/* Likewise: an extension of the list "jpg;png". */
bool has_extension(const char *name, const char *list);
char *folder_path(const char *folder, const char *name); /* "folder/name", malloc'd */
bool folder_is(const char *path);
/* `name` in the folder that `path` is, or in which the file `path` lies; malloc'd. */
char *folder_beside(const char *path, const char *name);
/* With all folders above it; one that exists already is fine. */
bool folder_make(const char *path, Error *err);
void folder_make_or_die(const char *path);
/* The names in a folder that do not begin with a dot, sorted bytewise; malloc'd list of malloc'd
 * names. */
bool folder_list(const char *path, char ***names, size_t *count, Error *err);
void names_free(char **names, size_t count);
bool names_have(char *const *names, size_t count, const char *name); /* names: sorted bytewise */
/* The folder and all that it holds; a file that cannot be removed keeps the folder. Links are
 * removed, never followed; a path that is a link or a file is kept. */
void folder_remove(const char *path);
bool folder_sync(const char *path); /* false: errno */
/* `from` takes the place of `to`, which disappears. A crash at any point leaves a whole folder:
 * under the name `to` if the file system can exchange names, else perhaps as `to`.old. */
bool folder_replace(const char *from, const char *to);
/* `from`, a file or folder, gets the name `to`, which must not exist. */
bool folder_place(const char *from, const char *to, Error *err);
#endif
