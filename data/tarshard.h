/* tarshard: .tar and .tar.zst shards through their indexes: finds an index or builds it, and keeps
 * a bounded cache of open shards and decompressed frames. */
#pragma once
#include "data/source.h"

typedef struct TarShard {
    char *path, *index_path; /* index_path NULL: it is kept nowhere and made when it is needed */
    char *name;              /* of a spooled stream: its source; else NULL */
    char *data_path;         /* path, or the copy with smaller frames */
    IndexHeader h;
    int spooled[2]; /* of a spooled stream: its file and its index; else 0 */
    /* valid while it is open; guarded by the cache's lock */
    File *file;
    unsigned refs;
    uint64_t used;
    Index index;
    uint32_t *usable; /* numbers of the usable samples */
} TarShard;

typedef struct ShardCache ShardCache;

/* Finds a fresh index: next to the shard, then in cache_dir; otherwise builds one in cache_dir. A
 * cache_dir that others can write to is not used, with a warning.
 * Sets s->h with `usable` counted under `keys`. False: the shard cannot be read. Thread-safe for
 * different shards. */
bool tarshard_find(TarShard *s, const char *path, const char *cache_dir, const IndexKeys *keys,
                   Error *err);
/* A stream as a shard: copies all of it (data/spool.h). False: err names it. */
bool tarshard_spool(TarShard *s, const Source *source, const char *path, const SourceContext *c,
                    Error *err);
void tarshard_free(TarShard *s);

ShardCache *shard_cache_new(const IndexKeys *keys, const char *cache_dir);
void shard_cache_free(ShardCache *c); /* before its shards */
/* Opens s or uses it again; it stays open until released. Thread-safe. */
bool shard_cache_acquire(ShardCache *c, TarShard *s, Error *err);
void shard_cache_release(ShardCache *c, TarShard *s);
/* n bytes at `offset` of an acquired shard's decompressed data. Thread-safe. */
bool shard_cache_read(ShardCache *c, TarShard *s, uint64_t offset, uint8_t *out, size_t n,
                      Error *err);
