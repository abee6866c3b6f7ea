/* probe_split: random subsets of a labelled set, drawn class by class. */
#pragma once
#include "eval/probe.h"

/* Puts `shots` rows of every class (or all it has) into train and up to `more` others into val; the
 * choice is a function of seed alone. */
void probe_draw_shots(const ProbeSet *all, size_t classes, size_t shots, size_t more, uint64_t seed,
                      ProbeSet *train, ProbeSet *val);
/* Puts a fifth of every class (at least one row if it has two) into val, the rest into train. */
void probe_hold_out(const ProbeSet *all, size_t classes, uint64_t seed, ProbeSet *train,
                    ProbeSet *val);
ProbeSet probe_set_join(const ProbeSet *a, const ProbeSet *b);
void probe_set_free(ProbeSet *s);
