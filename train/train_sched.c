#include "train/train_sched.h"

#include "train/train_options.h"

static const TrainOptions *const opt = &train_options;

Sched train_sched(const TrainState *s, uint64_t steps_per_epoch, size_t global_batch) {
    Sched sched = {.kind = opt->lr_scheduler,
                   .base = opt->lr,
                   .total = steps_per_epoch * (uint64_t)opt->epochs,
                   .cooldown = steps_per_epoch * (uint64_t)opt->epochs_cooldown,
                   .cooldown_power = opt->lr_cooldown_power,
                   .cooldown_end = opt->lr_cooldown_end};
    uint64_t least = (uint64_t)opt->min_steps + steps_per_epoch - 1;
    sched.total = size_max(sched.total, least - least % steps_per_epoch);
    if (opt->max_steps)
        sched.total = (uint64_t)opt->max_steps;
    else
        sched.shift = (int64_t)(s->step - s->epoch * steps_per_epoch - s->position / global_batch);
    train_options_settle(sched.total);
    sched.warmup = opt->warmup.of_run;
    return sched;
}
