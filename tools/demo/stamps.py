#!/usr/bin/env python3
"""Makes the fine-tuning demo's data from Tux Paint's stamps: tools/demo/stamps.py [OUT]

OUT (build/finetune/data) receives train.tsv, val.tsv and test.tsv (filepath<TAB>title, a header line) and the
pictures, composited on white, trimmed, squared and shrunk as tools/demo/prepare.py does it. A stamp's caption is the
English sentence of the .txt next to it. Stamps of one caption stay in one part: of ten captions seven train, one
validates, two are for the comparison at the end, in which each has one picture.
"""
import hashlib
import multiprocessing
import os
import shutil
import sys

import prepare

STAMPS = "/usr/share/tuxpaint/stamps"


def read_stamps():
    """[(picture, sentence)] by path."""
    found = []
    for folder, folders, files in os.walk(STAMPS):
        folders.sort()
        for name in sorted(files):
            base = f"{folder}/{name[:-4]}"
            picture = next((base + e for e in (".svg", ".png") if os.path.exists(base + e)), None)
            if not name.endswith(".txt") or not picture:
                continue
            with open(f"{folder}/{name}", encoding="utf-8", errors="replace") as f:
                sentence = " ".join(f.readline().split())
            if sentence:
                found.append((picture, sentence))
    return found


def side(sentence):
    """0 … 9, by the caption's hash."""
    return int(hashlib.sha1(sentence.lower().encode()).hexdigest(), 16) % 10


def main():
    out = sys.argv[1] if len(sys.argv) > 1 else "build/finetune/data"
    if not os.path.exists(STAMPS):
        prepare.die(f"{STAMPS} is missing: run tools/setup.sh demo")
    shutil.rmtree(f"{out}/img", ignore_errors=True)
    stamps = read_stamps()
    jobs = [(picture, f"{out}/img/{i:04d}.jpg") for i, (picture, _) in enumerate(stamps)]
    with multiprocessing.Pool() as pool:
        fingerprints = prepare.convert_all(pool, jobs)
    rows, seen, tested = {"train": [], "val": [], "test": []}, set(), set()
    for (_, target), (_, sentence) in zip(jobs, stamps):
        fingerprint = fingerprints.get(target)
        if not fingerprint or fingerprint in seen:
            continue
        seen.add(fingerprint)
        name = "train" if side(sentence) < 7 else "val" if side(sentence) == 7 else "test"
        if name != "train" and sentence in tested:
            continue
        tested.add(sentence)
        rows[name].append((target, sentence))
    for name, pairs in rows.items():
        prepare.write_tsv(f"{out}/{name}.tsv", pairs)
    counts = ", ".join(f"{len(pairs)} {name}" for name, pairs in rows.items())
    print(f"tuxpaint-stamps-default {prepare.debian_version('tuxpaint-stamps-default')}: "
          f"{len(stamps)} stamps with a sentence: {counts}")


if __name__ == "__main__":
    main()
