#!/usr/bin/env python3
"""Makes tests/golden/timm/ with open_clip 3.3.0, timm and PyTorch: small models whose image towers are timm's EVA-01, EVA-02,
PE-Core (with and without class token) and MobileCLIP-B's, and a batch; for each model the features in float64 and the gradients of the
CLIP loss, and the losses of ten AdamW steps; of MobileCLIP-B's besides both with batch statistics, and the running statistics after
either. Needs
open_clip_torch, timm, torch, safetensors. With an argument: prints the differences of the features of the folder
ARGUMENT/NAME, read by open_clip, from the stored ones."""
import json, math, os, sys
import torch, timm, open_clip
from safetensors.torch import load_file, save_file

here = os.path.dirname(os.path.abspath(__file__))
out = os.path.join(here, "timm")
at = lambda *names: os.path.join(out, *names)
os.makedirs(out, exist_ok=True)
torch.manual_seed(13); torch.set_num_threads(1)
S, P, E, B, CONTEXT, VOCAB = 24, 8, 6, 5, 7, 23

# name: timm's name, width, layers, heads, patches of a side, mlp_ratio
models = {"eva": ("eva_giant_patch14_224", 16, 2, 2, 6 * 2 / 3),
          "eva02": ("eva02_large_patch14_clip_336", 16, 2, 2, 4 * 2 / 3),
          "pe_core": ("vit_pe_core_tiny_patch16_384", 16, 2, 2, 4.0),
          "pe_core_g": ("vit_pe_core_gigantic_patch14_448", 24, 2, 2, 3.7),
          "mci": ("vit_base_mci_224", 16, 2, 2, 3.5),
          "eva02_e": ("eva02_enormous_patch14_clip_224", 16, 3, 2, 3.5)}
create, hybrid = timm.create_model, timm.models.vision_transformer_hybrid
stem = hybrid.ConvStem
MCI = 36  # pixels of a side: two patches of 16, and a rest


def build(name):
    timm_name, width, layers, heads, ratio = models[name]
    vision = {"image_size": S, "timm_model_name": timm_name, "timm_model_pretrained": False,
              "timm_pool": "map" if name.startswith("pe") else "token", "timm_proj": None}
    cfg = {"embed_dim": E, "custom_text": True, "vision_cfg": vision,
           "text_cfg": {"context_length": CONTEXT, "vocab_size": VOCAB, "width": 8, "heads": 2, "layers": 2}}
    sizes = dict(img_size=S, patch_size=P, embed_dim=width, depth=layers, num_heads=heads, mlp_ratio=ratio)
    if name == "mci":
        vision["image_size"] = sizes["img_size"] = MCI
        del sizes["patch_size"]
        hybrid.ConvStem = lambda channels, **kw: stem(channels=(width // 4, width // 4, width), **kw)
    timm.create_model = lambda *a, **kw: create(*a, **kw, **sizes)
    model = open_clip.CustomTextCLIP(**{k: v for k, v in cfg.items() if k != "custom_text"}).double().eval()
    timm.create_model = create
    vision.update(width=width, layers=layers, head_width=width // heads, patch_size=16 if name == "mci" else P, mlp_ratio=ratio)
    return cfg, model


def features(model, batch):
    pixels = batch["pixels"].double().permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(x).double().view(3, 1, 1) for x in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    return (model.encode_image((pixels - mean) / std, normalize=True), model.encode_text(batch["ids"].long(), normalize=True))


if len(sys.argv) > 1:
    for name in models:
        batch = load_file(at(name if name == "mci" else "", "batch.safetensors"))
        _, model = build(name)
        state = load_file(os.path.join(sys.argv[1], name, "open_clip_model.safetensors"))
        open_clip.factory.load_state_dict  # the reader that resizes and renames
        model.load_state_dict({k: v.double() for k, v in state.items()})
        want = load_file(at(name, "features.safetensors"))
        with torch.no_grad(): got = features(model, batch)
        print(name, *["%.2e" % (g - want[k]).abs().max().item() for g, k in zip(got, ("images", "texts"))])
    sys.exit()

ids = torch.zeros(B, CONTEXT)
for b in range(B):  # a caption ends in the largest id
    n = 2 + b % (CONTEXT - 2)
    ids[b, :n] = torch.randint(1, VOCAB - 1, (n,)).float()
    ids[b, n] = VOCAB - 1
batch = {"pixels": torch.randint(0, 256, (B, S, S, 3)).float(), "ids": ids}
save_file(batch, at("batch.safetensors"))
float32 = lambda d: {k: v.detach().float().contiguous() for k, v in d.items() if "num_batches" not in k}


def loss_of(model, i, t):
    logits, both = model.logit_scale.exp() * i @ t.T, torch.arange(B)
    return (torch.nn.functional.cross_entropy(logits, both) + torch.nn.functional.cross_entropy(logits.T, both)) / 2


def ten_steps(model, batch):
    """The losses before each of eleven AdamW steps. A class token is a row, which does not decay."""
    plain = lambda n, p: p.ndim < 2 or "cls_token" in n
    named = list(model.named_parameters())
    opt = torch.optim.AdamW([{"params": [p for n, p in named if plain(n, p)], "weight_decay": 0.0},
                             {"params": [p for n, p in named if not plain(n, p)], "weight_decay": 0.2}], lr=1e-3, betas=(0.9, 0.98), eps=1e-6)
    losses = []
    for _ in range(11):
        opt.zero_grad()
        loss = loss_of(model, *features(model, batch))
        loss.backward()
        losses.append(loss.item())
        opt.step()
        with torch.no_grad(): model.logit_scale.clamp_(0, math.log(100))
    return torch.tensor(losses, dtype=torch.float64)


def run(model, batch, folder, end=""):
    """Features, loss and gradients, the latter beside the running statistics after the forward."""
    model.zero_grad()
    i, t = features(model, batch)
    loss = loss_of(model, i, t)
    loss.backward()
    save_file(float32({"images": i, "texts": t, "loss": loss}), os.path.join(folder, f"features{end}.safetensors"))
    save_file(float32({n: p.grad for n, p in model.named_parameters()} | {n: x for n, x in model.named_buffers() if "running" in n}),
              os.path.join(folder, f"gradients{end}.safetensors"))
    return loss.item()


for name in models:
    os.makedirs(at(name), exist_ok=True)
    cfg, model = build(name)
    with torch.no_grad():
        for n, p in model.named_parameters():
            if n != "logit_scale": p.add_(torch.randn_like(p) * 0.2)
        for n, x in model.named_buffers():
            if "running_mean" in n: x.add_(torch.randn_like(x) * 0.2)
            if "running_var" in n: x.add_(torch.rand_like(x))
        for p in (*model.parameters(), *model.buffers()): p.copy_(p.float())
    save_file(float32(model.state_dict()), at(name, "open_clip_model.safetensors"))
    json.dump({"model_cfg": cfg, "preprocess_cfg": {"size": S}}, open(at(name, "open_clip_config.json"), "w"), indent=1)
    own = batch
    if name == "mci":
        own = dict(batch, pixels=torch.randint(0, 256, (B, MCI, MCI, 3)).float())
        save_file(own, at(name, "batch.safetensors"))
    loss = run(model, own, at(name))
    if name == "mci": run(model.train(), own, at(name), "_of_batch")
    save_file({"losses": ten_steps(model, own)}, at(name, "steps.safetensors"))
    print(name, loss, sum(p.numel() for p in model.parameters()), "parameters")
print(open_clip.__version__, timm.__version__, torch.__version__)
