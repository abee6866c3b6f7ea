#!/usr/bin/env bash
# tools/demo/toy.sh DIR: the toy data of README.md's examples. DIR is recreated and receives:
#   pairs.tsv, heldout.tsv   18 and 6 of 24 small pictures (coloured shapes) with a caption each, and the pictures
#   captions.txt             the captions of pairs.tsv, a line each
#   colours/{train,test}/    the same pictures in class folders; colours.json: the classes and templates
#   toy.json                 an architecture small enough to learn them in seconds; its vocabulary has 40 merges
set -euo pipefail
golden=$(cd "$(dirname "$0")/../.." && pwd)/tests/golden/openclip
dir=${1:?usage: tools/demo/toy.sh DIR}
[ ! -e "$dir" ] || [ -e "$dir/toy.json" ] || { echo "toy: $dir is there and is no toy data: name another folder" >&2; exit 1; }
rm -rf "$dir"
mkdir -p "$dir"
cp "$golden"/*.jpg "$dir/"
awk 'NR == 1 || (NR - 1) % 4' "$golden/pairs.tsv" >"$dir/pairs.tsv"
awk 'NR == 1 || (NR - 1) % 4 == 0' "$golden/pairs.tsv" >"$dir/heldout.tsv"
cd "$dir"
tail -n +2 pairs.tsv | cut -f 2 >captions.txt
for split in train:pairs test:heldout; do
    tail -n +2 "${split#*:}.tsv" | while read -r picture caption; do
        colour=$(grep -oE 'red|green|blue|yellow|black|white|orange|purple' <<<"$caption")
        mkdir -p "colours/${split%:*}/$colour"
        cp "$picture" "colours/${split%:*}/$colour/"
    done
done
cat >colours.json <<'JSON'
{
    "classes": ["red", "green", "blue", "yellow", "black", "white", "orange", "purple"],
    "templates": ["a {} circle", "a {} square", "a {} stripe", "The {} circle on grey."]
}
JSON
cat >toy.json <<'JSON'
{
    "embed_dim": 64,
    "vision_cfg": {"image_size": 48, "patch_size": 8, "width": 64, "head_width": 32, "layers": 3},
    "text_cfg": {"context_length": 24, "vocab_size": 554, "width": 64, "heads": 2, "layers": 2}
}
JSON
echo "toy data: $(ls ./*.jpg | wc -l) pictures in $dir"
