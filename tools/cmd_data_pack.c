/* clipc data pack: a CSV/TSV, a folder of images or other shards → WebDataset shards with indexes.
 */
#include "data/pack.h"
#include "tools/commands.h"
#include "tools/common.h"

#include <stdlib.h>

static PackOptions pack;
static DatasetOptions dataset;
static int64_t shard_samples, shard_mb, frame_kb, max_pixels, max_size, quality, workers;
static const char *images, *labels;
static int format;
static bool json;

static Option options[] = {
    {"out", OPT_STRING, &pack.out, "DIR/NAME", 0, 0, "writes DIR/NAME-000000.tar, ...", 0},
    {"format", OPT_CHOICE, &format, "auto|idx", 0, 0,
     "auto: SPEC tells; idx: arrays of MNIST's form, --images and --labels", 0},
    {"images", OPT_STRING, &images, "FILE", 0, 0, "--format idx: [N,H,W] or [N,H,W,3], also .gz",
     0},
    {"labels", OPT_STRING, &labels, "FILE", 0, 0, "and [N]; default: the one beside, if any", 0},
    {"zstd", OPT_FLAG, &pack.zstd, NULL, 0, 0, "compressed shards (.tar.zst)", 0},
    {"force", OPT_FLAG, &pack.force, NULL, 0, 0, "replace shards of that name", 0},
    {"shard-samples", OPT_INT, &shard_samples, NULL, 1, 1e7, "samples a shard holds at most", 0},
    {"shard-mb", OPT_INT, &shard_mb, NULL, 1, 1e6, "a shard ends past so many MiB", 0},
    {"frame-kb", OPT_INT, &frame_kb, NULL, 1, 16384,
     "--zstd: a frame ends past so many KiB; smaller ones are quicker to read at random", 0},
    {"max-image-pixels", OPT_INT, &max_pixels, NULL, 1, 1e10, "larger images are rejected", 0},
    {"max-size", OPT_INT, &max_size, NULL, 0, 65535,
     "shrink images whose shorter side is larger than this (0: keep all as they are)", 0},
    {"quality", OPT_INT, &quality, NULL, 1, 100, "JPEG quality of what was shrunk", 0},
    {"workers", OPT_INT, &workers, NULL, 1, 1024, "threads", 0},
    {"json", OPT_FLAG, &json, NULL, 0, 0, "the report as JSON on stdout", 0},
    DATASET_OPTIONS(dataset),
    {"caption-template", OPT_STRING, &dataset.caption_template, "TEXT", 0, 0,
     "class folders: the caption, {} is the class (default: the class alone)", 0},
};

static const Command command = {
    "data pack",
    "Packs images and captions into WebDataset shards with indexes.",
    "clipc data pack SPEC... --out DIR/NAME\n"
    "       clipc data pack --format idx --images FILE [--labels FILE] --out DIR/NAME",
    "  clipc data pack captions.tsv --out shards/train --csv-img-key path\n"
    "  clipc data pack --format idx --images t10k-images-idx3-ubyte.gz --out shards/fashion\n"
    "  clipc data pack photos/ --out shards/photos --zstd --max-size 256\n"
    "A SPEC is a .csv or .tsv, a folder of images with .txt files beside, a folder of class\n"
    "folders, idx:IMAGES[,LABELS], or shards. Images keep their bytes but for --max-size.\n",
    options,
    COUNT(options),
};

static void print_report(const PackReport *r) {
    log_info("%zu samples in %zu shards (%.1f MiB)%s; rejected: %zu unreadable, %zu without "
             "caption, %zu too large",
             r->samples, r->shards, (double)r->bytes / (1 << 20), r->shrunk ? ", some shrunk" : "",
             r->unreadable, r->no_caption, r->too_large);
    if (!json) return;
    print_json(json_pack("{sI sI sI sI sI sI sI}", "samples", (json_int_t)r->samples, "shards",
                         (json_int_t)r->shards, "bytes", (json_int_t)r->bytes, "shrunk",
                         (json_int_t)r->shrunk, "unreadable", (json_int_t)r->unreadable,
                         "no_caption", (json_int_t)r->no_caption, "too_large",
                         (json_int_t)r->too_large));
}

/* --format idx: the arrays are the only operand; they have labels instead of captions. */
static void name_arrays(StringList *operands) {
    if (!format && (images || labels))
        die_usage("clipc data pack: --images and --labels belong to --format idx");
    if (!format) return;
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
    max_pixels = (int64_t)pack.max_pixels;
    quality = pack.quality;
    workers = (int64_t)pack.threads;
    options_parse(&command, argc, argv, &operands);
    if (!pack.out) die_usage("clipc data pack: --out is missing");
    pack.shard_samples = (size_t)shard_samples;
    pack.shard_bytes = (uint64_t)shard_mb << 20;
    pack.frame_bytes = (size_t)frame_kb << 10;
    pack.max_pixels = (size_t)max_pixels;
    pack.max_size = (int)max_size;
    pack.quality = (int)quality;
    pack.threads = (size_t)workers;
    name_arrays(&operands);
    Dataset *d = open_operands(&command, &operands, &dataset);
    PackReport report;
    Error err;
    if (!pack_run(d, &pack, &report, &err)) die("%s", err.text);
    print_report(&report);
    dataset_close(d);
    return EXIT_OK;
}
