/* classes: the classes of a zero-shot task (names, prompt templates, optional folder names), and
 * the mapping of labels to them. */
#pragma once
#include "data/dataset.h"

typedef struct ClassSet {
    char *path;       /* of its file, for messages */
    char **classes;   /* [count] */
    char **folders;   /* [count] such as ImageNet's synset ids; NULL: none given */
    char **templates; /* a template has {} (or {c}) in place of the class's name */
    size_t count, template_count;
    struct ClassName *by_name, *by_folder; /* [count] sorted, for look-up */
} ClassSet;

/* The path of a class file, malloc'd: `name` itself if it is a file, else build/zeroshot/NAME.json
 * or zeroshot/NAME.json, here or where the program is installed; NULL: none of them. */
char *class_set_find(const char *name);
/* One JSON file {"classes": […], "templates": […], "folders": […]}; templates (default "{}") and
 * folders are optional. False: anything else, and *s is empty. */
bool class_set_load(ClassSet *s, const char *path, Error *err);
void class_set_free(ClassSet *s);
/* A hash of all contents, which ranks compare. */
uint64_t class_set_hash(const ClassSet *s);
/* The caption of class c under template t, malloc'd. */
char *class_caption_of(const ClassSet *s, size_t c, size_t t);

/* map[n]: the class of each class folder. All folders are named in one way: by `folders`, by the
 * class's name (letters in any case, '_' as a blank), or by its number from 0. If no name fits and
 * the counts are equal, the folders are in the order of the classes. Classes may be missing.
 * False: err names a folder that is no class. */
bool class_set_map_folders(int *map, const char *const *folders, size_t n, const ClassSet *s,
                           Error *err);

/* The labels of a data set. */
typedef struct Labels {
    const ClassSet *set;
    int *folder; /* of class folders: their classes, by Sample.label; NULL: labels are texts */
} Labels;
/* Default places of labels. */
#define LABEL_KEYS "cls;json.label"
#define LABEL_COLUMN "class"
/* Options for a data set whose captions are its labels: members by `keys` ("cls;json.label"), the
 * column `column` of a table. */
void labels_dataset_options(DatasetOptions *o, const char *keys, const char *column);
/* Returns true if the labels of a data set opened with these options can only be ImageNet's: class
 * folders that are all named by synset ids (n01440764) or by the numbers 0 to 999, or, without
 * class folders, a first sample whose label is a synset id. */
bool labels_are_imagenet(Dataset *d);
/* Exits with an error if class folders do not fit. */
void labels_open(Labels *l, const ClassSet *s, const Dataset *d);
void labels_free(Labels *l);
/* The class of a sample of that data set: a number counts classes from 0, other texts are names as
 * of folders. -1 and a line on stderr if it is none. Thread-safe. */
int labels_class(const Labels *l, const Sample *s, Error *err);
