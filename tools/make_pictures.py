#!/usr/bin/env python3
"""Makes pictures of real size and detail, with captions, to measure the loader: tools/make_pictures.py FOLDER [COUNT]

Writes FOLDER/NAME.png of 641 x 481 pixels and FOLDER/pictures.tsv. They are parts of one texture of noise whose detail
falls with its frequency, as in photographs, in other colours each. `clipc data pack` turns them into JPEG files:
--max-size 480 into 640 x 480, --max-size 288 into 384 x 288. Needs the standard library alone.
"""
import os
import random
import struct
import sys
import zlib

WIDTH, HEIGHT, SIDE = 641, 481, 1024


def texture(random):
    """SIDE rows of 3 * SIDE bytes: each level doubles the last one, between whose samples it interpolates, and adds noise."""
    side, rows = 8, [[random.uniform(40, 215) for _ in range(24)] for _ in range(8)]
    spread = 40.0
    while side < SIDE:
        wide = []
        for row in rows:
            out = [0.0] * (6 * side)
            for c in range(3):
                own = row[c::3]
                out[c::6] = own
                out[3 + c :: 6] = [(a + b) / 2 for a, b in zip(own, own[1:] + own[:1])]
            wide.append(out)
        rows = []
        for above, below in zip(wide, wide[1:] + wide[:1]):
            between = [(a + b) / 2 for a, b in zip(above, below)]
            for row in (above, between):
                rows.append([v + random.uniform(-spread, spread) for v in row])
        side, spread = 2 * side, spread * 0.74
    return [bytes(min(255, max(0, int(v))) for v in row) for row in rows]


def write_png(path, rows):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    with open(path, "wb") as f:
        f.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 0)))
        f.write(chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows), 1)) + chunk(b"IEND", b""))


def main():
    folder, count = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 256
    os.makedirs(folder, exist_ok=True)
    draw = random.Random(1)
    rows = texture(draw)
    with open(os.path.join(folder, "pictures.tsv"), "w") as table:
        table.write("filepath\ttitle\n")
        for i in range(count):
            x, y = draw.randrange(SIDE - WIDTH), draw.randrange(SIDE - HEIGHT)
            low, high = draw.randrange(0, 100), draw.randrange(156, 256)
            colours = bytes(low + v * (high - low) // 255 for v in range(256))
            name = f"{i:06d}.png"
            write_png(os.path.join(folder, name), [row[3 * x : 3 * (x + WIDTH)].translate(colours) for row in rows[y : y + HEIGHT]])
            table.write(f"{name}\ta picture of {'clouds over the sea' if i % 2 else 'a rough wall in the sun'}, number {i}\n")


if __name__ == "__main__":
    main()
