#!/usr/bin/env python3
"""Writes simclr.txt: ten AdamW steps of SimCLR (Chen et al. 2020) in float64 with PyTorch, on torchvision's
ResNet-18 of an eighth of its width and on open_clip's ViT, each under a projection head of two and three layers. Weights and pixels
are formulas, which tests/test_views.c has as well. Needs torch, torchvision, open_clip (3.3.0).
Run: python tests/golden/make_simclr.py"""

import os

import numpy as np
import torch
from open_clip.transformer import VisionTransformer
from torch import nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock, ResNet

from formula import values

PICTURES, SIDE, DIM, HIDDEN, TEMPERATURE, STEPS = 6, 32, 7, 10, 0.2, 10


def number(name):
    n = 0
    for byte in name.encode():
        n = (n * 31 + byte) & 0xFFFFFFF
    return n


def fill(module):
    """Values of norms and running variances are around 1."""
    with torch.no_grad():
        for name, p in module.state_dict().items():
            if name.endswith("num_batches_tracked"):
                continue
            one = p.ndim == 1 and name.endswith((".weight", ".running_var"))
            v = 0.1 * values(number(name), p.numel()) + (1 if one else 0)
            p.copy_(torch.from_numpy(v.astype(np.float32)).view_as(p))


class Narrow(ResNet):
    """torchvision's with an eighth of its channels, without the classifier."""

    def __init__(self, layers):
        super().__init__(BasicBlock, layers)
        self.fc = nn.Identity()

    def _make_layer(self, block, planes, *args, **kwargs):
        if planes == 64:
            self.inplanes = 8
            self.conv1, self.bn1 = nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8)
        return super()._make_layer(block, planes // 8, *args, **kwargs)


class Model(nn.Module):
    def __init__(self, kind, layers):
        super().__init__()
        if kind == "basic":
            self.visual = nn.Module()
            self.visual.trunk = Narrow([2, 2, 2, 2])
        else:
            self.visual = VisionTransformer(SIDE, 8, 64, 2, 2, 4.0, output_dim=32)
            self.visual.proj = None
        sizes = [64] + [HIDDEN] * (layers - 1) + [DIM]
        self.head = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:]))

    def forward(self, x):
        x = self.visual.trunk(x) if hasattr(self.visual, "trunk") else self.visual(x)
        for i, layer in enumerate(self.head):
            x = layer(F.gelu(x) if i else x)
        return F.normalize(x, dim=-1)


def loss_of(z):
    scores = (z @ z.T / TEMPERATURE).fill_diagonal_(-torch.inf)
    return F.cross_entropy(scores, (torch.arange(2 * PICTURES) + PICTURES) % (2 * PICTURES))


def train(kind, layers, out):
    torch.manual_seed(1)
    model = Model(kind, layers).double().train()
    fill(model)
    u = np.floor((values(1000, 2 * PICTURES * SIDE * SIDE * 3) + 1) * 128).clip(0, 255)
    mean = np.array([np.float32(0.4) + np.float32(0.02) * np.float32(i) for i in range(3)], np.float64)
    x = (u.reshape(2 * PICTURES, SIDE, SIDE, 3) / 255 - mean) / np.float64(np.float32(0.27))
    x = torch.from_numpy(x).permute(0, 3, 1, 2).contiguous()
    decayed = lambda n, p: p.ndim >= 2 and "positional" not in n
    named = list(model.named_parameters())
    opt = torch.optim.AdamW([{"params": [p for n, p in named if decayed(n, p)], "weight_decay": 0.1},
                             {"params": [p for n, p in named if not decayed(n, p)], "weight_decay": 0.0}],
                            lr=1e-3, betas=(0.9, 0.98), eps=1e-6)
    for step in range(1, STEPS + 1):
        opt.zero_grad()
        loss = loss_of(model(x))
        loss.backward()
        norm = torch.sqrt(sum((p.grad ** 2).sum() for p in model.parameters()))
        out.write(f"{kind} {layers} {step} {loss.item():.12f} {norm.item():.12f}\n")
        opt.step()


if __name__ == "__main__":
    torch.set_num_threads(1)
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "simclr.txt"), "w") as out:
        out.write("model layers step loss grad_norm\n")
        for kind in "basic", "vit":
            for layers in 2, 3:
                train(kind, layers, out)
