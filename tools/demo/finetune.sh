#!/usr/bin/env bash
# make demo-finetune: fine-tunes the demo's model on Tux Paint's stamps, mixes old and new weights (WiSE-FT), and
# compares them on unseen stamps and unseen pictures of the base task. All outputs are under build/finetune; a second
# call does only missing parts. $FINETUNE_CONFIG: another recipe than configs/finetune-demo.conf.
set -euo pipefail
cd "$(dirname "$0")/../.."
demo=build/demo
base=$demo/logs/demo/checkpoints/latest
out=build/finetune
data=$out/data
config=${FINETUNE_CONFIG:-configs/finetune-demo.conf}
clipc=build/clipc
python=/usr/bin/python3
[ -x $python ] || python=python3
say() { printf '\n== %s\n' "$*"; }

[ -e $base/open_clip_model.safetensors ] || { echo "finetune: no $base: run make demo first" >&2; exit 1; }
mkdir -p $out
say 'pictures and sentences'
if [ ! -e $data/done ]; then
    $python tools/demo/stamps.py $data | tee $out/report
    mv $out/report $data/report
    touch $data/done
else
    cat $data/report
fi

say "training: $config"
run=$out/logs/stamps
if [ ! -e $out/trained ] || ! cmp -s "$config" $out/trained || [ $base/open_clip_model.safetensors -nt $out/trained ]; then
    rm -rf $run $out/trained $out/alpha
    $clipc train --config "$config" --pretrained $base --logs $out/logs --name stamps
    cp "$config" $out/trained
else
    echo 'done before'
fi

say 'weights between the old (alpha 0) and the new (alpha 1)'
mkdir -p $out/alpha
for alpha in 0.0 0.1 0.2 0.3 0.4 0.5 0.6 0.7 0.8 0.9 1.0; do
    at=$out/alpha/$alpha
    [ -e $at.stamps.json ] && continue
    rm -rf $at.ckpt
    $clipc ckpt mix $base $run/checkpoints/best --alpha $alpha --out $at.ckpt 2>/dev/null
    $clipc eval retrieval --checkpoint $at.ckpt --data $demo/data/emojione.tsv --json >$at.base.json 2>/dev/null
    $clipc eval retrieval --checkpoint $at.ckpt --data $data/test.tsv --json >$at.json.part 2>/dev/null
    mv $at.json.part $at.stamps.json
    rm -r $at.ckpt
done
$python tools/demo/finetune_summary.py $out

gnuplot <<PLOT
set terminal pngcairo noenhanced size 720,480 font "DejaVu Sans,11"
set output "$out/wise.png"
set xlabel "EmojiOne (the base task): recall@10, %"
set ylabel "held-out stamps: recall@10, %"
set grid
set key bottom left
plot "$out/wise.dat" using 2:3 with linespoints pointtype 7 linecolor rgb "#1f4e79" title "old and new weights mixed", \
     "" using 2:3:(sprintf("%.1f", \$1)) with labels offset 1.2,0.6 font ",8" notitle
PLOT
echo "curve: $out/wise.png; numbers: $out/summary.json"
