/* common: shared by several commands: the options of a model and of a data set, files of captions,
 * JSON on stdout. */
#ifndef TOOLS_COMMON_H
#define TOOLS_COMMON_H
#include "data/dataset.h"
#include "eval/encoder.h"
#include "train/options.h"
#include "train/ranks/comm_open.h"

#include <jansson.h>

/* Rows of an option table for an EncoderOptions o; defaults: ENCODER_DEFAULTS. */
#define ENCODER_DEFAULTS                                                                           \
    { .batch_size = 64 }
#define ENCODER_OPTIONS(o)                                                                          \
    {"checkpoint", OPT_STRING, &(o).checkpoint, "PATH", 0, 0, "folder or file, any format", 0},     \
        {"model",                                                                                   \
         OPT_STRING,                                                                                \
         &(o).model,                                                                                \
         "NAME|FILE",                                                                               \
         0,                                                                                         \
         0,                                                                                         \
         "architecture, if the checkpoint has none",                                                \
         0},                                                                                        \
        {"vocab", OPT_STRING, &(o).vocab, "FILE", 0, 0, "default: the checkpoint's, or CLIP's", 0}, \
        {"device", OPT_CHOICE, &(o).device, CHOICES(DEVICES), 0, 0, "where to compute", 0},         \
        {"precision", OPT_CHOICE, &(o).precision,       CHOICES(PRECISIONS),                        \
         0,           0,          "of the computation", 0},                                         \
        KERNEL_TF32_OPTION, {                                                                       \
        "batch-size", OPT_INT, &(o).batch_size, NULL, 1, 65536, "samples computed at once", 0       \
    }

/* Those of streams. */
#define STREAM_OPTIONS(d)                                                                          \
    {"pipe-timeout", OPT_FLOAT, &(d).pipe_seconds, "SECONDS", 0.1, 1e6, "of a stream", 0},         \
        {"spool-limit", OPT_FLOAT, &(d).spool_gib, "GIB", 0, 1e9, "of copied streams", 0}, {       \
        "allow-pipe", OPT_CONSENT, &(d).allow_pipe, NULL, 0, 0, "run list files' pipe:COMMAND", 0  \
    }

/* Rows for a DatasetOptions d (defaults from dataset_options_default, which a table cannot call:
 * see dataset_options_fill). */
#define DATASET_OPTIONS(d)                                                                          \
    {"image-key", OPT_STRING, &(d).image_keys, "KEYS", 0, 0, "extensions of the image", 0},         \
        {"text-key", OPT_STRING, &(d).text_keys, "KEYS", 0, 0, "caption: txt;caption,json.alt", 0}, \
        {"captions", OPT_CHOICE, &(d).captions, CHOICES(CAPTION_PICKS), 0, 0, "of several", 0},     \
        {"json-text-key", OPT_STRING, &(d).json_text_key, "FIELD", 0, 0, "caption from .json", 0},  \
        {"csv-separator", OPT_STRING, &(d).csv_separator, "CHAR", 0, 0, "tab or comma", 0},         \
        STREAM_OPTIONS(d),                                                                          \
        {"cache-dir", OPT_STRING, &(d).cache_dir, "DIR", 0, 0, "for missing indexes", 0},           \
        {"csv-img-key", OPT_STRING, &(d).csv_image_key, "COLUMN", 0, 0, "column of the path", 0},   \
        {"csv-join", OPT_FLAG, &(d).csv_join, NULL, 0, 0, "surplus fields are the caption's", 0},   \
    {                                                                                               \
        "csv-caption-key", OPT_STRING, &(d).csv_caption_key, "COLUMN", 0, 0,                        \
            "column of the caption", 0                                                              \
    }

/* Rows for a CommOptions o. */
#define COMM_OPTIONS(o)                                                                            \
    {"comm", OPT_CHOICE, &(o).choice, CHOICES(TRANSPORTS), 0, 0, "transport between ranks", 0},    \
        {"comm-timeout",                                                                           \
         OPT_FLOAT,                                                                                \
         &(o).timeout,                                                                             \
         "SECONDS",                                                                                \
         0.1,                                                                                      \
         1e6,                                                                                      \
         "end all ranks if one is late by so long",                                                \
         0},                                                                                       \
        {"comm-port",                                                                              \
         OPT_INT,                                                                                  \
         &(o).port,                                                                                \
         NULL,                                                                                     \
         0,                                                                                        \
         65535,                                                                                    \
         "port on which rank 0 serves NCCL's id; 0: MASTER_PORT + 1",                              \
         0},                                                                                       \
    {                                                                                              \
        "comm-key", OPT_STRING, &(o).key, "TEXT", 0, 0,                                            \
            "names the job to its ranks; default: torchrun's or SLURM's", 0                        \
    }

/* The transport of a command that runs over ranks, all given the same options. */
const Comm *open_comm(const Command *command, const CommOptions *co, const EncoderOptions *e);
/* The same, with the data set of --data and the encoder; exits with an error if they differ between
 * ranks. */
const Comm *open_evaluation(const Command *command, const CommOptions *co, const char *data,
                            const DatasetOptions *dataset, const EncoderOptions *encoder,
                            Dataset **d, Encoder **e);
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
/* Features of captions / of image files, one row each; exits with an error for an unreadable file.
 * malloc'd [n,E]. */
float *embed_texts(Encoder *e, char *const *texts, size_t n);
float *embed_image_files(Encoder *e, char *const *paths, size_t n);
/* Text as a JSON string; if it is not UTF-8, its bytes beyond ASCII become '?'. */
json_t *json_text(const char *text);
/* One JSON object and a newline on stdout; takes the reference. */
void print_json(json_t *object);
#endif
