/* caption_set: pictures with several captions each, as retrieval is measured on them: Karpathy's
 * JSON (dataset_coco.json, dataset_flickr30k.json) or a CSV/TSV with a path in several
 * rows. */
#pragma once
#include "data/dataset.h"

typedef struct CaptionSet {
    char **images;      /* [image_count] paths, in order of first appearance */
    char **texts;       /* [text_count], in order of appearance */
    uint32_t *image_of; /* [text_count] */
    size_t image_count, text_count;
    size_t dropped; /* rows or pictures without a path or a caption */
} CaptionSet;

typedef struct CaptionSetOptions {
    const char *split; /* of Karpathy's JSON: "test"; NULL: all */
    const char *root;  /* folder of the pictures; NULL: the file's own */
    size_t most;       /* captions a picture, the first ones; 0: all */
} CaptionSetOptions;

/* Returns true if the path ends with .json, .csv or .tsv. */
bool caption_set_known(const char *path);
bool caption_set_load(CaptionSet *s, const char *path, const CaptionSetOptions *o,
                      const DatasetOptions *csv, Error *err);
/* {"images": [{"filepath"?, "filename", "split", "sentences": [{"raw"}]}]}. */
bool caption_set_parse_karpathy(CaptionSet *s, const char *json, size_t bytes,
                                const CaptionSetOptions *o, Error *err);
/* Removes the pictures whose keep[] is false, and their captions. */
void caption_set_keep(CaptionSet *s, const bool *keep);
void caption_set_free(CaptionSet *s);
