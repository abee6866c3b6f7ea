/* A tokenizer.json of the library tokenizers: vocabulary, merges, added tokens. */
#include "data/text/bpe.h"
#include "data/text/codepoints.h"
#include "data/text/json_steps.h"
#include "data/text/pipeline.h"
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LONGEST_SUFFIX = 64 };

/* ---- pieces ---- */

/* The pieces by id, as they are read: texts belong to the JSON. */
typedef struct PieceList {
    const char **text; /* [count]; NULL: none */
    double *score;
    size_t count, limit; /* limit: one more than the largest id allowed */
} PieceList;

static bool add_piece(PieceList *l, json_int_t id, const char *text, double score, Error *err) {
    if (id < 0 || (size_t)id >= l->limit)
        return error_set(err, "the id %lld of '%.40s' is out of range", (long long)id, text);
    for (; l->count <= (size_t)id; l->count++) l->text[l->count] = NULL, l->score[l->count] = 0;
    l->text[id] = text;
    l->score[id] = score;
    return true;
}

/* Unigram: [[text, score], …]. */
static bool read_scored(PieceList *l, json_t *vocab, Error *err) {
    size_t i;
    json_t *entry;
    json_array_foreach(vocab, i, entry) {
        const char *text = json_string_value(json_array_get(entry, 0));
        json_t *score = json_array_get(entry, 1);
        if (text == NULL || !json_is_number(score))
            return error_set(err, "model.vocab: entry %zu is not a string and a number", i);
        if (!add_piece(l, (json_int_t)i, text, json_number_value(score), err)) return false;
    }
    return true;
}

/* BPE, WordPiece: {text: id, …}. */
static bool read_numbered(PieceList *l, json_t *vocab, Error *err) {
    const char *text;
    json_t *id;
    json_object_foreach(vocab, text, id) {
        if (!json_is_integer(id)) return error_set(err, "model.vocab: '%.40s' has no id", text);
        if (!add_piece(l, json_integer_value(id), text, 0, err)) return false;
    }
    return true;
}

/* From the byte alphabet of GPT-2's tokenizer to bytes; returns their number, or SIZE_MAX if the
 * text is not of the alphabet. */
static size_t alphabet_to_bytes(const int16_t byte_of[512], const char *text, char *out) {
    size_t n = strlen(text), k = 0;
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        i += utf8_decode((const unsigned char *)text + i, n - i, &cp);
        if (cp >= 512 || byte_of[cp] < 0) return SIZE_MAX;
        out[k++] = (char)byte_of[cp];
    }
    return k;
}

/* Strings, starts and trie. With byte_level the pieces are bytes. */
static bool put_pieces(Pipeline *p, const PieceList *l, Error *err) {
    int16_t byte_of[512];
    PipelineForm *f = &p->form;
    uint32_t *starts = xmalloc(size_mul(l->count + 1, sizeof *starts));
    TrieKey *keys = xmalloc(size_mul(l->count + 1, sizeof *keys));
    bool *in_text = xcalloc(l->count + 1, sizeof *in_text);
    p->block[BLOCK_STARTS] = starts;
    p->size[BLOCK_STARTS] = (l->count + 1) * sizeof *starts;
    Chars bytes = {0};
    memset(byte_of, 0xFF, sizeof byte_of);
    for (int b = 0; b < 256; b++) byte_of[bpe_byte_symbol(b)] = (int16_t)b;
    for (size_t i = 0; i < l->count; i++) {
        const char *text = l->text[i] ? l->text[i] : "";
        size_t n = strlen(text);
        if (f->byte_level) chars_reserve(&bytes, n);
        size_t k = f->byte_level ? alphabet_to_bytes(byte_of, text, bytes.at) : SIZE_MAX;
        in_text[i] = l->text[i] != NULL && (k != SIZE_MAX || !f->byte_level);
        starts[i] =
            pipeline_add_string(p, k != SIZE_MAX ? bytes.at : text, k != SIZE_MAX ? k : n).at;
    }
    starts[l->count] = (uint32_t)p->size[BLOCK_STRINGS];
    size_t n = 0;
    for (size_t i = 0; i < l->count; i++) {
        TrieKey key = {p->strings + starts[i], starts[i + 1] - starts[i], (int32_t)i};
        if (in_text[i] && key.length > 0) keys[n++] = key;
        if (f->byte_level && in_text[i] && key.length == 1)
            f->byte_ids[(unsigned char)*key.text] = (int32_t)i;
    }
    bool ok = pipeline_add_trie(p, TRIE_PIECES, keys, n, err);
    FREE_ALL(bytes.at, keys, in_text);
    return ok;
}

