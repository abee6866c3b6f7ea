#!/usr/bin/env python3
"""Makes tests/golden/zeroshot/ with open_clip 3.3.0: of the model and pictures of tests/golden/openclip, the weights that
build_zero_shot_classifier gives for eight colours under five templates, and its predictions. Needs open_clip_torch, torch, numpy,
pillow."""
import gzip, json, os, tempfile
import numpy as np, torch, open_clip
from PIL import Image
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transform import image_transform
from open_clip.zero_shot_classifier import build_zero_shot_classifier
from safetensors.torch import load_file

here = os.path.dirname(os.path.abspath(__file__))
source, out = os.path.join(here, "openclip"), os.path.join(here, "zeroshot")
os.makedirs(out, exist_ok=True)
torch.set_num_threads(1)
config = json.load(open(os.path.join(source, "open_clip_config.json")))
model = open_clip.CLIP(**config["model_cfg"]).float().eval()
model.load_state_dict(load_file(os.path.join(source, "open_clip_model.safetensors")), strict=False)
with tempfile.NamedTemporaryFile(suffix=".gz") as f:
    f.write(gzip.compress(open(os.path.join(source, "vocab.txt"), "rb").read())); f.flush()
    tokenizer = SimpleTokenizer(bpe_path=f.name, context_length=config["model_cfg"]["text_cfg"]["context_length"])

classes = "red green blue yellow black white orange purple".split()
templates = ["a {} circle.", "The {c} square on grey.", "a picture of a {} stripe", "{}", "a bad photo of the {}."]
weights = build_zero_shot_classifier(model, tokenizer, classes, [t.replace("{c}", "{}") for t in templates], num_classes_per_batch=3)
p = config["preprocess_cfg"]
transform = image_transform(config["model_cfg"]["vision_cfg"]["image_size"], is_train=False, mean=p["mean"], std=p["std"])
images = torch.stack([transform(Image.open(os.path.join(source, f"{i:02d}.jpg"))) for i in range(24)])
with torch.no_grad():
    logits = 100.0 * model.encode_image(images, normalize=True) @ weights
top = logits.topk(5, dim=1)
labels = torch.arange(24) // 3
print("top-1", (top.indices[:, 0] == labels).float().mean().item(), "top-5", (top.indices == labels[:, None]).any(1).float().mean().item())
print("smallest distance of two places", (top.values[:, :-1] - top.values[:, 1:]).min().item())
np.save(os.path.join(out, "weights.npy"), weights.T.contiguous().numpy())
np.save(os.path.join(out, "top5.npy"), top.indices.numpy().astype(np.float32))
json.dump({"classes": classes, "templates": templates}, open(os.path.join(out, "classes.json"), "w"), indent=1)
