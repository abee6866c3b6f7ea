"""Recalls of pictures with one to seven captions by CLIP_benchmark's own functions: writes
tests/golden/retrieval/: images.npy, texts.npy, image_of.txt, recalls.txt.

Run: python tests/golden/make_retrieval.py (needs torch, numpy and the package clip-benchmark)."""
import numpy as np
import torch
import torch.nn.functional as F
from clip_benchmark.metrics.zeroshot_retrieval import batchify, recall_at_k

torch.manual_seed(6)
N, E, out = 60, 16, 'tests/golden/retrieval/'
captions = torch.randint(1, 8, (N,))
image_of = torch.arange(N).repeat_interleave(captions)
image_of = image_of[torch.randperm(len(image_of))]
images = F.normalize(torch.randn(N, E), dim=-1)
texts = F.normalize(images[image_of] + 0.5 * torch.randn(len(image_of), E), dim=-1)

scores = texts @ images.T
positive = torch.zeros_like(scores, dtype=bool)
positive[torch.arange(len(scores)), image_of] = True
with open(out + 'recalls.txt', 'w') as f:
    for k in 1, 5, 10:
        for name, s, p in ('image_to_text', scores.T, positive.T), ('text_to_image', scores, positive):
            recall = (batchify(recall_at_k, s, p, 32, 'cpu', k=k) > 0).float().mean().item()
            print(name, f'R@{k}', f'{recall:.6f}', file=f)
np.save(out + 'images.npy', images.numpy())
np.save(out + 'texts.npy', texts.numpy())
np.savetxt(out + 'image_of.txt', image_of.numpy(), fmt='%d')
