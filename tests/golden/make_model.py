"""Writes model_bf16.txt: the error, over eight batches, of PyTorch's mixed precision (autocast to bfloat16 on the CPU, as
open_clip's amp_bf16) on the small model of tests/test_model.c, against the same in float64.
Needs torch and open_clip (3.3.0). Run: python tests/golden/make_model.py"""

import os

import numpy as np
import torch
from open_clip.loss import ClipLoss
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

from formula import values


BATCHES = 8


def build(dtype):
    model = CLIP(
        32,
        CLIPVisionCfg(layers=2, width=64, head_width=32, patch_size=8, image_size=32),
        CLIPTextCfg(context_length=16, vocab_size=64, width=64, heads=2, layers=2),
    )
    k = 0
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name == "logit_scale":
                continue
            v = 0.1 * values(k, p.numel())
            is_norm = ".ln_" in "." + name and name.endswith("weight")
            p.copy_(torch.from_numpy((v + 1 if is_norm else v).astype(np.float32)).view_as(p))
            k += 1
        assert k == 61
        model.to(dtype)
        model.logit_scale.copy_(torch.tensor(np.log(1 / 0.07), dtype=dtype))
    return model.train()


def inputs(batch, dtype):
    x = torch.from_numpy(values(1000 + batch, 4 * 3 * 32 * 32).astype(np.float32)).view(4, 3, 32, 32)
    rows = [[62, 5, 9, 63], [62, 17, 3, 40, 22, 63],
            [62] + [(7 * j + 1) % 60 for j in range(14)] + [63], [62, 63]]
    ids = torch.zeros(4, 16, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    return x.to(dtype), ids


def run(batch, dtype, amp):
    model = build(dtype)
    x, ids = inputs(batch, dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=amp):
        image, text, scale = model(x, ids)
        loss = ClipLoss()(image, text, scale)
    loss.backward()
    out = {"loss": loss, "image_features": image, "text_features": text}
    out.update({n: p.grad for n, p in model.named_parameters()})
    return {n: v.detach().double() for n, v in out.items()}


def main():
    torch.set_num_threads(1)
    squares = {"amp": {}, "fp32": {}}
    for batch in range(BATCHES):
        exact = run(batch, torch.float64, False)
        got = {kind: run(batch, torch.float32, kind == "amp") for kind in squares}
        for name, value in exact.items():
            for kind, out in got.items():
                error = ((out[name] - value).norm() / value.norm()).item()
                squares[kind][name] = squares[kind].get(name, 0) + error**2
        print("loss", exact["loss"].item())
    path = os.path.join(os.path.dirname(__file__), "model_bf16.txt")
    with open(path, "w") as f:
        f.write("# Relative L2 error of PyTorch's amp_bf16 against float64, root mean square over\n")
        f.write(f"# {BATCHES} batches. Made by tests/golden/make_model.py\n")
        for name, square in squares["amp"].items():
            f.write(f"{name} {(square / BATCHES) ** 0.5:.3e}\n")
            print(name, (square / BATCHES) ** 0.5, "fp32", (squares["fp32"][name] / BATCHES) ** 0.5)


main()
