/* A sentencepiece model (spiece.model, tokenizer.model): the protocol buffer ModelProto of
 * sentencepiece_model.proto. Fields that do not change ids are skipped. */
#include "data/text/pipeline.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_PIECE = 8000, NO_ID = -1 };
#define SPACE_MARK "\xE2\x96\x81"

/* ---- protocol buffers ---- */

typedef struct Message {
    const unsigned char *at, *end;
} Message;

typedef struct Field {
    uint32_t number;
    uint64_t value; /* of a number */
    Message bytes;  /* of a string, a message */
} Field;

static bool read_varint(Message *m, uint64_t *value) {
    *value = 0;
    for (unsigned shift = 0; shift < 64 && m->at < m->end; shift += 7) {
        unsigned char b = *m->at++;
        *value |= (uint64_t)(b & 127) << shift;
        if (b < 128) return true;
    }
    return false;
}

/* Removes the next field from the front. False: the message is over, or damaged; then *damaged is
 * set. */
static bool next_field(Message *m, Field *f, bool *damaged) {
    uint64_t key, n = 0;
    if (*damaged || m->at == m->end) return false;
    *damaged = true;
    *f = (Field){0};
    if (!read_varint(m, &key) || key >> 3 == 0 || key >> 3 > 0x1FFFFFFF) return false;
    f->number = (uint32_t)(key >> 3);
    unsigned type = key & 7;
    if (type == 0 && !read_varint(m, &f->value)) return false;
    if (type == 1 || type == 5) n = type == 1 ? 8 : 4;
    if (type == 2 && !read_varint(m, &n)) return false;
    if (type > 5 || type == 3 || type == 4 || n > (uint64_t)(m->end - m->at)) return false;
    f->bytes = (Message){m->at, m->at + n};
    if (type == 1 || type == 5) memcpy(&f->value, m->at, n);
    m->at += n;
    *damaged = false;
    return true;
}

/* ---- the parts of the model ---- */

typedef enum { NORMAL = 1, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE } PieceType;

typedef struct Piece {
    const char *text;
    uint32_t n;
    uint32_t type;
    float score;
} Piece;

typedef struct Model {
    Piece *pieces;
    size_t count, room;
    Message charsmap;
    bool prefix, tidy, escape, suffix, byte_fallback;
    uint64_t type; /* 1 unigram, 2 byte pairs */
    int64_t pad;
    bool trained, damaged; /* trained: it has the messages after the pieces */
} Model;

static void read_piece(Model *m, Message bytes) {
    Piece p = {.type = NORMAL};
    Field f;
    uint32_t bits;
    while (next_field(&bytes, &f, &m->damaged)) {
        if (f.number == 1)
            p.text = (const char *)f.bytes.at, p.n = (uint32_t)(f.bytes.end - f.bytes.at);
        if (f.number == 2) bits = (uint32_t)f.value, memcpy(&p.score, &bits, sizeof p.score);
        if (f.number == 3) p.type = (uint32_t)f.value;
    }
    if (m->count == m->room) {
        m->room = m->room * 2 + 1024;
        m->pieces = xrealloc(m->pieces, size_mul(m->room, sizeof *m->pieces));
    }
    m->pieces[m->count++] = p;
}

static void read_trainer(Model *m, Message bytes) {
    Field f;
    while (next_field(&bytes, &f, &m->damaged)) {
        if (f.number == 3) m->type = f.value;
        if (f.number == 24) m->suffix = f.value != 0;
        if (f.number == 35) m->byte_fallback = f.value != 0;
        if (f.number == 43) m->pad = (int32_t)f.value;
    }
}

static void read_normalizer(Model *m, Message bytes) {
    Field f;
    while (next_field(&bytes, &f, &m->damaged)) {
        if (f.number == 2) m->charsmap = f.bytes;
        if (f.number == 3) m->prefix = f.value != 0;
        if (f.number == 4) m->tidy = f.value != 0;
        if (f.number == 5) m->escape = f.value != 0;
    }
}

static bool read_model(Model *m, const char *bytes, size_t n, Error *err) {
    Message all = {(const unsigned char *)bytes, (const unsigned char *)bytes + n};
    Field f;
    while (next_field(&all, &f, &m->damaged)) {
        if (f.number == 1) read_piece(m, f.bytes);
        if (f.number == 2) read_trainer(m, f.bytes);
        if (f.number == 3) read_normalizer(m, f.bytes), m->trained = true;
    }
    if (m->damaged || !m->trained)
        return error_set(err, "its protocol buffer is damaged or cut off");
    if (m->type != 1 && m->type != 2)
        return error_set(err, "its model_type %llu is neither unigram nor bpe",
                         (unsigned long long)m->type);
    return m->count > 0 || error_set(err, "it holds no pieces");
}

