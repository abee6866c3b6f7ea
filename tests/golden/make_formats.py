#!/usr/bin/env python3
"""Makes tests/golden/formats/: one tiny QuickGELU CLIP in every format that is read, and its features in PyTorch.
Its weights are multiples of 1/64, so that f32, f16 and bf16 hold the same numbers. Needs open_clip_torch, transformers, torch,
safetensors, pillow, numpy."""
import collections, gzip, json, os, shutil, sys, warnings
import numpy as np, torch, open_clip
from PIL import Image
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transform import image_transform
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel

warnings.filterwarnings("ignore")
here = os.path.dirname(os.path.abspath(__file__))
out = sys.argv[1] if len(sys.argv) > 1 else os.path.join(here, "formats")
shutil.rmtree(out, ignore_errors=True); os.makedirs(out)
at = lambda *names: os.path.join(out, *names)
torch.manual_seed(7)

# a vocabulary of one merge, the model, its architecture as a file
open(at("vocab.txt"), "w").write("#version: one merge\na t</w>")
cfg = {"embed_dim": 6, "quick_gelu": True,
       "vision_cfg": {"image_size": 8, "layers": 1, "width": 8, "head_width": 4, "patch_size": 4},
       "text_cfg": {"context_length": 12, "vocab_size": 515, "width": 4, "heads": 1, "layers": 1}}
json.dump(cfg, open(at("model.json"), "w"))
model = open_clip.CLIP(**cfg).eval()
with torch.no_grad():
    for p in model.parameters():
        p.copy_((p + torch.randn_like(p) * 0.3).clamp(-1.9, 1.9).mul(64).round().div(64))
state = collections.OrderedDict((k, v.clone()) for k, v in model.state_dict().items() if k != "attn_mask")

# open_clip: flat; the text tower with its prefix
os.makedirs(at("open_clip"))
save_file(dict(state), at("open_clip", "open_clip_model.safetensors"))
json.dump({"model_cfg": cfg, "preprocess_cfg": {"size": 8}}, open(at("open_clip", "open_clip_config.json"), "w"))
text = lambda k: k if k.startswith(("visual.", "logit_")) else "text." + k
save_file({text(k): v.half() for k, v in state.items()}, at("prefixed_f16.safetensors"))

# Hugging Face: whole, and in parts with an index
d, w = cfg["vision_cfg"], cfg["text_cfg"]
hf = CLIPModel(CLIPConfig(
    projection_dim=6, vision_config=dict(hidden_size=8, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4),
    text_config=dict(hidden_size=4, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1, max_position_embeddings=12,
                     vocab_size=515, bos_token_id=513, eos_token_id=514, pad_token_id=514))).eval()


def hf_state():
    s = {"logit_scale": state["logit_scale"], "visual_projection.weight": state["visual.proj"].T, "text_projection.weight": state["text_projection"].T,
         "vision_model.embeddings.class_embedding": state["visual.class_embedding"],
         "vision_model.embeddings.patch_embedding.weight": state["visual.conv1.weight"],
         "vision_model.embeddings.position_embedding.weight": state["visual.positional_embedding"],
         "text_model.embeddings.token_embedding.weight": state["token_embedding.weight"],
         "text_model.embeddings.position_embedding.weight": state["positional_embedding"]}
    for part in ("weight", "bias"):
        s["vision_model.pre_layrnorm." + part] = state["visual.ln_pre." + part]
        s["vision_model.post_layernorm." + part] = state["visual.ln_post." + part]
        s["text_model.final_layer_norm." + part] = state["ln_final." + part]
        for own, its in (("visual.", "vision_model."), ("", "text_model.")):
            b, h = own + "transformer.resblocks.0.", its + "encoder.layers.0."
            for i, x in enumerate("qkv"):
                s[f"{h}self_attn.{x}_proj.{part}"] = state[f"{b}attn.in_proj_{part}"].chunk(3)[i]
            for x, y in (("attn.out_proj", "self_attn.out_proj"), ("ln_1", "layer_norm1"), ("ln_2", "layer_norm2"), ("mlp.c_fc", "mlp.fc1"), ("mlp.c_proj", "mlp.fc2")):
                s[f"{h}{y}.{part}"] = state[f"{b}{x}.{part}"]
    return s


missing, unexpected = hf.load_state_dict(hf_state(), strict=False)
assert not unexpected and all("position_ids" in m for m in missing), (missing, unexpected)
hf.save_pretrained(at("hf"))
hf.bfloat16().save_pretrained(at("hf_parts"), max_shard_size="3KB")
hf.float()

# PyTorch's results
captions = ["a cat", "two dogs", "", "Ünï 😀"]
open(at("captions.txt"), "w").write("\n".join(captions) + "\n")
open(at("vocab.gz"), "wb").write(gzip.compress(open(at("vocab.txt"), "rb").read()))
tokens = SimpleTokenizer(bpe_path=at("vocab.gz"), context_length=12)(captions)
os.remove(at("vocab.gz"))
tf = image_transform(8, is_train=False, mean=open_clip.OPENAI_DATASET_MEAN, std=open_clip.OPENAI_DATASET_STD)
images = torch.stack([tf(Image.open(os.path.join(here, "openclip", f"0{i}.jpg"))) for i in range(3)])
with torch.no_grad():
    I, T = model.encode_image(images, normalize=True), model.encode_text(tokens, normalize=True)
    whole = hf(pixel_values=images, input_ids=tokens)
print("open_clip and transformers differ by", (I - whole.image_embeds).abs().max().item(), (T - whole.text_embeds).abs().max().item())
np.save(at("images.npy"), I.numpy()); np.save(at("texts.npy"), T.numpy())

# PyTorch's files: a state dict; a training run's; its tensors transposed and offset; TorchScript like OpenAI's
torch.save(state, at("plain.pt"))
opt = torch.optim.AdamW([model.logit_scale], lr=1e-3); model.logit_scale.grad = torch.zeros(()); opt.step()
torch.save({"epoch": 3, "name": "run", "state_dict": {"module." + k: v.half() for k, v in state.items()}, "optimizer": opt.state_dict()}, at("training.pt"))
strange = collections.OrderedDict(state)
strange["visual.proj"] = state["visual.proj"].T.contiguous().T
strange["ln_final.bias"] = torch.cat([torch.zeros(3), state["ln_final.bias"], torch.ones(2)])[3:7]
strange["visual.ln_pre.weight"] = torch.nn.Parameter(state["visual.ln_pre.weight"])
torch.save({k: v if k in ("visual.proj", "ln_final.bias", "visual.ln_pre.weight") else v.bfloat16() for k, v in strange.items()}, at("strided.pt"), pickle_protocol=4)


class Names(torch.nn.Module):
    """The state dict as a tree of modules."""
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


root = Names()
for k, v in state.items():
    *path, leaf = k.split(".")
    node = root
    for name in path:
        if not hasattr(node, name): node.add_module(name, Names())
        node = getattr(node, name)
    node.register_parameter(leaf, torch.nn.Parameter(v.half() if v.ndim >= 2 else v))
for k, v in (("input_resolution", 8), ("context_length", 12), ("vocab_size", 515)):
    root.register_buffer(k, torch.tensor(v))
torch.jit.trace(root, torch.zeros(1)).save(at("script.pt"))
for folder, _, files in os.walk(out):
    for f in files: print(os.path.getsize(os.path.join(folder, f)), os.path.relpath(os.path.join(folder, f), out))
