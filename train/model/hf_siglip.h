/* hf_siglip: config.json and preprocessor_config.json of transformers' SiglipModel (SigLIP and
 * SigLIP 2 at a fixed resolution) and Siglip2Model (SigLIP 2 with pictures of their own sizes,
 * "NaFlex") ↔ open_clip's schema. Source: transformers, configuration_siglip.py,
 * image_processing_siglip.py and those of siglip2 in models/. */
#pragma once
#include "train/model/config.h"

#include <jansson.h>

/* Positions of a text where config.json has no number. */
enum { HF_SIGLIP_CONTEXT = 64 };

bool hf_siglip_is(const json_t *root);
/* As hf_config_in. */
json_t *hf_siglip_in(const json_t *root, const json_t *preprocessor, Error *err);
/* Returns true if the model is one that SiglipModel or Siglip2Model computes. */
bool hf_siglip_fits(const ClipConfig *c);
/* As hf_config_out and hf_preprocessor_out, for a model that fits. */
char *hf_siglip_out(const ClipConfig *c, const char *dtype);
char *hf_siglip_preprocessor_out(const ClipConfig *c, Error *err);
