/* sources: expands a data specification: `{000..999}` and `{a,b}`, `a::b`, @list files, folders. */
#pragma once
#include "data/io/string_map.h"
#include "data/source.h"

/* One thing that a specification names. */
typedef struct SourceItem {
    const Source *source;
    char *path;  /* of image files all paths, a line each */
    size_t part; /* of the specification: a is 0, b is 1 in "a::b" */
} SourceItem;

/* The commands (`pipe:`) that may be run. A list file or a recipe may be another person's. */
typedef enum {
    PIPES_OF_SPEC, /* those of the specification itself, none of a list file */
    PIPES_ALL,
    PIPES_NONE,
} Pipes;

/* The items that a folder gave. */
typedef struct FolderItems {
    size_t first, count;
} FolderItems;

typedef struct Sources {
    SourceItem *items;
    size_t count, capacity, parts;
    Pipes pipes;
    size_t expanded, expanded_bytes; /* names that braces gave, and their bytes */
    size_t last_size, last_capacity; /* of the last item's path, if it holds many */
    StringMap folders;               /* device:inode of those that were walked */
    FolderItems *folder_items;       /* [folders.count] */
} Sources;

/* A list is `@FILE` or a .txt file: one name a line (braces allowed, # comments), relative to the
 * list's folder, or to the current one if the first name is only there. Image files named one after
 * the other are one item. A folder that holds .tar files means these, sorted; if it holds none, but
 * folders below it do, all of those. Only folders are checked for existence. In a command, braces
 * are expanded if they hold a range or plain words; others are left to the shell; a command that
 * may not be run is an error, as are more than 2,000,000 names from braces, or 256 MiB. Free with
 * sources_free, also on failure. */
bool sources_expand(Sources *s, const char *spec, Pipes pipes, Error *err);
/* The names in a list, as above but with braces as they are; malloc'd list of malloc'd names. */
bool sources_list(const char *path, char ***names, size_t *count, Error *err);
/* The specification with each path in it replaced by path(context, it), which is malloc'd as the
 * result is. Commands, addresses and standard input stay. */
char *sources_map(const char *spec, char *(*path)(const void *context, const char *path),
                  const void *context);
void sources_free(Sources *s);
/* "2::1" → factor[parts], one for each part; text NULL: all 1. False: a wrong count, a negative
 * number, or none above 0. */
bool parse_factors(double *factor, size_t parts, const char *text, Error *err);
/* A short name for messages: a file's name without its folder; for a command, the name of the .tar
 * in it; malloc'd. */
char *source_short_name(const char *path);
