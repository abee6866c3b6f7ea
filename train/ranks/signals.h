/* signals: what the ranks tell each other in every step. A rank that was told to stop, rank 0's
 * clock, bad samples anywhere: all ranks know the sums and do the same at the same step. Called by
 * train.c. */
#ifndef TRAIN_RANKS_SIGNALS_H
#define TRAIN_RANKS_SIGNALS_H
#include "train/ranks/comm.h"

enum { SIGNAL_STOP, SIGNAL_SAVE, SIGNAL_BAD, SIGNALS };

typedef struct Signals Signals;
Signals *signals_new(const Kernels *k, const Comm *comm);
void signals_free(Signals *s);
/* Whether the sums come over ranks from a device that works on its own: to hear them at once is to
 * wait for all it was asked for. */
bool signals_travel(const Signals *s);
/* All ranks call it, with what each has to say. At most two may be said and not heard. */
void signals_say(Signals *s, const double said[SIGNALS]);
/* The sums over ranks of the oldest that was said and not heard. Dies where a collective before it
 * has failed. */
void signals_hear(Signals *s, double sum[SIGNALS]);
#endif