/* ---- models ---- */

typedef struct ModelReader {
    Pipeline *p;
    json_t *root, *model, *vocab;
    PieceList *pieces;
    Error *err;
} ModelReader;

static bool model_flag(const ModelReader *r, const char *field) {
    return json_is_true(json_object_get(r->model, field));
}

static Str model_text(const ModelReader *r, const char *field) {
    const char *s = json_string_value(json_object_get(r->model, field));
    return pipeline_add_string(r->p, s ? s : "", s ? strlen(s) : 0);
}

static int32_t id_of(json_t *vocab, const char *text) {
    json_t *id = text ? json_object_get(vocab, text) : NULL;
    return json_is_integer(id) ? (int32_t)json_integer_value(id) : -1;
}

static void find_byte_pieces(const ModelReader *r) {
    PipelineForm *f = &r->p->form;
    f->byte_fallback = model_flag(r, "byte_fallback");
    for (size_t i = 0; i < r->pieces->count && f->byte_fallback; i++) {
        unsigned byte;
        char end, again[8];
        const char *text = r->pieces->text[i];
        if (text == NULL || sscanf(text, "<0x%2X%c", &byte, &end) != 2 || end != '>') continue;
        snprintf(again, sizeof again, "<0x%02X>", byte);
        if (strcmp(again, text) == 0) f->byte_ids[byte] = (int32_t)i;
    }
}

static bool read_unigram(const ModelReader *r) {
    PipelineForm *f = &r->p->form;
    json_t *unk = json_object_get(r->model, "unk_id");
    double least = INFINITY;
    f->model = MODEL_UNIGRAM;
    f->fuse_unk = true;
    if (!json_is_integer(unk) || json_integer_value(unk) < 0 ||
        (size_t)json_integer_value(unk) >= json_array_size(r->vocab))
        return error_set(r->err, "model.unk_id: it is not an id of the vocabulary");
    f->unk = (int32_t)json_integer_value(unk);
    for (size_t i = 0; i < json_array_size(r->vocab); i++) least = fmin(least, r->pieces->score[i]);
    f->unk_score = least - 10.0;
    double *scores = xmalloc(size_mul(r->pieces->count, sizeof *scores));
    memcpy(scores, r->pieces->score, r->pieces->count * sizeof *scores);
    r->p->block[BLOCK_SCORES] = scores;
    r->p->size[BLOCK_SCORES] = r->pieces->count * sizeof *scores;
    find_byte_pieces(r);
    return true;
}

static bool read_unk_token(const ModelReader *r) {
    json_t *unk = json_object_get(r->model, "unk_token");
    const char *text = json_string_value(unk);
    r->p->form.unk = id_of(r->vocab, text);
    return text == NULL || r->p->form.unk >= 0 ||
           error_set(r->err, "model.unk_token: '%.40s' is not in the vocabulary", text);
}

