"""Drawings of Debian's packages as strokes, and sheets of paper on which they are put with a frame and a title block. A
piece is a picture of one symbol, dark on white; the parsers return lists of strokes, polylines with y downwards."""
import gzip
import io
import math
import os
import random
import re
import subprocess
import xml.etree.ElementTree as ElementTree

from PIL import Image, ImageChops, ImageDraw, ImageFont

SHEET = 1024  # longer side of a sheet when it is drawn
FONT = "/usr/share/fonts/truetype/dejavu/DejaVuSans%s.ttf"
MOST_STROKES = 4000  # of a piece


def circle(x, y, rx, ry, start=0.0, sweep=360.0):
    """Angles in degrees, counter-clockwise from the right on paper."""
    steps = max(3, int(abs(sweep) / 12))
    angles = [math.radians(start + sweep * i / steps) for i in range(steps + 1)]
    return [(x + rx * math.cos(a), y - ry * math.sin(a)) for a in angles]


def arc_through(a, b, c):
    """The arc from a by b to c; a straight line if there is none."""
    (ax, ay), (bx, by), (cx, cy) = a, b, c
    d = 2 * (ax * (by - cy) + bx * (cy - ay) + cx * (ay - by))
    if abs(d) < 1e-9:
        return [a, b, c]
    x = ((ax * ax + ay * ay) * (by - cy) + (bx * bx + by * by) * (cy - ay) + (cx * cx + cy * cy) * (ay - by)) / d
    y = ((ax * ax + ay * ay) * (cx - bx) + (bx * bx + by * by) * (ax - cx) + (cx * cx + cy * cy) * (bx - ax)) / d
    at = [math.degrees(math.atan2(y - q, p - x)) for p, q in (a, b, c)]
    sweep = (at[2] - at[0]) % 360
    if (at[1] - at[0]) % 360 > sweep:
        sweep -= 360
    return circle(x, y, math.hypot(ax - x, ay - y), math.hypot(ax - x, ay - y), at[0], sweep)


# ---- formats ----


def s_expression(text):
    stack = [[]]
    for token in re.finditer(r'"((?:[^"\\]|\\.)*)"|([()])|([^\s()"]+)', text):
        if token[2] == "(":
            stack.append([])
        elif token[2] == ")":
            done = stack.pop()
            stack[-1].append(done)
        else:
            stack[-1].append(token[1] if token[3] is None else token[3])
    return stack[0]


def fields(node):
    return {child[0]: child for child in node if isinstance(child, list) and child}


def kicad_strokes(node, strokes):
    """Graphics of a symbol and of its units; y is upwards there."""
    def point(p):
        return float(p[1]), -float(p[2])
    for child in node:
        if not isinstance(child, list) or not child:
            continue
        f = fields(child)
        if child[0] == "symbol":
            kicad_strokes(child, strokes)
        elif child[0] == "rectangle":
            (a, b), (c, d) = point(f["start"]), point(f["end"])
            strokes.append([(a, b), (c, b), (c, d), (a, d), (a, b)])
        elif child[0] == "polyline":
            strokes.append([point(p) for p in f["pts"][1:]])
        elif child[0] == "circle":
            x, y = point(f["center"])
            strokes.append(circle(x, y, float(f["radius"][1]), float(f["radius"][1])))
        elif child[0] == "arc" and "mid" in f:
            strokes.append(arc_through(point(f["start"]), point(f["mid"]), point(f["end"])))
        elif child[0] == "pin":
            x, y = point(f["at"])
            length, angle = float(f["length"][1]), math.radians(float(f["at"][3]))
            strokes.append([(x, y), (x + length * math.cos(angle), y - length * math.sin(angle))])


def read_kicad(path):
    """(name, strokes) of every symbol of a library that has graphics of its own."""
    with open(path, encoding="utf-8") as f:
        library = s_expression(f.read())[0]
    for node in library:
        if isinstance(node, list) and node[0] == "symbol":
            strokes = []
            kicad_strokes(node, strokes)
            yield node[1], strokes


