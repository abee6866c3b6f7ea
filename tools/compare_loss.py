#!/usr/bin/env python3
"""One rank's share of open_clip's contrastive loss (--local-loss --gather-with-grad), forward and backward, beside
`clipc bench loss --global-batch N --ranks-simulated R`: products of 2*n*N*E FLOP, MiB to send, seconds. Needs PyTorch and
open_clip; the other ranks' features are random, as in the bench. Usage: compare_loss.py N R [E]"""
import sys
import time

import open_clip.loss
import torch
from torch.utils.flop_counter import FlopCounterMode

N, R = int(sys.argv[1]), int(sys.argv[2])
E = int(sys.argv[3]) if len(sys.argv) > 3 else 512
n = N // R


def features(rows):
    return torch.nn.functional.normalize(torch.randn(rows, E), dim=-1).requires_grad_()


torch.manual_seed(0)
images, texts, other_images, other_texts = features(n), features(n), features(N - n), features(N - n)
scale = torch.tensor(1 / 0.07, requires_grad=True)


def gather(i, t, *args, **kwargs):
    return torch.cat([i, other_images]), torch.cat([t, other_texts])


open_clip.loss.gather_features = gather
loss = open_clip.loss.ClipLoss(local_loss=True, gather_with_grad=True, rank=0, world_size=R)


def step():
    loss(images, texts, scale).backward()


with FlopCounterMode(display=False) as counter:
    step()
seconds = []
for _ in range(3):
    start = time.time()
    step()
    seconds.append(time.time() - start)
# both features gathered, both gradients reduce-scattered, f32
sent = 4 * (N - n) * E * 4
print(f"n {n}, N {N}, E {E}: {counter.get_total_flops() / (2 * n * N * E):.2f} products, {sent / 2**20:.1f} MiB sent, "
      f"{sorted(seconds)[1]:.3f} s on {torch.get_num_threads()} threads")
