#!/usr/bin/env python3
"""The fine-tuning demo's result: tools/demo/finetune_summary.py build/finetune
Reads the output of `clipc eval retrieval --json` for the model before, after and mixed; prints a table, writes
summary.json."""
import json
import sys

STATES = ("before", "chosen", "after")


def recalls(path):
    """R@1, R@5, R@10 in percent, the two directions' means; chance of R@10."""
    with open(path, encoding="utf-8") as f:
        result = json.load(f)
    return ([50 * (result["image_to_text"][r] + result["text_to_image"][r]) for r in ("R@1", "R@5", "R@10")],
            100 * result["chance"]["R@10"])


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: finetune_summary.py build/finetune")
    out = sys.argv[1]
    rows = [(state, recalls(f"{out}/{state}.base.json"), recalls(f"{out}/{state}.stamps.json")) for state in STATES]
    print(f"{'':8}{'EmojiOne':>24}{'held-out stamps':>27}")
    print(f"{'':8}" + f"{'R@1':>8}{'R@5':>8}{'R@10':>8}   " * 2)
    for state, (base, _), (stamps, _) in rows:
        print(f"{state:<8}" + "".join("".join(f"{x:8.1f}" for x in side) + "   " for side in (base, stamps)).rstrip())
    print(f"{'chance':<8}{'':16}{rows[0][1][1]:8.1f}{'':19}{rows[0][2][1]:8.1f}")
    with open(f"{out}/summary.json", "w", encoding="utf-8") as f:
        json.dump({state: {"emojione": base, "stamps": stamps} for state, (base, _), (stamps, _) in rows}, f, indent=1)
        f.write("\n")


if __name__ == "__main__":
    main()