def read_lepton(path):
    """gEDA's symbols, y upwards: lines, boxes, circles, arcs, pins; texts and paths have further lines."""
    strokes = []
    with open(path, encoding="utf-8", errors="replace") as f:
        lines = iter(f.read().splitlines())
    for line in lines:
        kind, *rest = line.split() or [""]
        try:
            v = [float(x) for x in rest]
        except ValueError:
            continue
        if kind in ("L", "P") and len(v) >= 4:
            strokes.append([(v[0], -v[1]), (v[2], -v[3])])
        elif kind == "B" and len(v) >= 4:
            x, y, w, h = v[:4]
            strokes.append([(x, -y), (x + w, -y), (x + w, -y - h), (x, -y - h), (x, -y)])
        elif kind == "V" and len(v) >= 3:
            strokes.append(circle(v[0], -v[1], v[2], v[2]))
        elif kind == "A" and len(v) >= 5:
            strokes.append(circle(v[0], -v[1], v[2], v[2], v[3], v[4]))
        elif kind in ("T", "H") and rest:
            for _ in range(int(v[-1])):
                next(lines, None)
    yield os.path.basename(path)[:-4], strokes


def read_qelectrotech(path):
    strokes = []
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError:
        return
    for e in root.iter():
        def v(*names):
            return [float(e.get(n, 0)) for n in names]
        if e.tag == "line":
            a, b, c, d = v("x1", "y1", "x2", "y2")
            strokes.append([(a, b), (c, d)])
        elif e.tag == "rect":
            x, y, w, h = v("x", "y", "width", "height")
            strokes.append([(x, y), (x + w, y), (x + w, y + h), (x, y + h), (x, y)])
        elif e.tag in ("ellipse", "circle", "arc"):
            x, y = v("x", "y")
            w, h = v("diameter", "diameter") if e.tag == "circle" else v("width", "height")
            start, sweep = v("start", "angle") if e.tag == "arc" else (0, 360)
            strokes.append(circle(x + w / 2, y + h / 2, w / 2, h / 2, start, sweep))
        elif e.tag == "polygon":
            points = []
            while e.get(f"x{len(points) + 1}") is not None:
                points.append(tuple(v(f"x{len(points) + 1}", f"y{len(points) + 1}")))
            strokes.append(points + (points[:1] if e.get("closed") != "false" else []))
    name = root.find(".//name[@lang='en']")
    yield (name.text if name is not None and name.text else os.path.basename(path)[:-5]), strokes


def read_dxf(path):
    import ezdxf
    from ezdxf import disassemble
    try:
        model = ezdxf.readfile(path).modelspace()
        strokes = [[(p.x, -p.y) for p in primitive.path.flattening(0.5)]
                   for primitive in disassemble.to_primitives(disassemble.recursive_decompose(model))
                   if primitive.path is not None]
    except Exception:  # of many kinds, for files of many programs
        return
    yield os.path.basename(path)[:-4], strokes


def read_fig(path):
    """A picture instead of strokes: fig2dev and librsvg draw it."""
    with (gzip.open if path.endswith(".gz") else open)(path, "rb") as f:
        svg = subprocess.run(["fig2dev", "-L", "svg"], input=f.read(), capture_output=True, check=False)
    png = subprocess.run(["rsvg-convert", "-w", "500", "-h", "500", "-a", "-b", "white"], input=svg.stdout, capture_output=True, check=False)
    if png.returncode == 0 and png.stdout:
        yield os.path.basename(path).split(".")[0], Image.open(io.BytesIO(png.stdout)).convert("L")


# ---- pieces and sheets ----


def usable(piece):
    if isinstance(piece, Image.Image):
        box = ImageChops.invert(piece).getbbox()
        return box is not None and min(box[2] - box[0], box[3] - box[1]) > 20
    points = [p for s in piece for p in s]
    if len(piece) < 3 or len(points) > MOST_STROKES or not all(math.isfinite(c) for p in points for c in p):
        return False
    w, h = (max(p[i] for p in points) - min(p[i] for p in points) for i in (0, 1))
    return min(w, h) > 0 and max(w, h) < 30 * min(w, h)


