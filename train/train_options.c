#include "train/train_options.h"

#include <string.h>
#include <time.h>

TrainOptions train_options = {
    .image_key = "jpg;png;jpeg;webp",
    .text_key = "txt;caption",
    .csv_img_key = "filepath",
    .csv_caption_key = "title",
    .shuffle_window = 64,
    .shuffle_buffer = 5000,
    .pipe_timeout = 300,
    .spool_limit = 64,
    .shuffle = true,
    .max_bad = 0.1,
    .val_frequency = {.count = 500, .percent = 10},
    .zeroshot_frequency = 2,
    .save_best = true,
    .aug_scale = "0.9,1.0",
    .aug_ratio = "0.75,1.3333333333333333",
    .color_jitter = "0,0,0,0",
    .color_jitter_prob = 0,
    .force_patch_dropout = -1,
    .lock_text_freeze_layer_norm = true,
    .feature_cache = 4096,
    .lr_layer_decay = 1,
    .lora_alpha = 16,
    .batch_size = 64,
    .accum_freq = 1,
    .epochs = 32,
    .warmup = {.count = 10000, .percent = 10},
    .lr = 5e-4,
    .wd = 0.2,
    .beta1 = 0.9,
    .beta2 = 0.98,
    .eps = 1e-6,
    .lr_cooldown_power = 1.0,
    .graphs = true,
    .comm = COMM_DEFAULTS,
    .logs = "logs",
    .save_frequency = 1,
    .keep_checkpoints = 3,
    .log_every_n_steps = 100,
    .skip_limit = 100,
    .stopped_exit_code = EXIT_STOPPED,
    .gpu_share = 0.4,
    .node_link = 20,
    .loader_rate = 990,
};

