#!/usr/bin/env python3
"""Compares clip.c with open_clip on the same weights, both ways. Needs open_clip_torch, torch, numpy, pillow, safetensors.

  tools/check_openclip.py --checkpoint DIR         a folder that clipc wrote, opened by open_clip as local-dir:
  tools/check_openclip.py --model ViT-B-32         open_clip's model with random weights, written as safetensors, read by clipc
Both print the largest difference of the features of made pictures and captions, and exit 1 when it exceeds 1e-5."""
import argparse, json, os, sys, tempfile

ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
what = ap.add_mutually_exclusive_group(required=True)
what.add_argument("--checkpoint")
what.add_argument("--model")
ap.add_argument("--clipc", default="build/clipc")
ap.add_argument("--tolerance", type=float, default=1e-5)
a = ap.parse_args()

import numpy as np, open_clip, torch
from PIL import Image
from safetensors.torch import save_file

from checks import CAPTIONS, clipc, pictures

with tempfile.TemporaryDirectory() as tmp:
    checkpoint, vocab = a.checkpoint, None
    if a.model:
        checkpoint = os.path.join(tmp, "model")
        os.makedirs(checkpoint)
        torch.manual_seed(0)
        model, _, transform = open_clip.create_model_and_transforms(a.model)
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, os.path.join(checkpoint, "open_clip_model.safetensors"))
        json.dump({"model_cfg": open_clip.get_model_config(a.model), "preprocess_cfg": {}}, open(os.path.join(checkpoint, "open_clip_config.json"), "w"))
        tokenizer = open_clip.get_tokenizer(a.model)
    else:
        model, _, transform = open_clip.create_model_and_transforms("local-dir:" + os.path.abspath(checkpoint))
        own = [f for f in os.listdir(checkpoint) if f == "vocab.bpe"]
        kw = {}
        if own:
            import gzip
            text = open(os.path.join(checkpoint, own[0]), "rb").read()
            kw["bpe_path"] = os.path.join(tmp, "vocab.gz")
            open(kw["bpe_path"], "wb").write(text if text[:2] == b"\x1f\x8b" else gzip.compress(text))
        tokenizer = open_clip.tokenizer.SimpleTokenizer(context_length=model.context_length, **kw)
    model.eval()
    files, lines = pictures(tmp), os.path.join(tmp, "captions.txt")
    open(lines, "w").write("\n".join(CAPTIONS) + "\n")
    with torch.no_grad():
        want = {"image": model.encode_image(torch.stack([transform(Image.open(f)) for f in files]), normalize=True).numpy(),
                "text": model.encode_text(tokenizer(CAPTIONS), normalize=True).numpy()}
    worst = 0
    for kind, args in (("image", ["--image", *files]), ("text", ["--text", lines])):
        out = os.path.join(tmp, kind + ".npy")
        clipc(a.clipc, "embed", "--checkpoint", checkpoint, "--precision", "fp32", *args, "--out", out)
        d = float(np.abs(np.load(out) - want[kind]).max())
        worst = max(worst, d)
        print(f"{a.model or a.checkpoint}: {kind} features {want[kind].shape}, largest difference {d:.2e}")
sys.exit(worst > a.tolerance)
