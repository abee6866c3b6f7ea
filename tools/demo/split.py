#!/usr/bin/env python3
"""Splits the demo's held-out pairs by what training saw of their captions: tools/demo/split.py build/demo
Writes <set>-{caption,words,new}.tsv for each set: the whole caption occurs in training; each of its words does; at least
one word does not. Words are runs of letters and digits in lower case. Prints the counts."""
import csv
import os
import re
import sys

SETS = ("emojione", "openclipart", "stamps")
KINDS = (("caption", "caption seen"), ("words", "words seen"), ("new", "new words"))


def read(path):
    with open(path, encoding="utf-8", newline="") as f:
        return [(row["filepath"], row["title"]) for row in csv.DictReader(f, delimiter="\t", quoting=csv.QUOTE_NONE)]


def words(caption):
    return re.findall(r"[^\W_]+", caption.lower())


def kind(caption, captions, vocabulary):
    if caption.lower() in captions:
        return "caption"
    return "words" if vocabulary.issuperset(words(caption)) else "new"


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: split.py build/demo")
    out = sys.argv[1]
    train = [caption for _, caption in read(f"{out}/data/train.tsv")]
    captions = {caption.lower() for caption in train}
    vocabulary = {word for caption in train for word in words(caption)}
    for name in SETS:
        if not os.path.exists(f"{out}/data/{name}.tsv"):
            continue
        rows = {key: [] for key, _ in KINDS}
        for path, caption in read(f"{out}/data/{name}.tsv"):
            rows[kind(caption, captions, vocabulary)].append((path, caption))
        for key, _ in KINDS:
            with open(f"{out}/{name}-{key}.tsv", "w", encoding="utf-8") as f:
                for row in [("filepath", "title")] + rows[key]:
                    f.write("\t".join(row) + "\n")
        print(f"{name}: " + ", ".join(f"{len(rows[key])} {title}" for key, title in KINDS))


if __name__ == "__main__":
    main()
