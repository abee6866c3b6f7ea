#!/usr/bin/env python3
"""Compares the ids of `clipc tok` with those of sentencepiece and tokenizers, text by text.

    pip install sentencepiece tokenizers gguf
    python3 tools/check_tokenizers.py [--clipc build/clipc] [--gguf FOLDER] [--only WORD] [--keep FOLDER]

Models are trained here, on the captions of tests/golden and on CLDR's annotations if Debian's
unicode-cldr-core is installed (it needs unicode-data); with --gguf also the real vocabularies that the source package of
llama-cpp-python holds (its folder vendor/llama.cpp/models: XLM-R's and BERT's and GPT-2's and
Gemma's). Texts: those captions, hostile lines, random Unicode. Exit code 1: some ids differ.
"""
import argparse
import glob
import os
import random
import re
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
GOLDEN = os.path.join(HERE, "..", "tests", "golden", "tok")
RNG = random.Random(15)
OLD = set()


def captions():
    with open(os.path.join(GOLDEN, "captions.txt"), encoding="utf-8") as f:
        return [line.rstrip("\n").split(" ", 2)[2] for line in f]


def hostile():
    with open(os.path.join(GOLDEN, "odd.txt"), encoding="ascii") as f:
        for line in f:
            shown = line.rstrip("\n").split(" ", 2)[2]
            raw = re.sub(rb"\\([0-9a-f]{2})", lambda m: bytes([int(m[1], 16)]), shown.encode())
            text = raw.decode("utf-8", "replace")
            if "\n" not in text and "\0" not in text and all(ord(c) in OLD or "\u2600" < c < "\ua000" for c in text):
                yield text


def annotations(per_language):
    for path in sorted(glob.glob("/usr/share/unicode/cldr/common/annotations/*.xml")):
        with open(path, encoding="utf-8") as f:
            found = re.findall(r'<annotation cp="([^"]*)"[^>]*>([^<]*)<', f.read())
        for cp, text in RNG.sample(found, min(per_language, len(found))):
            yield cp + " " + text


def old_points():
    """Code points of Unicode 8: the libraries' tables of categories are of different versions."""
    old = set()
    with open("/usr/share/unicode/DerivedAge.txt", encoding="utf-8") as f:
        for first, last, age in re.findall(r"^([0-9A-F]+)(?:\.\.([0-9A-F]+))? *; ([0-9]+)", f.read(), re.M):
            if int(age) <= 8:
                old.update(range(int(first, 16), int(last or first, 16) + 1))
    return old


def random_texts(n):
    blocks = [(0x20, 0x7F), (0x20, 0x7F), (0xA0, 0x250), (0x300, 0x370), (0x370, 0x600),
              (0x600, 0x700), (0x900, 0xE80), (0x1100, 0x1200), (0x1E00, 0x2070), (0x2070, 0x2C00),
              (0x3000, 0x3100), (0x4E00, 0xA000), (0xAC00, 0xD7A4), (0xF900, 0xFB07),
              (0xFE30, 0xFFFE), (0x10000, 0x1F000), (0x1F300, 0x1FA00), (0x20000, 0x20100),
              (0xE000, 0xE010)]
    for _ in range(n):
        out = []
        for _ in range(RNG.randrange(1, 40)):
            lo, hi = RNG.choice(blocks)
            c = RNG.randrange(lo, hi)
            out.append(chr(c) if c in OLD else " ")
            if RNG.random() < 0.2:
                out.append(RNG.choice(["  ", " ", "\u3000", "\u00a0", "\t", "\u2581", "a", "e\u0301", "12", "\r"]))
        yield "".join(out)


def spaced(texts):
    for t in texts:
        yield RNG.choice(["", " ", "   "]) + t.replace(" ", RNG.choice([" ", "  ", "   "])) + RNG.choice(["", " ", "  "])


def repeated():
    for word in ("a", "aa", "ab", "haha", "。", "0", "!", "é", "x y ", "🙂"):
        for n in (2, 3, 7, 30, 200):
            yield word * n


