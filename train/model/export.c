#include "train/model/export.h"

#include "data/io/file.h"
#include "data/io/folder.h"
#include "data/tensors/torchwriter.h"
#include "data/text/tokenizer.h"
#include "train/model/hf_config.h"
#include "train/model/hf_siglip.h"
#include "train/model/pretrained.h"
#include "train/model/weight_pieces.h"
#include <errno.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CHUNK = 1 << 18 };

/* ---- weights ---- */

/* The file being written, of either kind. */
typedef struct Sink {
    const Export *e;
    SafetensorsWriter *safetensors;
    TorchWriter *torch;
} Sink;

static Sink sink_open(const Export *e, const char *path, const Tensor *tensors, size_t n) {
    static const char *const meta[] = {"format", "pt"}; /* transformers requires it */
    if (e->format == EXPORT_PT || e->format == EXPORT_TORCHVISION)
        return (Sink){.e = e, .torch = torchwriter_create(path, tensors, n)};
    return (Sink){.e = e, .safetensors = safetensors_create(path, tensors, n, meta, 1)};
}

/* whole: false after an error: the file is removed and err is kept. */
static bool sink_close(Sink *s, bool whole, Error *err) {
    if (whole && s->torch) return torchwriter_finish(s->torch, err);
    if (whole) return safetensors_finish(s->safetensors, err);
    if (s->torch)
        torchwriter_abandon(s->torch);
    else
        safetensors_abandon(s->safetensors);
    return false;
}

static bool append(Sink *s, const WeightPiece *p, const float *x, size_t n, void *bytes,
                   Error *err) {
    Dtype d = s->e->dtype;
    if (!dtype_from_f32(d, x, n, bytes))
        return error_set(err, "%s has values beyond the range of %s: take another --dtype", p->name,
                         dtype_name(d));
    if (s->torch)
        torchwriter_append(s->torch, bytes, n * dtype_size(d));
    else
        safetensors_append(s->safetensors, bytes, n * dtype_size(d));
    return true;
}

static bool append_moved(Sink *s, const WeightPiece *p, Error *err) {
    const Export *e = s->e;
    const Param *q = &e->list[p->param];
    float *x = xmalloc(size_mul(2 * q->size, sizeof *x)), *moved = x + q->size;
    e->read(e->context, p->param, 0, q->size, x);
    weight_piece_move(p, q, x, moved);
    bool ok = append(s, p, moved, q->size, x, err);
    free(x);
    return ok;
}

static bool append_piece(Sink *s, const WeightPiece *p, float *chunk, void *bytes, Error *err) {
    const Export *e = s->e;
    if (weight_piece_moves(p)) return append_moved(s, p, err);
    for (size_t done = 0; done < p->count; done += CHUNK) {
        size_t n = size_min(CHUNK, p->count - done);
        e->read(e->context, p->param, p->first + done, n, chunk);
        if (!append(s, p, chunk, n, bytes, err)) return false;
    }
    return true;
}

static bool write_weights(const Export *e, const char *path, Error *err) {
    NamesOf names = weight_names_of(e->config);
    if (e->format == EXPORT_TORCHVISION) names = NAMES_TORCHVISION;
    if (e->format == EXPORT_HF)
        names = !hf_siglip_fits(e->config) ? NAMES_CLIP_MODEL
                : e->config->naflex        ? NAMES_SIGLIP2_MODEL
                                           : NAMES_SIGLIP_MODEL;
    WeightPieces pieces = weight_pieces(names, e->list, e->count, e->dtype);
    Sink s = sink_open(e, path, pieces.tensors, pieces.count);
    float *chunk = xmalloc(2 * CHUNK * sizeof *chunk);
    bool ok = true;
    for (size_t i = 0; i < pieces.count && ok; i++)
        ok = append_piece(&s, &pieces.list[i], chunk, chunk + CHUNK, err);
    free(chunk);
    weight_pieces_free(&pieces);
    return sink_close(&s, ok, err);
}

/* ---- other files ---- */

/* Takes ownership of the text. */
static bool write_text(const char *folder, const char *name, char *text, Error *err) {
    if (!text) return false;
    char *path = folder_path(folder, name);
    bool ok =
        file_write(path, text, strlen(text)) || error_set(err, "%.200s: %s", path, strerror(errno));
    FREE_ALL(path, text);
    return ok;
}

static char *text_of(json_t *root, size_t flags) {
    char *text = json_dumps(root, flags);
    assert(text);
    json_decref(root);
    return text;
}

static char *vocab_json(const Tokenizer *tokenizer) {
    json_t *ids = json_object();
    for (int32_t id = 0; id < tokenizer->start; id++) {
        char *symbol = tokenizer_symbol_text(tokenizer, id);
        json_object_set_new(ids, symbol, json_integer(id));
        free(symbol);
    }
    json_object_set_new(ids, "<|startoftext|>", json_integer(tokenizer->start));
    json_object_set_new(ids, "<|endoftext|>", json_integer(tokenizer->end));
    return text_of(ids, JSON_COMPACT);
}

static json_t *special_tokens(void) {
    static const char end[] = "<|endoftext|>";
    return json_pack("{s:s, s:s, s:s, s:s}", "bos_token", "<|startoftext|>", "eos_token", end,
                     "pad_token", end, "unk_token", end);
}

