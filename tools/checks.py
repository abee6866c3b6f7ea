"""Shared by check_formats.py and check_openclip.py: generated pictures and captions, and calls of clipc."""
import os, subprocess, sys

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
