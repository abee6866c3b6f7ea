"""Shared by check_families.py, check_formats.py, check_openclip.py and checkpoint_table.py: generated pictures and captions, and calls
of clipc."""
import json, os, re, struct, subprocess, sys, tempfile

import numpy as np
from PIL import Image

CAPTIONS = ["a photo of a cat", "two red circles on a white background", "", "Ünïcode “quotes” & 😀", "a " * 100]


def pictures(folder):
    """Paths of three pictures of different shapes, written to the folder."""
    rng, paths = np.random.default_rng(1), []
    for i, (w, h) in enumerate([(300, 200), (64, 64), (57, 333)]):
        coarse = rng.integers(0, 256, (h // 16 + 2, w // 16 + 2, 3), dtype=np.uint8)
        paths.append(os.path.join(folder, f"{i}.png"))
        Image.fromarray(coarse).resize((w, h), Image.BICUBIC).save(paths[-1])
    return paths


def clipc(program, *args):
    """Runs the program; on failure exits with its output."""
    done = subprocess.run([program, *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode: sys.exit(f"clipc {' '.join(args)}: {done.stdout}")


def refusal(program, model_cfg):
    """Why clipc does not read open_clip's configuration: its message, "" if it does. Weights are opened apart from the configuration,
    so a file of one tensor is enough."""
    with tempfile.TemporaryDirectory() as folder:
        at = lambda f: os.path.join(folder, f)
        header = json.dumps({"logit_scale": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}}).encode()
        open(at("open_clip_model.safetensors"), "wb").write(struct.pack("<Q", len(header)) + header + b"\0" * 4)
        json.dump({"model_cfg": model_cfg, "preprocess_cfg": {}}, open(at("open_clip_config.json"), "w"))
        done = subprocess.run([program, "ckpt", "info", folder, "--json"], capture_output=True, text=True)
        if done.returncode: sys.exit(f"clipc ckpt info: {done.stderr}")
        if "config" in json.loads(done.stdout): return ""
        return re.search(r"open_clip_config\.json: (.*)", done.stderr).group(1)
