/* zeroshot: a classifier from class names and prompt templates (spec 10): per class, every
 * template's caption is encoded, normalised, averaged, normalised again. */
#ifndef EVAL_ZEROSHOT_H
#define EVAL_ZEROSHOT_H
#include "eval/encoder.h"

typedef struct ClassSet {
    char **classes, **templates; /* a template holds {} (or {c}) where the class's name goes */
    size_t count, template_count;
} ClassSet;

/* One JSON file {"classes": […], "templates": […]}; templates may be left out ("{}"). Dies on
 * anything else. */
void class_set_load(ClassSet *s, const char *path);
void class_set_free(ClassSet *s);
/* weights[count,E]. */
void zeroshot_weights(Encoder *e, const ClassSet *s, float *weights);

typedef struct ZeroshotResult {
    size_t count;
    double top1, top5,
        mean_per_class; /* fractions; the last: mean of each occurring class's recall */
} ZeroshotResult;
/* images[n,E], labels[n] in 0…classes-1. */
ZeroshotResult zeroshot_score(const Kernels *k, const float *images, const int *labels, size_t n,
                              const float *weights, size_t classes, size_t E);
/* Which class of s each class folder is: by name (case and '_' aside), or, where no name fits and
 * the numbers agree, by order. Dies naming a folder that is no class. map[folders]. */
void zeroshot_map_folders(int *map, const char *const *folders, size_t n, const ClassSet *s);
#endif
