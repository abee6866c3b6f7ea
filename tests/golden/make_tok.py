#!/usr/bin/env python3
"""Writes tests/golden/tok/: captions with hashes of the results of open_clip's tokenizer.

    pip install open_clip_torch==3.3.0 && python3 tests/golden/make_tok.py

captions.txt: names of emoji and symbols in many languages (Unicode CLDR, package unicode-cldr-core;
Unicode licence) and titles of clip art (Open Clip Art Library, package openclipart-svg; public
domain). odd.txt: constructed cases: mojibake, references, marks, controls, literal special tokens.
A line: FNV-1a of the cleaned text, of the ids (4 bytes each, start and end included, at most 77),
the caption; in odd.txt with backslash escapes for everything except plain ASCII. clean.txt, a line for
each of both: FNV-1a of the text as cleaned by "whitespace", "canonicalize" and transformers'
SiglipTokenizer.
"""
import glob
import html.entities
import os
import random
import re
import string

import ftfy
import open_clip.tokenizer

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "tok")
TOKENIZER = open_clip.tokenizer.SimpleTokenizer(context_length=77)
RNG = random.Random(20210226)


def fnv(data):
    h = 0x811C9DC5
    for b in data:
        h = (h ^ b) * 0x01000193 & 0xFFFFFFFF
    return h


def row(caption, shown):
    ids = [TOKENIZER.sot_token_id] + TOKENIZER.encode(caption) + [TOKENIZER.eot_token_id]
    if len(ids) > 77:
        ids = ids[:76] + [TOKENIZER.eot_token_id]
    clean = fnv(TOKENIZER.clean_fn(caption).encode())
    return "%08x %08x %s\n" % (clean, fnv(b"".join(i.to_bytes(4, "little") for i in ids)), shown)


def names():
    for path in sorted(glob.glob("/usr/share/unicode/cldr/common/annotations/*.xml")):
        with open(path, encoding="utf-8") as f:
            for cp, text in re.findall(r'<annotation cp="([^"]*)"[^>]*>([^<]*)<', f.read()):
                yield cp + " " + text


def titles():
    for path in sorted(glob.glob("/usr/share/openclipart/svg/**/*.svg", recursive=True)):
        with open(path, encoding="utf-8", errors="ignore") as f:
            for title in re.findall(r"<(?:dc:)?title[^>]*>([^<]{3,60})</", f.read(100000)):
                yield " ".join(title.split())


def sample(found, n):
    return RNG.sample(sorted({s for s in found if "\n" not in s and len(s) < 80}), n)


ENCODINGS = ["latin-1", "sloppy-windows-1252", "sloppy-windows-1251", "sloppy-windows-1250",
             "sloppy-windows-1253", "sloppy-windows-1254", "sloppy-windows-1257", "iso-8859-2",
             "macroman", "cp437"]
ODD = """\u201csmart\u201d \u2018quotes\u2019 \u2026|ＬＯＵＤ　ＮＯＩＳＥＳ ﾊﾟﾝ ￣|ﬂuﬃeﬆ ĳ ǆ ŉ ﬅ|\x1b[36;44mblue\x1b[0m \x1b[|\
\ufeffmark|a\r\nb\rc\u2028d\x85e|\x00nul\x07\x0b\x0c\x7f|x\u206ay\ufffcz|&amp;lt;b&amp;gt; &quot;hi&quot;|\
&eacute &eacute; &EACUTE; &SZLIG; &FFLIG; &NAPOS;|&notit; &notin; &ampx; &am &;|&#65 &#x41; &#0; &#x80; &#x110000;|\
&#59; &#12ab; &#x; &#; &#xD800; &#13; &#11;x|<i>&eacute;</i>&hellip;|&copy\n<b>\n&copy;|ΟΔΥΣΣΕΥΣ Σ ΑΣ. ΑΣ\u0345Β|İstanbul ǅ ẞ ſ K Å|\
cafe\u0301 a\u0323\u0307 a\u0307\u0323|각 \u1100\u1161\u11a8 \u0958|👨\u200d👩\u200d👧 🏴\U000e0067\U000e0062\U000e007f|\
<start_of_text> x <END_OF_TEXT>|<\u017ftart_of_text>|!<end_of_text>|it'\u017f 'LL 'tis I'M|½ ① ٣ ² Ⅷ|\
Ã |Ã la mode|à\xa0Â |nÃ£o fÃ cil Ã s|Ã©|Ã¢â‚¬â„¢|â€œ like this â€\ufffd|â€? it|schÃ¶n|âœ” No problems|\
ã\x83\x84|Ð¡Ð¿Ð°ÑÐ¸Ð±Ð¾|ÐŸÑ€Ð¸Ð²ÐµÑ‚|é\x82½|í\xa0½í²©|À\x80 é|√± √©|вЂ™|Ĺ‚|Γ©|Ãƒâ€šÃ‚Â©|¡â€”|œ a|\
\x80\x99 \x81|a\u0345 \u0345|\U0002ebf0 \U00010d50 \ua7cb|\u0378\U0010ffff|<x> &amp;amp;amp;|√© – a|1 Â 2|Ã© À\n|â€\x93|&amp&#59;x|&LTRIE; &AMPX; &REGX;|a_b-c #tag $5.00 100%|  blanks\t\t""".split("|")


