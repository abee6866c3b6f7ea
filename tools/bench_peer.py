#!/usr/bin/env python3
"""Times whole training steps of clip.c and of open_clip on PyTorch in turn on the same machine: A B A B …, medians and ratios.
Where open_clip is not installed, the same model in plain PyTorch (tools/peer_clip.py) takes its place.

  tools/bench_peer.py --model ViT-B-32 --batch-size 32 --precision amp_bf16 --caption-tokens 16 [--rounds 3]
  tools/bench_peer.py --device cuda --clipc build/clipc-cuda --model ViT-B-32 --batch-size 4096 --compile
  tools/bench_peer.py --check --model small --batch-size 8     open_clip against plain PyTorch: loss and gradients

The peer's step is open_clip's: forward, ClipLoss (SigLipLoss if the model has a logit bias), backward, gradient clipping at 1.0,
AdamW with two weight-decay groups; it computes all positions of the context whatever the captions' length. Where libtcmalloc is installed it is preloaded for the peer
on a CPU. On a GPU its pictures lie there as floats from the start, while clip.c sends its bytes in every step. Needs torch; clipc from
--clipc. Everything runs in processes of its own: peak memory is theirs, of the GPU where there is one."""
import argparse, glob, json, math, os, statistics, subprocess, sys, time

ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("--model", default="ViT-B-32", help="a name of configs/models or a JSON file")
ap.add_argument("--batch-size", type=int, default=32)
ap.add_argument("--precision", default="amp_bf16", choices=["fp32", "amp_bf16"])
ap.add_argument("--caption-tokens", type=int, default=16)
ap.add_argument("--rounds", type=int, default=3)
ap.add_argument("--steps", type=int, default=5)
ap.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
ap.add_argument("--peer-model", default="auto", choices=["auto", "open_clip", "plain"], help="auto: open_clip where it is installed")
ap.add_argument("--tf32", action="store_true", help="fp32 on a GPU: products of both may round to TF32")
ap.add_argument("--check", action="store_true", help="compare both peers and end")
ap.add_argument("--compile", action="store_true", help="torch.compile for the peer")
ap.add_argument("--threads", type=int, default=os.cpu_count())
ap.add_argument("--clipc", default="build/clipc")
ap.add_argument("--peer", action="store_true", help=argparse.SUPPRESS)
a = ap.parse_args()


def config():
    path = a.model if a.model.endswith(".json") else os.path.join("configs/models", a.model + ".json")
    cfg = json.load(open(path))
    return cfg.get("model_cfg", cfg)


