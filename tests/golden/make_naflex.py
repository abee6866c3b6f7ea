#!/usr/bin/env python3
"""Makes tests/golden/naflex/ with transformers, timm, open_clip 3.3.0 and PyTorch: one small SigLIP 2 whose pictures keep their
aspect ratio, as Siglip2Model's folder and as open_clip's with timm's NaFlexVit; its features of pictures and captions in float64,
the gradients of its loss, ten training steps, and the numbers of patches of many sizes of pictures. Needs open_clip_torch, timm,
transformers, torch, torchvision, safetensors, pillow, numpy; run make_siglip.py first, whose captions and tokenizer are used."""
import json, math, os, random, shutil, subprocess, sys
import numpy as np, torch, open_clip, timm
from PIL import Image
from open_clip.loss import SigLipLoss
from safetensors.torch import save_file
from timm.models import register_model
from timm.models.naflexvit import NaFlexVit, NaFlexVitCfg
from transformers import Siglip2Config, Siglip2Model
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil, get_image_size_for_max_num_patches

from train_steps import train_ten

here = os.path.dirname(os.path.abspath(__file__))
out = sys.argv[1] if len(sys.argv) > 1 else os.path.join(here, "naflex")
at = lambda *names: os.path.join(out, *names)
siglip = lambda *names: os.path.join(here, "siglip", *names)
for folder in ("open_clip", "hf"): os.makedirs(at(folder), exist_ok=True)
torch.manual_seed(11); torch.set_num_threads(1)
patch, most, side, context, end = 8, 20, 4, 24, 2

rows = [r.rstrip("\n").split("\t") for r in open(siglip("pairs.tsv"))][1:]
encoded = subprocess.run(["spm_encode", "--model=" + siglip("hf", "spiece.model"), "--output_format=id", siglip("captions.txt")],
                         check=True, capture_output=True, text=True).stdout
tokens = torch.tensor([([int(i) for i in line.split()] + [end] * context)[:context] for line in encoded.splitlines()])

hf = Siglip2Model(Siglip2Config(
    text_config=dict(vocab_size=64, hidden_size=24, intermediate_size=60, num_hidden_layers=2, num_attention_heads=3,
                     max_position_embeddings=context, projection_size=32, bos_token_id=1, eos_token_id=end, pad_token_id=end),
    vision_config=dict(hidden_size=32, intermediate_size=119, num_hidden_layers=2, num_attention_heads=2, num_patches=side * side,
                       patch_size=patch))).double()
with torch.no_grad():
    hf.logit_scale.fill_(math.log(10)); hf.logit_bias.fill_(-10)
    for n, p in hf.named_parameters():
        if "logit" in n: continue
        p.add_(torch.randn_like(p) * 0.05)
        if "position_embedding" in n: p.add_(torch.randn_like(p) * 0.3)
    for p in hf.parameters(): p.copy_(p.float())
processor = Siglip2ImageProcessorPil(patch_size=patch, max_num_patches=most)
seen = processor([Image.open(siglip(a)).convert("RGB") for a, _ in rows], return_tensors="pt")
pixels, mask, shapes = seen["pixel_values"].double(), seen["pixel_attention_mask"], seen["spatial_shapes"]
both = lambda i, n: hf(input_ids=tokens[i:i + n], pixel_values=pixels[i:i + n], pixel_attention_mask=mask[i:i + n],
                       spatial_shapes=shapes[i:i + n])
