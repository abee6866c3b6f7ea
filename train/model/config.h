/* config: a model's architecture and preprocessing, from open_clip's JSON (bare model config, or a
 * file with model_cfg and preprocess_cfg). A field this program does not support is an error with
 * its name; nothing is silently ignored. */
#pragma once
#include "data/image/augment.h"
#include "data/text/tokenizer.h"
#include "kernels/kernels.h"

/* The rows of the last block that form a feature. */
typedef enum {
    POOL_CLASS,     /* the row of the class token */
    POOL_END,       /* the row of a caption's first largest id, the end token */
    POOL_LAST,      /* the last row of the context */
    POOL_MEAN,      /* the mean of all rows except the class token's */
    POOL_ATTENTION, /* attention of a learned query, the probe, to all rows, then an MLP with its
                       residual (Zhai et al. 2022, section 3.4) */
    POOL_ID         /* the row of a caption's first pool_id; the first row without one */
} Pooling;

/* Rotary positions of an image tower's queries and keys (Su et al. 2021; in two axes Heo et al.
 * 2024): the first half of a head's pairs turns by one coordinate of the patch, the other half by
 * the other, pair j of n in its half by (i + offset)·reference/side·theta^(-j/n), i from 0 to
 * side-1. Class tokens do not turn. */
typedef struct Rotary {
    double theta; /* 0: no rotary positions */
    double offset, reference;
    bool x_first; /* the first half turns by the column, false: by the row */
} Rotary;

/* A ResNet: CONV_BASIC and CONV_BOTTLENECK as torchvision has them (He et al. 2016), CONV_MODIFIED
 * as CLIP (Radford et al. 2021): a stem of three convolutions, averages before strides, attention
 * over the last grid. */
typedef enum { CONV_NONE, CONV_BASIC, CONV_BOTTLENECK, CONV_MODIFIED } ConvKind;
typedef struct ConvNet {
    ConvKind kind;   /* NONE: the tower is a transformer */
    size_t width;    /* channels after the stem */
    size_t stage[4]; /* blocks of each */
} ConvNet;

/* One transformer: everything that the towers, their blocks and the list of tensors use of an
 * architecture. Of a ResNet width is that of the last grid, layers the number of blocks, heads
 * those of the attention over it. */
typedef struct TowerConfig {
    size_t width, layers, heads, mlp; /* mlp: hidden width */
    Activation activation;
    double eps;                   /* of the LayerNorms */
    bool causal;                  /* a position attends to itself and those before it */
    bool class_token, patch_bias; /* image tower */
    bool no_class_position;       /* the class token has no position */
    size_t stem;                  /* image tower: channels of the first two of the three
                                     convolutions that make its patches; 0: one makes them */
    bool ln_pre;                  /* a LayerNorm between embeddings and blocks */
    Pooling pool;
    size_t pool_heads, pool_mlp; /* of POOL_ATTENTION; pool_mlp 0: the tower's mlp */
    int32_t pool_id;             /* of POOL_ID */
    bool norm_after_pool;        /* the final LayerNorm reads the pooled rows */
    Rotary rotary;               /* image tower */
    bool gated;                  /* SwiGLU: c_fc computes [gate | value], 2·mlp wide */
    bool ln_inner;               /* a LayerNorm between attention and out_proj */
    bool ln_mlp;                 /* with gated: a LayerNorm between SwiGLU and c_proj */
    bool post_norm;              /* a block's LayerNorms follow its branches */
    bool no_key_bias;            /* in_proj has biases of queries and values only */
    bool proj_bias;              /* the projection has a bias, and its matrix is [E,C] */
    bool no_proj;                /* no projection: the pooled rows are the features, C = E */
    ConvNet conv;                /* image tower */
} TowerConfig;

/* The towers of CLIP (Radford et al. 2021): defaults of absent fields of a configuration. */
TowerConfig clip_image_tower(size_t width, size_t layers, size_t heads, size_t mlp);
TowerConfig clip_text_tower(size_t width, size_t layers, size_t heads, size_t mlp);

static inline bool rotary_same(const Rotary *a, const Rotary *b) {
    return a->theta == b->theta && a->offset == b->offset && a->reference == b->reference &&
           a->x_first == b->x_first;
}
static inline bool conv_net_same(const ConvNet *a, const ConvNet *b) {
    bool same = a->kind == b->kind && a->width == b->width;
    for (size_t i = 0; i < COUNT(a->stage); i++) same = same && a->stage[i] == b->stage[i];
    return same;
}
/* Returns true if all fields are equal. */
static inline bool tower_same(const TowerConfig *a, const TowerConfig *b) {
    return a->width == b->width && a->layers == b->layers && a->heads == b->heads &&
           a->mlp == b->mlp && a->activation == b->activation && a->eps == b->eps &&
           a->causal == b->causal && a->class_token == b->class_token &&
           a->patch_bias == b->patch_bias && a->no_class_position == b->no_class_position &&
           a->stem == b->stem && a->ln_pre == b->ln_pre && a->pool == b->pool &&
           a->pool_heads == b->pool_heads && a->pool_mlp == b->pool_mlp &&
           a->pool_id == b->pool_id && a->norm_after_pool == b->norm_after_pool &&
           rotary_same(&a->rotary, &b->rotary) && a->gated == b->gated &&
           a->ln_inner == b->ln_inner && a->ln_mlp == b->ln_mlp && a->post_norm == b->post_norm &&
           a->no_key_bias == b->no_key_bias && a->proj_bias == b->proj_bias &&
           a->no_proj == b->no_proj && conv_net_same(&a->conv, &b->conv);
}

