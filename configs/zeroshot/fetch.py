#!/usr/bin/env python3
"""Makes class files for `clipc eval zeroshot` from PyPI packages: configs/zeroshot/fetch.py [NAME...] [--out DIR]

    configs/zeroshot/fetch.py                       every set, to build/zeroshot/NAME.json
    configs/zeroshot/fetch.py imagenet cifar10      only these
    configs/zeroshot/fetch.py --list                the available sets
    configs/zeroshot/fetch.py --pictures            and 20 pictures of ImageNet, in its folders: build/zeroshot/imagenet-20

A file holds {"classes", "templates", "folders"}. ImageNet's names and templates are open_clip's, its synset ids timm's; the other
sets and their templates are clip-benchmark's; names that it reads from the data sets are mmpretrain's. The packages'
wheels are fetched with pip (or taken from --wheels DIR), checked by SHA-256 and read; nothing in them is run. Needs Python's
standard library and pip. Existing files are kept (--force: made again).
"""
import argparse
import ast
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile

WHEELS = {
    "open-clip-torch": ("3.3.0", "open_clip_torch-3.3.0-py3-none-any.whl",
                        "c549ad5ed6bfc119cc11105033c0a2b9d7a2a4afeb40a58a09aab3da1a0043ce"),
    "timm": ("1.0.31", "timm-1.0.31-py3-none-any.whl",
             "5bd50f7d0fe6d09bf9285ac2523234a1b7e6bf075c0be3e7aed09139fcb617c7"),
    "clip-benchmark": ("1.6.2", "clip_benchmark-1.6.2-py2.py3-none-any.whl",
                       "6fbfd39b454a036a628b7e227b3d4050015009afe418583f21f27886c74e4998"),
    "mmpretrain": ("1.2.0", "mmpretrain-1.2.0-py2.py3-none-any.whl",
                   "96156327c509cbf17fdc5867f7bc89142df6f63be38ecd67e91b41dc5e538933"),
    "foolbox": ("3.3.4", "foolbox-3.3.4-py3-none-any.whl",
                "11049d515d38e765e206a73ace9cc648b81a0d6d1da9ad9057e149ee117989cb"),
}
IMAGENET = ("imagenet", "imagenet-simple")
# clip-benchmark has names and templates
NAMED = ("caltech101", "clevr_closest_object_distance", "clevr_count_all", "country211", "diabetic_retinopathy", "dmlab", "eurosat",
         "fer2013", "flowers", "gtsrb", "kitti_closest_vehicle_distance", "mnist", "pcam", "pets", "svhn")
# it has templates (or uses ImageNet's, as for any set without templates); the names are in mmpretrain under these
UNNAMED = {"cars": "STANFORDCARS_CATEGORIES", "cifar10": "CIFAR10_CATEGORIES", "cifar100": "CIFAR100_CATEGORIES",
           "dtd": "DTD_CATEGORIES", "fashion_mnist": "FASHIONMNIST_CATEGORITES", "fgvc_aircraft": "FGVCAIRCRAFT_CATEGORIES",
           "food101": "FOOD101_CATEGORIES", "sun397": "SUN397_CATEGORIES", "voc2007": "VOC2007_CATEGORIES"}


def die(message):
    sys.exit(f"fetch: {message}")


# ---- wheels ----


class Wheels:
    """Members of checked wheels, each fetched at its first use."""

    def __init__(self, folder):
        self.given, self.work, self.open = folder, None, {}

    def read(self, package, member):
        if package not in self.open:
            self.open[package] = zipfile.ZipFile(self.path(package))
        return self.open[package].read(member)

    def path(self, package):
        version, name, digest = WHEELS[package]
        folder = self.given
        if not folder:
            self.work = self.work or tempfile.TemporaryDirectory()
            folder = self.work.name
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
                       "--only-binary", ":all:", "--dest", folder, f"{package}=={version}"]
            if subprocess.run(command).returncode != 0:
                die(f"pip could not fetch {package} {version} from PyPI; with the wheels in a folder: --wheels DIR")
        path = os.path.join(folder, name)
        if not os.path.exists(path):
            die(f"{path}: no such wheel")
        with open(path, "rb") as f:
            if hashlib.sha256(f.read()).hexdigest() != digest:
                die(f"{path}: another SHA-256 than {digest}")
        return path


# ---- reading Python without running it ----


