#include "train/run.h"

#include "data/io/machine.h"
#include "train/checkpoint.h"
#include "train/memory.h"
#include "train/plan.h"
#include "train/record.h"
#include "train/run_recipe.h"
#include "train/ranks/agree.h"
#include "train/ranks/node.h"
#include "train/train_data.h"
#include "train/train_options.h"
#include "kernels/hash.h"
#include "data/io/folder.h"
#include "data/io/lock.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const TrainOptions *const opt = &train_options;
enum { DATA_GRACE = 10 }; /* seconds that a rank waits for its data after a signal */

/* Determines the run's folder and whether it resumes from a checkpoint; creates nothing except the
 * run's lock. */
static void find_run(Run *r) {
    if (!opt->train_data && !opt->dry_run)
        die_usage("clipc train: --train-data is missing (shards, a CSV/TSV or a folder)");
    if (!opt->model && !opt->pretrained && !opt->resume)
        die_usage("clipc train: --model (or --pretrained) is missing (a name of configs/models or "
                  "a JSON file)");
    run_recipe_locate();
    const char *model = opt->model ? opt->model : opt->pretrained ? opt->pretrained : "resumed";
    if (!opt->name) train_options.name = train_options_name(model); /* recorded */
    r->dir = xasprintf("%s/%s", opt->logs, opt->name);
    r->checkpoints = xasprintf("%s/checkpoints", r->dir);
    Error err;
    if (!opt->dry_run && !folder_lock(r->dir, &err)) die("%s", err.text);
    char *record = xasprintf("%s/params.conf", r->dir);
    bool exists = machine_access(record, F_OK);
    free(record);
    if (opt->resume && !strcmp(opt->resume, "latest"))
        r->resume = checkpoint_latest(r->checkpoints);
    else if (opt->resume)
        r->resume = xstrdup(opt->resume);
    else if (exists && !opt->dry_run)
        die("%s: this run exists: give another --name, or --resume latest to go on with it",
            r->dir);
    /* such a start writes into this run as if it began at another's step */
    if (exists && !opt->dry_run && r->resume && strcmp(opt->resume, "latest") &&
        !folder_holds(r->checkpoints, r->resume))
        die("%s: this run exists, and %s is not a checkpoint of it: give another --name, or "
            "--resume latest to go on with it",
            r->dir, r->resume);
    if (opt->resume && !r->resume) {
        if (!opt->model && !opt->pretrained)
            die_usage(
                "clipc train: no checkpoint under %s yet: --model (or --pretrained) is needed",
                r->checkpoints);
        log_info("no checkpoint under %s yet: starting afresh", r->checkpoints);
    }
    if (opt->pretrained && !r->resume) train_options.pretrained = pretrained_find(opt->pretrained);
    if (opt->distill_pretrained)
        train_options.distill_pretrained = pretrained_find(opt->distill_pretrained);
}

static void load_config(Run *r) {
    if (r->resume)
        clip_config_load(&r->config, r->resume);
    else
        pretrained_config(&r->config, opt->pretrained, opt->model);
    if (opt->siglip && !r->config.has_logit_bias) {
        r->config.has_logit_bias = true;
        r->config.init_logit_scale = log(10.0);
        r->config.init_logit_bias = -10.0;
    }
    r->config.kept_positions = (size_t)opt->keep_positions;
    if (opt->force_patch_dropout >= 0) r->config.patch_dropout = opt->force_patch_dropout;
    const char *fixed = r->config.patch_dropout > 0        ? "patch dropout"
                        : opt->objective != OBJECTIVE_CLIP ? "--objective simclr and slip"
                        : opt->jpeg_scale                  ? "--jpeg-scale"
                                                           : NULL;
    if (r->config.naflex && fixed)
        die_usage(
            "clipc train: %s takes pictures of any aspect ratio (NaFlex), for which there is no "
            "%s",
            r->config.name, fixed);
}

size_t run_epoch_samples(const Run *r) {
    size_t all = dataset_count(r->data), wanted = (size_t)opt->train_num_samples;
    if (wanted && opt->dataset_resampled) return wanted;
    return wanted ? size_min(wanted, all) : all;
}

