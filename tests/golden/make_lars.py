#!/usr/bin/env python3
"""Makes lars_steps.json and lars_image_features.npy in tests/golden/resnet with PyTorch in float64: ten training steps of the
small ResNet CLIP there by LARS, as SimCLR's (https://arxiv.org/abs/2002.05709), and the features after them. Needs
open_clip_torch, torch, pillow, numpy, safetensors."""
import gzip, json, os, sys
import numpy as np, torch, open_clip
from PIL import Image
from open_clip.loss import ClipLoss
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transform import image_transform
from safetensors.torch import load_file

from train_steps import train_ten


class Lars(torch.optim.Optimizer):
    """Groups with "scaled": a step is rate · 0.001 · |p| / |g + wd·p| times the gradient, with momentum."""

    def __init__(self, groups, lr): super().__init__(groups, {"lr": lr, "momentum": 0.9, "trust": 1e-3, "weight_decay": 0.0, "scaled": False})

    @torch.no_grad()
    def step(self):
        for g in self.param_groups:
            for p in g["params"]:
                if p.grad is None: continue
                d, ratio = p.grad + g["weight_decay"] * p, 1.0
                if g["scaled"] and p.norm() > 0 and d.norm() > 0: ratio = g["trust"] * p.norm() / d.norm()
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                m.mul_(g["momentum"]).add_(g["lr"] * ratio * d)
                p.sub_(m)


here = os.path.dirname(os.path.abspath(__file__))
pairs, golden = os.path.join(here, "openclip"), os.path.join(here, "resnet")
out = sys.argv[1] if len(sys.argv) > 1 else golden
torch.set_num_threads(1)

packed = os.path.join(out, "vocab.gz")
open(packed, "wb").write(gzip.compress(open(os.path.join(pairs, "vocab.txt"), "rb").read()))
tok = SimpleTokenizer(bpe_path=packed, context_length=21); os.remove(packed)
rows = [l.rstrip("\n").split("\t") for l in open(os.path.join(pairs, "pairs.tsv"))][1:]
config = json.load(open(os.path.join(golden, "open_clip_config.json")))
model = open_clip.CLIP(**config["model_cfg"]).float()
model.load_state_dict(load_file(os.path.join(golden, "open_clip_model.safetensors")), strict=False)
model.double()
for part in model.modules():  # the mask of causal attention is float32
    if isinstance(getattr(part, "attn_mask", None), torch.Tensor): part.attn_mask = part.attn_mask.double()
tf = image_transform(64, is_train=False, mean=config["preprocess_cfg"]["mean"], std=config["preprocess_cfg"]["std"])
images = torch.stack([tf(Image.open(os.path.join(pairs, a))) for a, _ in rows]).double(); tokens = tok([b for _, b in rows])

model.train()
log = train_ten(model, lambda i: ClipLoss()(*model(images[i:i + 8], tokens[i:i + 8])), lr=1.0,
                optimizer=lambda plain, decaying: Lars([{"params": plain}, {"params": decaying, "weight_decay": 1e-2, "scaled": True}], 1.0))
json.dump(log, open(os.path.join(out, "lars_steps.json"), "w"), indent=1)
model.eval()
with torch.no_grad(): np.save(os.path.join(out, "lars_image_features.npy"), model.encode_image(images, normalize=True).float().numpy())
print(open_clip.__version__, torch.__version__, log[0], log[-1])
