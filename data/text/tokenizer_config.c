/* tokenizer_config.json, which transformers writes beside a tokenizer's file: what its classes add
 * to the file. Source: transformers 4.57, models/{t5,gemma,siglip,bert}/tokenization_*.py. */
#include "data/io/crc32c.h"
#include "data/text/json_steps.h"
#include "data/text/pipeline.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* Whether a class frames a caption if the configuration does not say. */
typedef struct TokenizerClass {
    const char *name;
    bool frame_of_file; /* the frame of tokenizer.json counts, that of others is as follows */
    bool bos, eos;      /* defaults of add_bos_token and add_eos_token */
    const char *bos_token, *eos_token;
} TokenizerClass;

static const TokenizerClass classes[] = {{"T5Tokenizer", true, false, true, "", "</s>"},
                                         {"SiglipTokenizer", true, false, true, "", "</s>"},
                                         {"GemmaTokenizer", false, true, false, "<bos>", "<eos>"},
                                         {"LlamaTokenizer", false, true, false, "<s>", "</s>"},
                                         {"BertTokenizer", true, false, false, "", ""},
                                         {NULL, true, false, false, "", ""}};

/* The class by its name, with or without Fast. */
static const TokenizerClass *class_of(const char *name) {
    size_t n = strlen(name), i = 0;
    if (n > 4 && strcmp(name + n - 4, "Fast") == 0) n -= 4;
    while (classes[i].name != NULL &&
           (strlen(classes[i].name) != n || memcmp(classes[i].name, name, n) != 0))
        i++;
    return &classes[i];
}

/* A token is a string or an object with its content. */
static const char *token_of(json_t *config, const char *field, const char *missing) {
    json_t *v = json_object_get(config, field);
    if (json_is_object(v)) v = json_object_get(v, "content");
    return json_is_string(v) ? json_string_value(v) : missing;
}

/* The id of a token; -1: none. */
static int32_t id_of(const Pipeline *p, const char *token) {
    size_t n = strlen(token);
    for (size_t i = 0; i < p->added_count && n > 0; i++)
        if (p->added[i].text.n == n && memcmp(p->strings + p->added[i].text.at, token, n) == 0)
            return p->added[i].id;
    for (uint32_t id = 0; id < p->form.pieces && n > 0; id++)
        if (p->starts[id + 1] - p->starts[id] == n &&
            memcmp(p->strings + p->starts[id], token, n) == 0)
            return (int32_t)id;
    return -1;
}

static bool set_frame(Pipeline *p, json_t *config, const TokenizerClass *c, Error *err) {
    PipelineForm *f = &p->form;
    bool from_file = p->base.kind != &spm_kind;
    if (c->name == NULL || (from_file && c->frame_of_file)) return true;
    const struct {
        bool on;
        const char *field, *missing;
        int32_t *ids;
        uint32_t *count;
    } ends[] = {{json_flag(config, "add_bos_token", c->bos), "bos_token", c->bos_token, f->before,
                 &f->befores},
                {json_flag(config, "add_eos_token", c->eos), "eos_token", c->eos_token, f->after,
                 &f->afters}};
    for (size_t i = 0; i < COUNT(ends); i++) {
        *ends[i].count = 0;
        if (!ends[i].on) continue;
        const char *token = token_of(config, ends[i].field, ends[i].missing);
        if ((ends[i].ids[0] = id_of(p, token)) < 0)
            return error_set(err, "%s: '%.40s' is not in the vocabulary", ends[i].field, token);
        *ends[i].count = 1;
    }
    return true;
}

/* Bert's class replaces what the file says of lower case, accents and Chinese characters. */
static void set_bert(Pipeline *p, json_t *config) {
    for (uint32_t i = 0; i < p->form.normals; i++) {
        TextStep *s = &p->form.normal[i];
        if (s->op != NORMAL_BERT) continue;
        bool lower = json_flag(config, "do_lower_case", s->flags & BERT_LOWER);
        bool accents = json_flag(config, "strip_accents", lower);
        bool chinese = json_flag(config, "tokenize_chinese_chars", s->flags & BERT_CHINESE);
        s->flags = (s->flags & BERT_CLEAN) | (lower ? BERT_LOWER : 0) |
                   (accents ? BERT_ACCENTS : 0) | (chinese ? BERT_CHINESE : 0);
    }
}

static bool apply(Pipeline *p, json_t *config, Error *err) {
    const TokenizerClass *c = class_of(token_of(config, "tokenizer_class", ""));
    const char *pad = token_of(config, "pad_token", "");
    if (!set_frame(p, config, c, err)) return false;
    if (c->name != NULL && strcmp(c->name, "BertTokenizer") == 0) set_bert(p, config);
    if (c->name != NULL && strcmp(c->name, "SiglipTokenizer") == 0 && p->base.kind == &spm_kind &&
        p->form.clean == TEXT_CLEAN_NONE)
        p->form.clean = TEXT_CLEAN_SIGLIP;
    if (*pad == 0) return true;
    p->form.pad = id_of(p, pad);
    return p->form.pad >= 0 || error_set(err, "pad_token: '%.40s' is not in the vocabulary", pad);
}

bool pipeline_configure(Tokenizer *t, const TokenizerRules *rules, const char *config, size_t n,
                        Error *err) {
    Pipeline *p = (Pipeline *)t;
    json_error_t why;
    p->form.clean = rules->clean;
    json_t *root = config ? json_loadb(config, n, 0, &why) : NULL;
    if (config != NULL && !json_is_object(root)) {
        json_decref(root);
        return error_set(err, "it is no JSON object");
    }
    bool ok = root == NULL || apply(p, root, err);
    if (rules->strip_sep)
        p->form.zeroed = id_of(p, root ? token_of(root, "sep_token", "[SEP]") : "[SEP]");
    json_decref(root);
    /* the file's checksum, and one of what was set here */
    PipelineForm f = p->form;
    f.identity = 0;
    p->form.identity = (p->form.identity & ~(uint64_t)UINT32_MAX) | crc32c(0, &f, sizeof f);
    pipeline_finish(p);
    return ok;
}
