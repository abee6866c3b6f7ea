/* clipc ckpt convert, mix, average: one new checkpoint from one, two or several. */
#include "data/io/progress.h"
#include "data/text/tokenizer.h"
#include "tools/ckpt_sweep.h"
#include "tools/commands.h"
#include "tools/common.h"
#include "train/model/pretrained.h"
#include "train/model/export.h"
#include "train/options.h"

#include <stdlib.h>
#include <string.h>

static const char *out, *model, *vocab;
static ExportFormat format;
static int dtype; /* index into DTYPES */
static int64_t keep_positions;
static double alpha = 0.5;
static SweepOptions sweep = {.encoder = ENCODER_DEFAULTS, .most_lost = 2};

#define DTYPES(X) X(DTYPE_F32, "fp32") X(DTYPE_F16, "fp16") X(DTYPE_BF16, "bf16")
#define EXPORT_OPTIONS                                                                             \
    STRING("out", &out, "PATH", "what to write; must not exist"),                                  \
        CHOICE("to", &format, EXPORT_FORMATS,                                                      \
               "open_clip's folder, Hugging Face's CLIPModel folder, one file; torchvision: a "    \
               "ResNet's trunk alone, one file"),                                                  \
        CHOICE("dtype", &dtype, DTYPES, "type of the stored numbers"),                             \
        STRING("model", &model, "NAME|FILE",                                                       \
               "architecture, if the checkpoint has none, or another size of it"),                 \
        INT("keep-positions", &keep_positions, 0, 1 << 20,                                         \
            "with a --model of another context: the first positions of captions that stay "        \
            "(Long-CLIP: 20)"),                                                                    \
        STRING("vocab", &vocab, "FILE", "default: the checkpoint's, or CLIP's")

static Option convert_options[] = {EXPORT_OPTIONS};
static const Command convert_command = {
    "ckpt convert",
    "Writes a checkpoint of any format that is read as one of the formats of --to.",
    "clipc ckpt convert PATH --to open_clip|hf|safetensors|pt|torchvision --out NEW",
    "  clipc ckpt convert logs/run/checkpoints/latest --to hf --out hf-model\n"
    "  clipc ckpt convert ViT-B-32.pt --model ViT-B-32-quickgelu --to open_clip --out b32\n"
    "  clipc ckpt convert b16/ --model ViT-B-16-plus-240 --dtype bf16 --out larger\n",
    convert_options,
    COUNT(convert_options),
};

static Option mix_options[] = {
    FLOAT("alpha", &alpha, 0, 1, "weight of B: 0 gives A, 1 gives B"),
    EXPORT_OPTIONS,
    STRING(
        "sweep", &sweep.range, "FROM:TO:STEP",
        "instead of --alpha: measure retrieval for each, choose one, write it if --out is given"),
    LIST("data", &sweep.data, "SPEC...",
         "--sweep: sets of pairs; the last one is to gain, the others are to be kept"),
    FLOAT_OF("most-lost", &sweep.most_lost, "POINTS", 0, 100,
             "--sweep: of recall@10 that a kept set may lose"),
    STRING("plot", &sweep.plot, "FILE.svg", "--sweep: the curve"),
    FLAG("json", &sweep.json, "--sweep: one JSON object on stdout"),
    CHOICE("device", &sweep.encoder.device, DEVICES, "where to compute"),
    CHOICE("precision", &sweep.encoder.precision, PRECISIONS, "of the computation"),
    INT("batch-size", &sweep.encoder.batch_size, 1, 65536, "samples computed at once"),
    DATASET_OPTIONS(sweep.dataset),
};
static const Command mix_command = {
    "ckpt mix",
    "(1 - alpha) A + alpha B, parameter by parameter: WiSE-FT, with A before and B after "
    "fine-tuning.",
    "clipc ckpt mix A B (--alpha 0.5 | --sweep 0:1:0.1 --data KEPT --data GAINED) --out NEW",
    "  clipc ckpt mix b32/ logs/tuned/checkpoints/latest --alpha 0.5 --out wise\n"
    "  clipc ckpt mix b32/ logs/tuned --sweep 0:1:0.1 --data base-val.tsv --data val.tsv --plot "
    "wise.svg --out wise\n",
    mix_options,
    COUNT(mix_options),
};

static Option average_options[] = {EXPORT_OPTIONS};
static const Command average_command = {
    "ckpt average",
    "The mean of several checkpoints of one architecture: a model soup.",
    "clipc ckpt average A B... --out NEW",
    "  clipc ckpt average logs/{a,b,c}/checkpoints/latest --out soup\n",
    average_options,
    COUNT(average_options),
};

typedef struct Inputs {
    Weights *weights;
    double *share; /* of each; they sum to 1 */
    size_t count;
    Progress progress;
    size_t done, all; /* values */
} Inputs;