/* "a b" or ["a", "b"]: the ids of both and of what they make. */
static bool read_merge(const ModelReader *r, json_t *merge, char *text, size_t room, MergePair *m) {
    const char *a = json_string_value(json_array_get(merge, 0));
    const char *b = json_string_value(json_array_get(merge, 1));
    const char *both = json_string_value(merge);
    const char *blank = both ? strchr(both, ' ') : NULL;
    size_t a_n = a ? strlen(a) : blank ? (size_t)(blank - both) : 0;
    if (both != NULL) a = both, b = blank ? blank + 1 : NULL;
    if (a == NULL || b == NULL || (both != NULL && strchr(b, ' ') != NULL) ||
        a_n + strlen(b) + 1 > room)
        return error_set(r->err, "model.merges: an entry is not two symbols");
    memcpy(text, a, a_n);
    text[a_n] = 0;
    int32_t left = id_of(r->vocab, text), right = id_of(r->vocab, b);
    memcpy(text + a_n, b, strlen(b) + 1);
    int32_t made = id_of(r->vocab, text);
    if (left < 0 || right < 0 || made < 0)
        return error_set(r->err, "model.merges: '%.60s' or a part of it is not in the vocabulary",
                         text);
    *m = (MergePair){(uint32_t)left, (uint32_t)right, m->rank, (uint32_t)made};
    return true;
}

static bool read_merges(const ModelReader *r) {
    json_t *merges = json_object_get(r->model, "merges"), *merge;
    size_t n = json_array_size(merges), slots = 4, i, room = 1 << 16;
    while (slots < 2 * n) slots *= 2;
    MergePair *table = xmalloc(size_mul(slots, sizeof *table));
    memset(table, 0xFF, slots * sizeof *table);
    r->p->block[BLOCK_PAIRS] = table;
    r->p->size[BLOCK_PAIRS] = slots * sizeof *table;
    char *text = xmalloc(room);
    bool ok = json_is_array(merges) || error_set(r->err, "model.merges: expected a list");
    for (i = 0; ok && i < n; i++) {
        merge = json_array_get(merges, i);
        MergePair m = {.rank = (uint32_t)i};
        if (!(ok = read_merge(r, merge, text, room, &m))) break;
        size_t h = merge_hash(m.left, m.right) & (slots - 1);
        while (table[h].left != UINT32_MAX &&
               (table[h].left != m.left || table[h].right != m.right))
            h = (h + 1) & (slots - 1);
        table[h] = m;
    }
    free(text);
    return ok;
}

static bool read_bpe(const ModelReader *r) {
    PipelineForm *f = &r->p->form;
    json_t *dropout = json_object_get(r->model, "dropout");
    const char *prefix = json_string_value(json_object_get(r->model, "continuing_subword_prefix"));
    f->model = MODEL_BPE;
    if (json_is_number(dropout) && json_number_value(dropout) > 0)
        return error_set(r->err, "model.dropout: is not supported");
    if (prefix != NULL && *prefix != 0)
        return error_set(r->err, "model.continuing_subword_prefix: is not supported with BPE");
    f->word_suffix = model_text(r, "end_of_word_suffix");
    if (f->word_suffix.n > LONGEST_SUFFIX)
        return error_set(r->err, "model.end_of_word_suffix: is too long");
    f->fuse_unk = model_flag(r, "fuse_unk");
    f->ignore_merges = model_flag(r, "ignore_merges");
    if (!f->byte_level) find_byte_pieces(r);
    return read_unk_token(r) && read_merges(r);
}

static bool read_wordpiece(const ModelReader *r) {
    PipelineForm *f = &r->p->form;
    json_t *most = json_object_get(r->model, "max_input_chars_per_word");
    f->model = MODEL_WORDPIECE;
    f->word_prefix = model_text(r, "continuing_subword_prefix");
    f->max_chars = json_is_integer(most) ? (uint32_t)json_integer_value(most) : 100;
    return read_unk_token(r) && (f->unk >= 0 || error_set(r->err, "model.unk_token: is missing"));
}

static const struct {
    const char *type, *fields;
    bool scored; /* vocab is a list of texts and scores */
    bool (*read)(const ModelReader *r);
} models[] = {
    {"Unigram", " type unk_id vocab byte_fallback ", true, read_unigram},
    {"BPE",
     " type dropout unk_token continuing_subword_prefix end_of_word_suffix fuse_unk byte_fallback "
     "ignore_merges vocab merges ",
     false, read_bpe},
    {"WordPiece", " type unk_token continuing_subword_prefix max_input_chars_per_word vocab ",
     false, read_wordpiece}};

