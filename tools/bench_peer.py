#!/usr/bin/env python3
"""Times whole training steps of clip.c and of open_clip on PyTorch in turn on the same machine: A B A B …, medians and ratios.

  tools/bench_peer.py --model ViT-B-32 --batch-size 32 --precision amp_bf16 --caption-tokens 16 [--rounds 3]

The peer's step is open_clip's: forward, ClipLoss, backward, gradient clipping at 1.0, AdamW with two weight-decay groups; it
computes all positions of the context whatever the captions' length. Where libtcmalloc is installed it is preloaded for the peer
on a CPU. Needs torch and open_clip_torch; clipc from --clipc. Everything runs in processes of its own: peak memory is theirs."""
import argparse, glob, json, math, os, statistics, subprocess, sys, time

ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("--model", default="ViT-B-32", help="a name of configs/models or a JSON file")
ap.add_argument("--batch-size", type=int, default=32)
ap.add_argument("--precision", default="amp_bf16", choices=["fp32", "amp_bf16"])
ap.add_argument("--caption-tokens", type=int, default=16)
ap.add_argument("--rounds", type=int, default=3)
ap.add_argument("--steps", type=int, default=5)
ap.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
ap.add_argument("--compile", action="store_true", help="torch.compile for the peer")
ap.add_argument("--threads", type=int, default=os.cpu_count())
ap.add_argument("--clipc", default="build/clipc")
ap.add_argument("--peer", action="store_true", help=argparse.SUPPRESS)
a = ap.parse_args()


def config():
    path = a.model if a.model.endswith(".json") else os.path.join("configs/models", a.model + ".json")
    cfg = json.load(open(path))
    return cfg.get("model_cfg", cfg)


def peer():
    import resource, torch
    from open_clip.loss import ClipLoss
    from open_clip.model import CLIP

    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    cfg, B = config(), a.batch_size
    model = CLIP(**{k: v for k, v in cfg.items() if k in ("embed_dim", "vision_cfg", "text_cfg", "quick_gelu")}, output_dict=True)
    model.to(a.device)
    S, T, V = cfg["vision_cfg"]["image_size"], cfg["text_cfg"]["context_length"], cfg["text_cfg"]["vocab_size"]
    images = torch.randn(B, 3, S, S, device=a.device)
    texts = torch.zeros(B, T, dtype=torch.long)
    n = a.caption_tokens
    texts[:, :n] = torch.randint(1, V - 2, (B, n))
    texts[:, 0], texts[:, n - 1] = V - 2, V - 1
    texts = texts.to(a.device)
    flat = lambda name, p: p.ndim < 2 or "bn" in name or "ln" in name or "bias" in name or "logit_scale" in name
    named = list(model.named_parameters())
    opt = torch.optim.AdamW([{"params": [p for k, p in named if flat(k, p)], "weight_decay": 0.0},
                             {"params": [p for k, p in named if not flat(k, p)], "weight_decay": 0.2}],
                            lr=5e-4, betas=(0.9, 0.98), eps=1e-6, fused=a.device == "cuda")
    run, loss_fn = torch.compile(model) if a.compile else model, ClipLoss()

    def step():
        opt.zero_grad()
        with torch.autocast(a.device, dtype=torch.bfloat16, enabled=a.precision == "amp_bf16"):
            loss = loss_fn(**run(images, texts))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        return loss.item()

    for _ in range(2):
        step()
    seconds = []
    for _ in range(a.steps):
        t = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - t)
    print(json.dumps({"samples_per_s": B / statistics.median(seconds), "torch": torch.__version__,
                      "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def run(cmd, env=None):
    out = subprocess.run(cmd, check=True, stdout=subprocess.PIPE, env={**os.environ, **(env or {})}).stdout
    return json.loads(out.decode().strip().splitlines()[-1])


if a.peer:
    peer()
    sys.exit()
tcmalloc = (glob.glob("/usr/lib/*/libtcmalloc_minimal.so.4") + [None])[0] if a.device == "cpu" else None
ours, theirs = [], []
for r in range(a.rounds):
    ours.append(run([a.clipc, "bench", "step", "--model", a.model, "--batch-size", str(a.batch_size), "--precision", a.precision,
                     "--caption-tokens", str(a.caption_tokens), "--steps", str(a.steps), "--device", a.device, "--json"],
                    {"OMP_NUM_THREADS": str(a.threads)}))
    theirs.append(run([sys.executable, *sys.argv, "--peer"], {"LD_PRELOAD": tcmalloc} if tcmalloc else None))
    print(f"round {r + 1}: clip.c {ours[-1]['samples_per_s']:.2f}, open_clip {theirs[-1]['samples_per_s']:.2f} samples/s", flush=True)
med = lambda rows, key: statistics.median(x[key] for x in rows)
x, y = med(ours, "samples_per_s"), med(theirs, "samples_per_s")
m, n = med(ours, "peak_rss_mib"), med(theirs, "peak_rss_mib")
print(f"{a.model}, batch {a.batch_size}, {a.precision}, captions of {a.caption_tokens} tokens, {a.device}, torch {theirs[0]['torch']}"
      f"{' compiled' if a.compile else ''}{', tcmalloc' if tcmalloc else ''}: clip.c {x:.2f}, open_clip {y:.2f} samples/s: "
      f"ratio {x / y:.2f}; peak memory {m:.0f} and {n:.0f} MiB: {100 * m / n:.0f} %; products at {100 * med(ours, 'peak_share'):.0f} % "
      f"of the matrix peak over the whole step, all else {100 * med(ours, 'non_gemm_share'):.0f} % of the time")