/* ---- checks ---- */

static bool is_in_text(const Piece *p) { return p->type == NORMAL || p->type == USER_DEFINED; }

/* The byte of "<0xAB>"; -1: another text. */
static int byte_of(const char *s, size_t n) {
    static const char digits[] = "0123456789ABCDEF";
    if (n != 6 || memcmp(s, "<0x", 3) != 0 || s[5] != '>') return -1;
    const char *high = memchr(digits, s[3], 16), *low = memchr(digits, s[4], 16);
    return high && low ? (int)((high - digits) * 16 + (low - digits)) : -1;
}

static bool check_piece(Model *m, PipelineForm *f, size_t i, Error *err) {
    const Piece *p = &m->pieces[i];
    int shown = (int)size_min(p->n, 40);
    if (p->n == 0 || p->n >= MAX_PIECE || memchr(p->text, 0, p->n) != NULL)
        return error_set(err, "piece %zu of %u bytes is empty, too long or has a NUL", i, p->n);
    if (!isfinite(p->score)) return error_set(err, "the score of piece %zu is not finite", i);
    if (p->type < NORMAL || p->type > BYTE)
        return error_set(err, "piece %zu has the unknown type %u", i, p->type);
    if (p->type == UNUSED && m->type == 2)
        return error_set(err, "piece %zu '%.*s' is unused, which is not supported with byte pairs",
                         i, shown, p->text);
    if (p->type == UNKNOWN && f->unk != NO_ID)
        return error_set(err, "pieces %d and %zu are both the unknown one", f->unk, i);
    if (p->type == UNKNOWN) f->unk = (int32_t)i;
    if (p->type != BYTE) return true;
    int byte = byte_of(p->text, p->n);
    if (byte < 0 || f->byte_ids[byte] != NO_ID)
        return error_set(err, "piece %zu '%.*s' is no byte, or one that another piece is", i, shown,
                         p->text);
    f->byte_ids[byte] = (int32_t)i;
    return true;
}

static bool check(Model *m, PipelineForm *f, Error *err) {
    for (size_t i = 0; i < m->count; i++)
        if (!check_piece(m, f, i, err)) return false;
    for (size_t b = 0; m->byte_fallback && b < 256; b++)
        if (f->byte_ids[b] == NO_ID)
            return error_set(err, "it has byte_fallback, but no piece <0x%02zX>", b);
    if (f->unk == NO_ID && !m->byte_fallback) return error_set(err, "it has no unknown piece");
    return charsmap_check((const char *)m->charsmap.at, (size_t)(m->charsmap.end - m->charsmap.at),
                          err);
}

/* ---- to a pipeline ---- */

/* Where words can be cut: no piece reaches from a character to a space after it, or the reverse. */
static Cut cut_of(const Model *m) {
    bool before = true, after = true;
    for (size_t i = 0; i < m->count; i++) {
        const Piece *p = &m->pieces[i];
        if (is_in_text(p)) pipeline_cuts(p->text, p->n, &before, &after);
    }
    return before ? CUT_BEFORE_SPACE : after ? CUT_AFTER_SPACE : CUT_NONE;
}

typedef struct Ranked {
    float score;
    uint32_t id;
} Ranked;

static int by_score(const void *a, const void *b) {
    float x = ((const Ranked *)a)->score, y = ((const Ranked *)b)->score;
    return (x < y) - (x > y);
}

/* Of byte pairs the rank of each piece by its score; equal scores share one. */
static void put_ranks(const Model *m, double *scores) {
    Ranked *r = xmalloc(size_mul(m->count, sizeof *r));
    for (size_t i = 0; i < m->count; i++) r[i] = (Ranked){m->pieces[i].score, (uint32_t)i};
    qsort(r, m->count, sizeof *r, by_score);
    size_t rank = 0;
    for (size_t i = 0; i < m->count; i++) {
        if (i > 0 && r[i].score < r[i - 1].score) rank = i;
        scores[r[i].id] = (double)rank;
    }
    free(r);
}

