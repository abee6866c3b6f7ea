/* clipc data pack: a CSV/TSV, a folder of images or other shards → WebDataset shards with indexes.
 */
#include "data/pack.h"
#include "tools/commands.h"
#include "tools/common.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static PackOptions pack;
static DatasetOptions dataset;
static int64_t shard_samples, shard_mb, frame_kb, max_size, max_side, quality, workers;
static int64_t zstd_level, min_chars, min_tokens;
static const char *images, *labels, *vocab;
#define FORMATS(X) X(FORMAT_AUTO, "auto") X(FORMAT_IDX, "idx")
static enum { FORMATS(CHOICE_NAME) } format;
static bool json, metadata = true;

static Option options[] = {
    STRING("out", &pack.out, "DIR/NAME", "writes DIR/NAME-000000.tar, ..."),
    CHOICE("format", &format, FORMATS,
           "auto: SPEC tells; idx: arrays of MNIST's form, --images and --labels"),
    STRING("images", &images, "FILE", "--format idx: [N,H,W] or [N,H,W,3], also .gz"),
    STRING("labels", &labels, "FILE", "and [N]; default: the one beside, if any"),
    FLAG("zstd", &pack.zstd, "compressed shards (.tar.zst)"),
    INT("zstd-level", &zstd_level, 1, 19, "--zstd: slower and smaller from 1 to 19"),
    FLAG("force", &pack.force, "replace shards of that name"),
    INT("shard-samples", &shard_samples, 1, 1e7, "samples a shard holds at most"),
    INT("shard-mb", &shard_mb, 1, 1e6, "a shard ends past so many MiB"),
    INT("frame-kb", &frame_kb, 1, 16384,
        "--zstd: a frame ends past so many KiB; smaller ones are quicker to read at random"),
    INT("max-size", &max_size, 0, 65535,
        "shrink images whose shorter side is larger than this (0: keep all as they are)"),
    INT("max-side", &max_side, 0, 65535,
        "shrink images whose longer side is larger than this (0: keep)"),
    INT("quality", &quality, 1, 100, "JPEG quality of what was shrunk"),
    FLAG("dedup", &pack.dedup, "reject pictures that are the same byte for byte as an earlier one"),
    INT("min-caption-chars", &min_chars, 0, 1e6, "reject shorter captions"),
    INT("min-caption-tokens", &min_tokens, 0, 1000,
        "reject captions of fewer tokens, start and end apart"),
    STRING("vocab", &vocab, "FILE", "of --min-caption-tokens; default: CLIP's"),
    FLAG("metadata", &metadata,
         "carry .json members, files and lines over; --no-metadata: leave them out"),
    INT("workers", &workers, 1, 1024, "threads"),
    FLAG("json", &json, "the report as JSON on stdout"),
    DATASET_OPTIONS(dataset),
    STRING("caption-template", &dataset.caption_template, "TEXT",
           "class folders: the caption, {} is the class (default: the class alone)"),
};

static const Command command = {
    "data pack",
    "Packs images and captions into WebDataset shards with indexes.",
    "clipc data pack SPEC... --out DIR/NAME\n"
    "       clipc data pack --format idx --images FILE [--labels FILE] --out DIR/NAME",
    "  clipc data pack captions.tsv --out shards/train --csv-img-key path\n"
    "  clipc data pack --format idx --images t10k-images-idx3-ubyte.gz --out shards/fashion\n"
    "  clipc data pack photos/ --out shards/photos --zstd --max-size 256\n"
    "  clipc data pack laion/ --out shards/laion --dedup --min-caption-chars 5 --max-side 512\n"
    "A SPEC is a .csv, .tsv or .jsonl, a folder of images with .txt files beside, a folder of\n"
    "class folders, what img2dataset wrote (files or shards), idx:IMAGES[,LABELS], shards or\n"
    "streams. Images keep their bytes except under --max-size and --max-side. After a kill the "
    "same\n"
    "command resumes after the last complete shard.\n",
    options,
    COUNT(options),
};

static void print_histogram(const PackReport *r) {
    uint64_t most = 1;
    for (size_t i = 0; i < PACK_BINS; i++) most = r->histogram[i] > most ? r->histogram[i] : most;
    fprintf(stderr, "characters of a caption:\n");
    for (size_t i = 0; i < PACK_BINS; i++) {
        if (!r->histogram[i]) continue;
        int bar = (int)(r->histogram[i] * 40 / most);
        fprintf(stderr, "  %4u and more %10llu  %.*s\n", pack_bins[i],
                (unsigned long long)r->histogram[i], bar,
                "########################################");
    }
}