#define O train_options
static Option options[] = {
    PATH("config", &O.config, "FILE",
         "recipe of `name = value` lines; what follows it on the command line wins"),
    DATA("train-data", &O.train_data, "SPEC",
         "shards (.tar, .tar.zst, {000..999}, a::b), a CSV/TSV of files, a folder, or streams: "
         "\"pipe:COMMAND\", - (standard input)"),
    INT("train-num-samples", &O.train_num_samples, 0, 1e18,
        "samples of an epoch; 0: all (required with streams)"),
    STRING("image-key", &O.image_key, "KEYS",
           "extensions of the image in a shard, first one present"),
    STRING("text-key", &O.text_key, "KEYS",
           "the caption: extensions and fields, txt;caption, or at random, txt:0.7,json.alt:0.3"),
    CHOICE(
        "captions", &O.captions, CAPTION_PICKS,
        "of several (lines, JSON arrays, rows of one picture): as one, the first, one at random"),
    STRING("json-text-key", &O.json_text_key, "FIELD",
           "take the caption from this field of a sample's .json"),
    STRING("csv-separator", &O.csv_separator, "CHAR",
           "between the fields of a CSV; default: tab or comma, by the header"),
    STRING("csv-img-key", &O.csv_img_key, "COLUMN", "column of the image's path"),
    STRING("csv-caption-key", &O.csv_caption_key, "COLUMN", "column of the caption"),
    FLAG("csv-join", &O.csv_join,
         "fields beyond the header's belong to the caption, whose separators are not quoted"),
    STRING("caption-template", &O.caption_template, "TEXT",
           "caption of a folder of class folders: 'a photo of a {}.'; default: the name alone"),
    PATH("vocab", &O.vocab, "FILE",
         "default: the checkpoint's, or CLIP's own, which `make setup` fetches"),
    INT("workers", &O.workers, 0, 256,
        "loader threads; 0: on a GPU the rank's CPUs but two, else 2"),
    FLAG("jpeg-scale", &O.jpeg_scale,
         "decode JPEG pictures at 1/2, 1/4 or 1/8 where the random crop stays as large as the "
         "model's: faster, other pixels; never in validation"),
    INT("max-image-pixels", &image_max_pixels, 1, 1e10, "larger images count as bad samples"),
    DATA("val-data", &O.val_data, "SPEC",
         "held-out pairs: their loss and recalls while training (val/…)"),
    STEPS("val-frequency", &O.val_frequency, 1, 1e15,
          "measure --val-data every so many steps or share of the run's, and after the last"),
    DATA("imagenet-val", &O.imagenet_val, "SPEC",
         "labelled images (`clipc eval zeroshot --data`): zero-shot accuracy while training"),
    PATH("zeroshot-classes", &O.zeroshot_classes, "FILE",
         "its classes and templates; default: ImageNet's, which `make zeroshot-sets` fetches"),
    INT_OF(
        "zeroshot-frequency", &O.zeroshot_frequency, "EPOCHS", 0, 1e9,
        "measure --imagenet-val every so many epochs, and after the last step; 0: not by epochs"),
    STEPS("zeroshot-frequency-steps", &O.zeroshot_frequency_steps, 0, 1e15,
          "and every so many steps; 0: off"),
    STRING("best-metric", &O.best_metric, "NAME",
           "metric of the best step; default: the first measured (val/loss)"),
    FLAG("save-best", &O.save_best, "keep the best step's checkpoint as checkpoints/best"),
    INT_OF("early-stopping-patience", &O.early_stopping_patience, "N", 0, 1e9,
           "end after so many validations in a row without improvement; 0: off"),
    FLOAT("max-bad", &O.max_bad, 0, 1, "stop when more than this fraction of the samples is bad"),
    FLAG("shuffle", &O.shuffle, "shuffle every epoch; --no-shuffle: stored order"),
    INT("shuffle-window", &O.shuffle_window, 1, 1e9, "shards whose samples are shuffled together"),
    FLAG("dataset-resampled", &O.dataset_resampled,
         "draw shards with replacement; --train-num-samples may be more than there are"),
    STRING("train-data-upsampling-factors", &O.upsampling_factors, "A::B",
           "resampled: how often samples of each source of a::b are drawn, as in 2::1"),
    INT("shuffle-buffer", &O.shuffle_buffer, 1, 1e8,
        "streams: samples held in memory, of which one is drawn"),
    FLOAT_OF("pipe-timeout", &O.pipe_timeout, "SECONDS", 0.1, 1e6,
             "streams: one without data for so long has failed"),
    FLOAT_OF("spool-limit", &O.spool_limit, "GIB", 0, 1e9,
             "streams of --val-data and --imagenet-val: most bytes that are copied"),
    CONSENT("allow-pipe", &O.allow_pipe,
            "also run \"pipe:COMMAND\" of list files and recipes, which can be anything"),
    CHOICE("train-transform", &O.train_transform, TRAIN_TRANSFORMS,
           "random crop, or the evaluation's transform"),
    STRING("aug-scale", &O.aug_scale, "LO,HI", "random crop: share of the area"),
    STRING("aug-ratio", &O.aug_ratio, "LO,HI", "random crop: width over height"),
    STRING("color-jitter", &O.color_jitter, "B,C,S,H", "brightness, contrast, saturation, hue"),
    FLOAT("color-jitter-prob", &O.color_jitter_prob, 0, 1, "how often colours are jittered"),
    FLOAT("gray-scale-prob", &O.gray_scale_prob, 0, 1, "how often a picture turns grey"),
    PATH("model", &O.model, "NAME|FILE", "architecture: a name of configs/models or a JSON file"),
    PATH("pretrained", &O.pretrained, "PATH",
         "start from these weights; a folder brings the architecture, a run's has its best"),
    FLOAT("force-patch-dropout", &O.force_patch_dropout, -1, 0.99,
          "share of patches dropped in training; -1: as in the model's file"),
    FLAG("freeze-bn", &O.freeze_bn,
         "ResNets: freeze batch normalisation: its weights and running statistics"),
    FLAG("sync-bn", &O.sync_bn, "ResNets: batch normalisation over the micro-batches of all ranks"),
    FLAG("lock-image", &O.lock_image, "freeze the image tower"),
    FLAG("lock-text", &O.lock_text, "freeze the text tower"),
    INT("lock-image-unlocked-groups", &O.lock_image_unlocked_groups, 0, 1e6,
        "trainable top groups of a locked image tower: 1 projection, 2 and last block, …"),
    INT("lock-text-unlocked-layers", &O.lock_text_unlocked_layers, 0, 1e6,
        "trainable top groups of a locked text tower, counted likewise"),
    FLAG("lock-text-freeze-layer-norm", &O.lock_text_freeze_layer_norm,
         "LayerNorms of a locked text tower are locked too"),
    INT_OF("feature-cache", &O.feature_cache, "MIB", 0, 1e9,
           "most memory for features of a frozen tower with fixed input, which are computed once"),
    INT("lora-rank", &O.lora_rank, 0, 4096,
        "train low-rank factors instead of the blocks' matrices; checkpoints hold them merged"),
    FLOAT("lora-alpha", &O.lora_alpha, 0, 1e6, "W + alpha/rank · B·A"),
    FLAG("multi-positive", &O.multi_positive,
         "pairs of a batch with the same class label or caption are each other's positives"),
    PATH("distill-pretrained", &O.distill_pretrained, "PATH",
         "a teacher's checkpoint: its softmax is matched as well"),
    PATH("distill-model", &O.distill_model, "NAME|FILE",
         "the teacher's architecture, if its checkpoint has none"),
    FLOAT_OF("ema", &O.ema, "DECAY", 0, 0.9999999,
             "keep a moving average of the weights, saved as CHECKPOINT/ema; 0: off"),
    FLAG(
        "grad-checkpointing", &O.grad_checkpointing,
        "recompute activations in backward: less memory, same result; on a GPU of as few blocks as "
        "its memory requires"),
    FLAG("shard-optimizer", &O.shard_optimizer,
         "each rank keeps its share of moments and master weights only (ZeRO-1)"),
    FLAG("siglip", &O.siglip, "sigmoid loss instead of softmax; adds logit_bias"),
    INT("batch-size", &O.batch_size, 1, 1e7, "pairs a rank and micro-batch"),
    INT("accum-freq", &O.accum_freq, 1, 1e6, "micro-batches of one contrastive batch"),
    INT("epochs", &O.epochs, 1, 1e9, "passes over the data"),
    INT("min-steps", &O.min_steps, 0, 1e15,
        "of small data, more epochs until the run has so many steps"),
    INT("max-steps", &O.max_steps, 0, 1e15,
        "end (and scale the schedule) at this many steps; 0: epochs decide"),
    FLOAT("lr", &O.lr, 0, 1e3, "peak learning rate"),
    FLOAT_OF("lr-layer-decay", &O.lr_layer_decay, "R", 1e-6, 1,
             "each group of a tower has R times the rate of the one above it"),
    FLOAT("wd", &O.wd, 0, 1e3, "weight decay"),
    CHOICE("wd-groups", &O.wd_groups, WD_GROUPS,
           "which tensors decay: open_clip up to 3.x, or 4.x"),
    FLOAT("beta1", &O.beta1, 0, 0.999999999, "AdamW"),
    FLOAT("beta2", &O.beta2, 0, 0.999999999, "AdamW; 0.999 if the model's name has no 'vit'"),
    FLOAT("eps", &O.eps, 0, 1, "AdamW; 1e-8 if the model's name has no 'vit'"),
    STEPS("warmup", &O.warmup, 0, 1e12,
          "steps of linear warm-up, or a share of the run's; N,P%: the smaller of the two"),
    CHOICE("lr-scheduler", &O.lr_scheduler, SCHED_KINDS, "after the warm-up"),
    INT("epochs-cooldown", &O.epochs_cooldown, 0, 1e9,
        "const-cooldown: epochs of falling rate at the end"),
    FLOAT("lr-cooldown-end", &O.lr_cooldown_end, 0, 1e3, "const-cooldown: last rate"),
    FLOAT("lr-cooldown-power", &O.lr_cooldown_power, 0, 100, "const-cooldown: 1 is linear"),
    FLOAT("grad-clip-norm", &O.grad_clip_norm, 0, 1e9, "clip the global gradient norm; 0: off"),
    CHOICE("moments", &O.moments, MOMENTS,
           "of AdamW: bf16 takes half the memory, rounded at random"),
    INT("seed", &O.seed, 0, 9e18, "of initial weights, order, augmentation"),
    INT_OF("logit-memory", &O.logit_memory, "MIB", 0, 1e6,
           "memory for the logit matrix; a larger one is computed in tiles; 0: 256, on a GPU 1024"),
    CHOICE("device", &O.device, DEVICES, "where to compute"),
    CHOICE(
        "precision", &O.precision, TRAINING_PRECISIONS,
        "of activations and products; auto: amp_bf16 where the device multiplies bf16, else fp32"),
    KERNEL_TUNING_OPTIONS,
    FLAG("graphs", &O.graphs,
         "capture a step's work on a GPU; --no-graphs: launch each kernel alone, to debug"),
    CHOICE("comm", &O.comm.choice, TRANSPORTS,
           "transport between ranks; auto: by the launcher (docs/DISTRIBUTED.md)"),
    FLOAT_OF("comm-timeout", &O.comm.timeout, "SECONDS", 0.1, 1e6,
             "end all ranks if one is late by so long; more than a checkpoint takes"),
    INT("comm-port", &O.comm.port, 0, 65535,
        "port on which rank 0 (MASTER_ADDR) serves NCCL's id; 0: MASTER_PORT + 1"),
    STRING("comm-key", &O.comm.key, "TEXT",
           "names the job to its ranks; default: torchrun's or SLURM's (docs/DISTRIBUTED.md)"),
    CHOICE("gather-dtype", &O.gather_dtype, GATHER_TYPES,
           "type of the features sent to other ranks; bf16: half of those bytes"),
    PATH("logs", &O.logs, "DIR", "folder of run folders"),
    STRING("name", &O.name, "NAME", "run folder's name; default: time and model"),
    PATH("resume", &O.resume, "latest|PATH",
         "resume a checkpoint; latest: this run's newest, or start anew"),
    INT_OF("save-frequency", &O.save_frequency, "EPOCHS", 1, 1e9,
           "checkpoint every so many epochs"),
    STEPS("save-frequency-steps", &O.save_frequency_steps, 0, 1e15,
          "and every so many steps or share of the run's; 0: off"),
    FLOAT_OF("save-frequency-minutes", &O.save_frequency_minutes, "MIN", 0, 1e9,
             "and every so many minutes; 0: off"),
    INT("keep-checkpoints", &O.keep_checkpoints, 1, 1e6,
        "number of checkpoints within epochs to keep"),
    INT("log-every-n-steps", &O.log_every_n_steps, 1, 1e9,
        "steps between progress lines if stderr is no terminal"),
    INT("skip-limit", &O.skip_limit, 1, 1e9,
        "stop after so many steps in a row whose loss is not finite"),
    FLOAT("spike-factor", &O.spike_factor, 0, 1e9,
          "skip a step with a loss above so many times the median of the last 64; 0: off"),
    INT("stopped-exit-code", &O.stopped_exit_code, 0, 255,
        "exit code of a run that a signal stopped before its last step; its state is saved"),
    FLAG("dry-run", &O.dry_run,
         "print parameters, FLOPs, memory and what ranks send; change nothing"),
    INT_OF("world-size", &O.world_size, "RANKS", 0, 1e6,
           "--dry-run: plan for so many ranks; 0: the present number"),
    CHOICE("gpu", &O.gpu, GPUS,
           "--dry-run: steps, hours and loader threads on such cards, which need not be here"),
    FLOAT("gpu-share", &O.gpu_share, 0.01, 1,
          "--dry-run: share of a card's specified speeds that a run reaches"),
    FLOAT_OF("node-link", &O.node_link, "GB/S", 0.01, 1e4,
             "--dry-run: a GPU's link to other nodes, beyond 8 ranks"),
    FLOAT_OF("loader-rate", &O.loader_rate, "N/S", 0.1, 1e7,
             "--dry-run: samples a second of a loader thread (docs/PERFORMANCE.md: 640x480 JPEG)"),
    FLOAT("gpu-hour-price", &O.gpu_hour_price, 0, 1e6, "--dry-run: of a GPU-hour; 0: not printed"),
    FLAG("json", &O.json, "--dry-run: the plan as one JSON object"),
};
#undef O

