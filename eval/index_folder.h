/* index_folder: a folder of picture embeddings with addition and removal.
 *
 * Rows are stored in segments, files that are written once: SEGMENT.npy (features), .keys (a name a
 * row), .thumbs (JPEGs), .stamps (u64 a row). index.json names them with their checksums, the model
 * that made them and the rows that are removed. It is replaced as a whole, after the files it names
 * are on disk: a crash leaves the index unchanged, and a reader keeps what it opened. One process
 * writes at a time (a lock on the file "lock"). docs/FORMATS.md has the fields. */
#pragma once
#include "data/image/image.h"
#include "eval/rows.h"

enum { INDEX_SEGMENT_ROWS = 8192 }; /* rows between commits of embed */

/* A run of rows whose pictures were read after this time. */
typedef struct TimeRun {
    size_t end;    /* the row after its last one; it begins where the run before it ends */
    uint64_t time; /* ns since 1970; 0: not known */
} TimeRun;

typedef struct Segment {
    char name[9];       /* 8 digits */
    size_t rows, first; /* first: number of its first row in the index */
    uint32_t crc[4];    /* crc32c of .npy, .keys, .thumbs, .stamps */
    bool stamped;       /* has .stamps: those of older versions have none */
    TimeRun *times;     /* covers all rows; NULL: not known */
    size_t time_count;
    size_t removed_count;
    uint64_t *removed; /* a bit a row; NULL: none */
    /* set if the index is opened */
    Rows features;
    char *key_bytes;
    const char **keys; /* [rows] */
    MapFile thumbs, stamps;
} Segment;

/* How pictures were read: the options of data/image/image.h and data/pdf.h. */
typedef struct PictureReading {
    bool known; /* false: the index is of an older version */
    Background background;
    bool exif;
    int64_t pdf_dpi;
} PictureReading;

typedef struct IndexFolder {
    char *folder;
    size_t dim, rows, removed; /* of all segments */
    NpyType type;
    size_t thumb_side; /* longest side in pixels; 0: no pictures */
    PictureReading reading;
    char identity[17]; /* encoder_identity of the model */
    char checksum[17]; /* encoder_checksum, or "" */
    char *checkpoint;  /* its path when the index was made */
    uint64_t next;     /* number of the next segment */
    Segment *segments;
    size_t count;
    int lock;      /* of a writer; -1 */
    bool anchored; /* relative keys start at base; else the index is of an older version: at base,
                      or at the current folder if they exist only there */
    char *base;    /* the folder that holds the index folder; NULL: not known */
    char *seen[2]; /* the last folder of a key, and its real path */
} IndexFolder;

/* A thumbnail: JPEG bytes; size 0: none. */
typedef struct Thumb {
    uint8_t *bytes;
    size_t size;
} Thumb;

bool index_folder_exists(const char *folder);
/* Opens for reading: maps all files. Exits with an error that names damaged files. */
void index_folder_open(IndexFolder *x, const char *folder);
/* The same for a writer: takes the lock (exits with an error if another process holds it) and
 * deletes files that a killed writer left. */
void index_folder_open_locked(IndexFolder *x, const char *folder);
/* Creates an empty, locked index of pictures that are read as the options are now, and its folder.
 * Exits with an error if the folder has an index. */
void index_folder_create(IndexFolder *x, const char *folder, const char *identity,
                         const char *checkpoint, size_t dim, NpyType type, size_t thumb_side);
void index_folder_close(IndexFolder *x);

/* Adds a segment of n rows and commits it to disk. keys contain no line break; features that are
 * not finite are an error that ends the program. thumbs: NULL if the index has none. stamps:
 * index_folder_stamp, and time: index_folder_now, before the pictures were read. */
void index_folder_add(IndexFolder *x, const float *rows, char *const *keys, const Thumb *thumbs,
                      const uint64_t *stamps, size_t n, uint64_t time);
/* The clock that files' times come from, in ns since 1970. */
uint64_t index_folder_now(void);
/* Marks a row as removed; index_folder_commit writes the marks. */
void index_folder_remove(IndexFolder *x, size_t row);
void index_folder_commit(IndexFolder *x);
/* Writes all rows that are not removed into one new segment and deletes the old segments' files. */
void index_folder_compact(IndexFolder *x);
/* Reads every byte: false if a checksum is wrong. */
bool index_folder_check(const IndexFolder *x, Error *err);

bool index_folder_removed(const IndexFolder *x, size_t row);
const char *index_folder_key(const IndexFolder *x, size_t row);
/* The file that a key names, itself, the SHARD of "SHARD:KEY" or the FILE of "FILE.pdf#PAGE":
 * malloc'd; NULL: it does not exist. */
char *index_folder_key_file(const IndexFolder *x, const char *key);
/* The key for a sample that a data set names, from the current folder. An absolute name stays; a
 * relative one is made relative to x->base, or absolute if it is not below it; malloc'd. */
char *index_folder_make_key(IndexFolder *x, const char *name);
/* The picture that a key means: the same for all names of one file, except links to files. From the
 * root on; malloc'd. */
char *index_folder_meaning(IndexFolder *x, const char *key);
/* Gives an index of an older version, opened locked, the keys of this one and commits it. If more
 * than a tenth of its keys name no file from here, it stays as it is, with a warning. */
void index_folder_anchor(IndexFolder *x);
/* A number for the state of the file that a key names: its size and times. A change of the file
 * changes it. 0: not known; no file, or written in this tick of the clock, so that another write in
 * it would not show. Thread-safe. */
uint64_t index_folder_stamp(const IndexFolder *x, const char *key);
/* Returns true if that file was modified or replaced since the row was made: its stamp differs, or,
 * if the row's is not known, its times are not before that of the row. */
bool index_folder_stale(const IndexFolder *x, size_t row);
/* Size 0: none. The bytes are in the mapped file. */
void index_folder_thumb(const IndexFolder *x, size_t row, const uint8_t **bytes, size_t *size);

/* Reads or writes index.json alone; segments' files are not opened. folder: rows are compared with
 * the sizes of its files before memory is taken for them; NULL: they are not. */
bool index_folder_parse(IndexFolder *x, const char *json, size_t bytes, const char *folder,
                        Error *err);
char *index_folder_to_json(const IndexFolder *x);
/* The keys of a .keys file: one line for each of `rows`, whose line feeds become NUL. */
bool index_folder_split_keys(char *bytes, size_t size, size_t rows, const char **keys);
/* JPEG `row` of a .thumbs file: offsets u64[rows + 1], then the JPEGs. False: damaged.
 */
bool index_folder_find_thumb(const uint8_t *file, size_t bytes, size_t rows, size_t row,
                             const uint8_t **jpeg, size_t *size);
