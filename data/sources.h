/* sources: what a data specification names: `{000..999}` and `{a,b}`, `a::b`, @list files, folders.
 * Called by data/shards.c and the `clipc data` commands. */
#ifndef DATA_SOURCES_H
#define DATA_SOURCES_H
#include "kernels/base.h"

typedef enum { SOURCE_SHARD, SOURCE_TABLE, SOURCE_FOLDER } SourceKind;

typedef struct Source {
    SourceKind kind;
    char *path;
} Source;

typedef struct Sources {
    Source *items;
    size_t count, capacity;
} Sources;

/* A list is `@FILE` or a .txt file: one name a line (braces allowed, # comments), relative to the
 * list's folder. A folder that holds .tar files stands for these, sorted. Names are not checked for
 * existence, but for folders. Free with sources_free, also on failure. */
bool sources_expand(Sources *s, const char *spec, Error *err);
void sources_free(Sources *s);
/* Names in a folder that are not hidden, sorted bytewise; malloc'd list of malloc'd names. */
bool list_folder(const char *path, char ***names, size_t *count, Error *err);
void names_free(char **names, size_t count);
/* Whether `name` ends with `suffix`, letters in any case. */
bool ends_with(const char *name, const char *suffix);
#endif