class Clipc:
    def __init__(self, program):
        self.program = program

    def __call__(self, options, texts):
        args = [self.program, "tok", "--context-length", "65536", *options]
        out = subprocess.run(args, input="\n".join(texts).encode() + b"\n", stdout=subprocess.PIPE,
                             check=True).stdout.decode()
        return [[int(i) for i in line.split()] for line in out.split("\n")[:-1]]


def compare(name, ours, theirs, texts):
    wrong = [i for i in range(len(texts)) if ours[i] != theirs[i]]
    print(f"{name:44s} {len(texts):7d} texts {sum(map(len, theirs)):9d} ids {len(wrong):6d} differ", flush=True)
    for i in wrong[:3]:
        print("   ", ascii(texts[i])[:300], "\n      ours  ", ours[i][:60], "\n      theirs", theirs[i][:60])
    return len(wrong)


SPM = {
    "unigram": "--model_type=unigram",
    "unigram nfkc": "--model_type=unigram --normalization_rule_name=nfkc",
    "unigram identity no-prefix": "--model_type=unigram --normalization_rule_name=identity --add_dummy_prefix=false",
    "unigram spaces kept": "--model_type=unigram --remove_extra_whitespaces=false --allow_whitespace_only_pieces=true",
    "unigram bytes digits": "--model_type=unigram --byte_fallback=true --split_digits=true --normalization_rule_name=nmt_nfkc_cf",
    "unigram symbols": "--model_type=unigram --user_defined_symbols=<x>,cat,#,▁dog --control_symbols=<c>",
    "unigram suffix": "--model_type=unigram --treat_whitespace_as_suffix=true",
    "unigram across words": "--model_type=unigram --split_by_whitespace=false",
    "bpe": "--model_type=bpe",
    "bpe bytes": "--model_type=bpe --byte_fallback=true --character_coverage=0.99 --normalization_rule_name=identity",
    "bpe bytes digits no-prefix": "--model_type=bpe --byte_fallback=true --split_digits=true --add_dummy_prefix=false "
                                  "--normalization_rule_name=identity --remove_extra_whitespaces=false "
                                  "--allow_whitespace_only_pieces=true",
    "bpe symbols": "--model_type=bpe --user_defined_symbols=<x>,cat,#,▁dog,aa",
    "bpe nfkc_cf suffix": "--model_type=bpe --treat_whitespace_as_suffix=true --normalization_rule_name=nfkc_cf",
}


def check_spm(clipc, corpus, folder, texts, only):
    import sentencepiece
    bad = 0
    for name, options in SPM.items():
        if only not in "sentencepiece " + name:
            continue
        model = os.path.join(folder, name.replace(" ", "_"))
        args = dict(a[2:].split("=", 1) for a in options.split())
        if not os.path.exists(model + ".model"):
            sentencepiece.SentencePieceTrainer.train(
                input=corpus, model_prefix=model, vocab_size=6000, hard_vocab_limit=False,
                minloglevel=2, **args)
        sp = sentencepiece.SentencePieceProcessor(model_file=model + ".model")
        theirs = [sp.encode(t) for t in texts]
        bad += compare("sentencepiece " + name, clipc(["--vocab", model + ".model"], texts), theirs, texts)
    return bad


# ---- tokenizer.json ----


def unigram_json(pieces, unk, charsmap, xlm, before, after):
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
    t = Tokenizer(models.Unigram(pieces, unk_id=unk))
    steps = [normalizers.Precompiled(charsmap)] if charsmap else []
    if xlm:
        steps += [normalizers.Replace(Regex(" {2,}"), " ")]
    else:
        steps += [normalizers.Strip(left=False, right=True), normalizers.Replace(Regex(" {2,}"), "▁")]
    t.normalizer = normalizers.Sequence(steps)
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    if xlm == 2:
        t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    special = [(pieces[i][0], i) for i in {*before, *after}]
    t.post_processor = processors.TemplateProcessing(
        single=" ".join([pieces[i][0] for i in before] + ["$A"] + [pieces[i][0] for i in after]),
        special_tokens=special)
    t.add_special_tokens([p for p, _ in special])
    return t


