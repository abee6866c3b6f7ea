#!/usr/bin/env python3
"""Makes tests/golden/formats/towers/ with open_clip 3.3.0 and PyTorch: a small model whose towers differ from CLIP's in all
that is supported, and its features of the pictures and captions that make_formats.py uses. Needs open_clip_torch, torch,
safetensors, pillow, numpy."""
import gzip, json, os, sys
import numpy as np, torch, open_clip
from PIL import Image
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transform import image_transform
from safetensors.torch import save_file

here = os.path.dirname(os.path.abspath(__file__))
formats = os.path.join(here, "formats")
out = sys.argv[1] if len(sys.argv) > 1 else os.path.join(formats, "towers")
os.makedirs(out, exist_ok=True)
at = lambda name: os.path.join(out, name)
torch.manual_seed(11)

tower = {"layers": 2, "act_kwargs": {"approximate": "tanh"}}
cfg = {"embed_dim": 6, "custom_text": True,
       "vision_cfg": {**tower, "image_size": 8, "width": 8, "head_width": 4, "patch_size": 4, "no_ln_pre": True, "pool_type": "avg",
                      "final_ln_after_pool": True, "norm_kwargs": {"eps": 1e-3}},
       "text_cfg": {**tower, "context_length": 12, "vocab_size": 515, "width": 4, "heads": 2, "no_causal_mask": True, "pool_type": "last",
                    "proj_bias": True, "norm_kwargs": {"eps": 2e-3}}}
json.dump({"model_cfg": cfg, "preprocess_cfg": {"size": 8}}, open(at("open_clip_config.json"), "w"))
model = open_clip.CustomTextCLIP(**{k: v for k, v in cfg.items() if k != "custom_text"}).eval()
with torch.no_grad():
    for p in model.parameters(): p.add_(torch.randn_like(p) * 0.3)
save_file({k: v.contiguous() for k, v in model.state_dict().items()}, at("open_clip_model.safetensors"))

packed = at("vocab.gz")
open(packed, "wb").write(gzip.compress(open(os.path.join(formats, "vocab.txt"), "rb").read()))
captions = open(os.path.join(formats, "captions.txt")).read().split("\n")[:-1]
tokens = SimpleTokenizer(bpe_path=packed, context_length=12)(captions)
os.remove(packed)
tf = image_transform(8, is_train=False, mean=open_clip.OPENAI_DATASET_MEAN, std=open_clip.OPENAI_DATASET_STD)
images = torch.stack([tf(Image.open(os.path.join(here, "openclip", f"0{i}.jpg"))) for i in range(3)])
with torch.no_grad():
    np.save(at("images.npy"), model.encode_image(images, normalize=True).numpy())
    np.save(at("texts.npy"), model.encode_text(tokens, normalize=True).numpy())
print(open_clip.__version__, torch.__version__, [(k, tuple(v.shape)) for k, v in model.state_dict().items() if "proj" in k and "attn" not in k and "mlp" not in k])
