#include "data/text/tokenizer.h"

#include "data/io/file.h"
#include "data/io/folder.h"
#include "data/io/machine.h"
#include "data/io/resource.h"
#include "data/text/bpe.h"
#include "data/text/pipeline_store.h"
#include "kernels/hash.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

/* Bytes of a file as it is, of an unpacked one, of a tokenizer_config.json. */
enum { MAX_FILE = 1 << 28, MAX_UNPACKED = 1 << 26, MAX_CONFIG = 1 << 24 };

static const TokenizerKind *const kinds[] = {&spm_kind, &json_kind, &wordpiece_kind, &bpe_kind};

/* ---- opening ---- */

/* Unpacks every member of a gzip file. NULL: err has the reason. */
static char *gunzip(const void *bytes, size_t n, size_t *out_n, Error *err) {
    z_stream z = {.next_in = (Bytef *)(uintptr_t)bytes, .avail_in = (uInt)n};
    if (inflateInit2(&z, 15 + 16) != Z_OK) die("zlib cannot start: %s", z.msg ? z.msg : "memory");
    char *out = NULL;
    size_t room = 0, have = 0;
    int rc = Z_OK;
    while (rc == Z_OK && have < MAX_UNPACKED) {
        if (have == room) {
            room = room ? room * 2 : 1 << 16;
            out = xrealloc(out, room);
        }
        z.next_out = (Bytef *)out + have;
        z.avail_out = (uInt)(room - have);
        rc = inflate(&z, Z_NO_FLUSH);
        have = room - z.avail_out;
        if (rc == Z_STREAM_END && z.avail_in > 0) rc = inflateReset(&z);
    }
    inflateEnd(&z);
    *out_n = have;
    if (rc == Z_STREAM_END && have < MAX_UNPACKED) return out;
    free(out);
    if (have >= MAX_UNPACKED)
        error_set(err, "unpacked it is larger than %d bytes", MAX_UNPACKED);
    else
        error_set(err, "its gzip data are damaged or cut off");
    return NULL;
}

static const TokenizerKind *kind_of(const char *text, size_t n) {
    size_t i = 0;
    while (kinds[i]->matches != NULL && !kinds[i]->matches(text, n)) i++;
    return kinds[i];
}

/* The file unpacked, malloc'd. NULL: err has the reason. */
static char *unpack(const void *bytes, size_t *n, Error *err) {
    if (*n > MAX_FILE) {
        error_set(err, "it is larger than %d bytes", MAX_FILE);
        return NULL;
    }
    if (*n >= 2 && memcmp(bytes, "\x1F\x8B", 2) == 0) return gunzip(bytes, *n, n, err);
    char *text = xmalloc(*n + 1);
    if (*n > 0) memcpy(text, bytes, *n);
    return text;
}

/* config_path: of the tokenizer_config.json, or NULL. */
static bool configure(Tokenizer *t, const TokenizerRules *rules, const char *config_path,
                      Error *err) {
    uint8_t *config = NULL;
    size_t n = 0;
    Error why;
    if (t->kind->configure == NULL) return true;
    bool ok = config_path == NULL || !machine_access(config_path, F_OK) ||
              file_read_all(config_path, &config, &n, MAX_CONFIG, &why);
    ok = ok && t->kind->configure(t, rules, (const char *)config, n, &why);
    if (!ok && config_path != NULL) error_set(err, "%s: %.300s", config_path, why.text);
    if (!ok && config_path == NULL) *err = why;
    free(config);
    return ok;
}

/* Large files that are not CLIP's are stored in the form that runs. */
static Tokenizer *load_or_map(char *text, size_t n, Error *err) {
    const TokenizerKind *kind = kind_of(text, n);
    bool stored = kind != &bpe_kind && n >= PIPELINE_STORE_LEAST;
    Hash128 hash = {0};
    if (stored) hash = fnv_hash128(text, n);
    Tokenizer *t = stored ? pipeline_store_open(kind, hash) : NULL;
    if (t != NULL) return t;
    t = kind->load(text, n, err);
    if (t != NULL && stored) pipeline_store_write(t, hash);
    return t;
}

