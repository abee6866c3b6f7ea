#!/usr/bin/env python3
"""Writes data/text/text_tables.c and data/text/text_entities.c: the character data of the caption
cleaner.

    pip install ftfy==6.3.1 regex && python3 tools/gen_text_tables.py

Sources: ftfy 6.3.1 (which neighbours betray mojibake, the single-byte encodings and the order they
are tried in, ligatures), Python's html.entities (HTML5 named character references), Python's
unicodedata (white space, case, normalisation) and the module regex (letters and numbers).
Needed only if one of these sources changes; the result is committed.
"""
import html.entities
import platform
import re
import re._parser as sre
import unicodedata

import ftfy
import regex
from ftfy import badness, chardata

ALL = range(0x110000)
BMP_SURROGATES = range(0xD800, 0xE000)

RULE_LENGTH = 7
CLUES = "utf8_first_of_2 utf8_first_of_3 utf8_first_of_4 utf8_continuation " \
        "utf8_continuation_strict".split()


def category(name):
    test = {"CATEGORY_SPACE": str.isspace, "CATEGORY_WORD": lambda c: c.isalnum() or c == "_"}
    return {c for c in ALL if test[name](chr(c))}


def char_set(op, arg):
    """The code points that one element of a regular expression accepts."""
    if op == sre.LITERAL:
        return frozenset([arg])
    if op == sre.ANY:
        return frozenset(ALL) - {10}
    assert op == sre.IN, op
    out, negate = set(), False
    for kind, value in arg:
        if kind == sre.NEGATE:
            negate = True
        elif kind == sre.LITERAL:
            out.add(value)
        elif kind == sre.RANGE:
            out.update(range(value[0], value[1] + 1))
        else:
            assert kind == sre.CATEGORY, kind
            out |= category(str(value))
    return frozenset(set(ALL) - out if negate else out)


def rules():
    """Sequences of character sets (and whether only at the start of a line): a line with a match
    looks like mojibake."""
    parsed = sre.parse(badness.BADNESS_RE.pattern, re.VERBOSE)
    assert len(parsed) == 1 and parsed[0][0] == sre.BRANCH
    for branch in parsed[0][1][1]:
        versions, start = [[]], False
        for op, arg in branch:
            if op == sre.AT:
                start = True
            elif op == sre.MAX_REPEAT:
                assert arg[:2] == (0, 1)
                versions += [v + [char_set(*arg[2][0])] for v in versions]
            else:
                versions = [v + [char_set(op, arg)] for v in versions]
        for v in versions:
            yield start, v


def clue_set(name):
    return char_set(*sre.parse("[" + chardata.UTF8_CLUES[name] + "]")[0])


def normal_check():
    """Code points that can make a text differ from its NFC form: those that NFC rewrites, marks
    that may have to be reordered, and those that can join the character before."""
    out = {c for c in ALL if unicodedata.combining(chr(c)) or (
        c not in BMP_SURROGATES and unicodedata.normalize("NFC", chr(c)) != chr(c))}
    for c in ALL:
        parts = unicodedata.decomposition(chr(c)).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            out.add(int(parts[1], 16))
    return out | set(range(0x1161, 0x1176)) | set(range(0x11A8, 0x11C3))


def classes():
    rows = list(rules())
    assert len(rows) <= 64 and max(len(v) for _, v in rows) <= RULE_LENGTH
    anchored = sum(1 << i for i, (start, _) in enumerate(rows) if start)
    beyond = tuple(sum(1 << i for i, (_, v) in enumerate(rows) if len(v) <= at)
                   for at in range(RULE_LENGTH))
    at = [[beyond[j]] * len(ALL) for j in range(RULE_LENGTH)]
    for i, (_, v) in enumerate(rows):
        for j, accepted in enumerate(v):
            for c in accepted:
                at[j][c] |= 1 << i
    flags = [0] * len(ALL)
    clues = [clue_set(n) for n in CLUES]
    letters = regex.compile(r"[\p{L}]", regex.IGNORECASE)
    numbers = regex.compile(r"[\p{N}]", regex.IGNORECASE)
    normal, widths = normal_check(), set(chardata.WIDTH_MAP)
    for c in ALL:
        ch = chr(c)
        after = ("A" + ch + "\u03a3").lower().endswith("\u03c2")
        alone = (ch + "\u03a3").lower().endswith("\u03c2")
        on = [letters.match(ch), numbers.match(ch), ch.isspace(), alone, after and not alone,
              ch.lower() != ch, c in normal, 0x80 <= c < 0xA0,
              c in chardata.LIGATURES, c in widths,
              chardata.SINGLE_QUOTE_RE.match(ch) or chardata.DOUBLE_QUOTE_RE.match(ch),
              ch in "\r\x85\u2028\u2029", c in chardata.CONTROL_CHARS]
        on += [c in s for s in clues]
        on += [chardata.possible_encoding(ch, e) for e in chardata.CHARMAP_ENCODINGS]
        flags[c] = sum(1 << i for i, yes in enumerate(on) if yes)
    seen, runs = {}, []
    for c in ALL:
        key = (flags[c],) + tuple(a[c] for a in at)
        if c in BMP_SURROGATES:
            key = (0,) + beyond
        k = seen.setdefault(key, len(seen))
        if not runs or runs[-1][1] != k:
            runs.append([0, k])
        runs[-1][0] += 1
    assert len(seen) <= 256, len(seen)
    return list(seen), [n << 8 | k for n, k in runs], anchored, beyond


