/* source: the kinds of data that a data set consists of. Each kind is one row of a table: how it is
 * named, opened and read. */
#pragma once
#include "data/captions.h"
#include "data/index.h"
#include "data/io/pipe.h"

typedef struct Source Source;

/* How a data set is read: the same for all its shards. */
typedef struct SourceContext {
    const struct DatasetOptions *options;
    const CaptionKeys *captions;
    const IndexKeys *keys;
    struct ShardCache *cache;
    atomic_size_t *spooled; /* bytes of all its streams that are copied */
} SourceContext;

/* One opened source: a .tar, a table, a folder, arrays. */
typedef struct Shard {
    const Source *source;
    size_t start, part;    /* its first sample in the data set; its part of the specification */
    size_t count, dropped; /* usable samples; samples that are skipped */
    bool damaged;          /* only the part before the damage is used */
    const char *const *classes; /* names of class folders, sorted */
    size_t class_count;
    void *state; /* private to the row; NULL: not open */
} Shard;

struct Source {
    /* Beginnings or endings of its paths ("tar;tar.zst"); NULL: any. */
    const char *prefix, *extensions;
    const char *name; /* of a source that takes many paths, a line each, as one shard; NULL: one */
    bool files;       /* samples are separate files or in memory: any order is as fast */
    bool is_stream;   /* can only be read from start to end */
    /* Sets count, dropped, damaged and classes. Each shard is opened once, by any thread. */
    bool (*open)(Shard *s, const char *path, const SourceContext *c, Error *err);
    /* Sample i < count, with the caption that `draw` selects (NULL: the first one). Sets out->key
     * also if it fails. Thread-safe. */
    bool (*read)(Shard *s, const SourceContext *c, size_t i, const uint64_t *draw, Sample *out,
                 Error *err);
    /* A permanent name of sample i, malloc'd. Thread-safe. */
    char *(*key)(Shard *s, const SourceContext *c, size_t i, Error *err);
    void (*close)(Shard *s); /* also after a failed open */
    /* Opens a tar's bytes from the start; NULL slot: not a tar. *pipe: the command or standard
     * input that sends them, NULL for a file. seconds: time limit of one read; stop (may be NULL):
     * once true, reads fail. Result NULL: err names the path. */
    Stream *(*stream)(const char *path, double seconds, const atomic_bool *stop, Pipe **pipe,
                      Error *err);
};
extern const Source source_tar, source_folder, source_pictures, source_stdin;

#define ARRAYS_PREFIX "idx:"

/* The row for a path, NULL if there is none. Not source_folder: its paths have no form. */
const Source *source_of(const char *path);
