/* run: a training run from its options to the point where steps can begin: its folder, the
 * checkpoint it resumes from, precision, configuration, data, model, memory. train.c has the steps.
 */
#pragma once
#include "train/guards.h"
#include "train/learner.h"
#include "train/log.h"
#include "train/ranks/votes.h"
#include "train/train_sched.h"
#include "train/validate.h"

#include <signal.h>

typedef struct Run {
    char *dir, *checkpoints; /* run folder and its checkpoints/ */
    char *resume;            /* checkpoint to resume from, or NULL */
    char *owed;              /* name of a checkpoint to save before the first step, or NULL */
    ClipConfig config;
    char *vocab_path;
    Tokenizer *tokenizer;
    Dataset *data;
    DatasetOptions dataset_options;
    Sampler *sampler;
    Loader *loader;
    LoaderOptions loader_options;
    Transform view_transform;
    void *ring; /* of the loader, in a dry run */
    const Kernels *k;
    const Comm *comm;
    Learner learner;
    Watch watch;
    Sched sched;
    TrainLog *log; /* rank 0's; NULL elsewhere */
    Votes *votes;
    bool stop, save; /* a rank voted for it: all ranks learn it at the same step */
    size_t global_batch;
    uint64_t steps_per_epoch, total_steps;
    uint64_t data_hash;
    char *record; /* of this run (record.h); rank 0's */
    char *recipe; /* file with the options of this run (run_recipe.h); rank 0's */
    TrainState state;
    double last_save; /* or when the clock last requested one */
    uint64_t skipped_in_a_row;
    Validation *validation;            /* NULL: no validation */
    bool stopped_early, stopped;       /* by the validation; by a signal before the last step */
    volatile sig_atomic_t stop_signal; /* the signal that asks the run to stop; 0: none did */
} Run;

/* Returns true on the rank that writes the run folder. */
static inline bool run_writes(const Run *r) { return r->comm->rank == 0; }

/* Before any computation: rank 0 determines the state of the run and sends it to all. Chooses the
 * backend. */
void run_start(Run *r);
/* Prints the memory plan of --dry-run. */
void run_plan(Run *r);
/* Tokenizer, data sets, their order, and the sizes of batches and epochs that follow. */
void run_open_data(Run *r);
/* Allocates the model and all else that a step needs; after run_open_data. */
void run_build_model(Run *r);
/* Frees votes and validation. */
void run_close_rest(Run *r);
size_t run_epoch_samples(const Run *r);