def check():
    """Assumptions of data/text/text.c: one code point lowers to one, except U+0130; one code
    point is part of no word of the tokenizer's pattern."""
    assert [c for c in ALL if len(chr(c).lower()) > 1] == [0x130]
    for c in range(0xFF01, 0xFFF0):
        assert unicodedata.normalize("NFKC", chr(c)) == unicodedata.normalize("NFKD", chr(c))
    word = regex.compile(r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+", regex.IGNORECASE)
    assert [c for c in ALL if not word.match(chr(c)) and not chr(c).isspace()] == [0x345]


def packed(items, separator=", ", indent="    ", width=99):
    line, out = indent, []
    for item in items:
        if len(line) + len(item) + len(separator) > width:
            out.append(line.rstrip())
            line = indent
        line += item + separator
    return "\n".join(out + [line.rstrip()])


def c_literals(items, width=96):
    """Adjacent string literals; invisible characters are escaped."""
    line, out = "", []
    for item in items:
        shown = "".join(
            "\\" + ch if ch in '"\\' else
            ch if ch.isprintable() and not unicodedata.combining(ch) and ch.isascii() |
            (unicodedata.east_asian_width(ch) != "W") else
            "".join("\\%03o" % b for b in ch.encode()) for ch in item)
        if len(line) + len(shown) > width:
            out.append(f'"{line}"')
            line = ""
        line += shown
    return "\n".join(out + [f'"{line}"'])


def entities():
    """name, then `*` if the semicolon may be missing, else `=`, then the text and a blank."""
    html5 = html.entities.html5
    out = []
    for name in sorted(n[:-1] for n in html5 if n.endswith(";")):
        value = html5[name + ";"]
        assert html5.get(name, value) == value and " " not in value and len(value) <= 2
        out.append(name + ("*" if name in html5 else "=") + value + " ")
    return out


def upper_entities():
    """The names in capitals of ftfy whose text is not just the capital of each character."""
    out = []
    for name, value in chardata.HTML_ENTITIES.items():
        low = html.entities.html5.get(name[1:].lower())
        if name[1:] not in html.entities.html5 and value != "".join(
                ch.upper() if len(ch.upper()) == 1 else ch for ch in low):
            out.append(name[1:-1] + "=" + value + " ")
    return sorted(out)


def write(path, about, body):
    with open(path, "w", encoding="utf-8") as out:
        out.write(f"""/* {about}.
 * Written by tools/gen_text_tables.py from ftfy {ftfy.__version__}, Python {platform.python_version()} \
(Unicode {unicodedata.unidata_version}), regex
 * {regex.__version__}; do not edit. */
// clang-format off
#include "data/text/text_tables.h"

{body}""")


def main():
    check()
    cls, runs, anchored, beyond = classes()
    rows = ["{0x%x, {%s}}" % (c[0], ", ".join("0x%x" % m for m in c[1:])) for c in cls]
    charmaps = []
    for e in chardata.CHARMAP_ENCODINGS[1:]:
        row = [ord(ch) for ch in bytes(range(128, 256)).decode(e)]
        assert all(chr(c).encode(e)[0] == 128 + i for i, c in enumerate(row)), e
        charmaps.append("    { /* %s */\n%s}" % (e, packed(map(hex, row))[:-1]))
    ligatures = ['{0x%x, {%s}}' % (c, ", ".join("0x%x" % ord(x) for x in v))
                 for c, v in sorted(chardata.LIGATURES.items())]
    write("data/text/text_tables.c", "text_tables: classes of code points and single-byte encodings",
          f"""const TextClass text_classes[TEXT_CLASSES] = {{
{packed(rows)}
}};

/* From U+0000 up: how many code points << 8 | their class. */
const uint32_t text_class_runs[] = {{
{packed(map(str, runs), ",")}
}};
const size_t text_class_run_count = COUNT(text_class_runs);

const uint64_t text_rules_anchored = 0x{anchored:x};
const uint64_t text_rules_ended[TEXT_RULE_LENGTH] = {{
{packed(map(hex, beyond))}
}};

const uint16_t text_charmaps[TEXT_ENCODINGS - 1][128] = {{
{("," + chr(10)).join(charmaps)}
}};

const TextLigature text_ligatures[] = {{
{packed(ligatures)}
}};
const size_t text_ligature_count = COUNT(text_ligatures);
""")
    write("data/text/text_entities.c", "text_entities: HTML5's named character references",
          f"""const char text_entities[] =
{c_literals(entities())};

const char text_upper_entities[] =
{c_literals(upper_entities())};
""")
    print(len(cls), "classes", len(runs), "runs")


main()