/* A user-defined symbol scores better the longer it is, so that it always wins. */
static void put_scores(const Model *m, PipelineForm *f, double *scores) {
    float least = 0;
    bool any = false;
    for (size_t i = 0; i < m->count; i++) {
        const Piece *p = &m->pieces[i];
        scores[i] = p->type == USER_DEFINED ? (double)(float)(0.1 * (p->n - 1)) : (double)p->score;
        if (p->type != NORMAL) continue;
        least = any && least < p->score ? least : p->score;
        any = true;
    }
    f->unk_score = (double)(least - 10.0f);
}

static bool put_pieces(Pipeline *p, const Model *m, Error *err) {
    uint32_t *starts = xmalloc(size_mul(m->count + 1, sizeof *starts));
    TrieKey *keys = xmalloc(size_mul(2 * m->count, sizeof *keys)), *user = keys + m->count;
    size_t n = 0, users = 0;
    for (size_t i = 0; i < m->count; i++) {
        const Piece *piece = &m->pieces[i];
        TrieKey key = {piece->text, piece->n, (int32_t)i};
        starts[i] = pipeline_add_string(p, piece->text, piece->n).at;
        if (is_in_text(piece)) keys[n++] = key;
        if (piece->type == USER_DEFINED) user[users++] = key;
    }
    starts[m->count] = (uint32_t)p->size[BLOCK_STRINGS];
    p->block[BLOCK_STARTS] = starts;
    p->size[BLOCK_STARTS] = (m->count + 1) * sizeof *starts;
    bool ok = pipeline_add_trie(p, TRIE_USER, user, users, err) &&
              pipeline_add_trie(p, TRIE_PIECES, keys, n, err);
    free(keys);
    return ok;
}

static int32_t id_of(const Model *m, int64_t id) {
    return id >= 0 && id < (int64_t)m->count ? (int32_t)id : NO_ID;
}

static bool put_model(Pipeline *p, Model *m, Error *err) {
    PipelineForm *f = &p->form;
    if (!check(m, f, err) || !put_pieces(p, m, err)) return false;
    double *scores = xmalloc(size_mul(m->count, sizeof *scores));
    p->block[BLOCK_SCORES] = scores;
    p->size[BLOCK_SCORES] = m->count * sizeof *scores;
    f->model = m->type == 1 ? MODEL_UNIGRAM : MODEL_BPE;
    f->pieces = (uint32_t)m->count;
    f->byte_fallback = m->byte_fallback;
    f->merge_text = f->single = f->fuse_unk = true;
    if (f->model == MODEL_UNIGRAM)
        put_scores(m, f, scores);
    else
        put_ranks(m, scores);
    f->cut = m->escape ? cut_of(m) : CUT_NONE;
    f->pad = id_of(m, m->pad);
    size_t map_n = (size_t)(m->charsmap.end - m->charsmap.at);
    TextStep step = {.op = NORMAL_SENTENCEPIECE,
                     .flags = (m->prefix ? SPM_PREFIX : 0) | (m->tidy ? SPM_TIDY : 0) |
                              (m->escape ? SPM_ESCAPE : 0) | (m->suffix ? SPM_SUFFIX : 0),
                     .a = pipeline_add_string(p, (const char *)m->charsmap.at, map_n)};
    return pipeline_add_step(f->normal, &f->normals, step, err);
}

/* The first field of a model is a piece: a message of a few bytes that begins with its text. */
static bool spm_matches(const char *text, size_t n) {
    Message m = {(const unsigned char *)text, (const unsigned char *)text + n};
    Field f, inner;
    bool damaged = false;
    return n > 0 && text[0] == '\n' && next_field(&m, &f, &damaged) && f.number == 1 &&
           next_field(&f.bytes, &inner, &damaged) && inner.number == 1 &&
           f.bytes.at <= f.bytes.end && m.at < m.end && (*m.at == '\n' || *m.at == 0x12);
}

static Tokenizer *spm_load(char *text, size_t n, Error *err) {
    Model m = {.prefix = true, .tidy = true, .escape = true, .type = 1, .pad = NO_ID};
    Pipeline *p = pipeline_new(&spm_kind);
    bool ok = read_model(&m, text, n, err) && put_model(p, &m, err);
    free(m.pieces);
    return pipeline_loaded(p, ok, text, n);
}

const TokenizerKind spm_kind =
    PIPELINE_KIND("sentencepiece", "spiece.model", spm_matches, spm_load);
