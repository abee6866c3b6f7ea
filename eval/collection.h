/* collection: an index folder: embedded pictures that can be added to and removed from. Called by
 * embed, search and index.
 *
 * Rows lie in segments, files that are written once: SEGMENT.npy (features), .keys (a name a row),
 * .thumbs (JPEGs). index.json names them with their checksums, says which model made them and which
 * rows are removed; it is replaced as a whole, after the files it names are on disk. So a crash
 * leaves the index as it was, and whoever reads keeps what he opened. One process writes at a time
 * (a lock on the file "lock"). docs/FORMATS.md has the fields. */
#ifndef EVAL_COLLECTION_H
#define EVAL_COLLECTION_H
#include "eval/rows.h"

enum { COLLECTION_SEGMENT_ROWS = 8192 }; /* embed commits so often */

/* So many rows one after the other, whose pictures were read after this time. */
typedef struct TimeRun {
    size_t rows;
    uint64_t time; /* ns since 1970; 0: not known */
} TimeRun;

typedef struct Segment {
    char name[9];       /* 8 digits */
    size_t rows, first; /* first: number of its first row in the collection */
    uint32_t crc[3];    /* crc32c of .npy, .keys, .thumbs */
    TimeRun *times;     /* of all rows; NULL: not known */
    size_t time_count;
    size_t removed_count;
    uint64_t *removed; /* a bit a row; NULL: none */
    /* of an opened collection */
    Rows features;
    char *key_bytes;
    const char **keys;     /* [rows] */
    const uint8_t *thumbs; /* mapped .thumbs */
    size_t thumb_bytes;
} Segment;

typedef struct Collection {
    char *folder;
    size_t dim, rows, removed; /* of all segments */
    NpyType type;
    size_t thumb_side; /* longest side in pixels; 0: no pictures */
    char identity[17]; /* encoder_identity of the model */
    char *checkpoint;  /* where it was */
    uint64_t next;     /* number of the next segment */
    Segment *segments;
    size_t count;
    int lock; /* of a writer; -1 */
} Collection;

/* A thumbnail: JPEG bytes; size 0: none. */
typedef struct Thumb {
    uint8_t *bytes;
    size_t size;
} Thumb;

bool collection_exists(const char *folder);
/* Reading: maps everything. Dies naming what is damaged. */
void collection_open(Collection *c, const char *folder);
/* The same for a writer: takes the lock (dies where another has it), and clears away what a killed
 * writer left. */
void collection_open_locked(Collection *c, const char *folder);
/* An empty one, locked; the folder is made. Dies where an index is there already. */
void collection_create(Collection *c, const char *folder, const char *identity,
                       const char *checkpoint, size_t dim, NpyType type, size_t thumb_side);
void collection_close(Collection *c);

/* Adds a segment of n rows and commits: afterwards it is on disk. keys hold no line break; dies on
 * features that are not finite. thumbs: NULL where the collection has none. time: collection_now
 * before the pictures were read. */
void collection_add(Collection *c, const float *rows, char *const *keys, const Thumb *thumbs,
                    size_t n, uint64_t time);
/* The clock that files' times come from, in ns since 1970. */
uint64_t collection_now(void);
/* Marks a row; collection_commit writes what was marked. */
void collection_remove(Collection *c, size_t row);
void collection_commit(Collection *c);
/* Writes what is not removed into one new segment and deletes the others' files. */
void collection_compact(Collection *c);
/* Reads every byte: false where a checksum or a feature is wrong. */
bool collection_check(const Collection *c, Error *err);

bool collection_removed(const Collection *c, size_t row);
const char *collection_key(const Collection *c, size_t row);
/* The file that a key tells of, itself or the SHARD of "SHARD:KEY": malloc'd; NULL: there is none.
 */
char *collection_key_file(const char *key);
/* Whether that file has changed, or another took its place, since the row was made. */
bool collection_stale(const Collection *c, size_t row);
/* Size 0: none. The bytes are the mapped file's. */
void collection_thumb(const Collection *c, size_t row, const uint8_t **bytes, size_t *size);

/* index.json; segments' files are not looked at. */
bool collection_parse(Collection *c, const char *json, size_t bytes, Error *err);
char *collection_to_json(const Collection *c);
/* Where JPEG `row` of a .thumbs file lies: offsets u64[rows + 1], then the JPEGs. False: damaged.
 */
bool collection_find_thumb(const uint8_t *file, size_t bytes, size_t rows, size_t row,
                           const uint8_t **jpeg, size_t *size);
#endif