with torch.no_grad(): r = both(0, len(rows))
np.save(at("images.npy"), r.image_embeds.float().numpy()); np.save(at("texts.npy"), r.text_embeds.float().numpy())
float32 = lambda d: {k: v.float().contiguous() for k, v in d.items()}
hf.float().save_pretrained(at("hf")); hf.double()
json.dump({"image_processor_type": "Siglip2ImageProcessor", "do_resize": True, "resample": 2, "do_rescale": True, "rescale_factor": 1 / 255,
           "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "patch_size": patch, "max_num_patches": most},
          open(at("hf", "preprocessor_config.json"), "w"))


# the same model of open_clip and timm
@register_model
def naflexvit_siglip(pretrained=False, pretrained_cfg=None, pretrained_cfg_overlay=None, cache_dir=None, **kwargs):
    cfg = NaFlexVitCfg(patch_size=patch, embed_dim=32, depth=2, num_heads=2, mlp_ratio=119.5 / 32, act_layer="gelu_tanh", global_pool="map",
                       pos_embed_grid_size=(side, side), pos_embed_interp_mode="bilinear")
    kwargs.pop("img_size", None); kwargs.pop("global_pool", None)
    return NaFlexVit(cfg, **kwargs)


cfg = {"embed_dim": 32, "init_logit_bias": -10, "custom_text": True,
       "vision_cfg": {"image_size": side * patch, "timm_model_name": "naflexvit_siglip", "timm_model_pretrained": False, "timm_pool": "map",
                      "timm_proj": "none", "width": 32, "layers": 2, "head_width": 16, "mlp_ratio": 119.5 / 32, "patch_size": patch,
                      "act_kwargs": {"approximate": "tanh"}},
       "text_cfg": {"context_length": context, "vocab_size": 64, "hf_tokenizer_name": "naflexvit_siglip", "width": 24, "heads": 3, "layers": 2,
                    "mlp_ratio": 2.5, "no_causal_mask": True, "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6},
                    "act_kwargs": {"approximate": "tanh"}}}
pre = {"size": side * patch, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear", "resize_mode": "squash", "max_num_patches": most}
json.dump({"model_cfg": cfg, "preprocess_cfg": pre}, open(at("open_clip", "open_clip_config.json"), "w"), indent=1)
model = open_clip.CustomTextCLIP(**{k: v for k, v in cfg.items() if k != "custom_text"}, init_logit_scale=math.log(10)).double()
own, weights = model.state_dict(), {}
state = hf.state_dict()
for name in own:
    tower, rest = ("vision_model.", name[13:]) if name.startswith("visual.trunk.") else ("text_model.", name[5:])
    if name.startswith("logit"): weights[name] = state[name].reshape(own[name].shape); continue
    for a, b in (("transformer.resblocks.", "encoder.layers."), ("blocks.", "encoder.layers."), ("norm1", "layer_norm1"), ("norm2", "layer_norm2"),
                 ("ln_1", "layer_norm1"), ("ln_2", "layer_norm2"), ("attn.qkv.", "self_attn.QKV."), ("attn.in_proj_", "self_attn.QKV."),
                 ("attn.out_proj", "self_attn.out_proj"), ("attn.proj", "self_attn.out_proj"), ("embeds.proj", "embeddings.patch_embedding"),
                 ("embeds.pos_embed", "embeddings.position_embedding.weight"), ("positional_embedding", "embeddings.position_embedding.weight"),
                 ("token_embedding", "embeddings.token_embedding"), ("ln_final", "final_layer_norm"), ("attn_pool.latent", "head.probe"),
                 ("attn_pool.proj", "head.attention.out_proj"), ("attn_pool.norm", "head.layernorm"), ("attn_pool.mlp", "head.mlp"),
                 ("mlp.c_fc", "mlp.fc1"), ("mlp.c_proj", "mlp.fc2"), ("text_projection.", "head.")):
        rest = rest.replace(a, b)
    if rest.startswith("norm."): rest = "post_layer" + rest
    kind = rest.split(".")[-1]
    if "attn_pool.q." in rest or "attn_pool.kv." in rest:
        whole = state[tower + "head.attention.in_proj_" + kind]
        weights[name] = whole[:32] if "attn_pool.q." in rest else whole[32:]
    elif "QKV" in rest: weights[name] = torch.cat([state[tower + rest.replace("QKV", p + "_proj")] for p in "qkv"])
    else: weights[name] = state[tower + rest].reshape(own[name].shape)
model.load_state_dict(weights)
save_file(float32(model.state_dict()), at("open_clip", "open_clip_model.safetensors"))

# pictures as squares, which open_clip makes of them: the same features
squares = [Image.open(siglip(a)).convert("RGB").resize((side * patch, side * patch), Image.BILINEAR) for a, _ in rows]
flat = processor(squares, return_tensors="pt", do_resize=False, max_num_patches=side * side)
as_pictures = torch.stack([torch.from_numpy(np.array(s)).permute(2, 0, 1).double() / 255 * 2 - 1 for s in squares])
with torch.no_grad():
    a = hf(input_ids=tokens, pixel_values=flat["pixel_values"].double(), pixel_attention_mask=flat["pixel_attention_mask"],
           spatial_shapes=flat["spatial_shapes"]).image_embeds
    b = model.encode_image(as_pictures, normalize=True)
    t = model.encode_text(tokens, normalize=True)
print("transformers - open_clip:", (a - b).abs().max().item(), (r.text_embeds - t).abs().max().item())
for folder in ("open_clip", "hf"):
    shutil.copy(siglip("hf", "spiece.model"), at(folder, "spiece.model"))
    shutil.copy(siglip("hf", "tokenizer_config.json"), at(folder, "tokenizer_config.json"))

# sizes of pictures, the size of a patch, the most of them → patches by height and width
random.seed(3); sizes = [(1, 1, 16, 256), (1, 5000, 16, 256), (5000, 1, 16, 256), (640, 480, 16, 256), (3, 4, 14, 1), (70000, 2, 8, 20)]
for _ in range(600):
    sizes.append((int(math.exp(random.uniform(0, 9))), int(math.exp(random.uniform(0, 9))), random.choice((8, 14, 16, 32)),
                  random.choice((1, 2, 7, 20, 64, 128, 256, 256, 576, 1024))))
with open(at("shapes.txt"), "w") as f:
    for h, w, p, n in sizes:
        y, x = get_image_size_for_max_num_patches(h, w, p, n)
        f.write(f"{h} {w} {p} {n} {y // p} {x // p}\n")

# gradients of the first eight pairs, of pixels as bytes; then ten steps
def loss_of(i):
    q = both(i, 8)
    return SigLipLoss()(q.image_embeds, q.text_embeds, hf.logit_scale.exp(), logit_bias=hf.logit_bias)
loss = loss_of(0); loss.backward()
bytes_of = torch.round((pixels[:8] + 1) * 127.5)
assert ((bytes_of / 127.5 - 1 - pixels[:8]).abs() < 1e-6)[mask[:8] > 0].all()
save_file(float32({n: p.grad for n, p in hf.named_parameters()}), at("gradients.safetensors"))
save_file(float32({"pixels": bytes_of * mask[:8, :, None], "shapes": shapes[:8], "ids": tokens[:8], "loss": loss.detach().reshape(1)}),
          at("batch.safetensors"))
json.dump(train_ten(hf, loss_of), open(at("steps.json"), "w"), indent=1)
log = json.load(open(at("steps.json")))
print(shapes.tolist()); print(open_clip.__version__, timm.__version__, torch.__version__, sum(p.numel() for p in hf.parameters()), log[0], log[-1])
