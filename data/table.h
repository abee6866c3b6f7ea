/* table: samples that are separate files: the rows of a CSV/TSV/JSONL, or the images of a folder.
 */
#ifndef DATA_TABLE_H
#define DATA_TABLE_H
#include "data/dataset.h"

typedef struct TableRow {
    const char *folder, *name; /* the image is folder/name; folder "": name is the path */
    const char *text;          /* NULL: the .txt next to the image, or none is needed */
    int label;                 /* -1: none */
    const char *json; /* its line of a JSONL; NULL: the .json next to it, if there is one */
    size_t more;      /* its next caption is Table.more[more - 1]; 0: none */
} TableRow;

/* A further caption of a row's picture. */
typedef struct TableCaption {
    const char *text;
    size_t more;
} TableCaption;

typedef struct Table {
    TableRow *rows;
    size_t count, capacity, dropped;
    char **classes; /* sorted names of class folders */
    size_t class_count;
    TableCaption *more;
    size_t more_count, more_capacity;
    bool need_text;
    char *bytes;    /* a CSV's or JSONL's text */
    char **strings; /* other strings that rows point to */
    size_t string_count, string_capacity;
} Table;

/* Relative paths are taken from the CSV's folder, or from the current one if the first row's file
 * does not exist. Rows without path or caption are dropped. Unless captions are taken whole, rows
 * of one path are one sample with several captions. */
bool table_open_csv(Table *t, const char *path, const DatasetOptions *o, Error *err);
/* Images directly in the folder each have a .txt next to them. Otherwise every folder in it is a
 * class; the caption of its images is the .txt next to them, else it is made from the class name.
 * If the folder holds img2dataset's reports (*_stats.json), its folders are not classes. */
bool table_open_folder(Table *t, const char *path, const DatasetOptions *o, Error *err);
/* Used by data/jsonl.c: adds a row; keeps a malloc'd string that is freed with the table; finds the
 * folder of a table's relative paths, given the first path; merges the rows of one picture. */
void table_add(Table *t, TableRow r);
char *table_keep(Table *t, char *s);
const char *table_folder(Table *t, const char *table, const char *first);
void table_join(Table *t, const DatasetOptions *o);
/* The caption of a row that has a text. */
void table_caption(const Table *t, const TableRow *r, CaptionPick pick, const uint64_t *draw,
                   Sample *s);
char *table_path(const TableRow *r); /* malloc'd */
/* The file of the same name with another extension (".txt"), malloc'd. */
char *table_beside(const TableRow *r, const char *extension);
void table_free(Table *t);
#endif
