#!/usr/bin/env python3
"""Makes the drawings demo's data from Debian's packages: tools/demo/drawings.py PACKAGES OUT

PACKAGES: the folder into which tools/demo/fetch_drawings.sh unpacked them. OUT receives the pictures, train.tsv (filepath,
title: of sources that training sees), gallery.tsv, and a line for each of its rows in kinds.txt and sources.txt; queries.txt
has the rows of the held-out sources' drawings. The same packages give the same files.
"""
import glob
import hashlib
import multiprocessing
import os
import random
import re
import shutil
import subprocess
import sys

from PIL import Image, ImageDraw, ImageFont

import sheets

EDGE = 256  # of a stored picture, a page on white
SHEETS, HELD_OUT_SHEETS = 330, 120  # of a source
HELD_OUT = ("librecad", "lepton")
GALLERY = 3  # of the pictures that training could see, each third one is in the gallery instead
SOURCES = {  # package, files, parser, what is no drawing
    "kicad": ("kicad-symbols", "share/kicad/symbols/*.kicad_sym", sheets.read_kicad, "power|Graphic|Simulation"),
    "qelectrotech": ("qelectrotech-data", "share/qelectrotech/elements/**/*.elmt", sheets.read_qelectrotech, "98_graphics"),
    "xfig": ("xfig-libs", "share/xfig/Libraries/**/*.fig*", sheets.read_fig,
             "Arrows|Charts|Flags|Knitting|Labels|Maps|Music|GUI|Origami|Examples|UML|ERD|simple_"),
    "librecad": ("librecad-data", "share/librecad/library/**/*.dxf", sheets.read_dxf, "algoritm|sheets|templates|vegetation"),
    "lepton": ("lepton-eda", "share/lepton-eda/sym/**/*.sym", sheets.read_lepton, "titleblock|/power/|/misc/"),
}
PAGES = {  # package, file, pages
    "r-doc": ("r-doc-pdf", "share/R/doc/manual/fullrefman.pdf", 600),
    "octave-doc": ("octave-doc", "share/doc/octave/octave.pdf", 400),
    "gnuplot-doc": ("gnuplot-doc", "share/doc/gnuplot/gnuplot.pdf", 200),
}
FILES = 32  # that are read at once
RUN = 20  # pages of a manual that are rendered at once
PHOTOS, EMPTY = 200, 120
SKEW = float(os.environ.get("DRAWINGS_SKEW", "1"))  # 0: no page is askew, frames of a source are in the same place
STAMPS = "/usr/share/tuxpaint/stamps"


def chance(*words):
    return random.Random(" ".join(map(str, words)))


def words_of(name):
    return re.sub(r"[\W_]+", " ", name).strip().lower()


