#include "train/model/weight_names.h"

#include <stdio.h>
#include <string.h>

/* hf ends in '.': a prefix; the rest of the name is kept (or is that of a block, below). */
static const struct {
    const char *hf, *own;
    bool transposed;
} places[] = {
    {"visual_projection.weight", "visual.proj", true},
    {"text_projection.weight", "text_projection", true},
    {"vision_model.embeddings.class_embedding", "visual.class_embedding", false},
    {"vision_model.embeddings.patch_embedding.weight", "visual.conv1.weight", false},
    {"vision_model.embeddings.position_embedding.weight", "visual.positional_embedding", false},
    {"vision_model.pre_layrnorm.", "visual.ln_pre.", false},
    {"vision_model.post_layernorm.", "visual.ln_post.", false},
    {"vision_model.encoder.layers.", "visual.transformer.resblocks.", false},
    {"text_model.embeddings.token_embedding.weight", "token_embedding.weight", false},
    {"text_model.embeddings.position_embedding.weight", "positional_embedding", false},
    {"text_model.final_layer_norm.", "ln_final.", false},
    {"text_model.encoder.layers.", "transformer.resblocks.", false},
    {"logit_scale", "logit_scale", false},
};

static const struct {
    const char *hf, *own;
    int part;
} block_places[] = {
    {"layer_norm1.weight", "ln_1.weight", -1},
    {"layer_norm1.bias", "ln_1.bias", -1},
    {"self_attn.q_proj.weight", "attn.in_proj_weight", 0},
    {"self_attn.k_proj.weight", "attn.in_proj_weight", 1},
    {"self_attn.v_proj.weight", "attn.in_proj_weight", 2},
    {"self_attn.q_proj.bias", "attn.in_proj_bias", 0},
    {"self_attn.k_proj.bias", "attn.in_proj_bias", 1},
    {"self_attn.v_proj.bias", "attn.in_proj_bias", 2},
    {"self_attn.out_proj.weight", "attn.out_proj.weight", -1},
    {"self_attn.out_proj.bias", "attn.out_proj.bias", -1},
    {"layer_norm2.weight", "ln_2.weight", -1},
    {"layer_norm2.bias", "ln_2.bias", -1},
    {"mlp.fc1.weight", "mlp.c_fc.weight", -1},
    {"mlp.fc1.bias", "mlp.c_fc.bias", -1},
    {"mlp.fc2.weight", "mlp.c_proj.weight", -1},
    {"mlp.fc2.bias", "mlp.c_proj.bias", -1},
};

static bool starts_with(const char *s, const char *start) {
    return !strncmp(s, start, strlen(start));
}

/* Returns true if `name` matches the row's pattern; *rest: the part after a prefix, else "". */
static bool fits(const char *name, const char *pattern, const char **rest) {
    size_t n = strlen(pattern);
    bool prefix = pattern[n - 1] == '.';
    if (prefix ? strncmp(name, pattern, n) != 0 : strcmp(name, pattern) != 0) return false;
    *rest = name + n;
    return true;
}

static bool is_blocks(const char *own) { return strstr(own, "resblocks.") != NULL; }

/* "3.mlp.fc1.bias" → the length of "3."; 0: no number there. */
static size_t layer_digits(const char *s) {
    size_t n = strspn(s, "0123456789");
    return n && n < 6 && s[n] == '.' ? n + 1 : 0;
}

static const char *without_prefix(const char *name) {
    static const char *const prefixes[] = {"module.", "_orig_mod.", "text."};
    for (size_t i = 0; i < COUNT(prefixes);) {
        if (starts_with(name, prefixes[i])) {
            name += strlen(prefixes[i]);
            i = 0;
        } else {
            i++;
        }
    }
    return name;
}

static bool from_block(WeightName *out, const char *own, const char *rest) {
    size_t digits = layer_digits(rest);
    for (size_t i = 0; digits && i < COUNT(block_places); i++) {
        if (strcmp(rest + digits, block_places[i].hf)) continue;
        snprintf(out->name, sizeof out->name, "%s%.*s%s", own, (int)digits, rest,
                 block_places[i].own);
        out->part = block_places[i].part;
        return true;
    }
    return false;
}

WeightName weight_name_in(const char *name) {
    const char *plain = without_prefix(name), *rest;
    WeightName out = {.part = -1};
    for (size_t i = 0; i < COUNT(places); i++) {
        if (!fits(plain, places[i].hf, &rest)) continue;
        if (is_blocks(places[i].own)) {
            if (from_block(&out, places[i].own, rest)) return out;
            break;
        }
        snprintf(out.name, sizeof out.name, "%s%s", places[i].own, rest);
        out.transposed = places[i].transposed;
        return out;
    }
    snprintf(out.name, sizeof out.name, "%s", plain);
    return out;
}

bool weight_name_hf(const char *name, int part, char out[WEIGHT_NAME + 32], bool *transposed) {
    const char *rest;
    for (size_t i = 0; i < COUNT(places); i++) {
        if (!fits(name, places[i].own, &rest)) continue;
        *transposed = places[i].transposed;
        size_t digits = is_blocks(places[i].own) ? layer_digits(rest) : 0;
        if (!is_blocks(places[i].own)) snprintf(out, WEIGHT_NAME + 32, "%s%s", places[i].hf, rest);
        for (size_t j = 0; digits && j < COUNT(block_places); j++)
            if (!strcmp(rest + digits, block_places[j].own) && part == block_places[j].part) {
                snprintf(out, WEIGHT_NAME + 32, "%s%.*s%s", places[i].hf, (int)digits, rest,
                         block_places[j].hf);
                return true;
            }
        return !is_blocks(places[i].own);
    }
    return false;
}

bool weight_is_buffer(const char *name) {
    static const char *const buffers[] = {"attn_mask",      "position_ids", "input_resolution",
                                          "context_length", "vocab_size",   "num_batches_tracked"};
    size_t n = strlen(name);
    for (size_t i = 0; i < COUNT(buffers); i++) {
        size_t m = strlen(buffers[i]);
        if (n >= m && !strcmp(name + n - m, buffers[i])) return true;
    }
    return false;
}
