/* pack: any data set → WebDataset shards with their indexes, for `clipc data pack`. */
#pragma once
#include "data/text/tokenizer.h"
#include "data/pack_report.h"
#include "data/dataset.h"

typedef struct PackOptions {
    const char *out; /* DIR/NAME: DIR/NAME-000000.tar, … */
    bool zstd;       /* .tar.zst of frames that can be read one by one */
    int zstd_level;
    bool force; /* replace shards of that name */
    size_t shard_samples;
    uint64_t shard_bytes; /* a shard ends with the first sample past this */
    size_t frame_bytes;   /* zstd: a frame ends with the first sample past this */
    size_t max_pixels;    /* larger images are rejected */
    int max_size;         /* > 0: a shorter side above this is shrunk to it (JPEG again) */
    int max_side;         /* > 0: so is a longer side above this */
    int quality;          /* of that JPEG */
    bool dedup;           /* reject images that are the same byte for byte as an earlier one */
    size_t min_chars;  /* characters without white space at the ends; shorter ones are rejected */
    size_t min_tokens; /* likewise tokens, without start and end; > 0 needs a tokenizer */
    const Tokenizer *tokenizer;
    size_t threads;
    uint64_t source;    /* hash of the data and of settings that are not in these options */
    bool show_progress; /* data/io/progress.h */
} PackOptions;
PackOptions pack_options_default(void);

/* Keys are 9-digit numbers in stored order; members are KEY.jpg|png|webp with the original bytes,
 * KEY.txt, KEY.cls if there is a label, and KEY.json if the data set was opened with want_json and
 * has one. Writes NAME.tar.idx next to every shard and the shards' sizes into DIR/sizes.json. Every
 * file is written under a temporary name and renamed; the same input gives the same bytes for any
 * number of threads. If killed and called again with the same options and data, it resumes after
 * the last complete shard. The first rejected samples are logged. False: err has the reason
 * (finished shards stay). */
bool pack_run(Dataset *d, const PackOptions *o, PackReport *report, Error *err);