/* Files of old versions have no type. */
static const char *type_of(json_t *model) {
    const char *type = json_string_value(json_object_get(model, "type"));
    if (type != NULL) return type;
    if (json_object_get(model, "merges") != NULL) return "BPE";
    return json_is_array(json_object_get(model, "vocab")) ? "Unigram" : "WordPiece";
}

/* ---- added tokens ---- */

static bool read_added(const ModelReader *r) {
    json_t *list = json_object_get(r->root, "added_tokens"), *one;
    size_t i;
    json_array_foreach(list, i, one) {
        const char *text = json_string_value(json_object_get(one, "content"));
        json_t *id = json_object_get(one, "id");
        if (text == NULL || *text == 0 || !json_is_integer(id))
            return error_set(r->err, "added_tokens: entry %zu has no content or id", i);
        if (json_is_true(json_object_get(one, "single_word")))
            return error_set(r->err, "added_tokens: single_word of '%.40s' is not supported", text);
        json_int_t n = json_integer_value(id); /* of a piece as well: it keeps its score */
        double score = n >= 0 && (size_t)n < r->pieces->count ? r->pieces->score[n] : 0;
        if (!add_piece(r->pieces, n, text, score, r->err)) return false;
    }
    return true;
}

static uint32_t added_flags(json_t *one) {
    static const char *const fields[] = {"lstrip", "rstrip", "normalized", "special"};
    uint32_t flags = 0;
    for (size_t i = 0; i < COUNT(fields); i++)
        if (json_is_true(json_object_get(one, fields[i]))) flags |= 1u << i;
    return flags;
}

/* The tries of added tokens; those in normalised text are normalised themselves. */
static bool put_added(const ModelReader *r) {
    Pipeline *p = r->p;
    json_t *list = json_object_get(r->root, "added_tokens"), *one;
    size_t n = json_array_size(list), i, raw = 0, normalized = 0;
    AddedToken *added = xcalloc(n + 1, sizeof *added);
    TrieKey *keys = xcalloc(2 * n + 1, sizeof *keys), *normal_keys = keys + n;
    Chars *texts = xcalloc(n + 1, sizeof *texts), spare = {0};
    json_array_foreach(list, i, one) {
        const char *text = json_string_value(json_object_get(one, "content"));
        uint32_t flags = added_flags(one);
        chars_add(&texts[i], text, strlen(text));
        if (flags & ADDED_NORMALIZED) normalize(p, &texts[i], &spare);
        added[i] = (AddedToken){pipeline_add_string(p, text, strlen(text)),
                                (int32_t)json_integer_value(json_object_get(one, "id")), flags};
        TrieKey key = {texts[i].at, (uint32_t)texts[i].n, (int32_t)i};
        if (key.length == 0) continue;
        if (flags & ADDED_NORMALIZED)
            normal_keys[normalized++] = key;
        else
            keys[raw++] = key;
    }
    bool ok = pipeline_add_trie(p, TRIE_RAW, keys, raw, r->err) &&
              pipeline_add_trie(p, TRIE_NORMALIZED, normal_keys, normalized, r->err);
    p->block[BLOCK_ADDED] = added;
    p->size[BLOCK_ADDED] = n * sizeof *added;
    for (i = 0; i < n; i++) free(texts[i].at);
    FREE_ALL(texts, spare.at, keys);
    return ok;
}

/* ---- the file ---- */

static bool known_fields(json_t *object, const char *fields, const char *where, Error *err) {
    const char *key = json_unknown_field(object, fields);
    return !key || error_set(err, "%s%.60s: this field is not supported", where, key);
}

/* Cutting needs pieces without a space mark inside; where words are cut at them already, or the
 * word's end matters, there is nothing to cut. */
