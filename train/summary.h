/* summary: what a fine-tuning run gained, as a table on stderr: its validations before the first
 * step, at the best step and at the end. */
#pragma once
#include "train/checkpoint.h"

/* Reads metrics.jsonl of the run folder; prints nothing if it has no validation at step 0 or none
 * after it. best: NULL or without a step: no such column. */
void summary_print(const char *dir, const Best *best);
