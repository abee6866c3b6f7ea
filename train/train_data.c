#include "train/train_data.h"

#include "train/train_options.h"

#include <math.h>
#include <stdlib.h>

static const TrainOptions *const opt = &train_options;

Dataset *train_data_open(const Comm *comm, const char *cache_dir, uint64_t seed,
                         DatasetOptions *used, Error *err) {
    if (opt->upsampling_factors && !opt->dataset_resampled)
        die_usage("clipc train: --train-data-upsampling-factors needs --dataset-resampled");
    if (opt->dataset_resampled && !opt->shuffle)
        die_usage("clipc train: --dataset-resampled has no stored order: leave --no-shuffle out");
    DatasetOptions d = dataset_options_default();
    d.cache_dir = cache_dir;
    d.image_keys = opt->image_key;
    bool captions = opt->objective != OBJECTIVE_SIMCLR;
    d.text_keys = captions ? opt->text_key : NULL;
    d.json_text_key = captions ? opt->json_text_key : NULL;
    d.captions = opt->captions;
    d.spool_gib = opt->spool_limit;
    d.allow_pipe = opt->allow_pipe;
    d.of_recipe = option_of_recipe("train-data");
    FeedOptions feed = {.samples = (size_t)opt->train_num_samples,
                        .rank = comm->rank,
                        .ranks = comm->size,
                        .seed = seed,
                        .shuffle = opt->shuffle,
                        .buffer = (size_t)opt->shuffle_buffer,
                        .seconds = opt->pipe_timeout,
                        .resampled = opt->dataset_resampled,
                        .factors = opt->upsampling_factors};
    d.feed = &feed;
    d.csv_separator = opt->csv_separator;
    d.csv_image_key = opt->csv_img_key;
    d.csv_caption_key = opt->csv_caption_key;
    d.csv_join = opt->csv_join;
    d.caption_template = opt->caption_template;
    Dataset *data = dataset_open(opt->train_data, &d, err);
    d.feed = NULL; /* only for the training data */
    *used = d;
    return data;
}

Sampler *train_data_order(const Dataset *d, uint64_t seed, size_t samples, Error *err) {
    size_t window = (size_t)opt->shuffle_window;
    if (opt->dataset_resampled && !dataset_feed(d))
        return sampler_new_resampled(d, window, seed, samples, opt->upsampling_factors, err);
    return sampler_new(d, opt->shuffle, window, seed);
}

size_t train_data_caption_rows(Dataset *d, const Tokenizer *t, size_t context, size_t batch) {
    size_t count = dataset_count(d), n = size_min(count, 512);
    double read = 0, sum = 0, squares = 0;
    if (dataset_feed(d))
        die_usage("clipc train: --text-rows auto reads some captions first, and streams are read "
                  "once: give a number");
    TokenizerCache *cache = tokenizer_cache_new(t);
    int32_t *ids = xmalloc(size_mul(context, sizeof *ids));
    Sample s = {0};
    for (size_t i = 0; i < n; i++) {
        uint64_t draw = i;
        Error err;
        if (!dataset_read_drawn(d, count * i / n, &draw, &s, &err)) continue;
        double rows = (double)tokenizer_encode(cache, s.text, s.text_size, context, ids);
        read++;
        sum += rows;
        squares += rows * rows;
    }
    sample_free(&s);
    tokenizer_cache_free(cache);
    free(ids);
    if (!read) return context;
    double mean = sum / read, variance = fmax(0, squares / read - mean * mean);
    double rows = ceil(mean + 4 * sqrt(variance * (1 / read + 1 / (double)batch)));
    log_info("--text-rows auto: %.0f (%.1f tokens a caption, mean of %.0f)", fmin(rows, context),
             mean, read);
    return size_min((size_t)rows, context);
}

static void parse_numbers(double *out, size_t n, const char *text, const char *name, double lo,
                          double hi) {
    const char *p = text;
    char *end;
    for (size_t i = 0; i < n; i++) {
        out[i] = strtod(p, &end);
        if (end == p || !(out[i] >= lo && out[i] <= hi) || *end != (i + 1 < n ? ',' : 0))
            die_usage(
                "clipc train: --%s needs %zu numbers from %g to %g with commas between, not '%s'",
                name, n, lo, hi, text);
        p = end + 1;
    }
}

Transform train_data_transform(const ClipConfig *c) {
    Transform t = c->eval_transform;
    if (opt->train_transform == TRANSFORM_EVAL) return t;
    t.train = true;
    parse_numbers(t.scale, 2, opt->aug_scale, "aug-scale", 1e-3, 1);
    parse_numbers(t.ratio, 2, opt->aug_ratio, "aug-ratio", 1e-2, 100);
    if (t.scale[0] > t.scale[1] || t.ratio[0] > t.ratio[1])
        die_usage("clipc train: --aug-scale and --aug-ratio go from low to high");
    parse_numbers(t.jitter, 4, opt->color_jitter, "color-jitter", 0, 10);
    if (t.jitter[3] > 0.5) die_usage("clipc train: the hue of --color-jitter must not exceed 0.5");
    t.jitter_prob = opt->color_jitter_prob;
    t.gray_prob = opt->gray_scale_prob;
    t.jpeg_scale = opt->jpeg_scale;
    return t;
}

Transform train_data_views(const ClipConfig *c) {
    Transform t = transform_default(c->eval_transform.size, true);
    t.interpolation = c->eval_transform.interpolation;
    parse_numbers(t.scale, 2, opt->view_scale, "view-scale", 1e-3, 1);
    parse_numbers(t.jitter, 4, opt->view_jitter, "view-jitter", 0, 10);
    parse_numbers(t.blur_sigma, 2, opt->view_blur_sigma, "view-blur-sigma", 1e-3, 100);
    if (t.scale[0] > t.scale[1] || t.blur_sigma[0] > t.blur_sigma[1])
        die_usage("clipc train: --view-scale and --view-blur-sigma go from low to high");
    if (t.jitter[3] > 0.5) die_usage("clipc train: the hue of --view-jitter must not exceed 0.5");
    t.flip_prob = opt->view_flip_prob;
    t.jitter_prob = opt->view_jitter_prob;
    t.gray_prob = opt->view_gray_prob;
    t.blur_prob = opt->view_blur_prob;
    return t;
}

void train_data_check_ranks(const Dataset *d, const Comm *comm, const char *resume,
                            uint64_t ranks) {
    if (!resume || !dataset_feed(d) || !ranks || ranks == (uint64_t)comm->size) return;
    comm_die(comm,
             "%s: streams were read by %llu ranks, now there are %d: go on with as many (or "
             "--pretrained instead of --resume)",
             resume, (unsigned long long)ranks, comm->size);
}
