#!/usr/bin/env bash
# make demo-drawings: finds drawings by a drawing among pages of manuals. Trains a ResNet-18 by SimCLR on pages of the sources
# that training sees, takes the demo's CLIP as it is and fine-tuned on file names, and compares their features and two without
# a model with drawings of two sources held out. All outputs are under build/drawings; a second call does only missing parts.
# SimCLR trains as many steps as fit into 200 seconds by the rate of its first twelve, 40 to 800.
# $DRAWINGS_SKEW: how far pages are askew (1); 0 for pages that are not, after rm -r build/drawings/data.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=build/drawings
data=$out/data
base=build/demo/logs/demo/checkpoints/latest
clipc=build/clipc
# only Debian's Python finds Debian's python3-pil; another one may be first on PATH
python=/usr/bin/python3
[ -x $python ] || python=python3
side=64 batch=64
say() { printf '\n== %s\n' "$*"; }

[ -e $base/open_clip_model.safetensors ] || { echo "drawings: no $base: run make demo first" >&2; exit 1; }
mkdir -p $out
say 'pages and drawings'
if [ ! -e $data/done ]; then
    rm -rf "${out:?}"/{untrained,simclr,names,*.npy,*.npy.keys,*.tsv,*.json,*.png}
    $python tools/demo/drawings.py $out/packages $data | tee $out/report
    mv $out/report $data/report
    touch $data/done
else
    cat $data/report
fi

# pages are not mirrored or coloured
views=(--objective simclr --train-data $data/train.tsv --model $out/resnet18.json --batch-size $batch --wd 1e-4 --warmup 10%
    --view-scale 0.3,1 --view-flip-prob 0 --view-jitter-prob 0 --view-gray-prob 0)
train() { # run, options…
    local name=$1 start
    shift
    [ ! -e "$out/$name/seconds" ] || { echo "$name: done before in $(cat "$out/$name/seconds") s"; return; }
    rm -rf "${out:?}/$name" "$out/$name".* "$out/$name"-*
    start=$(date +%s.%N)
    $clipc train "$@" --logs $out --name "$name"
    echo "$(date +%s.%N) $start" | awk '{printf "%.0f\n", $1 - $2}' >"$out/$name/seconds"
}
say 'SimCLR: a ResNet-18 on the training pages'
sed "s/\"image_size\": 224/\"image_size\": $side/" configs/models/resnet18.json >$out/resnet18.json
# twelve steps that change no weight: they measure the machine, and give untrained features with settled batch statistics
train untrained "${views[@]}" --max-steps 12 --lr 1e-15
rate=$(sed -n 's/.*"samples_per_s": *\([0-9.]*\).*/\1/p' $out/untrained/metrics.jsonl | awk 'NR > 1 {t += 1 / $1} END {print (NR - 1) / t}')
steps=$(echo "$rate $batch" | awk '{n = int($1 * 200 / $2); print (n > 800 ? 800 : n < 40 ? 40 : n)}')
train simclr "${views[@]}" --max-steps "$steps" --lr 1e-3
say 'CLIP: the model of make demo, fine-tuned on file names'
[ ! $base/open_clip_model.safetensors -nt $out/names/seconds ] || rm -rf $out/names
train names --pretrained $base --train-data $data/train.tsv --batch-size 128 --max-steps 200 --lr 2e-4 --wd 0.1 --warmup 20 \
    --aug-scale 0.8,1

say 'a drawing finds drawings, and those with its title block'
declare -A checkpoint=([untrained]=$out/untrained/checkpoints/latest [simclr]=$out/simclr/checkpoints/latest [clip]=$base
    [names]=$out/names/checkpoints/latest)
[ -e $out/pixels.npy ] || $python tools/demo/drawings_table.py features $data $out
for name in untrained simclr clip names; do
    [ $out/$name.npy -nt ${checkpoint[$name]}/open_clip_model.safetensors ] ||
        $clipc embed --checkpoint ${checkpoint[$name]} --images $data/gallery.tsv --out $out/$name.npy
done
for name in random pixels untrained simclr clip names; do
    for labels in kinds sources; do
        result=$out/$name-$labels
        [ ! $result.json -nt $out/$name.npy ] || continue
        $clipc eval similar --features $out/$name.npy --labels $data/$labels.txt --queries $data/queries.txt \
            --per-query $result.tsv --json >$result.part
        mv $result.part $result.json
    done
done
$python tools/demo/drawings_table.py table $data $out

for name in simclr clip; do
    if [ ! $out/contact-$name.png -nt $out/$name.npy ]; then
        mapfile -t queries < <($python tools/demo/drawings_table.py shown $data $out)
        $clipc search --checkpoint ${checkpoint[$name]} --collection $out/$name.npy --exclude-self --top 9 --json \
            --image "${queries[@]}" | $python tools/demo/contact.py $out/contact-$name.png
    fi
done
echo "queries and what they find: $out/contact-simclr.png, $out/contact-clip.png; numbers: $out/*.json, of each query $out/*.tsv"
