/* common: shared by several commands: the options of a model and of a data set, files of captions,
 * JSON on stdout. */
#pragma once
#include "data/dataset.h"
#include "data/pdf.h"
#include "eval/encoder.h"
#include "eval/index_folder.h"
#include "train/options.h"
#include "train/ranks/comm_open.h"

#include <jansson.h>

/* Rows of an option table for an EncoderOptions o; defaults: ENCODER_DEFAULTS. */
#define ENCODER_DEFAULTS                                                                           \
    { .batch_size = 64 }
#define ENCODER_OPTIONS(o)                                                                         \
    STRING("checkpoint", &(o).checkpoint, "PATH",                                                  \
           "folder or file, any format; a run's folder: its best"),                                \
        STRING("model", &(o).model, "NAME|FILE", "architecture, if the checkpoint has none"),      \
        STRING("vocab", &(o).vocab, "FILE", "default: the checkpoint's, or CLIP's"),               \
        CHOICE("device", &(o).device, DEVICES, "where to compute"),                                \
        CHOICE("precision", &(o).precision, PRECISIONS, "of the computation"), KERNEL_TF32_OPTION, \
        INT("batch-size", &(o).batch_size, 1, 65536, "samples computed at once")

/* The same for commands that do not always compute pictures and captions. */
#define TOWER_OPTION(o)                                                                            \
    CHOICE("tower", &(o).towers, OPEN_TOWERS,                                                      \
           "towers to open; auto: those that are needed, one alone takes about half the memory")

#define PICTURE_OPTIONS                                                                            \
    INT("max-image-pixels", &image_max_pixels, 1, 1e10,                                            \
        "larger images are bad: memory of a thread, 3 bytes each"),                                \
        CHOICE("background", &image_background, BACKGROUNDS,                                       \
               "under transparent pixels; stored: their own colours, as open_clip sees them"),     \
        FLAG("exif", &image_exif, "turn pictures as their EXIF says, which open_clip does not")

#define PDF_OPTION                                                                                 \
    INT("pdf-dpi", &pdf_dpi, PDF_DPI_LEAST, PDF_DPI_MOST, "of the pages of PDFs (pdftoppm)")

/* Those of streams. */
#define STREAM_OPTIONS(d)                                                                          \
    FLOAT_OF("pipe-timeout", &(d).pipe_seconds, "SECONDS", 0.1, 1e6, "of a stream"),               \
        FLOAT_OF("spool-limit", &(d).spool_gib, "GIB", 0, 1e9, "of copied streams"),               \
        CONSENT("allow-pipe", &(d).allow_pipe, "run list files' pipe:COMMAND")

/* Rows for a DatasetOptions d (defaults from dataset_options_default, which a table cannot call:
 * the commands set them). */
#define DATASET_OPTIONS(d)                                                                         \
    PICTURE_OPTIONS, STRING("image-key", &(d).image_keys, "KEYS", "extensions of the image"),      \
        STRING("text-key", &(d).text_keys, "KEYS", "caption: txt;caption,json.alt"),               \
        CHOICE("captions", &(d).captions, CAPTION_PICKS, "of several"),                            \
        STRING("json-text-key", &(d).json_text_key, "FIELD", "caption from .json"),                \
        STRING("csv-separator", &(d).csv_separator, "CHAR", "tab or comma"), STREAM_OPTIONS(d),    \
        STRING("cache-dir", &(d).cache_dir, "DIR", "for missing indexes"),                         \
        STRING("csv-img-key", &(d).csv_image_key, "COLUMN", "column of the path"),                 \
        FLAG("csv-join", &(d).csv_join, "surplus fields are the caption's"),                       \
        STRING("csv-caption-key", &(d).csv_caption_key, "COLUMN", "column of the caption")

/* Rows for a CommOptions o. */
#define COMM_OPTIONS(o)                                                                            \
    CHOICE("comm", &(o).choice, TRANSPORTS, "transport between ranks"),                            \
        FLOAT_OF("comm-timeout", &(o).timeout, "SECONDS", 0.1, 1e6,                                \
                 "end all ranks if one is late by so long"),                                       \
        INT("comm-port", &(o).port, 0, 65535,                                                      \
            "port on which rank 0 serves NCCL's id; 0: MASTER_PORT + 1"),                          \
        STRING("comm-key", &(o).key, "TEXT",                                                       \
               "names the job to its ranks; default: torchrun's or SLURM's")

/* The transport of a command that runs over ranks, all given the same options. */
const Comm *open_comm(const Command *command, const CommOptions *co, const EncoderOptions *e);
/* Opens a data set; on failure exits with an error that names `option`. */
Dataset *open_dataset(const char *option, const char *spec, const DatasetOptions *d);
/* All operands of a command as one specification, malloc'd; exits with an error if there is
 * none. */
char *join_operands(const Command *c, const StringList *operands);
/* Opens the data set that a command's operands name, or exits with an error. */
Dataset *open_operands(const Command *c, const StringList *operands, const DatasetOptions *d);
/* Opens a vocabulary (NULL: the default one), or exits with an error. */
struct Tokenizer *open_tokenizer(const char *path);
/* One caption a line (an empty line is an empty caption); malloc'd. Exits with an error if the file
 * cannot be read. */
char **read_lines(const char *path, size_t *count);
void free_lines(char **lines, size_t count);
/* Replaces each list of images (`@FILE`, a .txt) by the names in it. */
void expand_image_files(StringList *files);
/* Replaces each name of a checkpoint by the checkpoint that it means (pretrained_find). */
void find_checkpoints(StringList *names);
/* Pictures are read as those of the index were, as far as it records that. Exits with an error if
 * an option of the command line says otherwise. */
void read_pictures_as(const Command *c, const IndexFolder *x);
/* Features of captions / of image files, one row each; exits with an error for an unreadable file.
 * malloc'd [n,E]. */
float *embed_texts(Encoder *e, char *const *texts, size_t n);
float *embed_image_files(Encoder *e, char *const *paths, size_t n);
/* Text as a JSON string; if it is not UTF-8, its bytes beyond ASCII become '?'. */
json_t *json_text(const char *text);
/* One JSON object and a newline on stdout; takes the reference. */
void print_json(json_t *object);