static LoaderOptions loader_options(Run *r, const TrainOptions *o) {
    size_t steps = r->k->device->asynchronous ? 2 : 1;
    bool views = o->objective != OBJECTIVE_CLIP;
    if (views) r->view_transform = train_data_views(&r->config);
    return (LoaderOptions){
        .transform = train_data_transform(&r->config),
        .views = views ? &r->view_transform : NULL,
        .views_only = o->objective == OBJECTIVE_SIMCLR,
        .tokenizer = r->tokenizer,
        .context = r->config.context_length,
        .batch_size = (size_t)o->batch_size,
        .accum = (size_t)o->accum_freq,
        .rank = r->comm->rank,
        .ranks = r->comm->size,
        .workers = loader_threads_of(o, r->k, node_cpus()),
        /* on a GPU two steps may be in flight */
        .ring = steps * (size_t)o->accum_freq + 3,
        .samples_per_epoch = (size_t)o->train_num_samples,
        .resampled = o->dataset_resampled,
        .seed = r->state.seed,
        .max_bad = o->max_bad,
        .max_pixels = (size_t)image_max_pixels,
        .alloc = r->k->device->host_alloc,
        .release = r->k->device->host_release,
        .interrupted = &r->stop_signal,
        /* other ranks would wait for a rank that leaves in the middle of a step */
        .grace = r->comm->size == 1 ? 0 : DATA_GRACE,
    };
}

/* A batch of more pairs than an epoch has is made as large as they allow: fewer micro-batches of
 * equal size first. */
static void cap_batch(const Run *r, int ranks) {
    size_t pairs = run_epoch_samples(r) / (size_t)ranks, batch = (size_t)opt->batch_size,
           accum = (size_t)opt->accum_freq;
    if (!pairs || batch * accum <= pairs) return;
    accum = size_min(accum, (pairs + batch - 1) / batch);
    batch = pairs / accum;
    if (run_writes(r))
        log_info("a batch of %lld x %lld x %d ranks is more than the %zu pairs of an epoch: it is "
                 "%zu x %zu x %d (--batch-size, --accum-freq)",
                 (long long)opt->batch_size, (long long)opt->accum_freq, ranks,
                 run_epoch_samples(r), batch, accum, ranks);
    train_options.batch_size = (int64_t)batch; /* recorded */
    train_options.accum_freq = (int64_t)accum;
}

/* --text-rows auto: measured by rank 0, and recorded as the number. */
static void settle_text_rows(const Run *r) {
    char *rows = NULL;
    if (!opt->text_rows || opt->caption_rows) return;
    comm_rank0_begin(r->comm);
    if (run_writes(r)) {
        train_options.caption_rows = train_data_caption_rows(
            r->data, r->tokenizer, r->config.context_length, (size_t)opt->batch_size);
        rows = xasprintf("%zu", opt->caption_rows);
    }
    comm_rank0_end(r->comm);
    train_options.text_rows = comm_string(r->comm, rows);
    train_options.caption_rows = strtoull(opt->text_rows, NULL, 10);
}

/* NULL: pictures alone, for whose checkpoints no vocabulary is given. */
static Tokenizer *open_vocabulary(Run *r) {
    const char *from = r->resume ? r->resume : opt->pretrained;
    char *own = from ? pretrained_vocab(from) : NULL;
    bool wanted = opt->objective != OBJECTIVE_SIMCLR || opt->vocab || own;
    free(own);
    return wanted ? pretrained_tokenizer(&r->config, opt->vocab, from, &r->vocab_path) : NULL;
}

