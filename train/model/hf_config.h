/* hf_config: Hugging Face's config.json and preprocessor_config.json of a CLIPModel (or by
 * hf_siglip of a SiglipModel) ↔ open_clip's schema, which this program uses internally. Source:
 * transformers, models/clip/configuration_clip.py and image_processing_clip.py. */
#pragma once
#include "train/model/config.h"

#include <jansson.h>

bool hf_config_is(const json_t *root);
/* {"model_cfg": …, "preprocess_cfg": …}; preprocessor NULL: CLIP's own. NULL: err names the feature
 * that this program does not support. */
json_t *hf_config_in(const json_t *root, const json_t *preprocessor, Error *err);
/* The texts of config.json (dtype: "float32", "float16", "bfloat16") and preprocessor_config.json;
 * malloc'd. NULL: err names the feature that CLIPModel does not support. */
char *hf_config_out(const ClipConfig *c, const char *dtype, Error *err);
char *hf_preprocessor_out(const ClipConfig *c, Error *err);
