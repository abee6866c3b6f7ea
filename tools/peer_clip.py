"""peer_clip: CLIP in plain PyTorch, for tools/bench_peer.py if open_clip is not installed: the same parameters by the same names,
fused attention (scaled_dot_product_attention), one product for queries, keys and values."""
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn


class QuickGELU(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


class Attention(nn.Module):
    def __init__(self, width, heads, causal):
        super().__init__()
        self.heads, self.causal = heads, causal
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width).normal_(std=width**-0.5))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x):
        B, T, C = x.shape
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = qkv.view(B, T, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        o = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out_proj(o.transpose(1, 2).reshape(B, T, C))


class Block(nn.Module):
    def __init__(self, width, heads, hidden, causal, gelu):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = Attention(width, heads, causal)
        self.mlp = nn.Sequential(OrderedDict(c_fc=nn.Linear(width, hidden), gelu=gelu(), c_proj=nn.Linear(hidden, width)))

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Stack(nn.Module):
    def __init__(self, width, layers, heads, ratio, causal, gelu):
        super().__init__()
        self.resblocks = nn.ModuleList([Block(width, heads, int(width * ratio), causal, gelu) for _ in range(layers)])

    def forward(self, x):
        for block in self.resblocks:
            x = block(x)
        return x


class Image(nn.Module):
    def __init__(self, c, embed, gelu):
        super().__init__()
        width, patch = c["width"], c["patch_size"]
        self.class_embedding = nn.Parameter(torch.randn(width) * width**-0.5)
        self.positional_embedding = nn.Parameter(torch.randn((c["image_size"] // patch) ** 2 + 1, width) * width**-0.5)
        self.proj = nn.Parameter(torch.randn(width, embed) * width**-0.5)
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = Stack(width, c["layers"], width // c.get("head_width", 64), c.get("mlp_ratio", 4.0), False, gelu)

    def forward(self, images):
        x = self.conv1(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.to(x.dtype).expand(len(x), 1, -1), x], 1) + self.positional_embedding.to(x.dtype)
        x = self.transformer(self.ln_pre(x))
        return self.ln_post(x[:, 0]) @ self.proj


class PeerClip(nn.Module):
    """Called with normalised images [B,3,S,S] and ids [B,T]; returns the same as open_clip's CLIP(output_dict=True)."""

    def __init__(self, cfg):
        super().__init__()
        gelu = QuickGELU if cfg.get("quick_gelu") else nn.GELU
        t, embed = cfg["text_cfg"], cfg["embed_dim"]
        width = t["width"]
        self.positional_embedding = nn.Parameter(torch.randn(t["context_length"], width) * 0.01)
        self.text_projection = nn.Parameter(torch.randn(width, embed) * width**-0.5)
        self.logit_scale = nn.Parameter(torch.tensor(1 / 0.07).log())
        self.visual = Image(cfg["vision_cfg"], embed, gelu)
        self.transformer = Stack(width, t["layers"], t["heads"], t.get("mlp_ratio", 4.0), True, gelu)
        self.token_embedding = nn.Embedding(t["vocab_size"], width)
        self.ln_final = nn.LayerNorm(width)
        nn.init.normal_(self.token_embedding.weight, std=0.02)

    def forward(self, images, ids):
        image = self.visual(images)
        x = self.token_embedding(ids)
        x = self.ln_final(self.transformer(x + self.positional_embedding))
        text = x[torch.arange(len(x), device=x.device), ids.argmax(-1)] @ self.text_projection
        return {"image_features": F.normalize(image, dim=-1), "text_features": F.normalize(text, dim=-1),
                "logit_scale": self.logit_scale.exp()}


def clip_loss(image_features, text_features, logit_scale):
    logits = logit_scale * image_features @ text_features.T
    labels = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
