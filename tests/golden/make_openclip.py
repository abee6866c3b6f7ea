#!/usr/bin/env python3
"""Makes tests/golden/openclip/ with open_clip 3.3.0 and PyTorch: a small model of odd sizes, JPEG pictures with captions, their
features in open_clip, and ten of its training steps. Needs open_clip_torch, torch, pillow, numpy, safetensors."""
import collections, gzip, io, json, os, random, sys
import numpy as np, torch, open_clip
from PIL import Image, ImageDraw
from open_clip.loss import ClipLoss
from open_clip.tokenizer import SimpleTokenizer, bytes_to_unicode
from open_clip.transform import image_transform
from safetensors.torch import save_file

from train_steps import train_ten

out = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "openclip")
os.makedirs(out, exist_ok=True)
random.seed(5); torch.manual_seed(5); torch.set_num_threads(1)

# pictures and captions
colours = "red green blue yellow black white orange purple".split()
shapes = ["circle", "square", "stripe"]
rows = []
for i, (c, s) in enumerate((c, s) for c in colours for s in shapes):
    w, h = random.randrange(37, 90), random.randrange(37, 90)
    im = Image.new("RGB", (w, h), (200, 205, 210)); d = ImageDraw.Draw(im)
    x, y, r = w // 2, h // 2, min(w, h) // 3
    if s == "circle": d.ellipse((x - r, y - r, x + r, y + r), fill=c)
    elif s == "square": d.rectangle((x - r, y - r, x + r, y + r), fill=c)
    else: d.rectangle((0, y - r // 2, w, y + r // 2), fill=c)
    name = f"{i:02d}.jpg"; im.save(os.path.join(out, name), quality=85)
    rows.append((name, random.choice(["a {c} {s}", "The {c} {s} on grey.", "a picture of a {c} {s}"]).format(c=c, s=s)))
open(os.path.join(out, "pairs.tsv"), "w").write("filepath\ttitle\n" + "".join(f"{a}\t{b}\n" for a, b in rows))
captions = [b for _, b in rows]

# a vocabulary of CLIP's format with a few merges
byte = bytes_to_unicode(); words = collections.Counter()
for c in captions:
    for w in c.lower().replace(".", " .").split():
        s = [byte[b] for b in w.encode()]; s[-1] += "</w>"; words[tuple(s)] += 1
merges = []
while len(merges) < 60:
    pairs = collections.Counter()
    for w, n in words.items():
        for p in zip(w, w[1:]): pairs[p] += n
    if not pairs: break
    best = max(sorted(pairs), key=lambda p: pairs[p]); merges.append(best); new = collections.Counter()
    for w, n in words.items():
        o, i = [], 0
        while i < len(w):
            if w[i:i + 2] == best: o.append(w[i] + w[i + 1]); i += 2
            else: o.append(w[i]); i += 1
        new[tuple(o)] += n
    words = new
vocab = os.path.join(out, "vocab.txt")
text = "#version: small\n" + "".join(f"{a} {b}\n" for a, b in merges)
open(vocab, "w").write(text)
gz = io.BytesIO()
with gzip.GzipFile(fileobj=gz, mode="wb", mtime=0) as f: f.write(text.encode())
tmp = vocab + ".gz"; open(tmp, "wb").write(gz.getvalue())
tok = SimpleTokenizer(bpe_path=tmp, context_length=21); os.remove(tmp)

# the model
cfg = {"embed_dim": 40,
       "vision_cfg": {"image_size": 40, "layers": 2, "width": 48, "head_width": 24, "mlp_ratio": 4.3637, "patch_size": 8},
       "text_cfg": {"context_length": 21, "vocab_size": len(tok.encoder), "width": 64, "heads": 4, "layers": 2}}
model = open_clip.CLIP(**cfg).float()
with torch.no_grad():
    for n, p in model.named_parameters():
        if p.ndim == 1: p.add_(torch.randn_like(p) * 0.05)   # biases and LayerNorms away from 0 and 1
save_file({k: v.contiguous() for k, v in model.state_dict().items() if k != "attn_mask"}, os.path.join(out, "open_clip_model.safetensors"))
mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
json.dump({"model_cfg": cfg, "preprocess_cfg": {"mean": list(mean), "std": list(std), "interpolation": "bicubic", "resize_mode": "shortest"}},
          open(os.path.join(out, "open_clip_config.json"), "w"), indent=2)
tf = image_transform(40, is_train=False, mean=mean, std=std)
images = torch.stack([tf(Image.open(os.path.join(out, a))) for a, _ in rows]); tokens = tok(captions)
with torch.no_grad():
    np.save(os.path.join(out, "image_features.npy"), model.encode_image(images, normalize=True).numpy())
    np.save(os.path.join(out, "text_features.npy"), model.encode_text(tokens, normalize=True).numpy())

log = train_ten(model, lambda i: ClipLoss()(*model(images[i:i + 8], tokens[i:i + 8])))
json.dump(log, open(os.path.join(out, "steps.json"), "w"), indent=1)
with torch.no_grad():
    np.save(os.path.join(out, "trained_image_features.npy"), model.encode_image(images, normalize=True).numpy())
print(open_clip.__version__, torch.__version__, sum(p.numel() for p in model.parameters()), "parameters;", log[0], log[-1])
