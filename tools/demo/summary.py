#!/usr/bin/env python3
"""The demo's result: tools/demo/summary.py build/demo
Reads the output of `clipc eval retrieval --json` for the held-out sets and their parts (split.py); prints a table and writes summary.json."""
import json
import os
import sys

RANKS = ("R@1", "R@5", "R@10")
ROWS = (("picture -> caption", "image_to_text"), ("caption -> picture", "text_to_image"), ("chance", "chance"))
SETS = (("emojione", "EmojiOne"), ("openclipart", "OpenClipart"), ("stamps", "Tux Paint's stamps"))
KINDS = (("caption", "caption seen"), ("words", "words seen"), ("new", "new words"))


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: summary.py build/demo")
    out = sys.argv[1]
    with open(f"{out}/train_seconds", encoding="utf-8") as f:
        summary = {"train_seconds": float(f.read())}
    with open(f"{out}/data/train.tsv", encoding="utf-8") as f:
        summary["pairs"] = sum(1 for _ in f) - 1
    print(f"trained on {summary['pairs']} pairs in {summary['train_seconds']:.0f} s")
    for name, title in SETS:
        with open(f"{out}/{name}.json", encoding="utf-8") as f:
            result = json.load(f)
        summary[name] = {key: {r: result[key][r] for r in RANKS} for _, key in ROWS}
        print(f"\n{title + ': ' + str(result['pairs']) + ' pictures':<28}" + "".join(f"{r:>9}" for r in RANKS))
        for label, key in ROWS:
            print(f"  {label:<26}" + "".join(f"{100 * result[key][r]:>7.1f} %" for r in RANKS))
    print(f"\n{'by what training saw of the caption':<46}{'pairs':>6}{'R@10':>9}{'chance':>9}")
    for name, title in SETS:
        for key, what in KINDS:
            path = f"{out}/{name}-{key}.json"
            if not os.path.exists(path):
                continue
            with open(path, encoding="utf-8") as f:
                result = json.load(f)
            both = 50 * (result["image_to_text"]["R@10"] + result["text_to_image"]["R@10"])
            chance = 100 * result["chance"]["R@10"]
            summary[name][key] = {"pairs": result["pairs"], "R@10": both / 100, "chance": chance / 100}
            print(f"  {title + ', ' + what:<44}{result['pairs']:>6}{both:>7.1f} %{chance:>7.1f} %")
    with open(f"{out}/summary.json", "w", encoding="utf-8") as f:
        json.dump(summary, f, indent=1)
        f.write("\n")


if __name__ == "__main__":
    main()