def put(sheet, piece, box, width):
    """Draws the piece into a box of the sheet, as large as it fits."""
    left, top, right, bottom = box
    if isinstance(piece, Image.Image):
        picture = piece.crop(ImageChops.invert(piece).getbbox())
        picture.thumbnail((right - left, bottom - top), Image.LANCZOS)
        sheet.paste(picture, ((left + right - picture.width) // 2, (top + bottom - picture.height) // 2))
        return
    points = [p for s in piece for p in s]
    x0, x1 = min(p[0] for p in points), max(p[0] for p in points)
    y0, y1 = min(p[1] for p in points), max(p[1] for p in points)
    scale = min((right - left) / (x1 - x0), (bottom - top) / (y1 - y0))
    dx, dy = (left + right - scale * (x0 + x1)) / 2, (top + bottom - scale * (y0 + y1)) / 2
    draw = ImageDraw.Draw(sheet)
    for stroke in piece:
        if len(stroke) > 1:
            draw.line([(scale * x + dx, scale * y + dy) for x, y in stroke], 0, width)


# How each source's sheets look: orientation, frame, block (place, width and height as shares of the sheet, columns,
# rows), line width, most pieces on a sheet, and whether wires join them.
STYLES = {
    "kicad": ("landscape", "ticks", ("corner", .42, .16, 2, 4), 3, 6, True),
    "qelectrotech": ("landscape", "columns", ("bottom", 1, .10, 6, 2), 2, 8, True),
    "xfig": ("portrait", "plain", ("corner", .55, .12, 2, 3), 2, 2, False),
    "librecad": ("landscape", "double", ("right", .17, 1, 1, 8), 2, 3, False),
    "lepton": ("landscape", "plain", ("corner", .34, .22, 1, 5), 3, 5, True),
}


def text(draw, box, words, size, bold=False):
    font = ImageFont.truetype(FONT % ("-Bold" if bold else ""), size)
    words = " ".join(words.split())[:60]
    while words and draw.textlength(words, font) > box[2] - box[0] - 6:
        words = words[:-1]
    draw.text((box[0] + 4, (box[1] + box[3]) / 2), words, 0, font, anchor="lm")


def frame(draw, kind, w, h):
    edge = 20 if kind == "plain" else 36
    draw.rectangle((edge, edge, w - edge, h - edge), outline=0, width=3)
    if kind != "plain":
        draw.rectangle((14, 14, w - 14, h - 14), outline=0, width=1)
    for i in range(1, 8 if kind in ("ticks", "columns") else 0):
        x = edge + (w - 2 * edge) * i / 8
        draw.line((x, 14, x, edge), 0, 2)
        if kind == "ticks":
            y = edge + (h - 2 * edge) * i / 8
            draw.line([(x, h - edge), (x, h - 14)], 0, 2)
            draw.line([(14, y), (edge, y)], 0, 2)
            draw.line([(w - edge, y), (w - 14, y)], 0, 2)
        else:
            text(draw, (x - 60, 14, x, edge), str(i), 15)
    return edge


def title_block(draw, block, area, entries):
    """Returns the area that is left for the drawing."""
    place, share_w, share_h, columns, rows = block
    left, top, right, bottom = area
    bw, bh = (right - left) * share_w, (bottom - top) * share_h
    x0, y0 = right - bw, bottom - bh
    draw.rectangle((x0, y0, right, bottom), outline=0, width=3)
    for i in range(columns * rows):
        c, r = i % columns, i // columns
        cell = (x0 + bw * c / columns, y0 + bh * r / rows, x0 + bw * (c + 1) / columns, y0 + bh * (r + 1) / rows)
        draw.rectangle(cell, outline=0, width=1)
        if i < len(entries):
            text(draw, cell, entries[i], 17 if i else 20, not i)
    return (left, top, int(x0) if place == "right" else right, bottom if place == "right" else int(y0))


def make_sheet(source, package, library, pieces, number):
    """A sheet with the pieces [(name, piece)] of one library, and their names in the title block that is drawn on it."""
    orientation, kind, block, width, _, wires = STYLES[source]
    rng = random.Random(f"{source} {library} {number}")
    w, h = (SHEET, SHEET * 707 // 1000) if orientation == "landscape" else (SHEET * 707 // 1000, SHEET)
    sheet = Image.new("L", (w, h), 255)
    draw = ImageDraw.Draw(sheet)
    edge = frame(draw, kind, w, h)
    names = ", ".join(name for name, _ in pieces)
    entries = [package, library, names, f"No. {number:04d}", f"scale 1:{rng.choice([1, 2, 5, 10])}", "sheet 1/1", "drawn: demo", "rev. A"]
    left, top, right, bottom = title_block(draw, block, (edge, edge, w - edge, h - edge), entries)
    columns = max(1, math.ceil(math.sqrt(len(pieces) * (right - left) / (bottom - top))))
    rows = math.ceil(len(pieces) / columns)
    cw, ch = (right - left) / columns, (bottom - top) / rows
    for i, (_, piece) in enumerate(pieces):
        x, y = left + cw * (i % columns), top + ch * (i // columns)
        size = rng.uniform(.5, .85)
        gap_x, gap_y = cw * (1 - size) / 2, ch * (1 - size) / 2
        put(sheet, piece, (int(x + gap_x), int(y + gap_y), int(x + cw - gap_x), int(y + ch - gap_y)), width)
        if wires and i % columns:
            y += ch * rng.uniform(.3, .7)
            draw.line([(x - gap_x, y), (x, y), (x, y + ch * .1), (x + gap_x, y + ch * .1)], 0, width)
    return sheet
