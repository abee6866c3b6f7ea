/* zeroshot_validation: zero-shot accuracy on ImageNet or another labelled set while `clipc train`
 * runs (train/validate.h), as open_clip's --imagenet-val. */
#ifndef EVAL_ZEROSHOT_VALIDATION_H
#define EVAL_ZEROSHOT_VALIDATION_H
#include "train/validate.h"

/* --imagenet-val at the end of every --zeroshot-frequency epochs and every
 * --zeroshot-frequency-steps steps: val/imagenet-zeroshot-val-top1, -top5, -mean_per_class_recall.
 */
extern const Validator validation_zeroshot;
#endif
