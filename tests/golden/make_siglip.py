#!/usr/bin/env python3
"""Makes tests/golden/siglip/ with open_clip 3.3.0, timm, transformers and PyTorch: one small SigLIP as open_clip's folder and as
SiglipModel's, its features of pictures and captions in float64, the gradients of its loss, and ten training steps. Needs
open_clip_torch, timm, transformers, torch, safetensors, pillow, numpy, and the programs of the package sentencepiece."""
import json, math, os, shutil, subprocess, sys
import numpy as np, torch, open_clip, timm
from PIL import Image
from open_clip.loss import SigLipLoss
from open_clip.transform import image_transform_v2, PreprocessCfg
from safetensors.torch import save_file
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer
from transformers import SiglipConfig, SiglipModel

from train_steps import train_ten

here = os.path.dirname(os.path.abspath(__file__))
out = sys.argv[1] if len(sys.argv) > 1 else os.path.join(here, "siglip")
at = lambda *names: os.path.join(out, *names)
for folder in ("open_clip", "hf"): os.makedirs(at(folder), exist_ok=True)
torch.manual_seed(7); torch.set_num_threads(1)
image = {"width": 32, "layers": 2, "head_width": 16, "mlp_ratio": 3.7362, "patch_size": 8}


@register_model
def vit_siglip(pretrained=False, pretrained_cfg=None, pretrained_cfg_overlay=None, cache_dir=None, **kwargs):
    return VisionTransformer(img_size=36, patch_size=8, embed_dim=32, depth=2, num_heads=2, mlp_ratio=3.7362, class_token=False,
                             act_layer="gelu_tanh", **kwargs)


# the vocabulary and the captions, which SiglipTokenizer would not clean
rows = [r.rstrip("\n").split("\t") for r in open(os.path.join(here, "openclip", "pairs.tsv"))][1:]
captions = [c.lower().replace(".", "") for _, c in rows]
open(at("pairs.tsv"), "w").write("filepath\ttitle\n" + "".join(f"../openclip/{a}\t{c}\n" for (a, _), c in zip(rows, captions)))
open(at("captions.txt"), "w").write("".join(c + "\n" for c in captions))
subprocess.run(["spm_train", "--input=" + at("captions.txt"), "--model_prefix=" + at("spiece"), "--vocab_size=63",
                "--hard_vocab_limit=false", "--normalization_rule_name=identity", "--minloglevel=2"], check=True)
os.remove(at("spiece.vocab"))
encoded = subprocess.run(["spm_encode", "--model=" + at("spiece.model"), "--output_format=id", at("captions.txt")], check=True,
                         capture_output=True, text=True).stdout
end, context = 2, 24
tokens = torch.tensor([([int(i) for i in line.split()] + [end] * context)[:context] for line in encoded.splitlines()])
assert (tokens[:, -1] == end).all()

cfg = {"embed_dim": 32, "init_logit_bias": -10, "custom_text": True,
       "vision_cfg": {"image_size": 36, "timm_model_name": "vit_siglip", "timm_model_pretrained": False, "timm_pool": "map",
                      "timm_proj": "none", "act_kwargs": {"approximate": "tanh"}, **image},
       "text_cfg": {"context_length": context, "vocab_size": 64, "hf_tokenizer_name": "vit_siglip",
                    "tokenizer_kwargs": {"clean": "canonicalize"}, "width": 24, "heads": 3, "layers": 2, "mlp_ratio": 2.5,
                    "no_causal_mask": True, "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6},
                    "act_kwargs": {"approximate": "tanh"}}}
