#include "data/text/pipeline_store.h"

#include "data/io/crc32c.h"
#include "data/io/folder.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { VERSION = 1, ALIGNMENT = 64 };

typedef struct StoreHeader {
    char magic[8];
    uint32_t version, form_size;
    Hash128 file;
    uint64_t size[BLOCKS];
    uint32_t crc; /* of the header with 0 here, then of all bytes after it */
    uint32_t zero;
} StoreHeader;

/* The user's cache folder, which nobody else can write; NULL: there is none. */
static char *cache_folder(void) {
    char *folder = folder_cache();
    Error err;
    if (folder && folder_private(folder, &err)) return folder;
    free(folder);
    return NULL;
}

static char *store_path(const char *folder, Hash128 file) {
    return xasprintf("%s/tokenizer-%016llx%016llx", folder, (unsigned long long)file.high,
                     (unsigned long long)file.low);
}

static uint32_t store_checksum(const StoreHeader *header, const char *rest, size_t n) {
    StoreHeader h = *header;
    h.crc = 0;
    return crc32c(crc32c(0, &h, sizeof h), rest, n);
}

static size_t form_room(void) {
    return round_up(sizeof(StoreHeader) + sizeof(PipelineForm), ALIGNMENT);
}

/* ---- reading ---- */

/* Maps a file of the user's own. */
static char *map_own(const char *path, size_t *n) {
    struct stat s;
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) return NULL;
    bool own = fstat(fd, &s) == 0 && S_ISREG(s.st_mode) && s.st_uid == geteuid() &&
               (s.st_mode & 022) == 0 && (size_t)s.st_size > form_room();
    *n = own ? (size_t)s.st_size : 0;
    void *map = own ? mmap(NULL, *n, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0) : MAP_FAILED;
    close(fd);
    return map == MAP_FAILED ? NULL : map;
}

/* Sizes that do not fit the file, a checksum of other bytes, another version: no match. */
static bool is_whole(const char *map, size_t n, Hash128 file) {
    StoreHeader h;
    memcpy(&h, map, sizeof h);
    size_t all = form_room();
    for (size_t i = 0; i < BLOCKS; i++) {
        if (h.size[i] > n) return false;
        all += round_up(h.size[i], ALIGNMENT);
    }
    return memcmp(h.magic, "clipctok", sizeof h.magic) == 0 && h.version == VERSION &&
           h.form_size == sizeof(PipelineForm) && h.file.high == file.high &&
           h.file.low == file.low && all == n &&
           h.crc == store_checksum(&h, map + sizeof h, n - sizeof h);
}

Tokenizer *pipeline_store_open(const TokenizerKind *kind, Hash128 file) {
    char *folder = cache_folder(), *path = folder ? store_path(folder, file) : NULL;
    size_t n, at = form_room();
    char *map = path ? map_own(path, &n) : NULL;
    FREE_ALL(folder, path);
    if (map == NULL) return NULL;
    if (!is_whole(map, n, file)) {
        munmap(map, n);
        return NULL;
    }
    Pipeline *p = pipeline_new(kind);
    StoreHeader h;
    memcpy(&h, map, sizeof h);
    memcpy(&p->form, map + sizeof h, sizeof p->form);
    free(p->block[BLOCK_STRINGS]);
    p->map = map;
    p->map_size = n;
    for (size_t i = 0; i < BLOCKS; i++) {
        p->size[i] = h.size[i];
        p->block[i] = h.size[i] ? map + at : NULL;
        at += round_up(h.size[i], ALIGNMENT);
    }
    pipeline_finish(p);
    return &p->base;
}

/* ---- writing ---- */

static bool put(FILE *f, const void *bytes, size_t n, size_t room) {
    static const char zeros[ALIGNMENT];
    return (n == 0 || fwrite(bytes, 1, n, f) == n) && fwrite(zeros, 1, room - n, f) == room - n;
}

/* The checksum is known only after the bytes. */
static bool write_all(FILE *f, const Pipeline *p, StoreHeader *h) {
    static const char zeros[ALIGNMENT];
    size_t gap = form_room() - sizeof *h - sizeof p->form;
    uint32_t crc = crc32c(0, h, sizeof *h);
    crc = crc32c(crc32c(crc, &p->form, sizeof p->form), zeros, gap);
    for (size_t i = 0; i < BLOCKS; i++) {
        crc = crc32c(crc, p->block[i], p->size[i]);
        crc = crc32c(crc, zeros, round_up(p->size[i], ALIGNMENT) - p->size[i]);
    }
    h->crc = crc;
    bool ok =
        put(f, h, sizeof *h, sizeof *h) && put(f, &p->form, sizeof p->form, sizeof p->form + gap);
    for (size_t i = 0; i < BLOCKS && ok; i++)
        ok = put(f, p->block[i], p->size[i], round_up(p->size[i], ALIGNMENT));
    return ok;
}

void pipeline_store_write(const Tokenizer *t, Hash128 file) {
    const Pipeline *p = (const Pipeline *)t;
    char *folder = cache_folder();
    if (folder == NULL) return;
    char *path = store_path(folder, file), *beside = xasprintf("%s.XXXXXX", path);
    StoreHeader h = {
        .magic = "clipctok", .version = VERSION, .form_size = sizeof p->form, .file = file};
    for (size_t i = 0; i < BLOCKS; i++) h.size[i] = p->size[i];
    int fd = mkstemp(beside);
    FILE *f = fd >= 0 ? fdopen(fd, "wb") : NULL;
    bool ok = f != NULL && write_all(f, p, &h);
    if (f != NULL) ok = fclose(f) == 0 && ok;
    if (fd >= 0 && !(ok && rename(beside, path) == 0)) unlink(beside);
    FREE_ALL(beside, path, folder);
}
