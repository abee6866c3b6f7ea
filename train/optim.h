/* optim: AdamW or LARS over the flat parameter block; weight-decay groups; gradient norm and
 * clipping; clamp of the logit scale. */
#pragma once
#include "train/optim_state.h"

/* The tensors that decay: as in open_clip up to 3.x, or 4.x. */
#define WD_GROUPS(X) X(WD_LEGACY, "legacy") X(WD_HEAD, "head")
typedef enum { WD_GROUPS(CHOICE_NAME) } WdGroups;

/* Of LARS beta1 is the momentum, and beta2 and eps are not used. */
typedef struct OptimOptions {
    double beta1, beta2, eps, weight_decay;
    WdGroups wd_groups;
    double grad_clip_norm; /* 0: off */
} OptimOptions;

typedef struct Optim Optim;
/* The optimiser that the state is of. */
Optim *optim_new(OptimState *s, const OptimOptions *o);
void optim_free(Optim *o);
/* Steps whose values are set from now on are skipped if *loss (device) is above `most`. */
void optim_limit(Optim *o, const acc *loss, double most);
/* Starts to upload the values of step t (from 1). At most two steps may be in flight. */
void optim_set(Optim *o, double lr, uint64_t t);
/* One step with those values: norm of all gradients, clip, AdamW or LARS, compute weights,
 * gradients zeroed, logit_scale clamped to [0, ln 100], moving average. If the norm is not finite,
 * everything except the gradients is unchanged (the average is still updated). The host does not
 * wait: the device decides. */
void optim_update(Optim *o);
/* Device: the sum of the squared gradients of the last update, before clipping. */
const acc *optim_squares(const Optim *o);
/* Returns true if weight decay applies to this tensor, and LARS scales its steps. */
bool optim_decays(const Param *q, WdGroups g);
