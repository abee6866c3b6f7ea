/* index: makes a shard random-access. It lists the offsets of every sample's members and the frames
 * of a .tar.zst. It is stored next to the shard as NAME.idx, or in a cache; index.c has the
 * format. */
#pragma once
#include "data/io/stream.h"

enum {
    INDEX_DAMAGED = 1, /* truncated or damaged: indexed up to the damage */
    INDEX_ZSTD = 2,
    INDEX_COPY = 4, /* offsets are those of a copy of the shard with smaller frames (cache only) */
};
enum { INDEX_BLANK = 1 }; /* a member that holds only white space */

/* Larger frames of .tar.zst (decompressed bytes) are not read at random. */
#define INDEX_FRAME_MAX (16u << 20)

typedef struct IndexHeader {
    uint32_t flags;
    FileStamp shard;                            /* detects that the shard has changed since */
    uint64_t samples, members, frames, strings; /* counts; bytes of the names */
    uint64_t usable, keys;                      /* samples that are usable under IndexKeys `keys` */
    uint64_t body_sum;
} IndexHeader;

typedef struct IndexMember {
    uint64_t offset, size;     /* of the data, in decompressed bytes */
    uint32_t extension, flags; /* extension: lower case, in strings */
} IndexMember;

typedef struct IndexSample {
    uint32_t key, first; /* key in strings; its members are first … next sample's first - 1 */
} IndexSample;

typedef struct Index {
    IndexHeader h;
    IndexSample *samples; /* h.samples + 1 */
    IndexMember *members;
    StreamFrame *frames; /* h.frames + 1, or NULL */
    char *strings;
    size_t sample_capacity, member_capacity, string_capacity; /* used while it is built */
} Index;

/* Which members make a sample usable: an image, and a caption that is not blank. */
typedef struct IndexKeys {
    char *images;  /* ";"-separated, first one present */
    char *texts;   /* likewise; one of several such lists with "," between; NULL: none needed */
    bool json;     /* the caption is a field of the .json member */
    uint64_t hash; /* of all of these */
} IndexKeys;

typedef struct IndexPick {
    const char *key;
    const IndexMember *image, *text, *label; /* text, label (.cls): NULL if there is none */
} IndexPick;

IndexKeys index_keys_new(const char *images, const char *texts, bool json);
void index_keys_free(IndexKeys *k);
/* Sample i's member of an extension, or NULL. */
const IndexMember *index_member(const Index *ix, size_t i, const char *extension);
/* The members of sample i that `k` selects; false if it is not usable. */
bool index_pick(const Index *ix, const IndexKeys *k, size_t i, IndexPick *p);
/* Sets h.usable and h.keys. */
void index_count(Index *ix, const IndexKeys *k);

/* Reads a whole shard (ix: uninitialised). A damaged shard is indexed up to the damage:
 * INDEX_DAMAGED is set, the result is true and err describes the damage. False: it cannot be read
 * at all. Call index_free in both cases. */
bool index_build(Index *ix, const char *shard, const IndexKeys *k, Error *err);
/* The same for an open stream; size and time are not set. */
bool index_scan(Index *ix, Stream *s, Error *err);

/* Splits a member's name as WebDataset does: its key is the first *key_size bytes, its extension
 * follows the next dot. False: the member belongs to no sample. */
bool member_split(const char *name, size_t *key_size);
/* Adds a member; members are grouped into samples as WebDataset does. False: too many, or too
 * long. */
bool index_add(Index *ix, const char *name, uint64_t offset, uint64_t size, uint32_t flags,
               Error *err);
void index_add_frame(Index *ix, StreamFrame f);
void index_finish(Index *ix); /* once, after the last member and frame */

/* Returns true if h was made from a shard with the stamp `now`. */
bool index_fresh(const IndexHeader *h, const FileStamp *now);

bool index_write(Index *ix, const char *path, Error *err);
bool index_write_fd(Index *ix, int fd); /* false: errno */
bool index_read_header(IndexHeader *h, const char *path, Error *err);
bool index_read(Index *ix, const char *path, Error *err);
bool index_parse(Index *ix, const uint8_t *bytes, size_t size, Error *err);
size_t index_memory(const Index *ix); /* bytes */
void index_free(Index *ix);
