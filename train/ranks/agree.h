/* agree: are all ranks about to do the same? Before the first step hashes are exchanged; a rank
 * that differs from rank 0 is named together with what differs, and all ranks end. Called by
 * train.c. */
#ifndef TRAIN_RANKS_AGREE_H
#define TRAIN_RANKS_AGREE_H
#include "train/ranks/comm.h"
#include "train/options.h"

/* The program and every option but those that may differ (`config`: what it says is compared). */
void agree_on_start(const Comm *c, const Command *command);
/* One more thing, named `what` ("the data set"). */
void agree_on(const Comm *c, const char *what, uint64_t hash);
/* FNV-1a of bytes, to go on from `hash` (0: a fresh start); of a file (0 where it cannot be read).
 */
uint64_t hash_bytes(uint64_t hash, const void *bytes, size_t n);
uint64_t hash_file(const char *path);
#endif
