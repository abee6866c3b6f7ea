#include "train/train.h"

#include "train/checkpoint.h"
#include "train/memory.h"
#include "train/ranks/agree.h"
#include "train/ranks/node.h"
#include "train/record.h"
#include "train/run.h"
#include "train/run_recipe.h"
#include "train/summary.h"
#include "train/train_data.h"
#include "train/train_options.h"
#include "train/ranks/watchdog.h"
#include "data/io/folder.h"

#include <omp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const TrainOptions *const opt = &train_options;
static Run run; /* static, because the program can exit in many places */

/* A second Ctrl-C ends the run without waiting for the step. */
static void on_signal(int sig) {
    run.stop_signal = sig;
    if (sig == SIGINT) signal(SIGINT, SIG_DFL);
}

static void save(Run *r, const char *name) {
    if (run_writes(r)) {
        checkpoint_save(r->checkpoints, name, r->learner.state, &r->config, &r->state,
                        r->vocab_path);
        checkpoint_prune(r->checkpoints, (size_t)opt->keep_checkpoints);
    } else {
        checkpoint_help_save(r->learner.state);
    }
    r->last_save = clock_now();
}

/* Checkpoints at an epoch's end are epoch_K and are kept; others are step_N, of which the last few
 * are kept. False: none is due. */
static bool save_name(const Run *r, bool wanted, char name[48]) {
    const TrainState *s = &r->state;
    bool last = s->step == r->total_steps, epoch_end = s->position == 0;
    bool steps =
        opt->save_frequency_steps.of_run && s->step % opt->save_frequency_steps.of_run == 0;
    if (epoch_end && (last || s->epoch % (uint64_t)opt->save_frequency == 0))
        snprintf(name, 48, "epoch_%llu", (unsigned long long)s->epoch);
    else if (last || steps || wanted)
        snprintf(name, 48, "step_%llu", (unsigned long long)s->step);
    else
        return false;
    return true;
}

static bool is_stale(const Run *r) {
    return opt->early_stopping_patience &&
           r->state.best.stale >= (uint64_t)opt->early_stopping_patience;
}

/* The checkpoint of this run's `best`, from which it resumes, that was due after the same step and
 * is missing because the run ended between the two; malloc'd, or NULL. */
static char *owed_save(const Run *r) {
    char name[48];
    if (!run_writes(r) || !r->resume) return NULL;
    char *best = folder_path(r->checkpoints, "best"), *owed = NULL;
    if (!strcmp(r->resume, best) && save_name(r, is_stale(r), name)) {
        char *folder = folder_path(r->checkpoints, name);
        if (!folder_is(folder)) owed = xstrdup(name);
        free(folder);
    }
    free(best);
    return owed;
}

/* After a step: runs the validators that are due, keeps the best step's checkpoint. */
static void validate(Run *r) {
    Metrics m;
    uint64_t step = r->state.step;
    if (!validation_run(r->validation, &r->state, step == r->total_steps, &m)) return;
    if (run_writes(r)) train_log_metrics(r->log, step, &m);
    if (best_update(&r->state.best, &m, opt->best_metric, step) && opt->save_best) save(r, "best");
    r->stopped_early = is_stale(r);
}

/* What fine-tuning starts from; no candidate for the best step. */
static void validate_start(Run *r) {
    Metrics m;
    if (!opt->pretrained || r->resume || !validation_run(r->validation, &r->state, true, &m))
        return;
    if (run_writes(r)) train_log_metrics(r->log, 0, &m);
}

/* If the loss is not finite or above the limit, the step is skipped; too many in a row end the
 * run. */
static void check_step(Run *r, const StepResult *res, uint64_t step, double limit) {
    r->skipped_in_a_row = res->skipped ? r->skipped_in_a_row + 1 : 0;
    bool spike = res->loss > limit;
    if (!res->skipped)
        guard_remember(&r->state.recent, res->loss);
    else if (run_writes(r) && spike)
        log_warn("step %llu: the loss %g is more than --spike-factor %g times the usual: the step "
                 "is left out",
                 (unsigned long long)step, res->loss, opt->spike_factor);
    else if (run_writes(r))
        log_warn("step %llu: the loss or its gradient is not finite (loss %g, gradient norm %g): "
                 "the step is left out",
                 (unsigned long long)step, res->loss, res->grad_norm);
    if (r->skipped_in_a_row >= (uint64_t)opt->skip_limit)
        comm_die(r->comm,
                 "the loss was not finite%s for %llu steps in a row: lower --lr or set "
                 "--grad-clip-norm, then --resume latest",
                 opt->spike_factor > 0 ? " or leapt" : "", (unsigned long long)r->skipped_in_a_row);
    if (run_writes(r) && step > opt->warmup.of_run)
        watch_step(&r->watch, step, res->logit_scale, res->image_cosine, res->text_cosine);
}