def assigned(source, name):
    """The expression that the module assigns to the name."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            return node.value
    die(f"nothing is assigned to {name}")


def template_text(node):
    """`lambda c: f'a photo of a {c}.'` → 'a photo of a {}.'"""
    if not (isinstance(node, ast.Lambda) and isinstance(node.body, ast.JoinedStr) and len(node.args.args) == 1):
        die(f"line {node.lineno}: not a template of the form lambda c: f'... {{c}} ...'")
    text = ""
    for part in node.body.values:
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            text += part.value
        elif isinstance(part, ast.FormattedValue) and isinstance(part.value, ast.Name) \
                and part.value.id == node.args.args[0].arg and part.conversion == -1 and part.format_spec is None:
            text += "{}"
        else:
            die(f"line {node.lineno}: a template with more than the class in it")
    return text


def templates(source, name):
    node = assigned(source, name)
    if not isinstance(node, (ast.Tuple, ast.List)):
        die(f"{name} is no list")
    return [template_text(e) for e in node.elts]


def strings(source, name):
    value = ast.literal_eval(assigned(source, name))
    if not all(isinstance(v, str) for v in value):
        die(f"{name} holds more than strings")
    return list(value)


# ---- sets ----


def synsets(wheels):
    ids = wheels.read("timm", "timm/data/_info/imagenet_synsets.txt").decode().split()
    if len(ids) != 1000 or ids != sorted(ids) or not all(re.fullmatch("n[0-9]{8}", i) for i in ids):
        die("timm's list of synsets is not what it was")
    return ids


def make_imagenet(wheels, name):
    source = wheels.read("open-clip-torch", "open_clip/zero_shot_metadata.py").decode()
    which = "SIMPLE_IMAGENET_TEMPLATES" if name == "imagenet-simple" else "OPENAI_IMAGENET_TEMPLATES"
    return {"classes": strings(source, "IMAGENET_CLASSNAMES"), "templates": templates(source, which), "folders": synsets(wheels)}


def benchmark(wheels, what):
    return json.loads(wheels.read("clip-benchmark", f"clip_benchmark/datasets/en_{what}.json"))


def make_set(wheels, name):
    if name in IMAGENET:
        return make_imagenet(wheels, name)
    of = benchmark(wheels, "zeroshot_classification_templates")
    out = {"templates": [t.replace("{c}", "{}") for t in of.get(name, of["imagenet1k"])]}
    if name in UNNAMED:
        names = strings(wheels.read("mmpretrain", "mmpretrain/datasets/categories.py").decode(), UNNAMED[name])
        out["classes"] = [n.replace("_", " ") for n in names]
        if out["classes"] != names:
            out["folders"] = names
    else:
        out["classes"] = benchmark(wheels, "classnames")[name]
    return out


def write(path, bytes_):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path + ".part", "wb") as f:
        f.write(bytes_)
    os.replace(path + ".part", path)


def write_set(path, made):
    if not made["classes"] or not made["templates"] or not all("{}" in t for t in made["templates"]):
        die(f"{path}: no classes, or a template without a place for them")
    ordered = {k: made[k] for k in ("classes", "templates", "folders") if k in made}
    write(path, (json.dumps(ordered, ensure_ascii=False, indent=1) + "\n").encode())


def write_pictures(wheels, folder):
    """foolbox's examples are named imagenet_NN_CLASS.jpg."""
    ids = synsets(wheels)
    names = [n for n in zipfile.ZipFile(wheels.path("foolbox")).namelist() if re.search(r"/imagenet_\d+_\d+\.jpg$", n)]
    for member in names:
        label = int(re.search(r"_(\d+)\.jpg$", member).group(1))
        write(os.path.join(folder, ids[label], os.path.basename(member)), wheels.read("foolbox", member))
    if len(names) != 20:
        die("foolbox has not the 20 pictures it had")


def main():
    every = sorted(IMAGENET + NAMED + tuple(UNNAMED))
    parser = argparse.ArgumentParser(description="Class files for `clipc eval zeroshot` out of PyPI packages.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="sets (default: all)")
    parser.add_argument("--out", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../build/zeroshot"))
    parser.add_argument("--wheels", metavar="DIR", help="a folder that has the wheels: nothing is fetched")
    parser.add_argument("--pictures", action="store_true", help="and 20 pictures in ImageNet's folders: OUT/imagenet-20")
    parser.add_argument("--force", action="store_true", help="make what is there again")
    parser.add_argument("--list", action="store_true", help="name the sets and end")
    args = parser.parse_args()
    if args.list:
        print("\n".join(every))
        return
    for name in args.names:
        if name not in every:
            die(f"no set {name}; there are {', '.join(every)}")
    wheels, out = Wheels(args.wheels), os.path.normpath(args.out)
    made = 0
    for name in args.names or every:
        path = os.path.join(out, name + ".json")
        if args.force or not os.path.exists(path):
            write_set(path, make_set(wheels, name))
            made += 1
    pictures = os.path.join(out, "imagenet-20")
    if args.pictures and (args.force or not os.path.isdir(pictures)):
        write_pictures(wheels, pictures)
        made += 1
    if made:
        print(f"fetch: {made} new under {os.path.relpath(out)}")


if __name__ == "__main__":
    main()
