#!/usr/bin/env bash
# Puts CLIP's vocabulary at build/vocab/bpe_simple_vocab_16e6.txt.gz; does nothing if it exists. It is in the wheel of
# the PyPI package open-clip-torch, of which nothing else is kept.
set -eu
cd "$(dirname "$0")/.."

name=bpe_simple_vocab_16e6.txt.gz
sum=924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a
target=build/vocab/$name
is_right() { [ -f "$1" ] && [ "$(sha256sum <"$1")" = "$sum  -" ]; }

is_right "$target" && exit 0
if ! python3 -m pip --version >/dev/null 2>&1; then
    echo "fetch_vocab: needs python3 with pip: apt-get install python3-pip; or copy $name of open_clip to $target" >&2
    exit 1
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if ! python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest "$work" open-clip-torch==3.3.0; then
    echo "fetch_vocab: pip could not fetch open-clip-torch 3.3.0 from PyPI; or copy $name of open_clip to $target" >&2
    exit 1
fi
python3 - "$work" "open_clip/$name" <<'PY'
import glob, sys, zipfile
folder, member = sys.argv[1:]
wheel, = glob.glob(folder + "/*.whl")
with zipfile.ZipFile(wheel) as z, open(folder + "/vocab", "wb") as out:
    out.write(z.read(member))
PY
if ! is_right "$work/vocab"; then
    echo "fetch_vocab: the vocabulary of open-clip-torch 3.3.0 has another sha256 than $sum" >&2
    exit 1
fi
mkdir -p build/vocab
mv "$work/vocab" "$target.part"
mv "$target.part" "$target"
echo "fetch_vocab: $target"