/* An enqueued step: its values that are known before its result. */
typedef struct Pending {
    bool open, voted; /* voted: its votes are not counted yet */
    Batch **batches;
    StepMetrics metrics;
    double limit; /* above which its loss is skipped */
} Pending;

static void cast_votes(Run *r, Pending *p, const LoaderStats *ls) {
    bool minutes = run_writes(r) && opt->save_frequency_minutes > 0 &&
                   clock_now() - r->last_save > 60 * opt->save_frequency_minutes;
    double own[VOTES] = {r->stop_signal != 0, minutes, (double)ls->bad};
    votes_cast(r->votes, own);
    if (minutes) r->last_save = clock_now();
    p->voted = true;
}

static void count_votes(Run *r, Pending *p) {
    double sum[VOTES];
    if (!p->voted) return;
    p->voted = false;
    votes_count(r->votes, sum);
    r->stop |= sum[VOTE_STOP] > 0;
    r->save |= sum[VOTE_SAVE] > 0;
    p->metrics.bad = (uint64_t)sum[VOTE_BAD];
}

/* A signal before the first step: the state is saved as well. */
static bool stop_at_start(Run *r) {
    Pending none = {.open = false};
    cast_votes(r, &none, &(LoaderStats){.bad = 0});
    count_votes(r, &none);
    if (!r->stop) return false;
    char name[48];
    snprintf(name, sizeof name, "step_%llu", (unsigned long long)r->state.step);
    save(r, name);
    return true;
}

/* Waits for the step's result, checks and logs it. */
static void finish_step(Run *r, Pending *p) {
    if (!p->open) return;
    count_votes(r, p);
    StepMetrics *m = &p->metrics;
    StepResult res = step_result(r->learner.step);
    p->open = false;
    for (int64_t j = 0; j < opt->accum_freq; j++) loader_release(r->loader, p->batches[j]);
    m->loss = res.loss;
    m->logit_scale = res.logit_scale;
    m->grad_norm = res.grad_norm;
    m->skipped = res.skipped;
    m->views_loss = res.views_loss;
    m->image_cosine = res.image_cosine;
    m->text_cosine = res.text_cosine;
    check_step(r, &res, m->step, p->limit);
    if (run_writes(r)) train_log_step(r->log, m);
}

static bool start_step(Run *r, Pending *p) {
    for (int64_t j = 0; j < opt->accum_freq; j++)
        if (!(p->batches[j] = loader_next(r->loader))) {
            if (r->comm->size == 1) return false;
            die("rank %d: ended by a signal while it waited for its data; all ranks end; go on "
                "with --resume latest",
                r->comm->rank);
        }
    p->open = true;
    p->metrics =
        (StepMetrics){.epoch = p->batches[0]->epoch, .lr = sched_lr(&r->sched, r->state.step)};
    p->limit = guard_limit(&r->state.recent, opt->spike_factor);
    step_limit_loss(r->learner.step, p->limit);
    step_start(r->learner.step, p->batches, p->metrics.lr, ++r->state.step);
    p->metrics.step = r->state.step;
    p->metrics.samples = (r->state.step - (uint64_t)r->sched.shift) * r->global_batch;
    r->state.position += r->global_batch;
    if (r->state.position >= r->steps_per_epoch * r->global_batch)
        r->state.position = 0, r->state.epoch++;
    return true;
}

/* Returns true if work after this step needs the current model or log. */
static bool is_due(const Run *r) {
    char name[48];
    return save_name(r, r->stop || r->save, name) ||
           validation_due(r->validation, &r->state, r->state.step == r->total_steps);
}

/* Products are measured in the first step of a run that has no choices from its checkpoint. Later
 * shapes follow from the choices, so a resumed run takes the same ones and stays bit-identical. */