def merges_of(ranked):
    """The merges of pieces in the order of their ranks, as transformers makes them."""
    vocab = {p: i for i, p in enumerate(ranked)}
    out = []
    for p in ranked:
        local = [(p[:i], p[i:]) for i in range(1, len(p)) if p[:i] in vocab and p[i:] in vocab]
        out += sorted(local, key=lambda ab: (vocab[ab[0]], vocab[ab[1]]))
    return out


def bpe_json(vocab, merges, style):
    from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
    unk = "<unk>" if "<unk>" in vocab else None
    t = Tokenizer(models.BPE(vocab, merges, unk_token=unk, fuse_unk=True, byte_fallback=True))
    if style == "gemma":
        t.normalizer = normalizers.Replace(" ", "▁")
        t.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
        t.add_tokens([AddedToken(p, normalized=False) for p in vocab if set(p) == {"\n"} or p == "▁▁"])
    elif style == "lower":
        t.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(" ", "▁")])
    else:
        t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return t


def trained_json(name, corpus, size=4000):
    from tokenizers import (AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors,
                            trainers)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if name.startswith("bert"):
        lower = "cased" not in name
        t = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        t.normalizer = normalizers.BertNormalizer(lowercase=lower, strip_accents=True if "accents" in name else None,
                                                  handle_chinese_chars="chinese" not in name)
        t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        t.train([corpus], trainers.WordPieceTrainer(vocab_size=size, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]))
        t.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    elif name.startswith("clip"):
        pattern = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
        t = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|end|>"))
        t.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
        t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "removed", invert=True),
                                                   pre_tokenizers.ByteLevel(add_prefix_space=False)])
        t.train([corpus], trainers.BpeTrainer(vocab_size=size, end_of_word_suffix="</w>", initial_alphabet=alphabet,
                                              special_tokens=["<|start|>", "<|end|>"]))
        t.post_processor = processors.RobertaProcessing(("<|end|>", 1), ("<|start|>", 0))
    elif name.startswith("byte"):
        t = Tokenizer(models.BPE(ignore_merges="whole" in name))
        t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space="prefix" in name)
        if "digits" in name:
            t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), t.pre_tokenizer])
        if "nfkc" in name:
            t.normalizer = normalizers.NFKC()
        t.train([corpus], trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, special_tokens=["<|end|>"]))
        t.add_tokens([AddedToken("cat", normalized=True), AddedToken("<mask>", lstrip=True, special=True),
                      AddedToken("Dog", rstrip=True, normalized=False)])
    else:  # plain characters with an unknown token
        t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk="fused" in name))
        t.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()])
        t.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        if name[6:] in ("previous", "next"):
            t.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_" + name[6:])
        t.train([corpus], trainers.BpeTrainer(vocab_size=size, limit_alphabet=300, special_tokens=["<unk>"]))
    return t


TRAINED = ["bert", "bert cased", "bert cased accents", "bert no chinese", "clip", "byte", "byte prefix digits",
           "byte nfkc whole", "plain", "plain fused", "plain previous", "plain next"]


def check_json(clipc, corpus, folder, texts, only, gguf):
    import sentencepiece
    makers = {"tokenizers " + n: lambda n=n: trained_json(n, corpus) for n in TRAINED}

    def of_spm(name):
        sp = sentencepiece.SentencePieceProcessor(model_file=os.path.join(folder, name + ".model"))
        return sp, [(sp.id_to_piece(i), sp.get_score(i)) for i in range(len(sp))]

    def charsmap(name):
        with open(os.path.join(folder, name + ".model"), "rb") as f:
            return charsmap_of(f.read())

    def t5(xlm):
        sp, pieces = of_spm("unigram")
        return unigram_json(pieces, 0, charsmap("unigram"), xlm, [1] if xlm else [], [2])

    def bpe(style):
        sp, pieces = of_spm("bpe_bytes")
        ranked = [p for i, (p, _) in enumerate(pieces) if not sp.is_byte(i) and i > 2]
        return bpe_json({p: i for i, (p, _) in enumerate(pieces)}, merges_of(ranked), style)

    makers |= {"tokenizers unigram t5": lambda: t5(0), "tokenizers unigram xlm": lambda: t5(1),
               "tokenizers unigram xlm old": lambda: t5(2)}
    makers |= {"tokenizers bpe " + s: lambda s=s: bpe(s) for s in ("gemma", "llama", "lower")}
    if gguf:
        makers |= {"real " + n: lambda n=n: real_json(gguf, n) for n in ("xlm-r", "bert", "gpt-2", "gemma")}
    bad = 0
    for name, make in makers.items():
        if only not in name:
            continue
        path = os.path.join(folder, name.replace(" ", "_") + ".json")
        if not os.path.exists(path):
            make().save(path)
        from tokenizers import Tokenizer
        t = Tokenizer.from_file(path)
        theirs = [e.ids for e in t.encode_batch(texts)]
        bad += compare(name, clipc(["--vocab", path], texts), theirs, texts)
    return bad


