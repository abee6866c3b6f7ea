#include "train/model/families.h"

#include <string.h>

/* The first row that matches names the family. part: of the value; NULL: any value. */
static const struct {
    const char *field, *part, *family;
} rows[] = {
    {"timm_model_name", "convnext", "ConvNeXt image towers"},
    {"timm_model_name", "vitamin_", "ViTamin image towers"},
    {"timm_model_name", "fastvit_", "MobileCLIP's FastViT image towers"},
    {"timm_model_name", "siglip", "SigLIP image towers"},
    {"timm_model_name", "eva02_", "EVA-02 image towers"},
    {"timm_model_name", "eva_", "EVA-01 image towers"},
    {"timm_model_name", "vit_pe_", "PE-Core image towers"},
    {"timm_model_name", "swin", "Swin image towers"},
    {"timm_model_name", "relpos", "ViTs with relative positions"},
    {"timm_model_name", NULL, "timm's image towers"},
    {"hf_model_name", "xlm-roberta", "XLM-RoBERTa text towers"},
    {"hf_model_name", "roberta", "RoBERTa text towers"},
    {"hf_model_name", "nllb", "NLLB text towers"},
    {"hf_model_name", "mt5", "mT5 text towers"},
    {"hf_model_name", NULL, "Hugging Face's text towers"},
    {"attentional_pool", NULL, "CoCa models"},
    {"embed_cls", NULL, "CoCa models"},
    {"multimodal_cfg", NULL, "CoCa models"},
};

const char *family_of(const char *field, const char *value) {
    for (size_t i = 0; i < COUNT(rows); i++)
        if (!strcmp(field, rows[i].field) &&
            (!rows[i].part || (value && strstr(value, rows[i].part))))
            return rows[i].family;
    return NULL;
}
