/* augment: an RGB picture → the S×S u8 picture the model sees. Source: open_clip 3.3.0,
 * open_clip/transform.py; docs/NUMERICS.md, Image transforms. */
#pragma once
#include "data/image/image.h"
#include "data/image/resize.h"

#define RESIZE_MODES(X)                                                                            \
    X(RESIZE_SHORTEST, "shortest") X(RESIZE_LONGEST, "longest") X(RESIZE_SQUASH, "squash")
typedef enum { RESIZE_MODES(CHOICE_NAME) } ResizeMode;

typedef struct Transform {
    int size; /* S */
    /* max_patches > 0: instead, the picture with its aspect ratio, in at most so many patches of
     * patch_size² pixels */
    int patch_size, max_patches;
    bool train;
    ResizeMode resize_mode; /* eval only */
    Interpolation interpolation;
    uint8_t fill[3];           /* padding of RESIZE_LONGEST */
    double scale[2], ratio[2]; /* train: RandomResizedCrop; (0.9, 1), (3/4, 4/3) */
    bool jpeg_scale;           /* train: a JPEG picture whose crop is at least twice as wide and
                                  high as S is decoded to half of its size, or to less */
    double jitter[4], jitter_prob,
        gray_prob;               /* train: brightness, contrast, saturation, hue; 0: off */
    double flip_prob, blur_prob; /* train: mirrored; torchvision's GaussianBlur, last */
    double blur_sigma[2];        /* pixels; its kernel has about S/10 rows */
    float mean[3], std[3];       /* for callers that normalise afterwards */
} Transform;

/* open_clip's defaults for image size S. */
Transform transform_default(int size, bool train);

/* out: [S,S,3]. All randomness is a function of `seed` (mix of run seed, epoch and sample): draw i
 * is number i of (seed, RNG_AUGMENT); augment.c numbers them. Thread-safe. */
typedef struct TransformScratch
    TransformScratch; /* one for each thread; the pointer starts as NULL, memory grows on demand */
void transform_apply(uint8_t *out, const Image *img, const Transform *t, uint64_t seed,
                     TransformScratch **scratch);
/* With t->max_patches: the patches of a picture by height and width, the most that are possible at
 * one scale, with both sides rounded up to whole patches (transformers,
 * image_processing_siglip2.py). */
void transform_shape(int32_t shape[2], int width, int height, const Transform *t);
/* out: [n,P,P,3], the picture's n = shape[0]·shape[1] patches in row-major order. In training they
 * are those of a crop, whose aspect ratio is the picture's times one drawn from t->ratio; without
 * blur. */
void transform_patches(uint8_t *out, int32_t shape[2], const Image *img, const Transform *t,
                       uint64_t seed, TransformScratch **scratch);
/* image_decode of a picture that transform_apply is given with the same t and seed; with
 * t->jpeg_scale it may be shrunk. */
bool transform_decode(Image *img, const uint8_t *bytes, size_t size, size_t max_pixels,
                      const Transform *t, uint64_t seed, Error *err);
/* [S,S,3] → float [3,S,S]: (u8 / 255 - mean) / std, each step rounded as PyTorch does. */
void transform_normalise(float *out, const uint8_t *rgb, const Transform *t);
void transform_scratch_free(TransformScratch **scratch);
