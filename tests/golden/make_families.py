#!/usr/bin/env python3
"""Makes tests/golden/families/ with open_clip 3.3.0 and PyTorch: for each family a small model with random weights, a batch, and what
open_clip computes of it in float64: features, the loss and its gradient, the losses of ten AdamW steps. Needs open_clip_torch, torch,
safetensors, numpy. The gradients are stored under the names of the weights, so that both are read in one way.

  tests/golden/make_families.py [NAME ...]      default: all of them"""
import copy, json, math, os, sys
import numpy as np, open_clip, torch
from open_clip.loss import ClipLoss
from PIL import Image
from safetensors.torch import save_file

here = os.path.join(os.path.dirname(os.path.abspath(__file__)), "families")
tower = dict(layers=2)
image, text = dict(tower, image_size=12, width=24, head_width=12, patch_size=4), dict(tower, context_length=9, vocab_size=40, width=20, heads=2)

# name: configuration, and how its captions look: the first id, the last one, the padding
FAMILIES = {
    # MetaCLIP 2: pooled at the first end token, which is not the largest id
    "metaclip2": (dict(embed_dim=14, quick_gelu=True, vision_cfg=image, text_cfg=dict(text, pool_type="eos", eos_id=2)), (0, 2, 1)),
    # CLIPA: no ln_pre, mean of the patches, bidirectional text pooled at its last position
    "clipa": (dict(embed_dim=14, vision_cfg=dict(image, no_ln_pre=True, pool_type="avg", final_ln_after_pool=True),
                   text_cfg=dict(text, pool_type="last", no_causal_mask=True)), (37, 0, 0)),
}


def patches(model, at, size):
    """The patches' rows of three pictures (tests/golden/openclip): block 1's output, the last block's after the final LayerNorm."""
    tf = open_clip.image_transform(size, is_train=False, mean=open_clip.OPENAI_DATASET_MEAN, std=open_clip.OPENAI_DATASET_STD)
    images = torch.stack([tf(Image.open(os.path.join(here, "..", "openclip", f"0{i}.jpg"))) for i in range(3)])
    layer = lambda i, norm: model.visual.forward_intermediates(images, indices=[i], normalize_intermediates=norm, intermediates_only=True,
                                                               output_fmt="NLC")["image_intermediates"][0].detach().contiguous()
    save_file({"layer1": layer(0, False), "tokens": layer(1, True)}, at("patches.safetensors"))


def make(name, config, marks):
    out = os.path.join(here, name)
    at = lambda f: os.path.join(out, f)
    os.makedirs(out, exist_ok=True)
    json.dump({"model_cfg": config, "preprocess_cfg": {}}, open(at("open_clip_config.json"), "w"))
    torch.manual_seed(3)
    custom = config.get("custom_text", False)
    model = (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**{k: v for k, v in config.items() if k != "custom_text"}).double()
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim and p.requires_grad: p.add_(torch.randn_like(p) * 0.1)
            p.copy_(p.float())
    names = {id(p): n for n, p in model.named_parameters()}
    save_file({n: p.detach().float().contiguous() for n, p in model.named_parameters()}, at("open_clip_model.safetensors"))

    if name == "clipa": patches(copy.deepcopy(model).float(), at, config["vision_cfg"]["image_size"])
    rng, B, S, T = np.random.default_rng(5), 4, config["vision_cfg"]["image_size"], config["text_cfg"]["context_length"]
    pixels = torch.from_numpy(rng.integers(0, 256, (B, S, S, 3), dtype=np.uint8))
    start, end, pad = marks
    ids = torch.full((B, T), pad)
    for i, n in enumerate((T, 2, 5, 6)):
        ids[i, :n] = torch.from_numpy(rng.integers(3, 36, n))
        ids[i, 0], ids[i, n - 1] = start, end
    ids[3, 2] = end                                                                    # the end token as a literal
    mean, std = (torch.tensor(x, dtype=torch.float32).double() for x in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    images = ((pixels.double() / 255 - mean) / std).permute(0, 3, 1, 2)

    excl = lambda n, p: p.ndim < 2 or "bn" in n or "ln" in n or "bias" in n or "logit_scale" in n
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    opt = torch.optim.AdamW([{"params": [p for n, p in named if excl(n, p)], "weight_decay": 0.0},
                             {"params": [p for n, p in named if not excl(n, p)], "weight_decay": 0.2}], lr=1e-3, betas=(0.9, 0.98), eps=1e-6)
    batch, losses = {"pixels": pixels, "ids": ids.int(), "pad": torch.tensor([pad]).int()}, []
    for step in range(11):
        opt.zero_grad()
        f, t, s = model(images, ids)[:3]
        loss = ClipLoss()(f, t, s)
        loss.backward()
        losses.append(loss.item())
        if step == 0:
            batch["images"], batch["texts"] = f.detach().clone(), t.detach().clone()
            save_file({names[id(p)]: (p.grad if p.grad is not None else torch.zeros_like(p)).float().contiguous() for p in model.parameters()},
                      at("gradients.safetensors"))
        opt.step()
        with torch.no_grad(): model.logit_scale.clamp_(0, math.log(100))
    batch["losses"] = torch.tensor(losses, dtype=torch.float64)
    save_file(batch, at("batch.safetensors"))
    print(name, open_clip.__version__, torch.__version__, sum(p.numel() for p in model.parameters()), "parameters; losses", losses[0], losses[-1])


for name in sys.argv[1:] or FAMILIES: make(name, *FAMILIES[name])
