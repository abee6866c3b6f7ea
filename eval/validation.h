/* validation: what `clipc train` measures of held-out pairs while it trains (train/validate.h):
 * their loss, and recalls in both directions (spec 10). */
#ifndef EVAL_VALIDATION_H
#define EVAL_VALIDATION_H
#include "train/validate.h"

/* --val-data every --val-frequency steps: val/loss (mean over batches of the training's size,
 * weighted by their pairs), val/image_to_text_R@1, … , val/text_to_image_median_rank. */
extern const Validator validation_pairs;
#endif