static void find_cut(const ModelReader *r) {
    PipelineForm *f = &r->p->form;
    bool before = true, after = true;
    for (uint32_t i = 0; i < f->splits; i++)
        if (f->split[i].op == SPLIT_METASPACE && f->split[i].flags & META_SPLIT) before = false;
    if (f->model == MODEL_WORDPIECE || f->byte_level || f->ignore_merges || f->word_suffix.n > 0 ||
        !before)
        return;
    for (size_t i = 0; i < r->pieces->count; i++)
        if (r->pieces->text[i] != NULL)
            pipeline_cuts(r->pieces->text[i], strlen(r->pieces->text[i]), &before, &after);
    f->cut = before ? CUT_BEFORE_SPACE : after ? CUT_AFTER_SPACE : CUT_NONE;
}

static bool read_root(const ModelReader *r) {
    static const char fields[] =
        " version truncation padding added_tokens normalizer pre_tokenizer "
        "post_processor decoder model ";
    PipelineForm *f = &r->p->form;
    const char *type = type_of(r->model);
    size_t m = 0;
    json_t *pad = json_object_get(json_object_get(r->root, "padding"), "pad_id");
    while (m < COUNT(models) && strcmp(models[m].type, type) != 0) m++;
    if (m == COUNT(models))
        return error_set(r->err, "model: the type %.60s is not supported", type);
    if (!known_fields(r->root, fields, "", r->err) ||
        !known_fields(r->model, models[m].fields, "model.", r->err))
        return false;
    if (models[m].scored ? !json_is_array(r->vocab) : !json_is_object(r->vocab))
        return error_set(r->err, "model.vocab: is missing or of another form");
    if (!(models[m].scored ? read_scored : read_numbered)(r->pieces, r->vocab, r->err) ||
        !read_added(r))
        return false;
    f->pieces = (uint32_t)r->pieces->count;
    if (f->pieces == 0) return error_set(r->err, "model.vocab: is empty");
    if (!json_steps_read(r->p, r->root, r->err)) return false;
    if (f->byte_level && strcmp(type, "BPE") != 0)
        return error_set(r->err, "pre_tokenizer: ByteLevel is supported with BPE only");
    if (!put_pieces(r->p, r->pieces, r->err) || !models[m].read(r)) return false;
    pipeline_finish(r->p);
    if (!put_added(r)) return false;
    f->pad = json_is_integer(pad) ? (int32_t)json_integer_value(pad) : -1;
    f->decoding = f->byte_level || f->word_suffix.n > 0 ? DECODE_BYTES
                  : f->model == MODEL_WORDPIECE         ? DECODE_WORDPIECE
                                                        : DECODE_SPACES;
    find_cut(r);
    return true;
}

static bool json_matches(const char *text, size_t n) {
    size_t i = 0;
    while (i < n && (text[i] == ' ' || text[i] == '\n' || text[i] == '\r' || text[i] == '\t')) i++;
    return i < n && text[i] == '{';
}

static Tokenizer *json_load(char *text, size_t n, Error *err) {
    json_error_t why;
    json_t *root = json_loadb(text, n, JSON_REJECT_DUPLICATES, &why);
    if (root == NULL) {
        error_set(err, "line %d: %s", why.line, why.text);
        return NULL;
    }
    json_t *model = json_object_get(root, "model");
    json_t *vocab = json_object_get(model, "vocab"), *added = json_object_get(root, "added_tokens");
    /* ids may have gaps */
    size_t limit = 2 * (json_array_size(vocab) + json_object_size(vocab) + json_array_size(added));
    PieceList pieces = {.text = xmalloc(size_mul(limit + 1, sizeof *pieces.text)),
                        .score = xmalloc(size_mul(limit + 1, sizeof *pieces.score)),
                        .limit = limit};
    Pipeline *p = pipeline_new(&json_kind);
    ModelReader r = {p, root, model, vocab, &pieces, err};
    bool ok = json_is_object(model) ? read_root(&r) : error_set(err, "it has no object model");
    FREE_ALL(pieces.text, pieces.score);
    json_decref(root);
    return pipeline_loaded(p, ok, text, n);
}

const TokenizerKind json_kind =
    PIPELINE_KIND("tokenizer.json", "tokenizer.json", json_matches, json_load);