pre = {"size": 36, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
model = open_clip.CustomTextCLIP(**{k: v for k, v in cfg.items() if k != "custom_text"}, init_logit_scale=math.log(10)).double()
with torch.no_grad():
    for n, p in model.named_parameters():
        if "logit" not in n: p.add_(torch.randn_like(p) * 0.05)
    for p in model.parameters(): p.copy_(p.float())
float32 = lambda d: {k: v.float().contiguous() for k, v in d.items()}
save_file(float32(model.state_dict()), at("open_clip", "open_clip_model.safetensors"))
json.dump({"model_cfg": cfg, "preprocess_cfg": pre}, open(at("open_clip", "open_clip_config.json"), "w"), indent=1)

tf = image_transform_v2(PreprocessCfg(**pre), is_train=False)
images = torch.stack([tf(Image.open(os.path.join(here, "openclip", a)).convert("RGB")) for a, _ in rows]).double()
with torch.no_grad():
    f, t = model.encode_image(images, normalize=True), model.encode_text(tokens, normalize=True)
np.save(at("images.npy"), f.float().numpy()); np.save(at("texts.npy"), t.float().numpy())

# the same model of transformers
hf = SiglipModel(SiglipConfig(
    text_config=dict(vocab_size=64, hidden_size=24, intermediate_size=60, num_hidden_layers=2, num_attention_heads=3,
                     max_position_embeddings=context, projection_size=32, bos_token_id=1, eos_token_id=end, pad_token_id=end),
    vision_config=dict(hidden_size=32, intermediate_size=119, num_hidden_layers=2, num_attention_heads=2, image_size=36,
                       patch_size=8))).double()
own = model.state_dict(); renamed = {}
for name in hf.state_dict():
    tower, rest = ("visual.trunk.", name[13:]) if name.startswith("vision_model.") else ("text.", name[11:])
    timm_tower = tower == "visual.trunk."
    block = "blocks." if timm_tower else "transformer.resblocks."
    for a, b in (("encoder.layers.", block), ("layer_norm1", "norm1" if timm_tower else "ln_1"), ("layer_norm2", "norm2" if timm_tower else "ln_2"),
                 ("self_attn.out_proj", "attn.proj" if timm_tower else "attn.out_proj"), ("embeddings.patch_embedding", "patch_embed.proj"),
                 ("embeddings.position_embedding.weight", "pos_embed" if timm_tower else "positional_embedding"),
                 ("embeddings.token_embedding", "token_embedding"), ("post_layernorm", "norm"), ("final_layer_norm", "ln_final"),
                 ("head.probe", "attn_pool.latent"), ("head.attention.out_proj", "attn_pool.proj"), ("head.layernorm", "attn_pool.norm"),
                 ("head.mlp", "attn_pool.mlp")):
        rest = rest.replace(a, b)
    if not timm_tower: rest = rest.replace("mlp.fc1", "mlp.c_fc").replace("mlp.fc2", "mlp.c_proj").replace("head.", "text_projection.")
    if name.startswith("logit"): renamed[name] = own[name].reshape(1); continue
    for i, part in enumerate(("q_proj", "k_proj", "v_proj")):
        if part in rest:
            whole = rest.replace("self_attn." + part + ".", "attn.qkv." if timm_tower else "attn.in_proj_")
            renamed[name] = own[tower + whole].chunk(3)[i]
    if "head.attention.in_proj_" in rest:
        kind = rest.split("_")[-1]
        renamed[name] = torch.cat([own[tower + "attn_pool.q." + kind], own[tower + "attn_pool.kv." + kind]])
    if name not in renamed: renamed[name] = own[tower + rest].reshape(hf.state_dict()[name].shape)
hf.load_state_dict(renamed)
with torch.no_grad(): r = hf(input_ids=tokens, pixel_values=images)
print("transformers - open_clip:", (r.image_embeds - f).abs().max().item(), (r.text_embeds - t).abs().max().item())
hf.float().save_pretrained(at("hf"))
json.dump({"image_processor_type": "SiglipImageProcessor", "do_resize": True, "size": {"height": 36, "width": 36}, "resample": 3,
           "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
          open(at("hf", "preprocessor_config.json"), "w"))
for folder in ("open_clip", "hf"):
    shutil.copy(at("spiece.model"), at(folder, "spiece.model"))
    json.dump({"tokenizer_class": "SiglipTokenizer", "eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>",
               "model_max_length": context}, open(at(folder, "tokenizer_config.json"), "w"))
os.remove(at("spiece.model"))

# gradients of the first eight pairs, then ten steps
loss_of = lambda i: SigLipLoss()(*[x[k] for x, k in ((model(images[i:i + 8], tokens[i:i + 8]), k) for k in (0, 1, 2))],
                                 logit_bias=model.logit_bias)
loss_of(0).backward()
save_file(float32({n: p.grad for n, p in model.named_parameters()} | {"pixels": images[:8], "ids": tokens[:8]}),
          at("gradients.safetensors"))
log = train_ten(model, loss_of)
json.dump(log, open(at("steps.json"), "w"), indent=1)
print(open_clip.__version__, timm.__version__, torch.__version__, sum(p.numel() for p in model.parameters()), "parameters;", log[0], log[-1])
