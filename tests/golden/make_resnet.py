#!/usr/bin/env python3
"""Makes tests/golden/resnet/ with open_clip 3.3.0 and PyTorch: a small CLIP whose image tower is a ModifiedResNet, its features
of the pictures and captions in tests/golden/openclip, and ten of open_clip's training steps. Needs open_clip_torch, torch,
pillow, numpy, safetensors."""
import gzip, json, os, sys
import numpy as np, torch, open_clip
from PIL import Image
from open_clip.loss import ClipLoss
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transform import image_transform
from safetensors.torch import save_file

from train_steps import train_ten

here = os.path.dirname(os.path.abspath(__file__))
pairs = os.path.join(here, "openclip")
out = sys.argv[1] if len(sys.argv) > 1 else os.path.join(here, "resnet")
os.makedirs(out, exist_ok=True)
at = lambda name: os.path.join(out, name)
torch.manual_seed(7); torch.set_num_threads(1)

packed = at("vocab.gz")
open(packed, "wb").write(gzip.compress(open(os.path.join(pairs, "vocab.txt"), "rb").read()))
tok = SimpleTokenizer(bpe_path=packed, context_length=21); os.remove(packed)
rows = [l.rstrip("\n").split("\t") for l in open(os.path.join(pairs, "pairs.tsv"))][1:]

cfg = {"embed_dim": 24,
       "vision_cfg": {"image_size": 64, "layers": [1, 2, 1, 1], "width": 2, "head_width": 16},
       "text_cfg": {"context_length": 21, "vocab_size": len(tok.encoder), "width": 32, "heads": 2, "layers": 1}}
model = open_clip.CLIP(**cfg).float()
with torch.no_grad():
    for n, p in model.named_parameters():
        if p.ndim == 1: p.add_(torch.randn_like(p) * 0.1)
    for n, b in model.named_buffers():  # running statistics of another set of pictures
        if n.endswith("running_mean"): b.add_(torch.randn_like(b) * 0.1)
        if n.endswith("running_var"): b.mul_(torch.rand_like(b) + 0.5)
save = lambda name: save_file({k: v.contiguous() for k, v in model.state_dict().items() if k != "attn_mask"}, at(name))
save("open_clip_model.safetensors")
mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
json.dump({"model_cfg": cfg, "preprocess_cfg": {"mean": list(mean), "std": list(std), "interpolation": "bicubic", "resize_mode": "shortest"}},
          open(at("open_clip_config.json"), "w"), indent=2)
tf = image_transform(64, is_train=False, mean=mean, std=std)
images = torch.stack([tf(Image.open(os.path.join(pairs, a))) for a, _ in rows]); tokens = tok([b for _, b in rows])
model.eval()
with torch.no_grad(): np.save(at("image_features.npy"), model.encode_image(images, normalize=True).numpy())

model.train()
log = train_ten(model, lambda i: ClipLoss()(*model(images[i:i + 8], tokens[i:i + 8])))
json.dump(log, open(at("steps.json"), "w"), indent=1)
model.eval()  # with the running statistics of ten batches
with torch.no_grad(): np.save(at("trained_image_features.npy"), model.encode_image(images, normalize=True).numpy())
print(open_clip.__version__, torch.__version__, sum(p.numel() for p in model.parameters()), "parameters;", log[0], log[-1])
