#!/usr/bin/env python3
"""Compares clip.c with open_clip on every architecture of the installed package that clipc reads, at full size with random weights:
built by open_clip, saved, opened by clipc. Prints a table of the largest differences of L2-normalised features (pictures, captions) in
f32, and exits 1 if one exceeds the tolerance. Captions of models with another tokenizer than CLIP's go through a small BERT vocabulary
that both programs read. Needs open_clip_torch, transformers, torch, numpy, pillow, safetensors; 4 bytes a parameter of memory, twice
that of disk.

  tools/check_families.py [NAME ...]                   default: every architecture of the package's list of published entries
  tools/check_families.py --skip DONE.txt              without those in the first column of an earlier table"""
import argparse, json, os, re, resource, sys, tempfile, time, warnings

ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("models", nargs="*")
ap.add_argument("--clipc", default="build/clipc")
ap.add_argument("--tolerance", type=float, default=1e-5)
ap.add_argument("--max-parameters", type=float, default=1100, metavar="MILLIONS", help="larger models are skipped [1100]")
ap.add_argument("--skip", help="a file with an earlier table")
ap.add_argument("--tmp", help="where to write the checkpoints")
a = ap.parse_args()

warnings.filterwarnings("ignore")
import numpy as np, open_clip, torch, transformers
from PIL import Image
from safetensors.torch import save_file

from checks import CAPTIONS, clipc, pictures, refusal

transformers.logging.set_verbosity_error()
MARKS = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"]
WORDS = ["photo", "cat", "circles", "white", "back", "##ground"]


def tokenizer_of(text_cfg, folder):
    """open_clip's; a stand-in for those that would be downloaded, in the folder."""
    if not text_cfg.get("hf_tokenizer_name"): return open_clip.tokenizer.SimpleTokenizer(context_length=text_cfg.get("context_length", 77))
    letters = [c for c in map(chr, range(33, 127)) if not c.isupper()]
    open(os.path.join(folder, "vocab.txt"), "w").write("\n".join(MARKS + letters + ["##" + c for c in letters] + WORDS) + "\n")
    json.dump({"tokenizer_class": "BertTokenizer", "do_lower_case": True}, open(os.path.join(folder, "tokenizer_config.json"), "w"))
    return open_clip.tokenizer.HFTokenizer(folder, context_length=text_cfg["context_length"], **text_cfg.get("tokenizer_kwargs") or {})


def millions(cfg):
    """Parameters, without memory for them."""
    with torch.device("meta"):
        model = build(cfg)
    return sum(p.numel() for p in model.parameters()) / 1e6


def build(cfg):
    kind = open_clip.CustomTextCLIP if cfg.get("custom_text") else open_clip.CLIP
    return kind(**{k: v for k, v in cfg.items() if k != "custom_text"})


def check(cfg, folder):
    at = lambda f: os.path.join(folder, f)
    torch.manual_seed(0)
    model = build(cfg).eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 1: p.add_(torch.randn_like(p) * 0.05)
    size = cfg["vision_cfg"]["image_size"]
    transform = open_clip.image_transform(size, is_train=False, mean=open_clip.OPENAI_DATASET_MEAN, std=open_clip.OPENAI_DATASET_STD)
    files, lines = pictures(folder), at("captions.txt")
    open(lines, "w").write("\n".join(CAPTIONS) + "\n")
    with torch.no_grad():
        want = [model.encode_image(torch.stack([transform(Image.open(f)) for f in files]), normalize=True).numpy(),
                model.encode_text(tokenizer_of(cfg["text_cfg"], folder)(CAPTIONS), normalize=True).numpy()]
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, at("open_clip_model.safetensors"))
    json.dump({"model_cfg": cfg, "preprocess_cfg": {}}, open(at("open_clip_config.json"), "w"))
    del model
    worst = []
    for args, x in zip((["--image", *files], ["--text", lines]), want):
        clipc(a.clipc, "embed", "--checkpoint", folder, "--precision", "fp32", *args, "--out", at("out.npy"))
        worst.append(float(np.abs(np.load(at("out.npy")) - x).max()))
    return worst


names = a.models or list(dict.fromkeys(name for name, _ in open_clip.list_pretrained()))
done = set(re.findall(r"^\| `([^`]+)`", open(a.skip).read(), re.M)) if a.skip else set()
bad, left_out = False, []
print("| architecture | parameters | pictures | captions |\n|---|---|---|---|")
for name in names:
    cfg = open_clip.get_model_config(name)
    if name in done or refusal(a.clipc, cfg): continue
    size = millions(cfg)
    if size > a.max_parameters:
        left_out.append(f"{name} ({size:.0f} M)")
        continue
    began = time.time()
    with tempfile.TemporaryDirectory(dir=a.tmp) as folder: image, text = check(cfg, folder)
    bad |= not max(image, text) <= a.tolerance
    print(f"| `{name}` | {size:.0f} M | {image:.1e} | {text:.1e} |", flush=True)
    print(f"{name}: {time.time() - began:.0f} s, {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB", file=sys.stderr)
print("\nskipped:", ", ".join(left_out) or "none")
sys.exit(bad)
