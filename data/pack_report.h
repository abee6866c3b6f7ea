/* pack_report: counts of `clipc data pack`. */
#pragma once
#include "kernels/base.h"

enum { PACK_BINS = 10 };
/* Captions of pack_bins[i] … pack_bins[i+1]-1 characters are counted in histogram[i]; the last bin
 * has no end. */
extern const unsigned pack_bins[PACK_BINS];

typedef struct PackReport {
    uint64_t samples, shards;
    uint64_t bytes;       /* of the shards */
    uint64_t image_bytes; /* of the images in them, decompressed */
    uint64_t shrunk;
    /* rejected, by reason */
    uint64_t unreadable, no_caption, short_caption, too_large, duplicate, not_downloaded;
    uint64_t histogram[PACK_BINS];
} PackReport;

void pack_report_caption(PackReport *r, size_t characters);
uint64_t pack_report_rejected(const PackReport *r);
/* To a JSON object (a new reference), and back. */
struct json_t;
struct json_t *pack_report_to_json(const PackReport *r);
bool pack_report_from_json(PackReport *r, const struct json_t *json);
