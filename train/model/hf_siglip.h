/* hf_siglip: config.json and preprocessor_config.json of transformers' SiglipModel (SigLIP and
 * SigLIP 2 at a fixed resolution) ↔ open_clip's schema. Source: transformers,
 * models/siglip/configuration_siglip.py and image_processing_siglip.py. */
#pragma once
#include "train/model/config.h"

#include <jansson.h>

/* Positions of a text where config.json has no number. */
enum { HF_SIGLIP_CONTEXT = 64 };

bool hf_siglip_is(const json_t *root);
/* As hf_config_in. */
json_t *hf_siglip_in(const json_t *root, const json_t *preprocessor, Error *err);
/* Returns true if the model is one that SiglipModel computes. */
bool hf_siglip_fits(const ClipConfig *c);
/* As hf_config_out and hf_preprocessor_out, for a model that fits. */
char *hf_siglip_out(const ClipConfig *c, const char *dtype);
char *hf_siglip_preprocessor_out(const ClipConfig *c, Error *err);
