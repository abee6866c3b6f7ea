/* params_resnet: the blocks of a ResNet (or the convolutional stem of a ViT) and its tensors, with
 * the names of open_clip (CONV_MODIFIED) or of torchvision's ResNets in timm, as open_clip has
 * them. */
#pragma once
#include "train/model/params.h"

enum {
    BLOCK_CONVS = 3,
    CONV_PLACES
}; /* convolutions of the longest block; and the one beside it */

/* One convolution with its batch normalisation. */
typedef struct ConvShape {
    size_t in, out, side, stride, pad; /* side 0: absent */
} ConvShape;
typedef struct ResnetBlock {
    size_t stage, index; /* from 0 */
    size_t count;        /* of convolutions, without the one beside */
    size_t pool;         /* CONV_MODIFIED: means of pool × pool pixels before the last convolution
                            and before the one beside; 1: none */
    ConvShape conv[CONV_PLACES]; /* 1, 2, 3, beside */
} ResnetBlock;
/* Block i of all; i = SIZE_MAX: the stem. */
ResnetBlock resnet_block(const ConvNet *net, size_t i);

/* A ViT's convolutional stem: 4×4, 2×2 and 2×2 windows, each beside the next. */
enum { STEM_CONVS = 3, STEM_PATCH = 16 };
/* Convolution i of the stem. */
ConvShape stem_conv(const TowerConfig *t, size_t i);
/* Adds the stem's tensors in layer 0: stem.convK, stem.bnK. */
void params_add_stem(Params *p, const TowerConfig *t);

/* Adds the image tower's tensors: the stem in layer 0, blocks in 1 … L, the head in L + 1. */
void params_add_resnet(Params *p, const ClipConfig *c);
