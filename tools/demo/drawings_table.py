#!/usr/bin/env python3
"""usage: tools/demo/drawings_table.py (features|table|shown) DATA OUT: features without a model, the table of the drawings
demo, queries to show."""
import array
import json
import random
import struct
import sys

METHODS = {
    "random": "random features",
    "pixels": "pixels, 32 x 32 grey",
    "untrained": "ResNet-18, untrained",
    "simclr": "ResNet-18, SimCLR",
    "clip": "CLIP of make demo",
    "names": "CLIP, fine-tuned on names",
}
TASKS = {"kinds": "finds drawings", "sources": "finds its own source"}
DRAWS = 2000  # of the bootstrap


def gallery(data):
    with open(f"{data}/gallery.tsv", encoding="utf-8") as f:
        return [line.split("\t")[0] for line in f][1:]


def write_npy(path, rows):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({len(rows)}, {len(rows[0])}), }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    with open(path, "wb") as f:
        f.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
        for row in rows:
            values = array.array("f", row)
            if sys.byteorder == "big":
                values.byteswap()
            f.write(values.tobytes())


def features(data, out):
    from PIL import Image  # the table needs none
    paths, rng = gallery(data), random.Random(1)
    write_npy(f"{out}/random.npy", [[rng.gauss(0, 1) for _ in range(128)] for _ in paths])
    ink = []
    for path in paths:  # white is 0; a mean of 1e-3 keeps a white page's length above 0
        small = Image.open(path).convert("L").resize((32, 32), Image.BOX)
        ink.append([255 - v + 1e-3 for v in small.tobytes()])
    write_npy(f"{out}/pixels.npy", ink)


def per_query(out, name, task):
    """[(row, precision, average precision)]"""
    with open(f"{out}/{name}-{task}.tsv", encoding="utf-8") as f:
        return [tuple(map(float, line.split("\t"))) for line in f.read().splitlines()[1:]]


def mean(values):
    return sum(values) / len(values)


def bootstrap(values):
    """The middle 95 % of the means of drawn sets."""
    rng = random.Random(1)
    means = sorted(mean(rng.choices(values, k=len(values))) for _ in range(DRAWS))
    return means[int(0.025 * DRAWS)], means[int(0.975 * DRAWS)]


def compare(a, b, scores):
    """In words, by the paired differences of average precisions."""
    d = [100 * (x[2] - y[2]) for x, y in zip(scores[a], scores[b], strict=True)]
    low, high = bootstrap(d)
    verdict = "beats" if low > 0 else "loses to" if high < 0 else "is not told apart from"
    return f"{METHODS[a]} {verdict} {METHODS[b]}: mAP {mean(d):+.1f} points ({low:+.1f} to {high:+.1f})"


def table(data, out):
    with open(f"{data}/sources.txt", encoding="utf-8") as f:
        sources = f.read().split("\n")
    scores = {t: {m: per_query(out, m, t) for m in METHODS} for t in TASKS}
    chance = {}
    for t in TASKS:
        with open(f"{out}/random-{t}.json", encoding="utf-8") as f:
            chance[t] = json.load(f)
    first = chance["kinds"]
    print(f"{first['queries']} queries, drawings of sources that training did not see, among {first['rows'] - 1} other pictures;")
    print("in %, in brackets the bootstrap's 95 % over queries\n")
    print((f"{'':<26}" + "".join(f"{'a drawing ' + words:<42}" for words in TASKS.values())).rstrip())
    print((f"{'':<26}" + f"{'precision@10':<21}{'mAP':<21}" * len(TASKS)).rstrip())
    for m, title in METHODS.items():
        line = f"{title:<26}"
        for t in TASKS:
            for column in 1, 2:
                values = [100 * s[column] for s in scores[t][m]]
                cell = "{:5.1f} ({:.1f}-{:.1f})".format(mean(values), *bootstrap(values))
                line += f"{cell:<21}"
        print(line.rstrip())
    print((f"{'chance':<26}" + "".join(f"{100 * chance[t]['chance_' + key]:5.1f}{'':<16}" for t in TASKS for key in ("precision", "map"))).rstrip())
    for t, words in TASKS.items():
        ranked = sorted(METHODS, key=lambda m: -mean([s[2] for s in scores[t][m]]))
        print(f"\na drawing {words}: first is {METHODS[ranked[0]]}")
        pairs = [(ranked[0], ranked[1])] + [p for p in (("simclr", "clip"), ("names", "clip")) if p != (ranked[0], ranked[1])]
        for a, b in pairs:
            print("  " + compare(a, b, scores[t]))
        for source in sorted({sources[int(s[0])] for s in scores[t]["random"]}):
            of = {m: 100 * mean([s[2] for s in scores[t][m] if sources[int(s[0])] == source]) for m in METHODS}
            print(f"  mAP of {source}'s alone: " + ", ".join(f"{m} {of[m]:.1f}" for m in METHODS))


def shown(data, out):
    """Ten of the queries."""
    paths = gallery(data)
    with open(f"{data}/queries.txt", encoding="utf-8") as f:
        rows = [int(line) for line in f]
    for i in range(10):
        print(paths[rows[(2 * i + 1) * len(rows) // 20]])


def main():
    commands = {"features": features, "table": table, "shown": shown}
    if len(sys.argv) != 4 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    commands[sys.argv[1]](*sys.argv[2:])


if __name__ == "__main__":
    main()
