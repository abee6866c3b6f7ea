/* pack: any data set → WebDataset shards with their indexes, for `clipc data pack`. */
#ifndef DATA_PACK_H
#define DATA_PACK_H
#include "data/shards.h"

typedef struct PackOptions {
    const char *out; /* DIR/NAME: DIR/NAME-000000.tar, … */
    bool zstd;       /* .tar.zst of frames that can be read one by one */
    bool force;      /* replace shards of that name */
    size_t shard_samples;
    uint64_t shard_bytes; /* a shard ends with the first sample past this */
    size_t frame_bytes;   /* zstd: a frame ends with the first sample past this */
    size_t max_pixels;    /* larger images are rejected */
    int max_size;         /* > 0: a shorter side above this is shrunk to it (JPEG again) */
    int quality;          /* of that JPEG */
    size_t threads;
} PackOptions;
PackOptions pack_options_default(void);

typedef struct PackReport {
    size_t samples, shards;
    uint64_t bytes;                           /* of the shards */
    size_t unreadable, no_caption, too_large; /* rejected, by reason */
    size_t shrunk;
} PackReport;

/* Keys are 9-digit numbers in stored order; members are KEY.jpg|png|webp with the original bytes,
 * KEY.txt, and KEY.cls where there is a label. Writes NAME.tar.idx beside every shard and the
 * shards' sizes into DIR/sizes.json. Every file is written beside and renamed; the same input gives
 * the same bytes, whatever the threads. The first rejected samples are logged. False: err says why
 * (what was finished before stays). */
bool pack_run(Dataset *d, const PackOptions *o, PackReport *report, Error *err);
#endif
