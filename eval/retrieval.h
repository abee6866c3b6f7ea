/* retrieval: recall@k and ranks, images among captions and captions among images.
 * Source: docs/NUMERICS.md, Evaluation.
 *
 * Every caption has one image; an image has any number of captions, one of which is enough to be
 * found (CLIP_benchmark's recall). The rank of a query is the number of keys before its
 * best positive: keys that score higher, and keys of a lower index that score the same; of several
 * positives with the same best score the one with the lowest index counts. Scores are fp32. */
#pragma once
#include "eval/rows.h"
#include "kernels/kernels.h"

typedef struct Recall {
    double at1, at5, at10, mean_rank, median_rank; /* recalls are fractions; ranks from 1 */
} Recall;

/* to_text[images] ranks of images among the captions, to_image[texts] of captions among the images;
 * either may be NULL. image_of[texts]: each caption's image; every image has at least one caption.
 * NULL: caption i belongs to image i. Memory is O(images + texts), time that of one product of both
 * for both directions. progress: it is shown on stderr. */
void retrieval_ranks_of(const Kernels *k, size_t *to_text, size_t *to_image, const Rows *images,
                        const Rows *texts, const uint32_t *image_of, bool progress);
/* N pairs in host memory, queries, keys [N,E]: ranks[i] of query i's own row among keys. */
void retrieval_ranks(const Kernels *k, size_t *ranks, const float *queries, const float *keys,
                     size_t N, size_t E);
Recall retrieval_recall(const size_t *ranks, size_t N);
