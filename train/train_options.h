/* train_options: all options of `clipc train`, one row each. Names are open_clip's if the meaning
 * is the same. */
#pragma once
#include "data/captions.h"
#include "data/image/image.h"
#include "train/loss.h"
#include "train/optim.h"
#include "train/options.h"
#include "train/ranks/comm_open.h"
#include "train/sched.h"

/* The transform of training pictures: random crop, or that of evaluation. */
#define TRAIN_TRANSFORMS(X) X(TRANSFORM_TRAIN, "train") X(TRANSFORM_EVAL, "eval")
typedef enum { TRAIN_TRANSFORMS(CHOICE_NAME) } TrainTransform;

/* CLIP's loss of pairs (or SigLIP's), NT-Xent of two views of a picture (SimCLR), or both (SLIP,
 * Mu et al. 2022). */
#define OBJECTIVES(X)                                                                              \
    X(OBJECTIVE_CLIP, "clip") X(OBJECTIVE_SIMCLR, "simclr") X(OBJECTIVE_SLIP, "slip")
typedef enum { OBJECTIVES(CHOICE_NAME) } Objective;

/* The card of a plan. */
#define GPUS(X)                                                                                    \
    X(GPU_NONE, "none")                                                                            \
    X(GPU_H100, "h100") X(GPU_H200, "h200") X(GPU_A100, "a100") X(GPU_B200, "b200")
typedef enum { GPUS(CHOICE_NAME) } Gpu;

typedef struct TrainOptions {
    const char *config;
    /* data */
    const char *train_data, *image_key, *text_key, *json_text_key;
    const char *csv_separator, *csv_img_key, *csv_caption_key, *vocab;
    int64_t train_num_samples, workers, shuffle_window, shuffle_buffer;
    CaptionPick captions;
    bool csv_join, shuffle, dataset_resampled, jpeg_scale;
    const char *upsampling_factors;
    double max_bad, pipe_timeout, spool_limit;
    bool allow_pipe;
    /* validation */
    const char *val_data, *best_metric, *imagenet_val, *zeroshot_classes;
    int64_t zeroshot_frequency, early_stopping_patience;
    Steps zeroshot_frequency_steps, val_frequency;
    bool save_best;
    /* augmentation */
    TrainTransform train_transform;
    const char *aug_scale, *aug_ratio, *color_jitter;
    double color_jitter_prob, gray_scale_prob;
    /* views */
    Objective objective;
    const char *view_scale, *view_jitter, *view_blur_sigma;
    double view_flip_prob, view_jitter_prob, view_gray_prob, view_blur_prob;
    double temperature, ssl_scale;
    int64_t head_layers, head_hidden, head_dim;
    /* model */
    const char *model, *pretrained;
    double force_patch_dropout;
    bool freeze_bn, sync_bn;
    bool lock_image, lock_text, grad_checkpointing, siglip, shard_optimizer;
    size_t kept_blocks; /* no option: of ClipOptions, what the planned memory allows */
    const char *text_rows;
    size_t caption_rows; /* no option: the number that text_rows is; 0: a context */
    /* fine-tuning */
    int64_t lock_image_unlocked_groups, lock_text_unlocked_layers, lora_rank, feature_cache;
    bool lock_text_freeze_layer_norm, multi_positive;
    double lr_layer_decay, lora_alpha, ema, spike_factor;
    const char *distill_model, *distill_pretrained, *caption_template;
    /* optimisation */
    int64_t batch_size, accum_freq, epochs, epochs_cooldown, seed, logit_memory, max_steps,
        min_steps;
    Steps warmup;
    double lr, wd, beta1, beta2, eps, grad_clip_norm, lr_cooldown_end, lr_cooldown_power;
    SchedKind lr_scheduler;
    Optimizer optimizer;
    WdGroups wd_groups;
    Moments moments;
    /* machine */
    DeviceOption device;
    Precision precision;
    CommOptions comm;
    GatherType gather_dtype;
    bool graphs;
    /* of --dry-run */
    int64_t world_size; /* 0: the actual number of ranks */
    Gpu gpu;
    double gpu_share, node_link, loader_rate, gpu_hour_price;
    bool json;
    /* run */
    const char *logs, *name, *resume;
    int64_t keep_positions;
    int64_t save_frequency, keep_checkpoints, log_every_n_steps, skip_limit;
    Steps save_frequency_steps;
    double save_frequency_minutes;
    int64_t stopped_exit_code;
    bool dry_run;
} TrainOptions;

extern TrainOptions train_options; /* defaults, then what was given */
extern const Command train_command;

/* Sets the steps of options that are shares of a run of `total` steps. */
void train_options_settle(uint64_t total);
/* Bytes for the logit matrix on this device. */
size_t logit_memory_of(const TrainOptions *o, const Kernels *k);
/* Loader threads of a rank with so many CPUs. On a GPU all but two of them read data: one thread
 * enqueues the steps, another handles collectives. On a CPU the products need them. */
size_t loader_threads_of(const TrainOptions *o, const Kernels *k, double cpus);
/* Returns true if a recipe, which may be another person's, has the option's value. */
bool option_of_recipe(const char *name);
/* A run's name if none was given: the time, the model and two more options; malloc'd. */
char *train_options_name(const char *model);
