#!/usr/bin/env python3
"""An image of the demo's search results: tools/demo/contact.py OUT.png < results
Reads the output of `clipc search --json` and draws a row for each query: its words, then its hits, best first."""
import json
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
        draw.multiline_text((2 * GAP, top + TILE // 2), wrap(draw, result["query"], font, LABEL - 4 * GAP), "black",
                            font, anchor="lm")
        for column, hit in enumerate(result["hits"]):
            picture = Image.open(hit["key"]).convert("RGB")
            picture.thumbnail((TILE, TILE))
            left = LABEL + column * (TILE + GAP)
            sheet.paste(picture, (left + (TILE - picture.width) // 2, top + (TILE - picture.height) // 2))
    sheet.save(sys.argv[1])


if __name__ == "__main__":
    main()
