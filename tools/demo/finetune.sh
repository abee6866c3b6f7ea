#!/usr/bin/env bash
# make demo-finetune: fine-tunes the demo's model on Tux Paint's stamps, mixes old and new weights (WiSE-FT), and
# compares them on unseen stamps and unseen pictures of the base task, none of which chose the step or the mix. All outputs are under build/finetune; a second
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
    rm -rf $run $out/trained $out/mixed
    $clipc train --config "$config" --pretrained $base --logs $out/logs --name stamps
    cp "$config" $out/trained
else
    echo 'done before'
fi

say 'weights between the old (alpha 0) and the new (alpha 1), on pictures that only choose'
if [ ! -e $out/mixed/open_clip_model.safetensors ] || [ $run/checkpoints/best/open_clip_model.safetensors -nt $out/mixed/open_clip_model.safetensors ]; then
    rm -rf $out/mixed
    $clipc ckpt mix $base $run/checkpoints/best --sweep 0:1:0.1 --data $demo/data/openclipart.tsv --data $data/val.tsv \
        --plot $out/wise.svg --out $out/mixed >$out/curve 2>/dev/null
fi
cat $out/curve

say 'pictures that chose nothing'
result() { # name, checkpoint
    $clipc eval retrieval --checkpoint "$2" --data $demo/data/emojione.tsv --json >$out/$1.base.json 2>/dev/null
    $clipc eval retrieval --checkpoint "$2" --data $data/test.tsv --json >$out/$1.stamps.json 2>/dev/null
}
result before $base
result chosen $out/mixed
result after $run/checkpoints/best
$python tools/demo/finetune_summary.py $out
echo "curve: $out/wise.svg; numbers: $out/summary.json"
