/* config_resnet: the fields of an image tower that is a ResNet. */
#pragma once
#include "train/model/config.h"

struct json_t;
/* Returns true if vision_cfg describes a ResNet: open_clip's list of layers, or the name of one of
 * torchvision's in timm. */
bool resnet_config_is(const struct json_t *vision_cfg);
/* Fills c->image and removes the fields that it reads. The image size must be known. *field: the
 * one that is wrong. */
bool resnet_config_read(ClipConfig *c, struct json_t *vision_cfg, const char **field, Error *err);
