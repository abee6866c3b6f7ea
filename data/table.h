/* table: samples that are separate files: the rows of a CSV/TSV/JSONL, or the images of a folder.
 */
#pragma once
#include "data/dataset.h"
#include "data/skipped.h"

typedef struct TableRow {
    const char *folder, *name; /* the image is folder/name; folder "": name is the path */
    const char *text;          /* NULL: the .txt next to the image, or none is needed */
    int label;                 /* -1: none */
    const char *json; /* its line of a JSONL; NULL: the .json next to it, if there is one */
    size_t more;      /* its next caption is Table.more[more - 1]; 0: none */
    size_t page;      /* of a PDF, from 1; 0: no PDF, or one whose pages cannot be counted */
} TableRow;

/* A further caption of a row's picture. */
typedef struct TableCaption {
    const char *text;
    size_t more;
} TableCaption;

typedef struct Table {
    TableRow *rows;
    size_t count, capacity, dropped;
    Skipped skipped; /* the dropped ones, and files that are no samples */
    char **classes;  /* sorted names of class folders */
    size_t class_count;
    size_t folders; /* that hold images; 0: not read from a folder */
    bool deep;      /* a class has images in folders below its own */
    TableCaption *more;
    size_t more_count, more_capacity;
    bool need_text;
    char *bytes;    /* a CSV's or JSONL's text */
    char **strings; /* other strings that rows point to */
    size_t string_count, string_capacity;
} Table;

/* Names of a table's image and of its caption: the defaults, and those that serve in their place;
 * each ends with NULL. */
extern const char *const table_image_names[], *const table_text_names[];

/* Relative paths are taken from the CSV's folder, or from the current one if the first row's file
 * does not exist. Rows without path or caption are dropped; rows of more fields than the header are
 * an error, or with o->csv_join have the surplus in their caption. Unless captions are taken whole,
 * rows of one path are one sample with several captions. */
bool table_open_csv(Table *t, const char *path, const DatasetOptions *o, Error *err);
/* The images of a folder and of all folders below it. If some are directly in the folder, each has
 * its caption in the .txt next to it. Otherwise every folder directly in it is a class, with all
 * below; a caption is the .txt next to the image, else it is made from the class name. If the
 * folder holds img2dataset's reports (*_stats.json), its folders are not classes. */
bool table_open_folder(Table *t, const char *path, const DatasetOptions *o, Error *err);
/* Image files, a path a line; each caption is in the .txt next to it. */
bool table_open_pictures(Table *t, const char *paths, const DatasetOptions *o, Error *err);
/* Replaces each row of a PDF by one for each of its pages. A PDF whose pages cannot be counted
 * stays one row, which cannot be read. */
void table_pages(Table *t);
/* Logs one line if something was skipped, or found in folders below the named one. */
void table_report(Table *t, const char *path);
/* Used by data/jsonl.c: adds or drops a row; keeps a malloc'd string that is freed with the table;
 * finds the folder of a table's relative paths, given the first path; merges the rows of one
 * picture. */
void table_add(Table *t, TableRow r);
/* A row that is no sample; place: where it is, as for skipped_add. */
void table_drop(Table *t, const char *what, const char *place);
char *table_keep(Table *t, char *s);
const char *table_folder(Table *t, const char *table, const char *first);
void table_join(Table *t, const DatasetOptions *o);
/* The caption of a row that has a text. */
void table_caption(const Table *t, const TableRow *r, CaptionPick pick, const uint64_t *draw,
                   Sample *s);
char *table_path(const TableRow *r); /* malloc'd */
char *
table_row_key(const TableRow *r); /* its path, and the page of a PDF: "file.pdf#7"; malloc'd */
/* The file of the same name with another extension (".txt"), malloc'd. */
char *table_beside(const TableRow *r, const char *extension);
void table_free(Table *t);
