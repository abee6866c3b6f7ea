/* pack_folder: the folder that shards are packed into: which files belong to a pack, and its
 * progress, from which a killed pack resumes. */
#pragma once
#include "data/content.h"
#include "data/pack_report.h"

#include <jansson.h>

typedef struct PackFolder {
    char *folder, *name; /* of DIR/NAME */
    char *progress, *hashes, *lock, *sizes;
    int lock_fd;
    uint64_t identity; /* of data and options */
} PackFolder;

/* The progress of a pack, in complete shards. */
typedef struct PackState {
    size_t next; /* the first sample that is not processed */
    PackReport report;
    json_t *sizes;  /* of the shards, by name */
    Hash128 *added; /* of images, all in order; dedup only */
    size_t added_count;
} PackState;

/* Creates the folder, and locks it against other packs of NAME. If there is an unfinished pack of
 * the same identity, returns its state (going_on). Otherwise shards of that name are refused, or
 * (force) replaced one by one. */
bool pack_folder_open(PackFolder *f, const char *out, uint64_t identity, bool force, bool *going_on,
                      PackState *state, Error *err);
/* After each shard. */
bool pack_folder_save(PackFolder *f, const PackState *state, size_t old_added, Error *err);
/* Call at the end: removes shards that this pack did not write, writes sizes.json, deletes the
 * state. */
bool pack_folder_finish(PackFolder *f, const PackState *state, bool zstd, Error *err);
void pack_folder_close(PackFolder *f);
void pack_state_free(PackState *s);