/* The block of POOL_ATTENTION: a plain one. */
static inline TowerConfig tower_pool_block(const TowerConfig *t) {
    TowerConfig pool = *t;
    pool.heads = t->pool_heads;
    pool.mlp = t->pool_mlp ? t->pool_mlp : t->mlp;
    pool.rotary = (Rotary){0};
    pool.post_norm = false;
    pool.gated = pool.ln_inner = pool.ln_mlp = pool.no_key_bias = false;
    return pool;
}

/* Work that cannot change a feature is skipped; these return true if that is exact. */

/* Skips positions after the pooled one, which it does not attend to. */
static inline bool tower_ends_at_pool(const TowerConfig *t) {
    return t->causal && (t->pool == POOL_END || t->pool == POOL_ID);
}
/* Skips the last block for all rows except the pooled one, if that attends to every computed row.
 */
static inline bool tower_pools_one(const TowerConfig *t) {
    return t->pool == POOL_END || t->pool == POOL_ID || t->pool == POOL_LAST ||
           (!t->causal && t->pool == POOL_CLASS);
}

/* ln(1/0.07), where the logarithm of the logit scale starts (Radford et al. 2021, section 2.5). */
#define CLIP_LOGIT_SCALE 2.6592600369327779

typedef struct ClipConfig {
    char *name; /* "ViT-B-32", or the path it came from */
    size_t embed_dim;
    TowerConfig image, text;
    bool timm; /* the image tower has a name of timm's: files have timm's names of its tensors */
    /* naflex: pictures keep their aspect ratio (eval_transform.max_patches), and their positions
     * are interpolated from those of a square of image_size pixels */
    bool naflex;
    size_t image_size, patch_size;
    double patch_dropout;
    size_t context_length, vocab_size;
    size_t kept_positions; /* of captions, the first ones, which stay as they are if weights of
                              another context are opened; not in files */
    bool names_tokenizer;  /* hf_tokenizer_name: the vocabulary is not CLIP's */
    TokenizerRules tokenizer;
    double init_logit_scale; /* logarithm of the scale */
    bool has_logit_bias;
    double init_logit_bias;
    Transform eval_transform; /* size, mean, std, interpolation, resize mode: preprocess_cfg or the
                                 defaults */
    char *json;               /* model_cfg as compact JSON text, written back into checkpoints */
} ClipConfig;

/* name: one of configs/models (without .json), a .json file, or a checkpoint: a folder with
 * open_clip_config.json or Hugging Face's config.json (its preprocessor_config.json is read too),
 * or a file of weights in such a folder. Exits with an error on anything unusable. */
void clip_config_load(ClipConfig *c, const char *name);
/* The JSON file next to a checkpoint's weights, malloc'd; NULL: none. */
char *clip_config_find(const char *checkpoint);
/* One JSON file, of either schema. */
bool clip_config_read(ClipConfig *c, const char *path, Error *err);
/* The same from memory, without a preprocessor_config.json. */
bool clip_config_parse(ClipConfig *c, const char *name, const char *json, size_t bytes, Error *err);
/* Only what a checkpoint's configuration says of the tokenizer and of its context, also of models
 * whose towers are not supported: the rest of *c is 0. Without a configuration all is. */
bool clip_config_read_tokenizer(ClipConfig *c, const char *checkpoint, Error *err);
/* The text of open_clip_config.json; malloc'd. */
char *clip_config_to_json(const ClipConfig *c);
void clip_config_free(ClipConfig *c);
/* Three floats as JSON, each by its shortest decimal: 0.48145467, not 0.48145467042922974. */
struct json_t *clip_config_triple(const float x[3]);
/* The text of a file of configuration, malloc'd; takes the reference. */
char *clip_config_text(struct json_t *root);
/* "GELU", for messages. */
const char *activation_name(Activation f);
/* Returns true if the image tower has batch normalisations. */
static inline bool clip_has_batch_norms(const ClipConfig *c) {
    return c->image.conv.kind || c->image.stem;
}
/* Tokens of the image tower without patch dropout: (S/P)², and the class token. */
size_t clip_image_tokens(const ClipConfig *c);
/* The most patches of a picture: (S/P)², or naflex's. */
size_t clip_most_patches(const ClipConfig *c);
