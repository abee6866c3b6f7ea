/* clipc embed: images or captions → L2-normalised rows of a .npy file, or an index folder. */
#include "data/io/writer.h"
#include "data/tensors/npy.h"
#include "eval/features.h"
#include "tools/commands.h"
#include "tools/common.h"
#include "tools/embed_index.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static EncoderOptions encoder = ENCODER_DEFAULTS;
static DatasetOptions dataset;
static StringList image_files;
static const char *images, *text, *out, *index_folder;
static NpyType dtype;
static int64_t thumbnails = 128;

static Option options[] = {
    ENCODER_OPTIONS(encoder),
    TOWER_OPTION(encoder),
    LIST("image", &image_files, "FILE...",
         "image files, or pages FILE.pdf#7: one row each, in order"),
    STRING("images", &images, "SPEC",
           "a folder, shards, CSV/TSV or PDFs, a page a row: the readable ones, in order"),
    PDF_OPTION,
    STRING("text", &text, "FILE", "captions, one a line; - is stdin"),
    STRING("out", &out, "FILE.npy",
           "rows [N,E]; with --images also FILE.keys, a key a row; - is stdout"),
    STRING("index", &index_folder, "DIR",
           "instead of --out: an index for clipc search, made or added to"),
    FLAG("tokens", &encoder.tokens,
         "instead of features: rows [N,patches,C] after the final LayerNorm, not normalised"),
    INT_OF("layer", &encoder.layer, "N", 1, 1024, "rows [N,patches,C] of this block's output"),
    CHOICE("dtype", &dtype, NPY_TYPES, "of the features"),
    INT_OF("thumbnails", &thumbnails, "PIXELS", 0, 1024, "in a new index; 0: none"),
    DATASET_OPTIONS(dataset),
};

static const Command command = {
    "embed",
    "Images or captions to L2-normalised features.",
    "clipc embed --checkpoint PATH (--image FILE... | --images SPEC | --text FILE) --out X.npy\n"
    "       clipc embed --checkpoint PATH --images SPEC --index DIR",
    "  clipc embed --checkpoint logs/run/checkpoints/latest --images photos/ --out photos.npy\n"
    "  clipc embed --checkpoint CKPT --image cat.jpg --tokens --out patches.npy\n"
    "  clipc embed --checkpoint logs/run/checkpoints/latest --text captions.txt --out "
    "captions.npy\n"
    "  echo 'a red boat' | clipc embed --checkpoint CKPT --text - --out - >boat.npy\n"
    "  clipc embed --checkpoint CKPT --images photos/ --index photos.index   # again: what is "
    "new or changed\n"
    "  clipc embed --checkpoint CKPT --images papers/ --pdf-dpi 150 --index papers.index   # PDFs: "
    "a page a picture\n",
    options,
    COUNT(options),
};

static void write_rows(const float *rows, size_t n, const Encoder *e) {
    Error err;
    size_t E = encoder_dim(e), patches = encoder_patches(e);
    size_t shape[3] = {n, patches ? patches : E, patches ? E / patches : 0};
    NpyWriter *w = npy_writer_open_shape(out, dtype, shape, patches ? 3 : 2, &err);
    if (!w) die("%s", err.text);
    bool written = npy_writer_append(w, rows, n, &err); /* the first error is reported */
    Error closing;
    if (!npy_writer_close(w, &closing) || !written) die("%s", written ? closing.text : err.text);
    if (patches)
        log_info("%s: %zu pictures of %zu patches of %zu", out, n, patches, E / patches);
    else
        log_info("%s: %zu rows of %zu", out, n, E);
}

/* A line, whatever the name holds: line breaks in it as \n and \r. */
static void put_key(FILE *to, const char *key) {
    for (; *key; key++)
        if (*key == '\n' || *key == '\r')
            fputs(*key == '\n' ? "\\n" : "\\r", to);
        else
            fputc(*key, to);
    fputc('\n', to);
}

static void write_keys(const Features *f) {
    char *path = xasprintf("%s.keys", out);
    char *bytes;
    size_t size;
    Error err;
    FILE *all = open_memstream(&bytes, &size);
    if (!all) die("out of memory");
    for (size_t i = 0; i < f->count; i++) put_key(all, f->keys[i]);
    if (fclose(all)) die("out of memory");
    if (!file_write_atomic(path, bytes, size, &err)) die("%s", err.text);
    FREE_ALL(bytes, path);
}

int cmd_embed(int argc, char **argv) {
    dataset = dataset_options_default();
    dataset.text_keys = NULL; /* images need no caption */
    dataset.pdfs = true;
    options_parse(&command, argc, argv, NULL);
    expand_image_files(&image_files);
    if ((image_files.count > 0) + (images != NULL) + (text != NULL) != 1)
        die_usage("clipc embed: give one of --image, --images and --text");
    if ((out != NULL) == (index_folder != NULL))
        die_usage("clipc embed: give --out, or --index for an index folder");
    if (!index_folder && option_find(&command, "thumbnails")->given)
        die_usage("clipc embed: --thumbnails goes with --index");
    if (index_folder && !images) die_usage("clipc embed: --index takes --images");
    encoder.tokens |= encoder.layer > 0;
    if (encoder.tokens && (text || index_folder))
        die_usage("clipc embed: --tokens and --layer go with pictures and --out");
    encoder.no_images = text != NULL;
    encoder.no_texts = text == NULL;
    Encoder *e = encoder_open(&encoder);
    if (images) {
        Dataset *d = open_dataset("images", images, &dataset);
        if (index_folder) {
            EmbedIndex o = {&command,
                            index_folder,
                            encoder_checkpoint(e),
                            dtype,
                            option_find(&command, "dtype")->given,
                            (size_t)thumbnails,
                            option_find(&command, "thumbnails")->given};
            embed_into_index(e, d, &o);
            dataset_close(d);
            encoder_close(e);
            return EXIT_OK;
        }
        Features f;
        features_of_dataset(&f, e, comm_self(encoder_kernels(e)), d, true, false);
        if (!f.count) die("--images %s: no readable image", images);
        write_rows(f.images, f.count, e);
        if (strcmp(out, "-")) write_keys(&f);
        if (f.bad) log_warn("%zu samples could not be read and have no row", f.bad);
        features_free(&f);
        dataset_close(d);
    } else {
        size_t n = image_files.count;
        char **lines = text ? read_lines(text, &n) : NULL;
        float *rows = text ? embed_texts(e, lines, n) : embed_image_files(e, image_files.items, n);
        write_rows(rows, n, e);
        free(rows);
        if (lines) free_lines(lines, n);
    }
    encoder_close(e);
    return EXIT_OK;
}
