/* clipc bench loader, clipc bench tok: input throughput. */
#include "data/loader.h"
#include "tools/bench.h"
#include "tools/common.h"

#include <omp.h>
#include <stdio.h>
#include <string.h>

static const char *data, *vocab, *text;
static DatasetOptions dataset;
static int64_t batch_size = 64, workers = 2, side = 224, samples = 2000, threads = 1, reps = 5;
static bool json, eval_transform, jpeg_scale, shuffle = true;
static DeviceOption device = DEVICE_CPU;

static Option loader_options[] = {
    STRING("train-data", &data, "SPEC", "shards, a CSV/TSV or a folder"),
    INT("image-size", &side, 1, 4096, "pixels a side"),
    FLAG("eval-transform", &eval_transform, "instead of the random crop"),
    FLAG("jpeg-scale", &jpeg_scale, "as of clipc train"),
    INT("batch-size", &batch_size, 1, 65536, "pairs a batch"),
    INT("workers", &workers, 1, 256, "loader threads"),
    FLAG("shuffle", &shuffle, "random order"),
    INT("samples", &samples, 1, 1e9, "samples to time"),
    STRING("vocab", &vocab, "FILE", "as of clipc tok"),
    CHOICE("device", &device, DEVICES, "cuda: pictures go on to the GPU"),
    FLAG("json", &json, "one JSON object on stdout"),
    DATASET_OPTIONS(dataset),
};

static const Command loader_command = {
    "bench loader",
    "From shards to batches: read, decode, crop, resize, tokenise.",
    "clipc bench loader --train-data SPEC [--workers N] [--device cuda]",
    "  clipc bench loader --train-data 'shards/{00..09}.tar' --workers 2\n",
    loader_options,
    COUNT(loader_options),
};

/* Sends a batch to a GPU as in training: from the pinned ring, while waiting for the next one.
 * Without a GPU the batch is released at once. */
typedef struct Sink {
    const Kernels *k;
    Loader *loader;
    uint8_t *place;
    Mark *copied;
    Batch *under_way;
} Sink;

static void sink_finish(Sink *s) {
    if (!s->under_way) return;
    s->k->device->mark_wait(s->copied);
    loader_release(s->loader, s->under_way);
    s->under_way = NULL;
}

static void sink_take(Sink *s, Batch *b) {
    if (!s->place) {
        loader_release(s->loader, b);
        return;
    }
    sink_finish(s);
    s->k->device->upload_start(QUEUE_COPY, s->place, b->pixels,
                               b->size * (size_t)(side * side * 3));
    s->k->device->mark_set(s->copied, QUEUE_COPY);
    s->under_way = b;
}

int bench_loader(int argc, char **argv) {
    dataset = dataset_options_default();
    options_parse(&loader_command, argc, argv, NULL);
    const Kernels *k = kernels_open_device(device, PRECISION_FP32);
    Dataset *d = open_dataset("train-data", data, &dataset);
    Sampler *s = sampler_new(d, shuffle, 64, 1);
    LoaderOptions o = {
        .transform = transform_default((int)side, !eval_transform),
        .tokenizer = open_tokenizer(vocab),
        .context = 77,
        .batch_size = (size_t)batch_size,
        .accum = 1,
        .ranks = 1,
        .workers = (size_t)workers,
        .seed = 1,
        .max_bad = 1,
        .max_pixels = (size_t)image_max_pixels,
        .alloc = k->device->host_alloc,
        .release = k->device->host_release,
    };
    if (!loader_steps_per_epoch(d, &o))
        die("%s holds fewer than --batch-size %lld samples", data, (long long)batch_size);
    o.transform.jpeg_scale = jpeg_scale;
    Loader *l = loader_start(d, s, &o, 0, 0);
    Sink sink = {.k = k, .loader = l};
    if (k->device->asynchronous) {
        sink.place = k->device->alloc((size_t)(batch_size * side * side * 3));
        sink.copied = k->device->mark_new();
    }
    for (int i = 0; i < 4; i++)
        loader_release(l, loader_next(l)); /* the ring is filled before the clock starts */
    size_t n = 0;
    double t0 = clock_now();
    while (n < (size_t)samples) {
        Batch *b = loader_next(l);
        n += b->size;
        sink_take(&sink, b);
    }
    sink_finish(&sink);
    double t = clock_now() - t0;
    LoaderStats ls = loader_stats(l);
    loader_stop(l);
    if (json)
        print_json(json_pack("{s:f, s:I, s:I, s:I}", "images_per_s", (double)n / t, "samples",
                             (json_int_t)n, "workers", (json_int_t)workers, "bad",
                             (json_int_t)ls.bad));
    else
        printf("%zu samples, %lld workers%s: %.0f images/s\n", n, (long long)workers,
               k->device->asynchronous ? ", onto the GPU" : "", (double)n / t);
    return EXIT_OK;
}

static Option tok_options[] = {
    STRING("text", &text, "FILE", "captions, one a line"),
    STRING("vocab", &vocab, "FILE", "as of clipc tok"),
    INT("threads", &threads, 1, 256, "each takes a share of the captions"),
    INT("reps", &reps, 1, 1000, "passes; the median is reported"),
    FLAG("json", &json, "one JSON object on stdout"),
};

static const Command tok_command = {
    "bench tok",
    "Captions to ids, each thread's word cache empty at the start of a pass.",
    "clipc bench tok --text FILE [--threads N]",
    "  clipc bench tok --text captions.txt\n",
    tok_options,
    COUNT(tok_options),
};

int bench_tok(int argc, char **argv) {
    options_parse(&tok_command, argc, argv, NULL);
    if (!text) die_usage("clipc bench tok: --text is missing");
    double opening = clock_now();
    Tokenizer *tokenizer = open_tokenizer(vocab);
    opening = clock_now() - opening;
    size_t n, *counts = xcalloc((size_t)threads, sizeof *counts), tokens = 0;
    char **lines = read_lines(text, &n);
    double *seconds = xcalloc((size_t)reps, sizeof *seconds);
    for (int64_t r = 0; r < reps; r++) {
        double t0 = clock_now();
#pragma omp parallel num_threads((int)threads)
        {
            size_t t = (size_t)omp_get_thread_num(), T = (size_t)omp_get_num_threads(), sum = 0;
            TokenizerCache *cache = tokenizer_cache_new(tokenizer);
            int32_t ids[77];
            for (size_t i = n * t / T; i < n * (t + 1) / T; i++)
                sum += tokenizer_encode(cache, lines[i], strlen(lines[i]), COUNT(ids), ids);
            counts[t] = sum;
            tokenizer_cache_free(cache);
        }
        seconds[r] = clock_now() - t0;
    }
    for (int64_t t = 0; t < threads; t++) tokens += counts[t];
    double t = bench_median(seconds, (size_t)reps);
    if (json)
        print_json(json_pack("{s:f, s:f, s:I, s:f, s:I}", "captions_per_s", (double)n / t,
                             "load_seconds", opening, "captions", (json_int_t)n,
                             "tokens_per_caption", (double)tokens / (double)n, "threads",
                             (json_int_t)threads));
    else
        printf("%zu captions, %.1f tokens each, %lld threads: %.0f captions/s\n", n,
               (double)tokens / (double)n, (long long)threads, (double)n / t);
    free_lines(lines, n);
    return EXIT_OK;
}