static bool copy_vocab(const Export *e, const char *folder, Error *err) {
    return pretrained_copy_vocab(e->vocab, folder) ||
           error_set(err, "%.200s: %s", e->vocab, strerror(errno));
}

/* The files of CLIPTokenizer; another tokenizer's own. */
static bool write_tokenizer(const Export *e, const char *folder, Error *err) {
    Tokenizer *tokenizer = tokenizer_open(e->vocab, err);
    if (!tokenizer) return false;
    if (!tokenizer->kind->file_text) {
        tokenizer_close(tokenizer);
        return copy_vocab(e, folder, err);
    }
    if (tokenizer->vocab_size != e->config->vocab_size) {
        error_set(err, "%.200s has %zu entries, the model %zu: give the --vocab that belongs to it",
                  e->vocab, tokenizer->vocab_size, e->config->vocab_size);
        tokenizer_close(tokenizer);
        return false;
    }
    json_t *config = special_tokens();
    json_object_update_new(config, json_pack("{s:s, s:I, s:b, s:b, s:s}", "tokenizer_class",
                                             "CLIPTokenizer", "model_max_length",
                                             (json_int_t)e->config->context_length, "do_lower_case",
                                             1, "add_prefix_space", 0, "errors", "replace"));
    bool ok =
        write_text(folder, "merges.txt", tokenizer_file_text(tokenizer, "#version: 0.2"), err);
    ok = write_text(folder, "vocab.json", ok ? vocab_json(tokenizer) : NULL, err) && ok;
    char *settings = text_of(config, JSON_INDENT(2));
    ok = write_text(folder, "tokenizer_config.json", settings, err) && ok;
    char *special = text_of(special_tokens(), JSON_INDENT(2));
    ok = write_text(folder, "special_tokens_map.json", special, err) && ok;
    tokenizer_close(tokenizer);
    return ok;
}

static const char *torch_dtype(Dtype d) {
    return d == DTYPE_F16 ? "float16" : d == DTYPE_BF16 ? "bfloat16" : "float32";
}

static bool write_hf(const Export *e, const char *folder, Error *err) {
    char *model = folder_path(folder, "model.safetensors");
    bool ok =
        write_weights(e, model, err) &&
        write_text(folder, "config.json", hf_config_out(e->config, torch_dtype(e->dtype), err),
                   err) &&
        write_text(folder, "preprocessor_config.json", hf_preprocessor_out(e->config, err), err) &&
        (!e->vocab || write_tokenizer(e, folder, err));
    free(model);
    return ok;
}

static bool write_open_clip(const Export *e, const char *folder, Error *err) {
    char *model = folder_path(folder, "open_clip_model.safetensors");
    bool ok = write_weights(e, model, err) &&
              write_text(folder, "open_clip_config.json", clip_config_to_json(e->config), err) &&
              (!e->vocab || copy_vocab(e, folder, err));
    free(model);
    return ok;
}

/* ---- writing ---- */

bool export_check(const Export *e, Error *err) {
    struct stat s;
    if (!lstat(e->out, &s))
        return error_set(err, "%.200s: exists already, and nothing is written over", e->out);
    ConvKind kind = e->config->image.conv.kind;
    if (e->format == EXPORT_TORCHVISION && kind != CONV_BASIC && kind != CONV_BOTTLENECK)
        return error_set(err,
                         "torchvision's format has no place for the image tower of %.100s: it is "
                         "for resnet18, resnet34 and resnet50",
                         e->config->name);
    if (e->format != EXPORT_HF) return true;
    char *config = hf_config_out(e->config, "float32", err);
    char *preprocessor = config ? hf_preprocessor_out(e->config, err) : NULL;
    FREE_ALL(config, preprocessor);
    return preprocessor != NULL;
}

/* Writes to `beside`, then renames it. */
static bool write_beside(const Export *e, const char *beside, Error *err) {
    if (e->format != EXPORT_HF && e->format != EXPORT_OPEN_CLIP)
        return write_weights(e, beside, err);
    if (mkdir(beside, 0777)) return error_set(err, "%.200s: %s", beside, strerror(errno));
    bool ok = e->format == EXPORT_HF ? write_hf(e, beside, err) : write_open_clip(e, beside, err);
    return ok && (folder_sync(beside) || error_set(err, "%.200s: %s", beside, strerror(errno)));
}

bool export_write(const Export *e, Error *err) {
    if (!export_check(e, err)) return false;
    char *a = xstrdup(e->out), *b = xstrdup(e->out), *parent = dirname(a), *name = basename(b);
    char *beside = xasprintf("%s/.tmp-%s", parent, name);
    folder_make_or_die(parent);
    unlink(beside); /* leftovers of a killed run */
    folder_remove(beside);
    bool ok = write_beside(e, beside, err) && folder_place(beside, e->out, err);
    if (ok && !folder_sync(parent)) log_warn("%s: %s", parent, strerror(errno));
    if (!ok) {
        unlink(beside);
        folder_remove(beside);
    }
    FREE_ALL(beside, a, b);
    return ok;
}
