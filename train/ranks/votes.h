/* votes: joint decisions of the ranks in every step: whether to stop, whether a checkpoint is due
 * by rank 0's clock, and the number of bad samples. Each rank casts its numbers; all ranks get the
 * same sums and act on them at the same step. */
#pragma once
#include "train/ranks/comm.h"

enum { VOTE_STOP, VOTE_SAVE, VOTE_BAD, VOTES };

typedef struct Votes Votes;
Votes *votes_new(const Kernels *k, const Comm *comm);
void votes_free(Votes *v);
/* Returns true if the sums come from an asynchronous device: counting them immediately would wait
 * for all enqueued work. */
bool votes_deferred(const Votes *v);
/* Collective. At most two casts may be open (not yet counted). */
void votes_cast(Votes *v, const double own[VOTES]);
/* The sums over ranks of the oldest open cast. Exits with an error if an earlier collective has
 * failed. */
void votes_count(Votes *v, double sum[VOTES]);