static void measure_products(const Run *r, bool begins) {
    size_t bytes;
    if (!r->k->device->gpu || !kernel_tuning.autotune) return;
    free(kernels_algorithms(&bytes));
    if (begins && !(r->resume && bytes)) return;
    if (!begins) agree_on_algorithms(r->comm);
    kernel_tuning.autotune = false;
}

/* On an asynchronous device the result of a step and its votes are taken while the next step runs,
 * so a stop acts one step later. Returns true if a signal ended the loop before the last step. */
static bool run_steps(Run *r) {
    bool ends = false; /* the loop ends and the state is already saved */
    Pending pending[2] = {{.open = false}};
    for (size_t i = 0; i < 2; i++)
        pending[i].batches = xcalloc((size_t)opt->accum_freq, sizeof(Batch *));
    double waited = 0;
    uint64_t first = r->state.step + 1; /* captures no graph */
    measure_products(r, true);
    r->last_save = clock_now();
    while (r->state.step < r->total_steps && !ends) {
        double t0 = clock_now();
        watchdog_step(r->state.step + 1);
        Pending *now = &pending[r->state.step % 2], *before = &pending[(r->state.step + 1) % 2];
        char name[48];
        if (!start_step(r, now)) { /* a signal arrived while waiting for data */
            finish_step(r, before);
            ends = save_name(r, true, name);
            save(r, name);
            break;
        }
        if (r->state.step == first) measure_products(r, false);
        finish_step(r, before);
        LoaderStats ls = loader_stats(r->loader);
        cast_votes(r, now, &ls);
        if (!votes_deferred(r->votes)) count_votes(r, now);
        double dt = clock_now() - t0;
        now->metrics.samples_per_s = (double)r->global_batch / dt;
        now->metrics.data_wait = (ls.wait_seconds - waited) / dt;
        waited = ls.wait_seconds;
        if (!r->k->device->asynchronous || is_due(r)) finish_step(r, now);
        if (!r->stop) validate(r);
        ends = r->stop || r->stopped_early;
        if (save_name(r, ends || r->save, name)) {
            finish_step(r, now);
            r->save = false;
            save(r, name);
        }
    }
    for (size_t i = 0; i < 2; i++) free(pending[i].batches);
    return ends;
}

static void describe(const Run *r) {
    size_t used = r->steps_per_epoch * r->global_batch, samples = run_epoch_samples(r);
    log_info("model %s: %zu parameters; %s", r->config.name, params_elements(r->learner.params),
             kernels_title(r->k));
    if (r->comm->size > 1)
        log_info("%d ranks over %s, %d threads each; global batch %zu = %lld x %lld accumulated x "
                 "%d ranks",
                 r->comm->size, r->comm->name, omp_get_max_threads(), r->global_batch,
                 (long long)opt->batch_size, (long long)opt->accum_freq, r->comm->size);
    log_info("data: %zu %s in %zu shards; %llu steps of %zu an epoch%s", dataset_count(r->data),
             opt->objective == OBJECTIVE_SIMCLR ? "pictures" : "pairs", dataset_shards(r->data),
             (unsigned long long)r->steps_per_epoch, r->global_batch, samples == used ? "" : ":");
    if (r->k->device->gpu && !opt->workers)
        log_info("loader: %zu threads for %.3g CPUs", r->loader_options.workers, node_cpus());
    if (samples != used)
        log_info("  %zu samples are left over and not used in an epoch", samples - used);
}

static void make_run_folder(Run *r) {
    comm_rank0_begin(r->comm);
    if (run_writes(r)) {
        folder_make_or_die(r->checkpoints);
        r->recipe = run_recipe_write(r->dir, r->state.step, r->resume != NULL);
        r->log =
            train_log_open(r->dir, r->state.step, r->total_steps, (uint64_t)opt->log_every_n_steps);
    }
    comm_rank0_end(r->comm);
}

/* Returns true if a recipe with this run's options needs --allow-pipe. */
static bool runs_commands(void) {
    const char *const specs[] = {opt->train_data, opt->val_data, opt->imagenet_val};
    bool any = opt->allow_pipe;
    for (size_t i = 0; i < COUNT(specs); i++) any |= specs[i] && strstr(specs[i], "pipe:");
    return any;
}

static int exit_code(const Run *r) { return r->stopped ? (int)opt->stopped_exit_code : EXIT_OK; }

