#!/usr/bin/env python3
"""The fine-tuning demo's result: tools/demo/finetune_summary.py build/finetune
Reads the output of `clipc eval retrieval --json` for each share alpha of the new weights; prints a table, names the largest
gain that costs the base task at most two points, writes wise.dat and summary.json."""
import glob
import json
import os
import sys

MOST_LOST = 2.0  # points of the base task's recall@10


def recalls(path):
    """R@1, R@5, R@10 in percent, the two directions' means."""
    with open(path, encoding="utf-8") as f:
        result = json.load(f)
    return [50 * (result["image_to_text"][r] + result["text_to_image"][r]) for r in ("R@1", "R@5", "R@10")]


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: finetune_summary.py build/finetune")
    out = sys.argv[1]
    rows = []
    for path in sorted(glob.glob(f"{out}/alpha/*.stamps.json")):
        base = path.replace(".stamps.json", ".base.json")
        rows.append((float(os.path.basename(path)[:3]), recalls(base), recalls(path)))
    lost = [rows[0][1][2] - base[2] for _, base, _ in rows]
    chosen = max((r for r, less in zip(rows, lost) if less <= MOST_LOST), key=lambda r: r[2][2])
    print(f"{'':8}{'EmojiOne':>24}{'held-out stamps':>27}")
    print(f"{'alpha':<8}" + f"{'R@1':>8}{'R@5':>8}{'R@10':>8}   " * 2)
    for alpha, base, stamps in rows:
        mark = {0.0: "before", 1.0: "after"}.get(alpha, "chosen" if alpha == chosen[0] else "")
        numbers = ("".join(f"{x:8.1f}" for x in side) + "   " for side in (base, stamps))
        print(f"{alpha:<8.1f}" + "".join(numbers) + mark)
    print(f"alpha {chosen[0]}: stamps {rows[0][2][2]:.1f} -> {chosen[2][2]:.1f} %, "
          f"EmojiOne {rows[0][1][2]:.1f} -> {chosen[1][2]:.1f} %")
    with open(f"{out}/wise.dat", "w", encoding="utf-8") as f:
        for alpha, base, stamps in rows:
            f.write(f"{alpha} {base[2]:.2f} {stamps[2]:.2f}\n")
    with open(f"{out}/summary.json", "w", encoding="utf-8") as f:
        json.dump({"alpha": chosen[0], "curve": [{"alpha": a, "emojione": b, "stamps": s} for a, b, s in rows]}, f, indent=1)
        f.write("\n")


if __name__ == "__main__":
    main()