const Command train_command = {
    "train",
    "Train a CLIP from image-text pairs, or resume a run.",
    "clipc train --train-data SPEC --model NAME|FILE [OPTIONS]",
    "  clipc train --train-data 'shards/{000..127}.tar' --model ViT-B-32 --batch-size 64 --epochs "
    "32\n"
    "  clipc train --config configs/demo.conf --seed 2\n"
    "  clipc train --train-data 'a/{00..63}.tar::b/{00..07}.tar' --dataset-resampled \\\n"
    "      --train-data-upsampling-factors 1::4 --train-num-samples 1000000 ...\n"
    "  clipc train --train-data 'pipe:curl -sf https://HOST/{000..127}.tar' --train-num-samples "
    "1000000 ...\n"
    "  clipc train --train-data pairs.tsv --pretrained logs/run/checkpoints/latest --lr 1e-5 "
    "--warmup 100\n"
    "  clipc train --config logs/run/params.conf --resume latest\n",
    options,
    COUNT(options),
};

void train_options_settle(uint64_t total) {
    TrainOptions *o = &train_options;
    Steps *const all[] = {&o->warmup, &o->val_frequency, &o->zeroshot_frequency_steps,
                          &o->save_frequency_steps};
    for (size_t i = 0; i < COUNT(all); i++) steps_settle(all[i], total);
}

size_t logit_memory_of(const TrainOptions *o, const Kernels *k) {
    size_t automatic = k->device->gpu ? 1024 : 256;
    return size_mul(o->logit_memory ? (size_t)o->logit_memory : automatic, 1 << 20);
}

size_t loader_threads_of(const TrainOptions *o, const Kernels *k, double cpus) {
    enum { LEAST = 2, MOST = 256, BESIDE = 2 };
    if (o->workers) return (size_t)o->workers;
    return !k->device->gpu || cpus < LEAST + BESIDE ? LEAST : size_min(MOST, (size_t)cpus - BESIDE);
}

bool option_of_recipe(const char *name) {
    return option_find(&train_command, name)->given == GIVEN_BY_RECIPE;
}

char *train_options_name(const char *model) {
    char when[32];
    time_t now = time(NULL);
    struct tm tm;
    strftime(when, sizeof when, "%Y_%m_%d-%H_%M_%S", localtime_r(&now, &tm));
    const char *base = strrchr(model, '/');
    return xasprintf("%s-model_%s-lr_%g-b_%lld", when, base ? base + 1 : model, train_options.lr,
                     (long long)train_options.batch_size);
}
