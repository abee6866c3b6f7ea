"""Makes tests/golden/image/: small picture files, and the results of Pillow, torchvision and open_clip for
them and for computed pictures (CRC-32 of the result).  python tests/golden/make_image.py
Needs pillow >= 13, torchvision, open_clip_torch 3.3.0, numpy."""
import io
import math
import os
import struct
import warnings
import zlib

import numpy as np
import open_clip.transform as oct
import torchvision.transforms.functional as F
from PIL import Image
from torchvision.transforms import InterpolationMode

warnings.simplefilter("ignore")
OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "image")
os.makedirs(OUT, exist_ok=True)
rng = np.random.default_rng(11)


def picture(w, h, kind):
    """The computed pictures of tests/support_picture.h: 0 noise, 1 black or white, 2 stripes."""
    i = np.arange(w * h * 3, dtype=np.uint32)
    if kind == 2:
        x, y, c = i // 3 % w, i // 3 // w, i % 3
        v = ((x * 5 + y * 3) // 2 + 40 * c) & 255
    else:
        u = i * np.uint32(2654435761)
        u = (u ^ (u >> 15)) * np.uint32(2246822519)
        u ^= u >> 13
        v = u >> 24 if kind == 0 else (u >> 31) * 255
    return Image.fromarray(v.astype(np.uint8).reshape(h, w, 3))


def soft(w, h):
    a = rng.integers(0, 256, (max(2, h // 5), max(2, w // 5), 3), dtype=np.uint8)
    return Image.fromarray(a).resize((w, h), Image.BICUBIC)


# ---- decoding ----
def save(im, fmt, **options):
    b = io.BytesIO()
    im.save(b, fmt, **options)
    return b.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def raw_png(w, h, depth, colour, interlaced=0, palette=None, trns=None, extra=b""):
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    passes = [(0, 0, 1, 1)]
    if interlaced:
        passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    data = b""
    for x0, y0, dx, dy in passes:
        pw, ph = -(-(w - x0) // dx), -(-(h - y0) // dy)
        for y in range(ph if pw > 0 else 0):
            data += bytes([y % 5]) + rng.integers(0, 256, -(-pw * channels * depth // 8), dtype=np.uint8).tobytes()
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, depth, colour, 0, 0, interlaced)) + extra
    png += chunk(b"PLTE", palette) if palette else b""
    png += chunk(b"tRNS", trns) if trns else b""
    return png + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def with_alpha(im):
    im = im.convert("RGBA")
    im.putalpha(im.convert("L").rotate(90).resize(im.size))
    return im


def adobe_ycck(cmyk):
    """The same file, its first three components called YCC by the Adobe marker."""
    at = cmyk.index(b"\xff\xee\x00\x0eAdobe")
    return cmyk[: at + 15] + b"\x02" + cmyk[at + 16 :]


files = {
    "jpeg-420.jpg": save(soft(45, 37), "JPEG", quality=90, subsampling=2),
    "jpeg-422.jpg": save(soft(45, 37), "JPEG", quality=90, subsampling=1),
    "jpeg-444.jpg": save(soft(45, 37), "JPEG", quality=90, subsampling=0),
    "jpeg-16x16.jpg": save(soft(16, 16), "JPEG", quality=75),
    "jpeg-1x1.jpg": save(soft(1, 1), "JPEG"),
    "jpeg-2x3.jpg": save(soft(2, 3), "JPEG"),
    "jpeg-progressive.jpg": save(soft(45, 37), "JPEG", quality=90, progressive=True),
    "jpeg-progressive-444.jpg": save(soft(33, 20), "JPEG", quality=95, subsampling=0, progressive=True),
    "jpeg-restart.jpg": save(soft(45, 37), "JPEG", restart_marker_blocks=1),
    "jpeg-grey.jpg": save(soft(31, 17).convert("L"), "JPEG"),
    "jpeg-grey-progressive.jpg": save(soft(31, 17).convert("L"), "JPEG", progressive=True),
    "jpeg-cmyk.jpg": save(soft(31, 17).convert("CMYK"), "JPEG", quality=95),
    "jpeg-rotated-exif.jpg": save(soft(24, 16), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"),
    "png-rgb.png": save(soft(21, 13), "PNG"),
    "png-1x1.png": save(soft(1, 1), "PNG"),
    "png-rgba.png": save(with_alpha(soft(21, 13)), "PNG"),
    "png-rgb-trns.png": save(soft(21, 13), "PNG", transparency=(1, 2, 3)),
    "png-interlaced-rgb.png": raw_png(13, 11, 8, 2, 1),
    "png-interlaced-palette4.png": raw_png(13, 11, 4, 3, 1, rng.integers(0, 256, 48, dtype=np.uint8).tobytes()),
    "png-interlaced-grey16.png": raw_png(9, 6, 16, 0, 1),
    "png-rgb16.png": raw_png(9, 6, 16, 2),
    "png-rgba16.png": raw_png(9, 6, 16, 6),
    "png-grey-alpha.png": raw_png(9, 6, 8, 4),
    "png-grey-alpha16.png": raw_png(9, 6, 16, 4),
    "png-palette8-trns.png": raw_png(9, 6, 8, 3, 0, rng.integers(0, 256, 768, dtype=np.uint8).tobytes(), b"\0\x80\xff"),
    "png-palette8-short.png": raw_png(9, 6, 8, 3, 0, rng.integers(0, 256, 300, dtype=np.uint8).tobytes()),
    "png-gamma-text.png": raw_png(9, 6, 8, 2, 0, extra=chunk(b"gAMA", struct.pack(">I", 100000)) + chunk(b"tEXt", b"Title\0x")),
    "webp-lossy.webp": save(soft(45, 37), "WEBP", quality=80),
    "webp-lossless.webp": save(soft(21, 13), "WEBP", lossless=True),
    "webp-alpha.webp": save(with_alpha(soft(45, 37)), "WEBP", quality=80, exact=True),
    "webp-lossless-alpha.webp": save(with_alpha(soft(21, 13)), "WEBP", lossless=True, exact=True),
    "webp-animation.webp": save(soft(21, 13), "WEBP", save_all=True, append_images=[soft(21, 13)], duration=10),
    "webp-1x1.webp": save(soft(1, 1), "WEBP"),
    "empty.jpg": b"",
    "gif.png": save(soft(5, 5), "GIF"),
}
for depth in (1, 2, 4, 8, 16):
    files[f"png-grey{depth}.png"] = raw_png(11, 7, depth, 0)
for depth in (1, 2, 4):
    files[f"png-palette{depth}.png"] = raw_png(11, 7, depth, 3, 0, rng.integers(0, 256, 3 << depth, dtype=np.uint8).tobytes())
files["jpeg-ycck.jpg"] = adobe_ycck(files["jpeg-cmyk.jpg"])
damaged = bytearray(files["jpeg-420.jpg"])
damaged[-300:-290] = bytes(range(10, 20))
files["jpeg-damaged.jpg"] = bytes(damaged)
crc = bytearray(files["png-rgb.png"])
crc[-30] ^= 255
files["png-damaged.png"] = bytes(crc)


def decode(data):
    try:
        return Image.open(io.BytesIO(data)).convert("RGB")
    except Exception:
        return None


def first_complete(name, data):
    """From this length on a prefix decodes. A PNG must be complete except its last chunk."""
    ok = [decode(data[:n]) is not None for n in range(len(data))] + [True]
    first = ok.index(True)
    assert all(ok[first:])
    return max(first, len(data) - 12) if name.endswith(".png") else first


decoded, cut = [], []
for name, data in sorted(files.items()):
    open(os.path.join(OUT, name), "wb").write(data)
    im = None if name == "gif.png" else decode(data)
    decoded.append(f"{name} {im.width} {im.height} {zlib.crc32(im.tobytes()):08x}" if im else f"{name} 0 0 0")
    if name in ("jpeg-420.jpg", "jpeg-progressive.jpg", "jpeg-restart.jpg", "jpeg-cmyk.jpg", "png-rgb.png", "png-interlaced-palette4.png",
                "png-grey16.png", "webp-lossy.webp", "webp-lossless.webp", "webp-alpha.webp", "webp-animation.webp"):
        cut.append(f"{name} {len(data)} {first_complete(name, data)}")


def write(name, head, lines):
    open(os.path.join(OUT, name), "w").write(f"# {head}\n" + "\n".join(lines) + "\n")


write("decode.txt", "file width height crc32 of the RGB bytes; 0 0 0: an error", decoded)
shown = []
for name, data in sorted(files.items()):
    im = None if name == "gif.png" else decode(data)
    if im and (("alpha" in name and not name.endswith("16.png")) or name in ("png-rgba.png", "png-palette8-trns.png", "png-rgb-trns.png", "jpeg-420.jpg")):
        im = Image.open(io.BytesIO(data)).convert("RGBA")
        for colour in ("white", "black"):
            out = Image.alpha_composite(Image.new("RGBA", im.size, colour), im).convert("RGB")
            shown.append(f"{name} {colour} {zlib.crc32(out.tobytes()):08x}")
write("background.txt", "file background crc32 of the RGB bytes", shown)
write("truncated.txt", "file size shortest prefix that decodes", cut)

# ---- resampling ----
FILTERS = {"bicubic": Image.BICUBIC, "bilinear": Image.BILINEAR}
cases = [(1, 1, 1, 1), (1, 1, 7, 5), (5, 7, 1, 1), (1, 9, 4, 3), (9, 1, 3, 4), (2, 2, 3, 3), (3, 2, 5, 7), (8, 8, 8, 8), (16, 5, 16, 9), (5, 16, 9, 16),
         (33, 17, 20, 31), (20, 31, 33, 17), (640, 480, 224, 224), (480, 640, 224, 224), (427, 640, 224, 224), (610, 455, 224, 224), (224, 224, 224, 224),
         (225, 227, 224, 224), (225, 226, 224, 224), (500, 375, 96, 96), (100, 80, 256, 256), (80, 300, 256, 100), (1600, 1203, 224, 224),
         (1203, 1600, 224, 224), (3000, 40, 30, 30), (40, 3000, 30, 30), (57, 1900, 64, 19), (149, 149, 150, 150), (300, 451, 150, 150), (300, 450, 150, 150)]
lines = []
for n, (w, h, nw, nh) in enumerate(cases):
    for name, f in FILTERS.items():
        out = np.asarray(picture(w, h, n % 3).resize((nw, nh), f))
        x, y = (nw * 3) // 10, nh // 4
        ww, wh = max(1, nw // 2), max(1, (nh * 2) // 3)
        part = np.ascontiguousarray(out[y : y + wh, x : x + ww])
        lines.append(f"{w} {h} {n % 3} {nw} {nh} {name} {zlib.crc32(out.tobytes()):08x} {x} {y} {ww} {wh} {zlib.crc32(part.tobytes()):08x}")
write("resize.txt", "width height picture new_width new_height filter crc32, a window x y width height of the result, its crc32", lines)

# ---- evaluation transform: crc32 of the model's input, float32 [3, S, S] ----
lines = []
for w, h in ((640, 480), (480, 640), (224, 224), (300, 224), (224, 301), (50, 40), (1000, 37), (37, 1000), (333, 500), (1, 1)):
    for mode in ("shortest", "longest", "squash"):
        for interpolation in FILTERS:
            for size in (224, 63):
                if mode == "longest" and max(w, h) > 2 * size * min(w, h):
                    continue  # Pillow refuses a side of 0
                t = oct.image_transform(size, False, resize_mode=mode, interpolation=interpolation, fill_color=77)
                x = t(picture(w, h, 2 if size == 63 else 0)).contiguous().numpy()
                assert x.dtype == np.float32 and x.shape == (3, size, size)
                lines.append(f"{w} {h} {2 if size == 63 else 0} {mode} {interpolation} {size} {zlib.crc32(x.tobytes()):08x}")
write("eval.txt", "width height picture mode interpolation size crc32 of open_clip's normalised float32 output; fill 77", lines)

# ---- training transform: the draws of data/image/augment.c, then torchvision ----
MASK = (1 << 64) - 1
RNG_AUGMENT = 4


def philox(seed, stream, index):
    c = [index & 0xFFFFFFFF, index >> 32, stream & 0xFFFFFFFF, stream >> 32]
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k0, p1 & 0xFFFFFFFF, (p0 >> 32) ^ c[3] ^ k1, p0 & 0xFFFFFFFF]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c


def word(seed, index):
    c = philox(seed, RNG_AUGMENT, index)
    return c[1] << 32 | c[0]


def uniform(seed, index, lo=0.0, hi=1.0):
    return lo + (hi - lo) * ((word(seed, index) >> 11) * 2.0**-53)


def below(seed, index, n):
    return word(seed, index) * n >> 64


def crop_box(w, h, scale, ratio, seed):
    for i in range(10):
        area = w * h * uniform(seed, 4 * i, *scale)
        r = math.exp(uniform(seed, 4 * i + 1, math.log(ratio[0]), math.log(ratio[1])))
        cw, ch = round(math.sqrt(area * r)), round(math.sqrt(area / r))
        if 0 < cw <= w and 0 < ch <= h:
            return below(seed, 4 * i + 2, h - ch + 1), below(seed, 4 * i + 3, w - cw + 1), ch, cw
    cw, ch = w, h
    if w / h < ratio[0]:
        ch = round(w / ratio[0])
    elif w / h > ratio[1]:
        cw = round(h * ratio[1])
    return (h - ch) // 2, (w - cw) // 2, ch, cw


def train(im, size, seed, scale, ratio, interpolation, jitter, jitter_prob, gray_prob, flip_prob=0, blur_prob=0, sigma=(0.1, 2.0)):
    top, left, h, w = crop_box(im.width, im.height, scale, ratio, seed)
    im = F.resized_crop(im, top, left, h, w, [size, size], interpolation)
    if flip_prob > 0 and uniform(seed, 49) < flip_prob:
        im = F.hflip(im)
    if jitter_prob > 0 and uniform(seed, 40) < jitter_prob:
        order = [0, 1, 2, 3]
        for n in (3, 2, 1):
            j = below(seed, 41 + 3 - n, n + 1)
            order[n], order[j] = order[j], order[n]
        for op in order:
            s = jitter[op]
            if s == 0:
                continue
            lo, hi = (-s, s) if op == 3 else (max(0, 1 - s), 1 + s)
            factor = uniform(seed, 44 + op, lo, hi)
            im = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)[op](im, factor)
    if gray_prob > 0 and uniform(seed, 48) < gray_prob:
        im = F.to_grayscale(im, 3)
    if blur_prob > 0 and uniform(seed, 50) < blur_prob:
        side, s = size // 20 * 2 + 1, uniform(seed, 51, *sigma)
        im = F.gaussian_blur(im, [side, side], [s, s])
    return im


lines = []
PLAIN = ((0.0, 0.0, 0.0, 0.0), 0.0, 0.0)
for seed in range(12):
    for (w, h), scale, (jitter, jitter_prob, gray_prob) in (
        ((640, 480), (0.9, 1.0), PLAIN),
        ((427, 640), (0.9, 1.0), PLAIN),
        ((200, 300), (0.08, 1.0), ((0.4, 0.4, 0.4, 0.1), 1.0, 0.0)),
        ((90, 70), (0.5, 1.0), ((1.5, 0.0, 0.8, 0.5), 0.6, 0.3)),
        ((12, 400), (0.9, 1.0), ((0.0, 1.2, 0.0, 0.0), 1.0, 0.5)),
        ((400, 12), (0.9, 1.0), PLAIN),
    ):
        name = "bilinear" if seed % 4 == 3 else "bicubic"
        mode = InterpolationMode.BILINEAR if name == "bilinear" else InterpolationMode.BICUBIC
        size = 64 if seed else 224
        s = seed * 0x9E3779B97F4A7C15 & MASK
        out = train(picture(w, h, seed % 3), size, s, scale, (3 / 4, 4 / 3), mode, jitter, jitter_prob, gray_prob)
        numbers = " ".join(map(str, (*scale, *jitter, jitter_prob, gray_prob)))
        lines.append(f"{w} {h} {seed % 3} {s} {name} {size} {numbers} {zlib.crc32(out.tobytes()):08x}")
write("train.txt", "width height picture seed interpolation size scale(2) jitter(4) jitter_prob gray_prob crc32 of the RGB bytes", lines)

# The views of SimCLR: everything that is random
lines = []
for seed in range(24):
    w, h, size = (200, 300, 64) if seed % 3 else (90, 70, 224)
    s = seed * 0x9E3779B97F4A7C15 & MASK
    probabilities, sigma = (0.8, 0.2, 0.5, 0.5) if seed % 2 else (0.5, 0.0, 0.5, 1.0), (0.1, 2.0)
    jitter = (0.8, 0.8, 0.8, 0.2)
    jitter_prob, gray_prob, flip_prob, blur_prob = probabilities
    sharp, out = (train(picture(w, h, seed % 3), size, s, (0.08, 1.0), (3 / 4, 4 / 3), InterpolationMode.BICUBIC,
                        jitter, jitter_prob, gray_prob, flip_prob, p, sigma) for p in (0, blur_prob))
    used = uniform(s, 51, *sigma) if uniform(s, 50) < blur_prob else 0.0
    lines.append(f"{w} {h} {seed % 3} {s} {size} {' '.join(map(str, probabilities))} {zlib.crc32(sharp.tobytes()):08x} "
                 f"{used!r} {int(np.asarray(out, np.int64).sum())}")
write("views.txt", "width height picture seed size jitter_prob gray_prob flip_prob blur_prob crc32 of the RGB bytes before "
      "the blur, its sigma (0: none), sum of the bytes after it", lines)

# EXIF: eight orientations, and numbers that are none
from PIL import ImageOps
lines = []
for orientation in range(10):
    for suffix, options in (("jpg", {"quality": 90}), ("png", {}), ("webp", {"lossless": True})):
        exif = Image.Exif()
        exif[0x112] = orientation
        name, im = f"exif-{orientation}.{suffix}", picture(9, 6, 0)
        b = io.BytesIO()
        im.save(b, {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}[suffix], exif=exif, **options)
        data = b.getvalue()
        open(os.path.join(OUT, name), "wb").write(data)
        out = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
        lines.append(f"{name} {out.width} {out.height} {zlib.crc32(out.tobytes()):08x}")
write("exif.txt", "file width height crc32 of the RGB bytes, turned", lines)