/* Σ share · weights, in this order; a share of 1 keeps the bits, one of 0 is not read. */
static void read_sum(void *context, size_t i, size_t first, size_t n, float *out_values) {
    Inputs *s = context;
    double *sum = xcalloc(n, sizeof *sum);
    for (size_t k = 0; k < s->count; k++) {
        if (!(s->share[k] > 0)) continue;
        weight_read(&s->weights[k].list[i], first, n, out_values);
        for (size_t j = 0; j < n; j++) sum[j] += s->share[k] * (double)out_values[j];
    }
    for (size_t j = 0; j < n; j++) out_values[j] = (float)sum[j];
    free(sum);
    progress_show(&s->progress, s->done += n, s->all, "");
}

/* malloc'd; NULL: none. open_clip's folders have none, transformers' need one. */
static char *find_vocab(const char *from, const ClipConfig *c) {
    if (vocab) return xstrdup(vocab);
    char *own = pretrained_vocab(from);
    if (own || format != EXPORT_HF) return own;
    if (c->vocab_size == TOKENIZER_DEFAULT_SIZE) return tokenizer_default_path();
    log_warn("no vocabulary of %zu entries: %s gets no tokenizer (give --vocab)", c->vocab_size,
             out);
    return NULL;
}

static void write_sum(const Command *command, StringList *paths, const double *share) {
    ClipConfig config;
    Error err;
    bool sweeps = command == &mix_command && sweep.range;
    double mixed[2];
    if (!out && !sweeps) die_usage("clipc %s: --out is missing (what to write)", command->name);
    find_checkpoints(paths);
    pretrained_config(&config, paths->items[0], model);
    config.kept_positions = (size_t)keep_positions;
    size_t count;
    Param *list = params_describe(&config, &count);
    Inputs s = {.count = paths->count};
    char *vocab_path = find_vocab(paths->items[0], &config);
    static const Dtype dtypes[] = {DTYPES(CHOICE_NAME)};
    Export e = {.out = out,
                .format = format,
                .dtype = dtypes[dtype],
                .config = &config,
                .list = list,
                .count = count,
                .vocab = vocab_path,
                .read = read_sum,
                .context = &s};
    if (out && !export_check(&e, &err)) die("%s", err.text);
    if (sweeps) {
        sweep.encoder.checkpoint = paths->items[0];
        mixed[1] = sweep_run(&sweep, paths->items[0], paths->items[1]);
        mixed[0] = 1 - mixed[1];
        share = mixed;
    }
    s.weights = xcalloc(s.count, sizeof *s.weights);
    s.share = xcalloc(s.count, sizeof *s.share);
    ParamTower only = format == EXPORT_TORCHVISION ? TOWER_IMAGE : TOWER_NONE;
    for (size_t k = 0; k < s.count; k++) {
        s.share[k] = share ? share[k] : 1.0 / (double)s.count;
        pretrained_open(&s.weights[k], paths->items[k], &config, list, count, only);
    }
    for (size_t i = 0; i < count; i++) s.all += list[i].size;
    s.progress = progress_start("writing");
    if (out && !export_write(&e, &err)) die("%s", err.text);
    progress_end(&s.progress);
    if (out && sweeps) log_info("%s: written, alpha %g", out, mixed[1]);
    if (out && !sweeps) log_info("%s: written", out);
    for (size_t k = 0; k < s.count; k++) weights_close(&s.weights[k]);
    FREE_ALL(s.weights, s.share, vocab_path, list);
    clip_config_free(&config);
}

int cmd_ckpt_convert(int argc, char **argv) {
    static StringList paths;
    options_parse(&convert_command, argc, argv, &paths);
    if (paths.count != 1) die_usage("clipc ckpt convert: give one PATH");
    write_sum(&convert_command, &paths, (double[]){1});
    return EXIT_OK;
}

int cmd_ckpt_mix(int argc, char **argv) {
    static StringList paths;
    sweep.dataset = dataset_options_default();
    options_parse(&mix_command, argc, argv, &paths);
    if (paths.count != 2) die_usage("clipc ckpt mix: give two PATHs, A and B");
    if (sweep.range) sweep_check(&sweep);
    if (!sweep.range && (sweep.data.count || sweep.plot || sweep.json))
        die_usage("clipc ckpt mix: --data, --plot and --json go with --sweep");
    sweep.encoder.model = model;
    sweep.encoder.vocab = vocab;
    write_sum(&mix_command, &paths, (double[]){1 - alpha, alpha});
    return EXIT_OK;
}

int cmd_ckpt_average(int argc, char **argv) {
    static StringList paths;
    options_parse(&average_command, argc, argv, &paths);
    if (paths.count < 2) die_usage("clipc ckpt average: give two PATHs or more");
    write_sum(&average_command, &paths, NULL);
    return EXIT_OK;
}