def varint(data, at):
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        shift += 7
        at += 1
        if data[at - 1] < 128:
            return value, at


def fields(data):
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        if key & 7 == 0:
            value, at = varint(data, at)
        else:
            n = {1: 8, 5: 4}.get(key & 7)
            if n is None:
                n, at = varint(data, at)
            value, at = data[at:at + n], at + n
        yield key >> 3, value


def charsmap_of(model):
    return dict(fields(dict(fields(model))[3])).get(2, b"")


def real_json(folder, name):
    import gguf
    file = {"xlm-r": "nomic-bert-moe", "bert": "bert-bge", "gpt-2": "gpt-2", "gemma": "gemma-4"}[name]
    r = gguf.GGUFReader(os.path.join(folder, f"ggml-vocab-{file}.gguf"))
    get = lambda key: r.fields["tokenizer.ggml." + key].contents()
    tokens = get("tokens")
    from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors
    if name == "xlm-r":
        pieces = list(zip(tokens, map(float, get("scores"))))
        return unigram_json(pieces, 3, bytes(get("precompiled_charsmap")), 1, [0], [2])
    if name == "bert":
        special = {t for t in tokens if re.fullmatch(r"\[(PAD|UNK|CLS|SEP|MASK|unused\d+)\]", t)}
        words = [t if t in special else t[1:] if t.startswith("▁") else "##" + t for t in tokens]
        t = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
        t.normalizer = normalizers.BertNormalizer()
        t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        t.post_processor = processors.BertProcessing(("[SEP]", 102), ("[CLS]", 101))
        t.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
        return t
    vocab = {t: i for i, t in enumerate(tokens)}
    merges = [tuple(m.split(" ")) for m in get("merges")]
    if name == "gemma":
        return bpe_json(vocab, merges, "gemma")
    t = Tokenizer(models.BPE(vocab, merges))
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.add_special_tokens([AddedToken("<|endoftext|>", normalized=True)])
    return t


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--clipc", default=os.path.join(HERE, "..", "build", "clipc"))
    p.add_argument("--gguf")
    p.add_argument("--only", default="")
    p.add_argument("--keep")
    p.add_argument("--quick", action="store_true", help="a tenth of the texts")
    a = p.parse_args()
    OLD.update(old_points())
    real = captions() + list(annotations(40))
    texts = captions() + list(hostile()) + list(annotations(20)) + list(random_texts(5000))
    texts = [t for t in texts + list(spaced(texts[:1500])) + list(repeated()) if "\n" not in t and "\0" not in t]
    if a.quick:
        texts = texts[::10]
    with tempfile.TemporaryDirectory() as scratch:
        folder = a.keep or scratch
        os.makedirs(folder, exist_ok=True)
        corpus = os.path.join(folder, "corpus.txt")
        with open(corpus, "w", encoding="utf-8") as f:
            f.writelines(t + "\n" for t in real)
        clipc = Clipc(a.clipc)
        bad = check_spm(clipc, corpus, folder, texts, a.only)
        bad += check_json(clipc, corpus, folder, texts, a.only, a.gguf)
    print("all ids equal" if not bad else f"{bad} texts differ")
    sys.exit(bad != 0)


if __name__ == "__main__":
    main()
