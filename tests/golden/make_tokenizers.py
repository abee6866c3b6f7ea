#!/usr/bin/env python3
"""Writes tests/golden/tokenizers: small tokenizers of every kind, and for each a hash of the ids that
the libraries sentencepiece and tokenizers give each caption of tests/golden/tok.

    pip install sentencepiece tokenizers && python3 tests/golden/make_tokenizers.py

texts.txt has more captions: best paths that tie, and blanks. NAME.ids has a little-endian u32 for each
line of captions.txt, of odd.txt and of texts.txt: FNV-1a of the ids as
little-endian i32; 0: not compared (characters younger than Unicode 8, whose categories differ
between the libraries' versions; NUL).
"""
import gzip
import os
import re
import shutil
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", "tools"))
import check_tokenizers as check  # noqa: E402

OUT = os.path.join(HERE, "tokenizers")
SPM = {
    "unigram.model.gz": "--model_type=unigram --user_defined_symbols=<x>,cat,▁dog --control_symbols=<c>",
    "unigram_bytes.model": "--model_type=unigram --byte_fallback=true --split_digits=true --add_dummy_prefix=false "
                           "--normalization_rule_name=identity",
    "unigram_suffix.model": "--model_type=unigram --treat_whitespace_as_suffix=true --normalization_rule_name=identity "
                            "--remove_extra_whitespaces=false --allow_whitespace_only_pieces=true",
    "bpe.model.gz": "--model_type=bpe --normalization_rule_name=nmt_nfkc_cf --user_defined_symbols=<x>,cat,aa",
    "bpe_bytes.model": "--model_type=bpe --byte_fallback=true --normalization_rule_name=identity --split_digits=true "
                       "--character_coverage=0.98",
}


def fnv(data):
    h = 0x811C9DC5
    for b in data:
        h = (h ^ b) * 0x01000193 & 0xFFFFFFFF
    return h


def texts():
    yield from check.captions()
    with open(os.path.join(check.GOLDEN, "odd.txt"), encoding="ascii") as f:
        for line in f:
            shown = line.rstrip("\n").split(" ", 2)[2].encode()
            yield re.sub(rb"\\([0-9a-f]{2})", lambda m: bytes([int(m[1], 16)]), shown).decode()
    with open(os.path.join(OUT, "texts.txt"), encoding="utf-8") as f:
        yield from f.read().split("\n")[:-1]


def more_texts():
    """Repeated words after captions of several lengths: sums of scores that round differently."""
    real = check.captions()
    for word in ("haha", "aa", "ana", "oo ", "e e", "to", "11", "na na", "sss", "lll ", "tete", "  ", " a  b   "):
        for n in (2, 3, 7, 25):
            yield " ".join(check.RNG.sample(real, n)) + " " + word * n
    for t in check.RNG.sample(real, 150):
        yield t.replace(" ", "  ") + " "


def known(text):
    return "\0" not in text and all(ord(c) in check.OLD or "\U0001f000" < c < "\U0001fb00" for c in text)


def write_ids(name, encode):
    with open(os.path.join(OUT, name + ".ids"), "wb") as f:
        for t in texts():
            data = b"".join(i.to_bytes(4, "little") for i in encode(t)) if known(t) else None
            f.write((fnv(data) if data is not None else 0).to_bytes(4, "little"))


def put(name, path):
    with open(path, "rb") as f:
        data = f.read()
    with open(os.path.join(OUT, name), "wb") as f:
        f.write(gzip.compress(data, 9, mtime=0) if name.endswith(".gz") else data)


def main():
    import sentencepiece
    from tokenizers import Tokenizer
    shutil.rmtree(OUT, ignore_errors=True)
    os.makedirs(OUT)
    check.OLD.update(check.old_points())
    with open(os.path.join(OUT, "texts.txt"), "w", encoding="utf-8") as f:
        f.writelines(t + "\n" for t in more_texts())
    with tempfile.TemporaryDirectory() as folder:
        corpus = os.path.join(folder, "corpus.txt")
        with open(corpus, "w", encoding="utf-8") as f:
            f.writelines(t + "\n" for t in check.captions())
        models = {}
        for name, options in SPM.items():
            prefix = os.path.join(folder, name.split(".")[0])
            args = dict(a[2:].split("=", 1) for a in options.split())
            sentencepiece.SentencePieceTrainer.train(
                input=corpus, model_prefix=prefix, vocab_size=2400, hard_vocab_limit=False, minloglevel=2,
                **{"character_coverage": 0.98, **args})
            put(name, prefix + ".model")
            models[name] = sentencepiece.SentencePieceProcessor(model_file=prefix + ".model")
            write_ids(name, models[name].encode)
        made = {n.replace(" ", "_"): check.trained_json(n, corpus, 1200)
                for n in ("bert", "bert cased accents", "clip", "byte prefix digits", "byte nfkc whole", "plain fused",
                              "plain previous", "plain next")}

        def pieces(name):
            sp = models[name]
            return [(sp.id_to_piece(i), sp.get_score(i)) for i in range(len(sp))]

        with open(os.path.join(folder, "unigram.model"), "rb") as f:
            charsmap = check.charsmap_of(f.read())
        made["t5"] = check.unigram_json(pieces("unigram.model.gz"), 0, charsmap, 0, [], [2])
        made["xlm"] = check.unigram_json(pieces("unigram.model.gz"), 0, None, 2, [1], [2])
        sp = models["bpe_bytes.model"]
        all_pieces = [p for p, _ in pieces("bpe_bytes.model")]
        ranked = [p for i, p in enumerate(all_pieces) if not sp.is_byte(i) and i > 2]
        for style in ("gemma", "llama"):
            made[style] = check.bpe_json({p: i for i, p in enumerate(all_pieces)}, check.merges_of(ranked), style)
        for name, tokenizer in made.items():
            path = os.path.join(folder, name + ".json")
            tokenizer.save(path, pretty=False)
            put(name + ".json.gz", path)
            again = Tokenizer.from_file(path)
            write_ids(name + ".json.gz", lambda t: again.encode(t).ids)
        vocab = made["bert"].get_vocab()
        with open(os.path.join(OUT, "vocab.txt"), "w", encoding="utf-8") as f:
            f.writelines(w + "\n" for w in sorted(vocab, key=vocab.get))
        shutil.copy(os.path.join(OUT, "bert.json.gz.ids"), os.path.join(OUT, "vocab.txt.ids"))


main()