static void say_end(const Run *r) {
    const Best *b = &r->state.best;
    if (b->step)
        log_info("best %s: %.6g, at step %llu%s%s%s", b->metric, b->value,
                 (unsigned long long)b->step, opt->save_best ? ": " : "",
                 opt->save_best ? r->checkpoints : "", opt->save_best ? "/best" : "");
    if (run_writes(r)) summary_print(r->dir, b);
    if (r->stopped_early)
        log_info("stopped early after step %llu: %llu validations in a row were no better",
                 (unsigned long long)r->state.step, (unsigned long long)b->stale);
    else if (r->stopped)
        log_info("stopped by %s after step %llu and saved; go on with: clipc train --config "
                 "%s --resume latest%s",
                 r->stop_signal == SIGINT    ? "SIGINT"
                 : r->stop_signal == SIGTERM ? "SIGTERM"
                                             : "a signal to another rank",
                 (unsigned long long)r->state.step, r->recipe,
                 runs_commands() ? " --allow-pipe" : "");
    else
        log_info("done: %s", r->checkpoints);
}

static void train(Run *r) {
    if (r->state.position % r->global_batch)
        comm_die(
            r->comm,
            "%s stands at sample %llu of its epoch, no multiple of this run's global batch "
            "of %zu: choose --batch-size and --accum-freq so that it is, as the run before did",
            r->resume, (unsigned long long)r->state.position, r->global_batch);
    train_data_check_ranks(r->data, r->comm, r->resume, r->state.ranks);
    run_build_model(r);
    r->state.ranks = (uint64_t)r->comm->size;
    r->state.record = r->record;
    make_run_folder(r);
    describe(r);
    r->loader = loader_start(r->data, r->sampler, &r->loader_options, r->state.epoch,
                             r->state.position / r->global_batch);
    comm_stats = (CommStats){0};
    uint64_t first = r->state.step;
    if (r->owed) save(r, r->owed);
    validate_start(r);
    r->stopped = !r->stopped_early && (stop_at_start(r) || run_steps(r)) && !r->stopped_early &&
                 r->state.step < r->total_steps;
    r->comm->barrier(); /* no rank exits while another one writes: its launcher may end all */
    comm_report(r->comm, r->state.step - first);
    train_log_close(r->log);
    say_end(r);
    memory_report(r->k);
    if (!loader_stop(r->loader)) {
        log_warn("a loader thread still waits for its data: it is left alone");
        r->comm->close();
        exit_at_once(exit_code(r));
    }
    sampler_free(r->sampler);
    run_close_rest(r);
    learner_close(&r->learner);
}

int train_main(void) {
    Run *r = &run;
    if ((opt->gpu || opt->json) && !opt->dry_run)
        die_usage("clipc train: --gpu and --json go with --dry-run");
    if (opt->gpu) { /* planned without one; memory is counted by the CPU's kernels */
        train_options.device = DEVICE_CPU;
        if (opt->precision == PRECISION_AUTO) train_options.precision = PRECISION_AMP_BF16;
    }
    r->k = kernels_open_device(opt->device, opt->precision);
    r->comm = comm_open(&opt->comm, r->k);
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    run_start(r);
    if (opt->dry_run) {
        run_plan(r);
        r->comm->close();
        return EXIT_OK;
    }
    run_open_data(r);
    r->sched = train_sched(&r->state, r->steps_per_epoch, r->global_batch);
    r->total_steps = r->sched.total + (uint64_t)r->sched.shift;
    r->record = record_begin(
        r->comm, r->resume,
        &(RecordFacts){r->global_batch, r->data, r->data_hash, &r->config, &r->state, &r->sched});
    r->owed = comm_string(r->comm, owed_save(r));
    r->stopped_early = r->resume && is_stale(r);
    if (r->resume && !r->owed && (r->state.step >= r->total_steps || r->stopped_early)) {
        if (run_writes(r)) checkpoint_settle(r->checkpoints, r->resume, r->state.step);
        log_info("%s: this run is finished (%llu steps)", r->dir,
                 (unsigned long long)r->state.step);
    } else {
        train(r);
    }
    r->comm->close();
    dataset_close(r->data);
    tokenizer_close(r->tokenizer);
    clip_config_free(&r->config);
    FREE_ALL((char *)r->dataset_options.cache_dir, r->vocab_path, r->record, r->owed, r->recipe,
             r->resume, r->checkpoints, r->dir);
    return exit_code(r);
}
