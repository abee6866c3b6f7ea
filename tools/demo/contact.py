#!/usr/bin/env python3
"""An image of the demo's search results: tools/demo/contact.py OUT.png < results
Reads the output of `clipc search --json` and draws a row for each query: its words or its picture, then its hits, best
first."""
import json
import os
import sys

from PIL import Image, ImageDraw, ImageFont

TILE, GAP, LABEL = 96, 6, 190
FONT = "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf"


def wrap(draw, text, font, width):
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and draw.textlength(longer, font) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)


def put(sheet, path, left, top):
    picture = Image.open(path).convert("RGB")
    picture.thumbnail((TILE, TILE))
    sheet.paste(picture, (left + (TILE - picture.width) // 2, top + (TILE - picture.height) // 2))


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: contact.py OUT.png < results of clipc search --json")
    results = json.load(sys.stdin)["results"]
    columns = max(len(r["hits"]) for r in results)
    sheet = Image.new("RGB", (LABEL + columns * (TILE + GAP) + GAP, len(results) * (TILE + GAP) + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.truetype(FONT, 15)
    for row, result in enumerate(results):
        top = GAP + row * (TILE + GAP)
        if os.path.exists(result["query"]):
            put(sheet, result["query"], (LABEL - TILE) // 2, top)
        else:
            draw.multiline_text((2 * GAP, top + TILE // 2), wrap(draw, result["query"], font, LABEL - 4 * GAP), "black",
                                font, anchor="lm")
        for column, hit in enumerate(result["hits"]):
            put(sheet, hit["key"], LABEL + column * (TILE + GAP), top)
    sheet.save(sys.argv[1])


if __name__ == "__main__":
    main()