static void print_report(const PackReport *r) {
    char rejected[256] = "";
    const struct {
        uint64_t count;
        const char *reason;
        bool always;
    } reasons[] = {
        {r->unreadable, "unreadable", true}, {r->no_caption, "without caption", true},
        {r->too_large, "too large", true},   {r->short_caption, "with too short a caption", false},
        {r->duplicate, "duplicate", false},  {r->not_downloaded, "not downloaded", false}};
    for (size_t i = 0; i < COUNT(reasons); i++) {
        if (!reasons[i].count && !reasons[i].always) continue;
        size_t n = strlen(rejected);
        snprintf(rejected + n, sizeof rejected - n, "%s%llu %s", n ? ", " : "",
                 (unsigned long long)reasons[i].count, reasons[i].reason);
    }
    log_info("%llu samples in %llu shards (%.1f MiB)%s; rejected: %s",
             (unsigned long long)r->samples, (unsigned long long)r->shards,
             (double)r->bytes / (1 << 20), r->shrunk ? ", some shrunk" : "", rejected);
    if (json)
        print_json(pack_report_to_json(r));
    else
        print_histogram(r);
}

/* Identifies the input and how it is read: a killed pack resumes only with the same. */
static uint64_t source_hash(const StringList *operands) {
    static const char *const apart[] = {"out", "force", "json", "workers", "cache-dir"};
    uint64_t h = 0;
    for (size_t i = 0; i < COUNT(options); i++) {
        bool counts = true;
        for (size_t j = 0; j < COUNT(apart); j++)
            counts = counts && strcmp(options[i].name, apart[j]) != 0;
        if (counts) h = h * 31 + option_hash(&options[i]);
    }
    for (size_t i = 0; i < operands->count; i++)
        h = h * 31 + option_hash(&(Option)STRING("spec", &operands->items[i], NULL, ""));
    return h;
}

/* --format idx: the arrays are the only operand; they have labels instead of captions. */
static void name_arrays(StringList *operands) {
    if (format != FORMAT_IDX && (images || labels))
        die_usage("clipc data pack: --images and --labels belong to --format idx");
    if (format != FORMAT_IDX) return;
    if (!images || operands->count)
        die_usage("clipc data pack: --format idx takes --images FILE, and no SPEC");
    char *spec = xasprintf("idx:%s%s%s", images, labels ? "," : "", labels ? labels : "");
    string_list_add(operands, spec);
    free(spec);
    dataset.text_keys = NULL;
}

int cmd_data_pack(int argc, char **argv) {
    static StringList operands;
    pack = pack_options_default();
    dataset = dataset_options_default();
    shard_samples = (int64_t)pack.shard_samples;
    shard_mb = (int64_t)(pack.shard_bytes >> 20);
    frame_kb = (int64_t)(pack.frame_bytes >> 10);
    quality = pack.quality;
    zstd_level = pack.zstd_level;
    workers = (int64_t)pack.threads;
    options_parse(&command, argc, argv, &operands);
    if (!pack.out) die_usage("clipc data pack: --out is missing");
    pack.shard_samples = (size_t)shard_samples;
    pack.shard_bytes = (uint64_t)shard_mb << 20;
    pack.frame_bytes = (size_t)frame_kb << 10;
    pack.max_pixels = (size_t)image_max_pixels;
    pack.max_size = (int)max_size;
    pack.max_side = (int)max_side;
    pack.zstd_level = (int)zstd_level;
    pack.min_chars = (size_t)min_chars;
    pack.min_tokens = (size_t)min_tokens;
    pack.quality = (int)quality;
    pack.threads = (size_t)workers;
    if (option_find(&command, "zstd-level")->given && !pack.zstd)
        die_usage("clipc data pack: --zstd-level needs --zstd");
    name_arrays(&operands);
    dataset.want_json = metadata;
    pack.source = source_hash(&operands);
    Dataset *d = open_operands(&command, &operands, &dataset);
    PackReport report;
    Error err;
    Tokenizer *tokenizer = min_tokens ? open_tokenizer(vocab) : NULL;
    pack.tokenizer = tokenizer;
    pack.show_progress = true;
    bool ok = pack_run(d, &pack, &report, &err);
    if (!ok) die("%s", err.text);
    tokenizer_close(tokenizer);
    print_report(&report);
    dataset_close(d);
    return EXIT_OK;
}