static Tokenizer *load(const void *bytes, size_t n, const TokenizerRules *rules,
                       const char *config_path, Error *err) {
    char *text = unpack(bytes, &n, err);
    Tokenizer *t = text ? load_or_map(text, n, err) : NULL;
    free(text);
    if (t == NULL || configure(t, rules, config_path, err)) return t;
    tokenizer_close(t);
    return NULL;
}

static const TokenizerRules no_rules = {TEXT_CLEAN_NONE, false};

Tokenizer *tokenizer_open_bytes(const void *bytes, size_t n, Error *err) {
    return load(bytes, n, &no_rules, NULL, err);
}

Tokenizer *tokenizer_open_rules(const char *path, const TokenizerRules *rules, Error *err) {
    uint8_t *bytes;
    size_t n;
    Error why;
    Tokenizer *t = NULL;
    char *config = folder_beside(path, TOKENIZER_CONFIG);
    if (!file_read_first(path, &bytes, &n, MAX_FILE + 1, &why))
        error_set(err, "cannot open vocabulary %s: %s", path, why.text);
    else if ((t = load(bytes, n, rules, config, &why)) == NULL)
        error_set(err, "vocabulary %s: %s", path, why.text);
    FREE_ALL(bytes, config);
    return t;
}

Tokenizer *tokenizer_open(const char *path, Error *err) {
    return tokenizer_open_rules(path, &no_rules, err);
}

const char *tokenizer_file_name(const char *path) {
    uint8_t *bytes;
    size_t n;
    Error why;
    const char *name = bpe_kind.file;
    if (file_read_first(path, &bytes, &n, MAX_FILE, &why)) {
        char *text = unpack(bytes, &n, &why);
        if (text != NULL) name = kind_of(text, n)->file;
        free(text);
    }
    free(bytes);
    return name;
}

void tokenizer_close(Tokenizer *t) {
    if (t != NULL) t->kind->free(t);
}

/* ---- path of the default vocabulary ---- */

#define DEFAULT_NAME "vocab/bpe_simple_vocab_16e6.txt.gz"

char *tokenizer_find_path(void) {
    const char *named = getenv("CLIPC_VOCAB");
    if (named != NULL && *named != 0) {
        if (!machine_access(named, R_OK))
            die("cannot read %s: %s; CLIPC_VOCAB names it", named, strerror(errno));
        return xstrdup(named);
    }
    char *path = resource_installed("build/" DEFAULT_NAME);
    return path ? path : resource_installed(DEFAULT_NAME);
}

char *tokenizer_default_path(void) {
    char *path = tokenizer_find_path();
    if (path == NULL)
        die("no vocabulary found: run make setup, which fetches it to build/" DEFAULT_NAME
            ", or name one with --vocab or CLIPC_VOCAB");
    return path;
}

/* ---- the kind's functions ---- */

uint64_t tokenizer_identity(const Tokenizer *t) {
    if (t->kind->identity != NULL) return t->kind->identity(t);
    char *file = tokenizer_file_text(t, t->kind->name);
    uint64_t h = fnv_hash(FNV_START, file, strlen(file));
    free(file);
    return h;
}

TokenizerCache *tokenizer_cache_new(const Tokenizer *t) {
    assert(t != NULL);
    return t->kind->cache_new(t);
}

void tokenizer_cache_free(TokenizerCache *c) {
    if (c != NULL) c->tokenizer->kind->cache_free(c);
}

size_t tokenizer_encode(TokenizerCache *c, const char *text, size_t bytes, size_t context,
                        int32_t *ids) {
    assert(context > 0);
    return c->tokenizer->kind->encode(c, text, bytes, context, ids);
}

char *tokenizer_decode(const Tokenizer *t, const int32_t *ids, size_t n) {
    for (size_t i = 0; i < n; i++) assert(ids[i] >= 0 && (size_t)ids[i] < t->vocab_size);
    return t->kind->decode(t, ids, n);
}

char *tokenizer_symbol_text(const Tokenizer *t, int32_t id) { return t->kind->symbol_text(t, id); }

char *tokenizer_file_text(const Tokenizer *t, const char *header) {
    return t->kind->file_text ? t->kind->file_text(t, header) : NULL;
}