void run_open_data(Run *r) {
    Error err;
    comm_rank0_begin(r->comm);
    r->tokenizer = open_vocabulary(r);

    char *cache = xasprintf("%s/index", r->dir);
    r->data = train_data_open(r->comm, cache, r->state.seed, &r->dataset_options, &err);
    if (!r->data) die("--train-data %s: %s", opt->train_data, err.text);
    comm_rank0_end(r->comm);
    agree_on(r->comm, "vocabulary", r->tokenizer ? tokenizer_identity(r->tokenizer) : 0);
    uint64_t shards = FNV_START;
    for (size_t i = 0; i <= dataset_shards(r->data); i++) {
        size_t start = dataset_shard_start(r->data, i);
        shards = fnv_hash(shards, &start, sizeof start);
    }
    agree_on(r->comm, "--train-data (samples, shard by shard)", shards);
    r->data_hash = shards;

    cap_batch(r, r->comm->size);
    r->loader_options = loader_options(r, opt);
    r->global_batch =
        size_mul(size_mul((size_t)opt->batch_size, (size_t)opt->accum_freq), (size_t)r->comm->size);
    r->steps_per_epoch = loader_steps_per_epoch(r->data, &r->loader_options);
    if (!r->steps_per_epoch)
        comm_die(r->comm, "%s has %zu samples an epoch, fewer than the %d ranks", opt->train_data,
                 run_epoch_samples(r), r->comm->size);
    r->sampler = train_data_order(r->data, r->state.seed, run_epoch_samples(r), &err);
    if (!r->sampler) comm_die(r->comm, "--train-data-upsampling-factors: %s", err.text);
    r->validation = validation_prepare(validators, VALIDATORS, r->comm, &r->dataset_options);
    settle_text_rows(r);
    if ((size_t)opt->train_num_samples > run_epoch_samples(r) && run_writes(r))
        log_warn("--train-num-samples %lld: there are %zu, and these are an epoch",
                 (long long)opt->train_num_samples, dataset_count(r->data));
}

/* A run's memory outside its learner and its loader. */
static void open_rest(Run *r, const Learner *l) {
    TrainView view = {.k = l->k,
                      .comm = l->comm,
                      .config = &r->config,
                      .state = l->state,
                      .clip = l->clip,
                      .uploads = step_uploads(l->step),
                      .tokenizer = r->tokenizer,
                      .batch = (size_t)l->opt->batch_size,
                      .loss = l->opt->siglip ? LOSS_SIGLIP : LOSS_CLIP};
    r->votes = votes_new(l->k, l->comm);
    validation_open(r->validation, &view);
}

static void plan_open(void *run, const Learner *l, RunPlan *plan) {
    Run *r = run;
    LoaderOptions o = loader_options(r, l->opt);
    r->ring = o.alloc(loader_ring_bytes(&o));
    plan_rest(plan, l->k, "batches in flight");
    r->validation = validation_prepare(validators, VALIDATORS, l->comm, NULL);
    open_rest(r, l);
    plan_rest(plan, l->k, "votes, validation");
    validation_plan(r->validation);
}

void run_close_rest(Run *r) {
    validation_close(r->validation);
    votes_free(r->votes);
}

static void plan_close(void *run) {
    Run *r = run;
    run_close_rest(r);
    r->k->device->host_release(r->ring);
}

static DryRun dry_run_of(Run *r, int ranks) {
    return (DryRun){r->k, &r->config, opt, ranks, plan_open, plan_close, r};
}

/* Of each tower's blocks, as many as fit are not recomputed. */
static void choose_blocks(const Run *r, const DryRun *dry) {
    const ClipConfig *c = &r->config;
    size_t kept = train_options.kept_blocks = memory_kept_blocks(dry);
    if (!opt->grad_checkpointing || !r->k->device->gpu) return;
    log_info("--grad-checkpointing: %zu of %zu image and %zu of %zu text blocks are recomputed",
             c->image.layers - size_min(kept, c->image.layers), c->image.layers,
             c->text.layers - size_min(kept, c->text.layers), c->text.layers);
}

void run_build_model(Run *r) {
    kernel_graphs_on = opt->graphs;
    Validation *prepared = r->validation; /* planning has another */
    DryRun dry = dry_run_of(r, r->comm->size);
    choose_blocks(r, &dry);
    memory_reserve(&dry, r->comm);
    learner_open(&r->learner, r->k, r->comm, &r->config, opt, r->resume, &r->state);
    learner_cache(&r->learner, r->data, &r->loader_options.transform, r->tokenizer,
                  (r->total_steps - r->state.step) * r->global_batch);
    r->validation = prepared;
    open_rest(r, &r->learner);
    if (r->learner.images && !r->learner.teacher)
        r->loader_options.picture_ok = r->learner.images->ok;
}

/* A resumed run uses the checkpoint's seed: another one would change order and augmentation in the
 * middle. */
