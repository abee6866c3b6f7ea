/* encoder: a checkpoint opened for inference: pictures and captions → L2-normalised features in
 * host memory. */
#pragma once
#include "data/image/image.h"
#include "data/dataset.h"
#include "kernels/kernels.h"
#include "data/text/tokenizer.h"
#include "train/model/uploads.h"

/* The towers to open. */
#define OPEN_TOWERS(X)                                                                             \
    X(OPEN_NEEDED, "auto") X(OPEN_BOTH, "both") X(OPEN_IMAGE, "image") X(OPEN_TEXT, "text")
typedef enum { OPEN_TOWERS(CHOICE_NAME) } OpenTowers;

typedef struct EncoderOptions {
    const char *checkpoint; /* folder or file of any format, or a run (train/model/pretrained.h) */
    const char *model;      /* architecture if the checkpoint has none; else NULL */
    const char *vocab;      /* NULL: the checkpoint's, else CLIP's own */
    DeviceOption device;
    Precision precision;
    int64_t batch_size;
    OpenTowers towers;        /* one that is not open takes no memory */
    bool no_images, no_texts; /* that are computed: OPEN_NEEDED does not open what computes them */
    bool tokens;              /* encoder_images gives patches instead of features */
    int64_t
        layer; /* of which block's output, from 1; 0: of the last one after the final LayerNorm */
    const struct ModelId *must_be; /* NULL: any model */
} EncoderOptions;

/* The model that made something: its encoder_identity and encoder_checksum ("": not known). of,
 * checkpoint: what it made and where it was, for messages. */
typedef struct ModelId {
    const char *of, *checkpoint, *identity, *checksum;
} ModelId;

typedef struct Encoder Encoder;
/* Exits with an error. A model that is not o->must_be is refused as early as it shows: by its
 * configuration, by the weights file's stored checksum, and before anything is computed. */
Encoder *encoder_open(const EncoderOptions *o);
/* An encoder over a model that the caller owns: uses its uploads and the given vocabulary
 * (NULL: for pictures alone). */
Encoder *encoder_of_model(const Kernels *k, const ClipConfig *c, Params *p, Uploads *uploads,
                          const Tokenizer *tokenizer, size_t batch);
void encoder_close(Encoder *e);
const char *encoder_checkpoint(const Encoder *e); /* that was opened: of a run, one in it */
const Kernels *encoder_kernels(const Encoder *e);
const ClipConfig *encoder_config(const Encoder *e);
/* The weights in use. After a change encoder_identity is still that of the checkpoint. */
Params *encoder_params(Encoder *e);
size_t encoder_dim(const Encoder *e);         /* E; of patches n·C */
size_t encoder_patches(const Encoder *e);     /* n of a picture; 0: features */
size_t encoder_batch(const Encoder *e);       /* samples computed at once */
double encoder_logit_scale(const Encoder *e); /* exponentiated */
double encoder_logit_bias(const Encoder *e);  /* of a model trained with SigLIP's loss, else 0 */

/* Identifies the model by 16 hexadecimal digits: a checksum of the weights that features depend on,
 * and one of architecture and preprocessing. The identity reads all weights and is the same for the
 * same model in another format. The checksum uses the checkpoint file's stored checksum in place of
 * the weights' and is "" if there is none. */
const char *encoder_identity(Encoder *e);
const char *encoder_checksum(const Encoder *e);
/* Identifies the tokenizer, which is loaded if it is not yet. */
uint64_t encoder_tokenizer(Encoder *e);
/* Returns true if this is the model of that identity and checksum ("": not known). */
bool encoder_is(Encoder *e, const char *identity, const char *checksum);

/* out[n,E]. sizes: bytes of each; NULL: the texts end in 0. */
void encoder_texts(Encoder *e, const char *const *texts, const size_t *sizes, size_t n, float *out);

/* Fetches picture i; called from several threads. False: err has the reason, or is empty if it has
 * been logged. */
typedef bool ImageFetch(void *context, size_t i, Image *img, Error *err);
/* out[n,E], ok[n]: unreadable pictures are logged, get ok = false and a row of zeros. Returns
 * how many are ok. With EncoderOptions.tokens out[n,patches·C]: neither the class token nor
 * normalised. */
size_t encoder_images(Encoder *e, ImageFetch *fetch, void *context, size_t n, float *out, bool *ok);
