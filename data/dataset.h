/* dataset: random access to the samples of a data set, whatever stores it: WebDataset shards (.tar,
 * .tar.zst; `{000..999}`, `a::b`, a list file), a CSV/TSV/JSONL of files, image files with a .txt
 * next to each, a folder of them or of class folders, a folder of shards, IDX arrays. Samples have
 * the numbers 0 … count-1 in stored order, shard after shard. Streams (`pipe:command`, `-`) are
 * copied or fed. Nothing is ever written into the data's folder. */
#pragma once
#include "data/feed.h"

typedef struct DatasetOptions {
    const char *cache_dir;     /* where missing indexes are built; NULL: $XDG_CACHE_HOME/clipc or
                                  ~/.cache/clipc */
    const char *image_keys;    /* "jpg;png;jpeg;webp": first one present */
    const char *text_keys;     /* "txt;caption" (data/captions.h); NULL or "": samples need
                                  no caption */
    const char *json_text_key; /* FIELD: the same as text_keys "json.FIELD"; NULL: off */
    CaptionPick captions;      /* which of several captions */
    const char *csv_separator; /* NULL: a tab if the first line has one, else "," */
    const char *csv_image_key, *csv_caption_key; /* "filepath", "title" */
    bool csv_join;  /* fields beyond the header's belong to the caption, which has separators */
    bool pdfs;      /* PDFs among files are pictures, a sample for each page (data/pdf.h) */
    bool want_json; /* read the .json members or the .json files next to images into Sample.json */
    double pipe_seconds;     /* how long a stream may send nothing */
    double spool_gib;        /* most bytes of copied streams, all together */
    bool allow_pipe;         /* list files and recipes may have commands run */
    bool of_recipe;          /* a recipe has the specification */
    const FeedOptions *feed; /* streams feed a loader (dataset_feed); NULL: they are copied into
                                cache_dir, and are shards while the data set is open */
    const char *caption_template; /* class folders: "a photo of a {}." ; NULL: the folder's name */
} DatasetOptions;
DatasetOptions dataset_options_default(void);

typedef struct Dataset Dataset;
/* Builds the indexes that are missing or stale in the cache (a line on stderr says so); warns of
 * damaged shards, whose readable part is used. NULL: err has the reason; also when no sample is
 * usable. Samples without image or caption, or with an empty one, are skipped here if the index
 * shows it. */
Dataset *dataset_open(const char *spec, const DatasetOptions *options, Error *err);
size_t dataset_count(const Dataset *d);
/* Samples that were skipped at opening. */
size_t dataset_dropped(const Dataset *d);
/* Shards that are truncated or damaged: the part before the damage is used. */
size_t dataset_damaged(const Dataset *d);
/* Every file of a CSV and every folder of images counts as one shard. */
size_t dataset_shards(const Dataset *d);
/* First sample of shard s (s = shards: the count). */
size_t dataset_shard_start(const Dataset *d, size_t shard);
/* Parts of the specification ("a::b" has two), and which one a shard came from. */
size_t dataset_parts(const Dataset *d);
size_t dataset_shard_part(const Dataset *d, size_t shard);
/* Returns true if a shard's samples are separate files: any order is as fast. */
bool dataset_is_files(const Dataset *d, size_t shard);
/* Thread-safe (pread; a cache of open files). False: the sample must be skipped; err names shard
 * and key, s->key is set, and image_size is 0 if the image could not be read. */
bool dataset_read(Dataset *d, size_t index, Sample *s, Error *err);
/* The same with the caption that `draw` chooses among several (NULL: the first one). */
bool dataset_read_drawn(Dataset *d, size_t index, const uint64_t *draw, Sample *s, Error *err);
/* A permanent name of sample `index`: "path/shard.tar:000123" or the image's path; malloc'd. The
 * sample is not read. NULL: err names the shard whose index cannot be read. Thread-safe. */
char *dataset_key(Dataset *d, size_t index, Error *err);
/* Class names of a folder of class folders, sorted; 0 when there are none. */
size_t dataset_classes(const Dataset *d, const char *const **names);
/* The feed of a data set whose samples cannot be read by number; else NULL. */
Feed *dataset_feed(const Dataset *d);
void dataset_close(Dataset *d);