static void read_position(Run *r) {
    TrainState s;
    if (!checkpoint_load_state(r->resume, NULL, &s))
        die("%s has no train_state.safetensors: use it with --pretrained instead of --resume",
            r->resume);
    if (option_find(&train_command, "seed")->given && s.seed != (uint64_t)opt->seed)
        die("%s was trained with --seed %llu, not %lld", r->resume, (unsigned long long)s.seed,
            (long long)opt->seed);
    r->state = s;
}

/* --precision auto: the precision that the run has had so far, else the one that suits all ranks.
 */
static void choose_precision(Run *r) {
    static const char *const words[] = {TRAINING_PRECISIONS(CHOICE_WORD)};
    const Comm *c = r->comm;
    Precision own = opt->precision, *all = xcalloc((size_t)c->size, sizeof *all);
    char *before =
        comm_string(c, run_writes(r) && r->resume ? record_option(r->resume, "precision") : NULL);
    for (size_t i = 0; own == PRECISION_AUTO && before && i < COUNT(words); i++)
        if (!strcmp(before, words[i])) own = (Precision)i;
    free(before);
    own = kernels_precision(opt->device, own);
    c->gather_bytes(all, &own, sizeof own);
    for (int i = 0; i < c->size; i++)
        if (all[i] != own) own = PRECISION_FP32;
    free(all);
    r->k = kernels_open_device(opt->device, own);
    train_options.precision = own; /* recorded */
}

void run_start(Run *r) {
    NamedHash *hashes = options_hashes(&train_command);
    agree_on_start(r->comm, hashes, train_command.count);
    free(hashes);
    validation_check_options();
    r->state.seed = (uint64_t)opt->seed;
    comm_rank0_begin(r->comm);
    if (run_writes(r)) find_run(r);
    if (run_writes(r) && r->resume) read_position(r);
    comm_rank0_end(r->comm);
    r->dir = comm_string(r->comm, r->dir);
    r->checkpoints = comm_string(r->comm, r->checkpoints);
    r->resume = comm_string(r->comm, r->resume);
    train_options.pretrained = comm_string(r->comm, (char *)opt->pretrained);
    train_options.distill_pretrained = comm_string(r->comm, (char *)opt->distill_pretrained);
    r->comm->broadcast_bytes(&r->state, sizeof r->state, 0);
    choose_precision(r);
    comm_rank0_begin(r->comm);
    load_config(r);
    comm_rank0_end(r->comm);
    learner_check_options(&r->config);
    char *json = clip_config_to_json(&r->config);
    agree_on(r->comm, "model configuration", fnv_hash(FNV_START, json, strlen(json)));
    free(json);
}

/* The samples of an epoch, for a plan: of --train-num-samples, or of the data if these are given
 * and can be counted. Of the data, also what --text-rows auto is. */
static size_t plan_samples(Run *r, int ranks) {
    Error err;
    bool measured = opt->text_rows && !opt->caption_rows;
    size_t count = (size_t)opt->train_num_samples;
    if (measured && !opt->train_data)
        die_usage("clipc train: --text-rows auto reads captions of --train-data: give it, or a "
                  "number");
    if (!opt->train_data || (count && !measured)) return count;
    r->data = train_data_open(comm_self(r->k), NULL, r->state.seed, &r->dataset_options, &err);
    if (!r->data) die("--train-data %s: %s", opt->train_data, err.text);
    if (!count) {
        count = run_epoch_samples(r);
        cap_batch(r, ranks);
    }
    if (measured) {
        const char *from = r->resume ? r->resume : opt->pretrained;
        Tokenizer *t = pretrained_tokenizer(&r->config, opt->vocab, from, &r->vocab_path);
        train_options.caption_rows =
            train_data_caption_rows(r->data, t, r->config.context_length, (size_t)opt->batch_size);
        tokenizer_close(t);
    }
    dataset_close(r->data);
    r->data = NULL;
    return count;
}

void run_plan(Run *r) {
    int ranks = opt->world_size ? (int)opt->world_size : r->comm->size;
    DryRun dry = dry_run_of(r, ranks);
    comm_rank0_begin(r->comm);
    if (run_writes(r)) {
        RunPlan plan;
        size_t samples = plan_samples(r, ranks);
        choose_blocks(r, &dry);
        memory_plan(&dry, &plan);
        plan.samples = samples;
        plan_print(&plan, r->k, &r->config, opt, ranks);
    }
    comm_rank0_end(r->comm);
}
