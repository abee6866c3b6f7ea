/* bpe_train: learns a byte-pair vocabulary from captions. */
#pragma once
#include "data/text/bpe.h"

/* Reads captions (one a line) and writes a vocabulary of at most `merges` (up to BPE_MAX_MERGES)
 * merges, gzipped if the name ends in .gz. Merges the most frequent pair first; of equally frequent
 * pairs the one whose left, then right part has the lower id. Pairs that occur once are not merged.
 */
bool bpe_train(const char *captions_path, size_t merges, const char *out_path, Error *err);
