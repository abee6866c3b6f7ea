/* classifier_cache: zero-shot classifiers in a folder, by everything that their bits depend on: the
 * model, its tokenizer, the kernels, the classes and the templates. */
#pragma once
#include "eval/zeroshot.h"

/* classifier_build of the whole ensemble, or its result from `folder` (NULL: the user's cache
 * folder), which rank 0 reads and writes. A folder that may not be believed or written is not used.
 */
void classifier_cached(Classifier *w, Encoder *e, const Comm *c, const ClassSet *s,
                       const char *folder);
