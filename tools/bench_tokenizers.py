#!/usr/bin/env python3
"""Captions to ids a second: clipc beside the Rust library tokenizers, one core each, same file.

    pip install tokenizers && python3 tools/bench_tokenizers.py TOKENIZER.json CAPTIONS.txt [--clipc build/clipc]

Each side is timed over --reps passes, alternately; both get an empty cache of words at the start of a
pass. The library encodes all captions by one call of encode_batch_fast without parallelism, so Python
takes no part in the loop. Opening is timed in every pass: clipc's first one stores the form that the later ones
map (the median; delete the cache to see the first).
"""
import argparse
import json
import os
import statistics
import subprocess
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"


def cpu():
    with open("/proc/cpuinfo", encoding="ascii", errors="ignore") as f:
        return next((line.split(":", 1)[1].strip() for line in f if line.startswith("model name")), "unknown CPU")


def main():
    from tokenizers import Tokenizer
    p = argparse.ArgumentParser()
    p.add_argument("tokenizer")
    p.add_argument("captions")
    p.add_argument("--clipc", default="build/clipc")
    p.add_argument("--reps", type=int, default=5)
    a = p.parse_args()
    with open(a.captions, encoding="utf-8") as f:
        captions = f.read().split("\n")[:-1]
    ours, theirs, ids, loads = [], [], 0, {"clipc": [], "tokenizers": []}
    for _ in range(a.reps):
        start = time.perf_counter()
        t = Tokenizer.from_file(a.tokenizer)  # anew: its cache of words is empty
        loads["tokenizers"].append(time.perf_counter() - start)
        t.no_truncation()
        t.no_padding()
        start = time.perf_counter()
        encoded = t.encode_batch_fast(captions)
        theirs.append(len(captions) / (time.perf_counter() - start))
        ids = sum(len(e.ids) for e in encoded)
        out = subprocess.run([a.clipc, "bench", "tok", "--vocab", a.tokenizer, "--text", a.captions, "--reps", "1",
                              "--threads", "1", "--json"], stdout=subprocess.PIPE, check=True).stdout
        found = json.loads(out)
        ours.append(found["captions_per_s"])
        loads["clipc"].append(found["load_seconds"])
    x, y = statistics.median(ours), statistics.median(theirs)
    print(f"{cpu()}: {len(captions)} captions of {ids / len(captions):.1f} ids; clipc {x:,.0f} captions/s, "
          f"tokenizers {y:,.0f}, ratio {x / y:.1f}; opening {statistics.median(loads['clipc']):.2f} s and "
          f"{statistics.median(loads['tokenizers']):.2f} s")


main()