def store(page, path):
    """As a scanner sees it: a little smaller, askew and off the middle of a white square."""
    rng = chance("scan", *path.split("/")[-2:])
    page = page.convert("L")
    side = EDGE * (1 - SKEW * rng.uniform(0, .12))
    page.thumbnail((side, side), Image.LANCZOS)
    if SKEW:
        page = page.rotate(SKEW * rng.uniform(-2, 2), Image.BICUBIC, expand=True, fillcolor=255)
        page.thumbnail((EDGE, EDGE), Image.LANCZOS)
    square = Image.new("L", (EDGE, EDGE), 255)
    square.paste(page, [(EDGE - size) // 2 + round(SKEW * rng.uniform(-.5, .5) * (EDGE - max(page.size))) for size in page.size])
    os.makedirs(os.path.dirname(path), exist_ok=True)
    square.save(path)


# ---- drawings ----


def read_library(job):
    """All usable pieces of a file."""
    source, path = job
    return [(name, piece) for name, piece in SOURCES[source][2](path) if sheets.usable(piece)]


def draw_sheet(job):
    source, library, pieces, number, path = job
    store(sheets.make_sheet(source, SOURCES[source][0], library, pieces, number), path)


def make_drawings(pool, packages, out, source):
    """[(path, title)]"""
    package, pattern, parser, skipped = SOURCES[source]
    files = sorted(f for f in glob.glob(f"{packages}/{package}/usr/{pattern}", recursive=True)
                   if not re.search(skipped, f[len(packages):]))
    chance(source, "files").shuffle(files)
    libraries = {}
    count = HELD_OUT_SHEETS if source in HELD_OUT else SHEETS
    wanted = count * sheets.STYLES[source][4]
    while files and wanted > 0:
        some, files = files[:FILES], files[FILES:]
        for path, pieces in zip(some, pool.map(read_library, [(source, f) for f in some], 1)):
            if parser is sheets.read_kicad:
                name = os.path.basename(path).split(".")[0]
                chance(name).shuffle(pieces)
                pieces = pieces[:40]
            else:
                name = os.path.basename(os.path.dirname(path))
            libraries.setdefault(name, []).extend(pieces)
            wanted -= len(pieces)
    jobs, titles = [], []
    for name, pieces in sorted(libraries.items()):
        while pieces:
            number = len(jobs) + 1
            n = chance(source, name, number).randint(1, sheets.STYLES[source][4])
            path = f"{out}/img/{source}/{number:04d}.png"
            jobs.append((source, words_of(name), pieces[:n], number, path))
            titles.append(words_of(f"{source} {name} {pieces[0][0]}"))
            pieces = pieces[n:]
    keep = sorted(chance(source, "sheets").sample(range(len(jobs)), min(count, len(jobs))))
    list(pool.imap_unordered(draw_sheet, [jobs[i] for i in keep], 4))
    return [(jobs[i][4], titles[i]) for i in keep]


# ---- pages ----


def page_kind(text):
    """By poppler's text with its layout: empty, a table if most lines have columns, else text."""
    lines = [line for line in text.splitlines() if line.strip()]
    if len(" ".join(lines).split()) < 12:
        return "empty"
    columns = sum(len(re.findall(r"\S {3,}(?=\S)|\. \. \.", line.strip())) >= 1 for line in lines)
    return "table" if columns > 0.5 * len(lines) else "text"


def render(job):
    """Kinds of neighbouring pages, which are stored: to open a manual takes longer than to render a page of it."""
    pdf, first, paths = job
    pages = ["-f", str(first), "-l", str(first + len(paths) - 1)]
    text = subprocess.run(["pdftotext", "-layout", *pages, pdf, "-"], check=True, capture_output=True).stdout
    kinds = [page_kind(page) for page in text.decode(errors="replace").split("\f")]
    folder = paths[0][:-4]
    os.makedirs(folder)
    subprocess.run(["pdftoppm", "-q", "-gray", "-scale-to", "512", *pages, pdf, f"{folder}/page"], check=True)
    for file, path in zip(sorted(os.listdir(folder)), paths, strict=True):
        store(Image.open(f"{folder}/{file}"), path)
    shutil.rmtree(folder)
    return kinds[:len(paths)]


def make_pages(pool, packages, out, source):
    """[(path, title, kind)] of runs of pages, spread evenly over the manual."""
    package, name, count = PAGES[source]
    pdf = f"{packages}/{package}/usr/{name}"
    info = subprocess.run(["pdfinfo", pdf], check=True, capture_output=True, text=True).stdout
    total = int(re.search(r"Pages: *(\d+)", info)[1])
    runs = min(count, total) // RUN
    firsts = [1 + i * (total - RUN) // max(1, runs - 1) for i in range(runs)]
    jobs = [(pdf, first, [f"{out}/img/{source}/{n:04d}.png" for n in range(first, first + RUN)]) for first in firsts]
    title = words_of(os.path.basename(pdf)[:-4])
    return [(path, f"{title} page {first + i}", kind) for (_, first, paths), kinds in zip(jobs, pool.imap(render, jobs))
            for i, (path, kind) in enumerate(zip(paths, kinds, strict=True))]


def running_head(page, rng):
    """What a page has besides its content: a head, a number."""
    draw = ImageDraw.Draw(page)
    font = ImageFont.truetype(sheets.FONT % "", 18)
    draw.text((90, 60), rng.choice(["Chapter", "Appendix", "Notes", "Figures"]) + f" {rng.randint(1, 20)}", 0, font)
    draw.text((page.width // 2, page.height - 70), str(rng.randint(1, 400)), 0, font)
    return draw, font


def photo_page(job):
    """One to three photographs with a line below each, on a page."""
    photos, number, path = job
    rng = chance("photo", number)
    page = Image.new("L", (724, 1024), 255)
    draw, font = running_head(page, rng)
    height = 820 // len(photos)
    for i, (file, caption) in enumerate(photos):
        picture = Image.open(file).convert("RGBA")
        ground = Image.new("RGBA", picture.size, (rng.randint(90, 250),) * 3 + (255,))
        picture = Image.alpha_composite(ground, picture).convert("L").resize((rng.randint(400, 560), height - 60))
        top = 110 + i * height
        page.paste(picture, ((724 - picture.width) // 2, top))
        draw.text((120, top + height - 50), f"Figure {number}.{i + 1}: {caption}"[:60], 0, font)
    store(page, path)


def make_photos(pool, out):
    files = sorted(f for f in glob.glob(f"{STAMPS}/animals/**/*.png", recursive=True) + glob.glob(f"{STAMPS}/food/**/*.png", recursive=True)
                   + glob.glob(f"{STAMPS}/vehicles/**/*.png", recursive=True) if "cartoon" not in f and not f.endswith("_mirror.png"))
    if not files:
        sys.exit(f"drawings: no pictures under {STAMPS}: run tools/setup.sh drawings")
    jobs = []
    for n in range(1, PHOTOS + 1):
        rng = chance("photos", n)
        photos = [(f, words_of(os.path.basename(f)[:-4])) for f in rng.sample(files, rng.randint(1, 3))]
        jobs.append((photos, n, f"{out}/img/photos/{n:04d}.png"))
    list(pool.imap_unordered(photo_page, jobs, 4))
    return [(path, f"photo {photos[0][1]}", "photo") for photos, _, path in jobs]


def make_empty(out):
    rows = []
    for n in range(1, EMPTY + 1):
        page = Image.new("L", (724, 1024), 255)
        running_head(page, chance("empty", n))
        path = f"{out}/img/empty/{n:04d}.png"
        store(page, path)
        rows.append((path, f"empty page {n}", "empty"))
    return rows


# ---- the data set ----


def third(path):
    return int(hashlib.sha1(path.encode()).hexdigest(), 16) % GALLERY == 0


def licences(copyright_file):
    """The most frequent three of a package."""
    with open(copyright_file, encoding="utf-8", errors="replace") as f:
        found = re.findall(r"^License: *(\S.*?)\s*$", f.read(), re.M)
    return ", ".join(sorted(set(found), key=lambda l: (-found.count(l), l))[:3]) or "see " + copyright_file


def origin(packages, package):
    """Name and version of a package that was downloaded, and its licences."""
    file = sorted(glob.glob(f"{packages}/{package}_*.deb"))
    version = os.path.basename(file[0]).split("_")[1].replace("%3a", ":") if file else "?"
    return f"{package} {version}", licences(f"{packages}/{package}/usr/share/doc/{package}/copyright")


def write(path, lines):
    with open(path, "w", encoding="utf-8") as f:
        f.writelines(f"{line}\n" for line in lines)


def main():
    packages, out = sys.argv[1:3]
    shutil.rmtree(f"{out}/img", ignore_errors=True)
    rows, report = [], []  # path, title, kind, source
    with multiprocessing.Pool() as pool:
        for source, (package, *_) in SOURCES.items():
            made = make_drawings(pool, packages, out, source)
            rows += [(path, title, "drawing", source) for path, title in made]
            report.append((source, len(made), "held out" if source in HELD_OUT else "training", *origin(packages, package)))
        for source, (package, *_) in PAGES.items():
            made = make_pages(pool, packages, out, source)
            rows += [row + (source,) for row in made]
            report.append((source, len(made), "training", *origin(packages, package)))
        rows += [row + ("photos",) for row in make_photos(pool, out)]
        rows += [row + ("empty",) for row in make_empty(out)]
        stamps = "tuxpaint-stamps-default"
        report.append(("photos", PHOTOS, "training", stamps, licences(f"/usr/share/doc/{stamps}/copyright")))
        report.append(("empty", EMPTY, "training", "drawn here", ""))
    held = [r for r in rows if r[3] in HELD_OUT]
    seen = [r for r in rows if r[3] not in HELD_OUT]
    gallery = [r for r in seen if third(r[0])] + held
    train = [r for r in seen if not third(r[0])]
    write(f"{out}/train.tsv", ["filepath\ttitle"] + [f"{r[0]}\t{r[1]}" for r in train])
    write(f"{out}/gallery.tsv", ["filepath\ttitle"] + [f"{r[0]}\t{r[1]}" for r in gallery])
    write(f"{out}/kinds.txt", [r[2] for r in gallery])
    write(f"{out}/sources.txt", [r[3] for r in gallery])
    write(f"{out}/queries.txt", [i for i, r in enumerate(gallery) if r[3] in HELD_OUT])
    print(f"{'source':<14}{'pages':>6}  {'use':<10}{'package':<34}its licences")
    for source, n, use, package, licence in report:
        print(f"{source:<14}{n:>6}  {use:<10}{package:<34}{licence}".rstrip())
    print("\ngallery:  " + ", ".join(f"{sum(r[2] == k for r in gallery)} {k}" for k in ("drawing", "text", "table", "photo", "empty")))
    print("training: " + ", ".join(f"{sum(r[2] == k for r in train)} {k}" for k in ("drawing", "text", "table", "photo", "empty")))
    print("Title blocks, frames, wires between symbols and pages of photographs are drawn here; symbols and PDF pages are the packages'.")


if __name__ == "__main__":
    main()
