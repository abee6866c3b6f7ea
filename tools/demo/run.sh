#!/usr/bin/env bash
# make demo: from packages to a trained CLIP, its recall on unseen pictures, and images of the results. All outputs are
# under build/demo; a second call does only missing parts (rm -r build/demo: all). The recipe is configs/demo.conf if
# four minutes of this machine hold 800 of its steps, else configs/demo-small.conf. $DEMO_CONFIG: another one.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=build/demo
data=$out/data
recipes=(configs/demo.conf configs/demo-small.conf) # one vocabulary
[ -z "${DEMO_CONFIG:-}" ] || recipes=("$DEMO_CONFIG")
clipc=build/clipc
# only Debian's Python finds Debian's python3-pil; another one may be first on PATH
python=/usr/bin/python3
[ -x $python ] || python=python3
model=configs/models/demo.json
merges=$(($(sed -n 's/.*"vocab_size": *\([0-9]*\).*/\1/p' $model) - 514)) # besides the bytes and the two ends

option() { sed -n "s/^$1 *= *//p" "$2"; } # name, recipe
recipe() { cat "$1" "$(option model "$1")"; }
trained() { # the checkpoint, by one of the recipes
    for config in "${recipes[@]}"; do recipe "$config" | cmp -s - $out/trained && return; done
    return 1
}
# A slower machine trains less, not longer.
measure() { # recipe: steps that fit into four minutes
    batch=$(option batch-size "$1")
    rate=$($clipc bench step --model "$(option model "$1")" --batch-size "$batch" --caption-tokens 8 --steps 8 --json |
        sed 's/.*"samples_per_s": *\([0-9.]*\).*/\1/')
    steps=$(echo "$rate $batch" | awk '{n = $1 * 220; print int((n > 614400 ? 614400 : n) / $2 / 100) * 100}')
    echo "$1: $rate samples a second, $steps steps"
}
say() { printf '\n== %s\n' "$*"; }

mkdir -p $out
say 'pictures and captions'
if [ ! -e $data/done ]; then
    $python tools/demo/prepare.py $data | tee $out/report
    mv $out/report $data/report
    touch $data/done
else
    cat $data/report
fi

# a third held-out set, by other artists: those of Tux Paint's stamps that the fine-tuning demo does not train on
if [ ! -e $data/stamps.tsv ]; then
    stamps=build/finetune/data
    if [ ! -e $stamps/done ]; then
        $python tools/demo/stamps.py $stamps >$out/report
        mv $out/report $stamps/report
        touch $stamps/done
    fi
    { cat $stamps/val.tsv && tail -n +2 $stamps/test.tsv; } >$data/stamps.part
    mv $data/stamps.part $data/stamps.tsv
fi
$python tools/demo/split.py $out

if [ $data/done -nt $out/shards/done ] || [ "$(cat $out/shards/done)" != $merges ]; then
    rm -rf $out/shards
    mkdir $out/shards
    tail -n +2 $data/train.tsv | cut -f 2 | sort -u >$out/captions.txt
    $clipc tok train --captions $out/captions.txt --merges $merges --out $out/vocab.txt.gz
    $clipc data pack $data/train.tsv --shard-samples 1000000 --out $out/shards/train
    echo $merges >$out/shards/done
fi

say training
run=$out/logs/demo
if [ $out/shards/done -nt $out/train_seconds ] || ! trained; then
    rm -rf $run $out/train_seconds $out/*.json $out/*.npy $out/*.png
    for config in "${recipes[@]}"; do
        measure "$config"
        [ "$steps" -lt 800 ] || break
    done
    [ "$steps" -ge 300 ] || steps=300
    echo "recipe: $config"
    start=$(date +%s.%N)
    $clipc train --config "$config" --max-steps "$steps" --logs $out/logs --name demo
    recipe "$config" >$out/trained
    echo "$(date +%s.%N) $start" | awk '{printf "%.1f\n", $1 - $2}' >$out/train_seconds
else
    echo "done before by $config in $(cat $out/train_seconds) s"
fi
checkpoint=$run/checkpoints/latest

say 'retrieval on held-out pictures'
measure_retrieval() { # name, pairs
    [ -e "$out/$1.json" ] || { $clipc eval retrieval --checkpoint $checkpoint --data "$2" --json >"$out/$1.json.part" && mv "$out/$1.json.part" "$out/$1.json"; }
}
for set in emojione openclipart stamps; do
    measure_retrieval $set $data/$set.tsv
    for kind in caption words new; do
        [ "$(wc -l <$out/$set-$kind.tsv)" -le 20 ] || measure_retrieval $set-$kind $out/$set-$kind.tsv
    done
done
$python tools/demo/summary.py $out

if [ ! -e $out/loss.png ]; then
    sed -n 's/.*"step": *\([0-9]*\).*"loss": *\([0-9.e+-]*\).*/\1 \2/p' $run/metrics.jsonl >$out/loss.dat
    gnuplot <<PLOT
set terminal pngcairo size 800,480 font "DejaVu Sans,11"
set output "$out/loss.png"
set xlabel "step"
set ylabel "contrastive loss"
set yrange [0:*]
set grid
plot "$out/loss.dat" with lines linecolor rgb "#b0c4de" title "each step", \
     "" smooth bezier linewidth 2 linecolor rgb "#1f4e79" title "smoothed"
PLOT
fi

if [ ! -e $out/contact.png ]; then
    { cat $data/emojione.tsv; tail -n +2 $data/openclipart.tsv; } >$out/heldout.tsv
    $clipc embed --checkpoint $checkpoint --images $out/heldout.tsv --out $out/heldout.npy
    $clipc search --checkpoint $checkpoint --collection $out/heldout.npy --top 5 --json \
        --texts 'smiling face with sunglasses' 'red heart' 'dog' 'fish' 'sailboat' 'birthday cake' 'pizza' \
        'bicycle' 'house' 'snowman' 'mushroom' 'soccer ball' | $python tools/demo/contact.py $out/contact.png
fi
echo "loss curve: $out/loss.png; captions and the pictures found for them: $out/contact.png; numbers: $out/summary.json"