def mojibake(text):
    for _ in range(RNG.choice([1, 1, 1, 2, 3])):
        e = RNG.choice(ENCODINGS)
        try:
            text = text.encode().decode(e)
        except UnicodeDecodeError:
            text = text.encode().decode("latin-1")
        lost = RNG.random()
        if lost < 0.2:
            text = text.replace("\xa0", " ")
        elif lost < 0.3:
            text = text.replace("\u201d", "\ufffd").replace("\x81", "?")
    return text


def odd(real):
    suspects = sorted({c for v in ftfy.badness.MOJIBAKE_CATEGORIES.values() for c in v} |
                      {c for v in ftfy.chardata.UTF8_CLUES.values() for c in v})
    names5 = sorted(html.entities.html5)
    yield from ODD
    for _ in range(150):
        yield mojibake(RNG.choice(real)[:40])
    for _ in range(100):
        yield "".join(RNG.choice(suspects) + RNG.choice(["", "", " ", "a"])
                      for _ in range(RNG.randrange(2, 9)))
    for _ in range(60):
        name = RNG.choice(names5)
        yield "&" + RNG.choice([name, name.upper(), name.lower(), name[:-1]]) + RNG.choice(" ;x<")
    for _ in range(60):
        yield RNG.choice(real)[:20] + mojibake(RNG.choice(real)[:20]) + RNG.choice(ODD)
    for _ in range(60):
        yield "".join(chr(RNG.choice([RNG.randrange(0x20, 0x250), RNG.randrange(0x2000, 0x2C00),
                                      RNG.randrange(0x10000, 0x20000), RNG.randrange(0x300, 0x600),
                                      RNG.randrange(0xFB00, 0xFFFE)]))
                      for _ in range(RNG.randrange(1, 12)))
    yield "word " * 100 + "end"


def siglip(text):
    """transformers, models/siglip/tokenization_siglip.py: do_lower_case, then canonicalize_text."""
    text = text.lower().translate(str.maketrans("", "", string.punctuation))
    return re.sub(r"\s+", " ", text).strip()


def clean_row(caption):
    cleans = [open_clip.tokenizer.get_clean_fn("whitespace"), open_clip.tokenizer.get_clean_fn("canonicalize"), siglip]
    return " ".join("%08x" % fnv(c(caption).encode()) for c in cleans) + "\n"


def main():
    os.makedirs(HERE, exist_ok=True)
    real = sample(names(), 1300) + sample(titles(), 700)
    hostile = list(odd(real))
    with open(os.path.join(HERE, "clean.txt"), "w", encoding="ascii") as out:
        out.writelines(clean_row(c) for c in real + hostile)
    with open(os.path.join(HERE, "captions.txt"), "w", encoding="utf-8") as out:
        out.writelines(row(c, c) for c in real)
    with open(os.path.join(HERE, "odd.txt"), "w", encoding="ascii") as out:
        for c in hostile:
            shown = "".join(chr(b) if 32 <= b < 127 and b != 92 else "\\%02x" % b for b in c.encode())
            out.write(row(c, shown))


main()
