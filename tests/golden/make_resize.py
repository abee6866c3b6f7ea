"""Positional embeddings resized by PyTorch, as open_clip does on loading: writes tests/golden/resize.safetensors.

Run: python tests/golden/make_resize.py (needs torch and safetensors)."""
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

torch.manual_seed(1)
width, out = 4, {}
for g, G in [(3, 5), (7, 4), (4, 4), (2, 9)]:
    old = torch.randn(g * g + 1, width)
    grid = old[1:].reshape(1, g, g, width).permute(0, 3, 1, 2).double()
    new = F.interpolate(grid, size=(G, G), mode='bicubic', antialias=True, align_corners=False)
    new = new.permute(0, 2, 3, 1).reshape(G * G, width).float()
    out[f'image.{g}.{G}.old'] = old
    out[f'image.{g}.{G}.new'] = torch.cat([old[:1], new])
for n, m in [(5, 9), (9, 4), (1, 3), (6, 6)]:
    old = torch.randn(n, width)
    new = F.interpolate(old.T[None].double(), size=m, mode='linear', antialias=False, align_corners=False)
    out[f'text.{n}.{m}.old'] = old
    out[f'text.{n}.{m}.new'] = new[0].T.float().contiguous()
save_file(out, 'tests/golden/resize.safetensors', metadata={'torch': torch.__version__})