def models():
    """The model and its loss, by name; open_clip's if it is installed, unless the plain one is requested."""
    cfg = config()

    def plain():
        if cfg.get("custom_text"): sys.exit(f"{a.model}: plain PyTorch has CLIP's own towers alone: install open_clip_torch")
        return PeerClip(cfg), clip_loss

    def open_clip():
        from open_clip.loss import ClipLoss, SigLipLoss
        from open_clip.model import CLIP, CustomTextCLIP
        keys = ("embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "init_logit_scale", "init_logit_bias")
        kind, loss = CustomTextCLIP if cfg.get("custom_text") else CLIP, SigLipLoss if "init_logit_bias" in cfg else ClipLoss
        return kind(**{k: v for k, v in cfg.items() if k in keys}, output_dict=True), loss()

    from peer_clip import PeerClip, clip_loss
    return {"plain": plain, "open_clip": open_clip}


def choose():
    if a.peer_model != "auto":
        return a.peer_model
    import importlib.util
    return "open_clip" if importlib.util.find_spec("open_clip") else "plain"


def data(torch):
    cfg, B, n = config(), a.batch_size, a.caption_tokens
    S, T, V = cfg["vision_cfg"]["image_size"], cfg["text_cfg"]["context_length"], cfg["text_cfg"]["vocab_size"]
    images = torch.randn(B, 3, S, S, device=a.device)
    texts = torch.zeros(B, T, dtype=torch.long)
    texts[:, :n] = torch.randint(1, V - 2, (B, n))
    texts[:, 0], texts[:, n - 1] = V - 2, V - 1
    return images, texts.to(a.device)


def check():
    """Both models with the same weights on the same batch: loss and gradients."""
    import torch
    torch.manual_seed(0)
    (plain, plain_loss), (other, other_loss) = (make() for make in models().values())
    plain.load_state_dict({k: v for k, v in other.state_dict().items() if k != "attn_mask"})
    batch, losses = data(torch), []
    for model, loss_fn in ((plain, plain_loss), (other, other_loss)):
        model.to(a.device)
        losses.append(loss_fn(**model(*batch)))
        losses[-1].backward()
    theirs = dict(other.named_parameters())
    worst = max(((p.grad - theirs[k].grad).norm() / theirs[k].grad.norm().clamp_min(1e-12)).item() for k, p in plain.named_parameters())
    x, y = (loss.item() for loss in losses)
    print(f"loss {x:.7f} (plain), {y:.7f} (open_clip); largest relative difference of a gradient {worst:.2g}")
    sys.exit(abs(x - y) > 1e-5 * y or worst > 1e-3)


def peer():
    import resource, torch

    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    name, B, cuda = choose(), a.batch_size, a.device == "cuda"
    if cuda:  # as open_clip's training sets them
        torch.backends.cuda.matmul.allow_tf32 = a.tf32
        torch.backends.cudnn.allow_tf32 = a.tf32
        torch.backends.cudnn.benchmark = True
    model, loss_fn = models()[name]()
    model.to(a.device)
    images, texts = data(torch)
    flat = lambda name, p: p.ndim < 2 or "bn" in name or "ln" in name or "bias" in name or "logit_scale" in name
    named = list(model.named_parameters())
    opt = torch.optim.AdamW([{"params": [p for k, p in named if flat(k, p)], "weight_decay": 0.0},
                             {"params": [p for k, p in named if not flat(k, p)], "weight_decay": 0.2}],
                            lr=5e-4, betas=(0.9, 0.98), eps=1e-6, fused=cuda)
    run = torch.compile(model) if a.compile else model

    def step():
        opt.zero_grad()
        with torch.autocast(a.device, dtype=torch.bfloat16, enabled=a.precision == "amp_bf16"):
            loss = loss_fn(**run(images, texts))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        return loss

    def timed():
        """Seconds of each step: a GPU's by events, so that no step waits for the host."""
        if cuda:
            events = [torch.cuda.Event(enable_timing=True) for _ in range(a.steps + 1)]
            events[0].record()
            for e in events[1:]:
                loss = step()
                e.record()
            torch.cuda.synchronize()
            return loss.item(), [x.elapsed_time(y) / 1e3 for x, y in zip(events, events[1:])]
        seconds = []
        for _ in range(a.steps):
            t = time.perf_counter()
            loss = step().item()
            seconds.append(time.perf_counter() - t)
        return loss, seconds

    for _ in range(3):
        step()
    loss, seconds = timed()
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"peer": name, "samples_per_s": B / statistics.median(seconds), "torch": torch.__version__, "loss": loss,
                      "peak_memory_mib": torch.cuda.max_memory_allocated() / 2**20 if cuda else rss,
                      "card": torch.cuda.get_device_name() if cuda else "cpu"}))


def run(cmd, env=None):
    out = subprocess.run(cmd, check=True, stdout=subprocess.PIPE, env={**os.environ, **(env or {})}).stdout
    return json.loads(out.decode().strip().splitlines()[-1])


if a.check:
    check()
if a.peer:
    peer()
    sys.exit()
tcmalloc = (glob.glob("/usr/lib/*/libtcmalloc_minimal.so.4") + [None])[0] if a.device == "cpu" else None
ours, theirs = [], []
for r in range(a.rounds):
    ours.append(run([a.clipc, "bench", "step", "--model", a.model, "--batch-size", str(a.batch_size), "--precision", a.precision,
                     "--caption-tokens", str(a.caption_tokens), "--steps", str(a.steps), "--device", a.device, "--json",
                     *(["--autotune"] if a.device == "cuda" else []), *(["--tf32"] if a.tf32 else [])],
                    {"OMP_NUM_THREADS": str(a.threads)}))
    theirs.append(run([sys.executable, *sys.argv, "--peer"], {"LD_PRELOAD": tcmalloc} if tcmalloc else None))
    peer_name = theirs[-1]["peer"] if theirs[-1]["peer"] == "open_clip" else "plain PyTorch"
    print(f"round {r + 1}: clip.c {ours[-1]['samples_per_s']:.2f}, {peer_name} {theirs[-1]['samples_per_s']:.2f} samples/s", flush=True)
med = lambda rows, key: statistics.median(x[key] for x in rows)
x, y = med(ours, "samples_per_s"), med(theirs, "samples_per_s")
m, n = med(ours, "peak_memory_mib"), med(theirs, "peak_memory_mib")
print(f"{a.model}, batch {a.batch_size}, {a.precision}, captions of {a.caption_tokens} tokens, {theirs[0]['card']}, torch {theirs[0]['torch']}"
      f"{' compiled' if a.compile else ''}{', tcmalloc' if tcmalloc else ''}: clip.c {x:.2f}, {peer_name} {y:.2f} samples/s: "
      f"ratio {x / y:.2f}; peak memory {m:.0f} and {n:.0f} MiB: {100 * m / n:.0f} %; products at {100 * med(ours, 'peak_share'):.0f} % "
      f"of the matrix peak over the whole step, all else {100 * med(ours, 'non_gemm_share'):.0f} % of the time")
