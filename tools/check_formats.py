#!/usr/bin/env python3
"""Compares checkpoints in the formats of open_clip, PyTorch and transformers with clip.c's reading and writing of them, on random
weights. Needs open_clip_torch, transformers, torch, numpy, pillow, safetensors; about 6 times a model's size in memory and disk.

  tools/check_formats.py [ViT-B-32 ...]     default: every ViT of open_clip's up to ViT-L-14

For each model, the largest difference of L2-normalised features (pictures, captions) between the program that made a checkpoint
and clipc, or the program that opens one that clipc wrote; exit code 1 when one exceeds 1e-5:

  folder     open_clip's safetensors and JSON -> clipc
  training   a training checkpoint, state_dict with module. -> clipc --model
  script     a traced TorchScript archive with matrices in half precision -> clipc --model
  hf         transformers' CLIPModel.save_pretrained, in parts -> clipc
  to hf      clipc ckpt convert --to hf of the open_clip folder -> CLIPModel.from_pretrained
  to oc      clipc ckpt convert --to open_clip of the CLIPModel folder -> open_clip local-dir:
  resized    the open_clip folder's weights in the same model of a larger image, by open_clip and by clipc, for ViT-B-32 and ViT-L-14"""
import argparse, json, os, shutil, sys, tempfile, time, warnings

NAMES = ["ViT-S-32", "ViT-S-16", "ViT-M-16", "ViT-B-32", "ViT-B-32-quickgelu", "ViT-B-32-256", "ViT-B-16", "ViT-B-16-plus-240", "ViT-L-14"]
LARGER = {"ViT-B-32": "ViT-B-32-256", "ViT-L-14": "ViT-L-14-336"}
ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("models", nargs="*", default=NAMES)
ap.add_argument("--clipc", default="build/clipc")
ap.add_argument("--tolerance", type=float, default=1e-5)
ap.add_argument("--tmp", help="where to write the checkpoints")
a = ap.parse_args()

warnings.filterwarnings("ignore")
import numpy as np, open_clip, torch, transformers
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel

import checks
from checks import CAPTIONS, pictures

transformers.logging.set_verbosity_error(); transformers.logging.disable_progress_bar()


def clipc(*args): checks.clipc(a.clipc, *args)


def unsettle(model):
    """Biases and LayerNorms away from 0 and 1."""
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 1: p.add_(torch.randn_like(p) * 0.05)
    return model.eval()


def hf_config(cfg):
    v, t = cfg["vision_cfg"], cfg["text_cfg"]
    act = "quick_gelu" if cfg.get("quick_gelu") else "gelu"
    tower = lambda c, heads: dict(hidden_size=c["width"], intermediate_size=int(c["width"] * c.get("mlp_ratio", 4)), num_hidden_layers=c["layers"],
                                  num_attention_heads=heads, hidden_act=act)
    return CLIPConfig(projection_dim=cfg["embed_dim"],
                      vision_config=dict(tower(v, v["width"] // v.get("head_width", 64)), image_size=v["image_size"], patch_size=v["patch_size"]),
                      text_config=dict(tower(t, t["heads"]), vocab_size=t["vocab_size"], max_position_embeddings=t["context_length"],
                                       bos_token_id=49406, eos_token_id=49407))


def check(name, tmp):
    at = lambda x: os.path.join(tmp, x)
    files, lines = pictures(tmp), at("captions.txt")
    open(lines, "w").write("\n".join(CAPTIONS) + "\n")
    cfg = open_clip.get_model_config(name)
    torch.manual_seed(0)
    model, _, transform = open_clip.create_model_and_transforms(name)
    unsettle(model)
    images, tokens = torch.stack([transform(Image.open(f)) for f in files]), open_clip.get_tokenizer(name)(CAPTIONS)

    def features(m, images=images):
        with torch.no_grad():
            if isinstance(m, CLIPModel):
                whole = m(pixel_values=images, input_ids=tokens)
                return whole.image_embeds.numpy(), whole.text_embeds.numpy()
            return m.encode_image(images, normalize=True).numpy(), m.encode_text(tokens, normalize=True).numpy()

    def ours(path, *more):
        rows = []
        for args in (["--image", *files], ["--text", lines]):
            clipc("embed", "--checkpoint", path, *more, "--precision", "fp32", *args, "--out", at("out.npy"))
            rows.append(np.load(at("out.npy")))
        return rows

    results = {}
    def compare(what, got, want):
        results[what] = [float(np.abs(g - w).max()) for g, w in zip(got, want)]

    def drop(path): shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)

    # open_clip, three ways
    want = features(model)
    state = {k: v.contiguous() for k, v in model.state_dict().items()}
    os.makedirs(at("folder"))
    save_file(state, at("folder/open_clip_model.safetensors"))
    json.dump({"model_cfg": cfg, "preprocess_cfg": {}}, open(at("folder/open_clip_config.json"), "w"))
    compare("folder", ours(at("folder")), want)
    torch.save({"epoch": 1, "name": name, "state_dict": {"module." + k: v for k, v in state.items()}}, at("epoch_1.pt"))
    compare("training", ours(at("epoch_1.pt"), "--model", name), want)
    drop(at("epoch_1.pt"))
    del state
    if name in LARGER:
        larger, _, its = open_clip.create_model_and_transforms(LARGER[name], pretrained=at("folder/open_clip_model.safetensors"))
        other = features(larger.eval(), torch.stack([its(Image.open(f)) for f in files]))
        compare("resized", ours(at("folder"), "--model", LARGER[name]), other)
        del larger
    # out to transformers
    clipc("ckpt", "convert", at("folder"), "--to", "hf", "--out", at("converted"))
    drop(at("folder"))
    hf, info = CLIPModel.from_pretrained(at("converted"), output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    compare("to hf", features(hf.eval()), want)
    drop(at("converted")); del hf
    # an archive as OpenAI's: modules, matrices in half precision
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim >= 2: p.copy_(p.half().float())
    want = features(model)
    traced = torch.jit.trace_module(model, {"forward": (images, tokens[:3])}, check_trace=False)
    for p in traced.parameters():
        if p.ndim >= 2: p.data = p.data.half()
    traced.save(at("script.pt"))
    del traced, model
    compare("script", ours(at("script.pt"), "--model", name), want)
    drop(at("script.pt"))

    # transformers, and back to open_clip
    torch.manual_seed(1)
    hf = unsettle(CLIPModel(hf_config(cfg)))
    want = features(hf)
    hf.save_pretrained(at("hf"), max_shard_size="200MB")
    parts = sum(f.endswith(".safetensors") for f in os.listdir(at("hf")))
    del hf
    compare("hf", ours(at("hf")), want)
    clipc("ckpt", "convert", at("hf"), "--to", "open_clip", "--out", at("back"))
    drop(at("hf"))
    compare("to oc", features(open_clip.create_model("local-dir:" + at("back")).eval()), want)
    drop(at("back"))
    return results, parts


bad = False
for name in a.models:
    began = time.time()
    with tempfile.TemporaryDirectory(dir=a.tmp) as tmp: results, parts = check(name, tmp)
    worst = max(max(r) for r in results.values())
    bad |= not worst <= a.tolerance
    print(f"{name}: " + "; ".join(f"{k} {r[0]:.1e} {r[1]:.1e}" for k, r in results.items()) + f" (hf in {parts} parts, {time.time() - began:.0f} s)", flush=True)
sys.exit(bad)
