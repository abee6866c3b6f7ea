#!/usr/bin/env python3
"""Writes the table of open_clip's published checkpoints into docs/CHECKPOINTS.md: for each entry of the installed package's own
list, its architecture, repository, and whether build/clipc reads the architecture, or which field it refuses and why. Needs
open_clip_torch; downloads nothing.

  tools/checkpoint_table.py             writes the table between the document's two marks
  tools/checkpoint_table.py --check     exits 1 if the document differs from what would be written"""
import argparse, sys

ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("--clipc", default="build/clipc")
ap.add_argument("--document", default="docs/CHECKPOINTS.md")
ap.add_argument("--check", action="store_true")
a = ap.parse_args()

import open_clip
from open_clip.pretrained import get_pretrained_cfg

from checks import refusal

BEGIN, END = "<!-- tools/checkpoint_table.py writes from here -->\n", "<!-- to here -->\n"

entries, why = open_clip.list_pretrained(), {}
for name, _ in entries:
    if name not in why: why[name] = refusal(a.clipc, open_clip.get_model_config(name))
opened = sum(not why[name] for name, _ in entries)
lines = [f"open_clip {open_clip.__version__} lists {len(entries)} entries; clipc reads the architectures of {opened}.\n", "\n",
         "| architecture | tag | repository | read, or the refusal |\n", "|---|---|---|---|\n"]
for name, tag in entries:
    source = get_pretrained_cfg(name, tag)
    place = f"`{'/'.join(source['hf_hub'].split('/')[:2])}`" if source.get("hf_hub") else source["url"]
    lines.append(f"| `{name}` | `{tag}` | {place} | {why[name] or 'yes'} |\n")
text = open(a.document).read()
head, rest = text.split(BEGIN)
new = head + BEGIN + "".join(lines) + END + rest.split(END)[1]
if a.check: sys.exit(0 if new == text else f"{a.document} is out of date: run tools/checkpoint_table.py")
open(a.document, "w").write(new)
print(f"{opened} of {len(entries)} entries")
