#!/usr/bin/env bash
# Fine-tuning as a user runs it: validation while training, averaged weights, locked towers. Prints cmocka's lines.
. tests/support.sh finetune
export OMP_NUM_THREADS=2

# 24 pairs, batch 4: 6 steps an epoch, of which 18 steps
train() { # name, options…
    local name=$1
    shift
    "$clipc" train "${pairs[@]}" --batch-size 4 \
        --epochs 3 --warmup 3 --lr 1e-3 --workers 2 --logs "$dir" --name "$name" "$@" 2>"$dir/stderr"
}
metric() { # run, step, name
    grep "^{\"step\": $2, \"val" "$dir/$1/metrics.jsonl" | sed "s|.*\"$3\": ||; s/[,}].*//"
}
# ---- validation ----
val=(--val-data $golden/pairs.tsv --val-frequency 5 --precision fp32)
validates() { # measured before the first step, after steps 5, 10, 15 and the last; best stands; a table
    train val "${val[@]}" && [ "$(grep -c '"val/loss"' "$dir/val/metrics.jsonl")" = 5 ] &&
        [ "$(grep '"val/loss"' "$dir/val/metrics.jsonl" | sed 's/.*step": \([0-9]*\).*/\1/' | tr '\n' ' ')" = "0 5 10 15 18 " ] &&
        [ -f "$dir/val/checkpoints/best/open_clip_model.safetensors" ] && grep -q "best val/loss" "$dir/stderr" &&
        grep -Eq "^measured at step +start +0 +best +[0-9]+ +end +18$" "$dir/stderr" && [ "$(grep -c "^  val/" "$dir/stderr")" = 11 ] &&
        [ "$(awk '$1 == "val/loss" {print $2, $4}' "$dir/stderr")" = "$(printf '%.4f %.4f' "$(metric val 0 val/loss)" "$(metric val 18 val/loss)")" ]
}
start_is_that_of_eval() { # the loss of the checkpoint that is fine-tuned; a run killed before it saved measures it once
    "$clipc" eval retrieval --precision fp32 --checkpoint $golden --vocab $golden/vocab.txt --data $golden/pairs.tsv --json >"$dir/eval.json" 2>&1
    local want
    want=$(tr -d '\n' <"$dir/eval.json" | sed 's/.*"image_to_text": *{\([^}]*\)}.*/\1/; s/.*"mean_rank": *//; s/[,} ].*//')
    awk "BEGIN {d = $(metric val 0 val/image_to_text_mean_rank) - $want; exit !(d < 1e-6 && d > -1e-6)}" || return 1
    killed_and_resumed start_killed 2 "${val[@]}" && [ "$(grep -c '"step": 0' "$dir/start_killed/metrics.jsonl")" = 1 ]
}
a_run_is_its_best() { # wherever a checkpoint is asked for; its recipe names the checkpoint
    local best=$dir/val/checkpoints/best use="val is a run: its checkpoints/best is used"
    "$clipc" embed --checkpoint "$best" --text $golden/pairs.tsv --out "$dir/best.npy" 2>"$dir/stderr" && ! grep -q "is a run" "$dir/stderr" &&
        "$clipc" embed --checkpoint "$dir/val" --text $golden/pairs.tsv --out "$dir/run.npy" 2>"$dir/stderr" && grep -q "$use" "$dir/stderr" &&
        cmp "$dir/best.npy" "$dir/run.npy" && "$clipc" ckpt diff "$dir/val" "$best" 2>"$dir/stderr" && grep -q "$use" "$dir/stderr" &&
        "$clipc" ckpt info "$dir/val" 2>&1 | grep -q "$use" && "$clipc" ckpt convert "$dir/val" --out "$dir/converted" 2>&1 | grep -q "$use" &&
        echo words | "$clipc" tok --checkpoint "$dir/val" --vocab $golden/vocab.txt 2>&1 | grep -q "$use" &&
        "$clipc" train --pretrained "$dir/val" --distill-pretrained "$dir/val" --train-data $golden/pairs.tsv --batch-size 4 --max-steps 1 \
            --logs "$dir" --name from_run 2>"$dir/stderr" && [ "$(grep -c "$use" "$dir/stderr")" = 2 ] &&
        grep -q "^pretrained = .*val/checkpoints/best" "$dir/from_run/params.conf" && grep -q "^distill-pretrained = .*val/checkpoints/best" "$dir/from_run/params.conf"
}
recalls_are_those_of_eval() {
    "$clipc" eval retrieval --precision fp32 --checkpoint "$dir/val/checkpoints/epoch_3" --data $golden/pairs.tsv --json >"$dir/eval.json" 2>&1
    for pair in image_to_text text_to_image; do
        for r in R@1 R@5 R@10 mean_rank median_rank; do
            local got want
            got=$(metric val 18 "val/${pair}_$r")
            want=$(tr -d '\n' <"$dir/eval.json" | sed "s/.*\"$pair\": *{\([^}]*\)}.*/\1/; s/.*\"$r\": *//; s/[,} ].*//")
            awk "BEGIN {d = $got - $want; exit !(d < 1e-6 && d > -1e-6)}" || { echo "$pair $r: $got, eval: $want"; return 1; }
        done
    done
}
options_first() { # nothing is made and no model is built before wrong options and data are refused
    refused 1 "no-val.tsv" train early_error --val-data "$dir/no-val.tsv" && ! [ -e "$dir/early_error/checkpoints" ] &&
        refused 1 "upsampling-factors" train early_error --dataset-resampled --train-data-upsampling-factors 1::2 --train-num-samples 8 &&
        ! [ -e "$dir/early_error/checkpoints" ] && refused 2 "no such metric" train early_error --pretrained "$dir/none" "${val[@]}" --best-metric val/los
}
does_not_disturb() { # the weights are those of a run that measures nothing
    train plain --precision fp32 && cmp "$dir/plain/checkpoints/epoch_3/open_clip_model.safetensors" \
        "$dir/val/checkpoints/epoch_3/open_clip_model.safetensors"
}
val_resumed() { killed_and_resumed val_killed 9 "${val[@]}" --save-frequency-steps 4 && same_metrics val val_killed &&
    same_state "$dir/val/checkpoints/epoch_3" "$dir/val_killed/checkpoints/epoch_3" &&
    same_state "$dir/val/checkpoints/best" "$dir/val_killed/checkpoints/best"; }
val_loss_of_one_batch() { # a batch of all pairs, rate 0: the training's loss is the validation's
    train once "${val[@]}" --batch-size 24 --epochs 1 --lr 0 --train-transform eval &&
        awk "BEGIN {d = $(metric once 1 val/loss) - $(sed -n '/"epoch"/s/.*"loss": \([^,]*\).*/\1/p' "$dir/once/metrics.jsonl"); exit !(d < 1e-5 && d > -1e-5)}"
}
stops_early() { # at rate 0 nothing gets better after the first time
    train early "${val[@]}" --val-frequency 2 --lr 0 --early-stopping-patience 3 --best-metric val/text_to_image_R@1 &&
        grep -q "stopped early after step 8" "$dir/stderr" && [ -d "$dir/early/checkpoints/step_8" ] &&
        train early "${val[@]}" --lr 0 --early-stopping-patience 3 --best-metric val/text_to_image_R@1 --resume latest &&
        grep -q "this run is finished" "$dir/stderr"
}
over_two() { # name, options…: two ranks of one thread
    local name=$1
    shift
    OMP_NUM_THREADS=1 "${mpirun[@]}" -np 2 "$clipc" train "${pairs[@]}" --epochs 3 --warmup 3 --lr 1e-3 --workers 1 --logs "$dir" \
        --name "$name" "$@" 2>"$dir/stderr"
}
over_ranks() {
    over_two ranks --batch-size 2 "${val[@]}" || return 1
    awk "BEGIN {d = $(metric ranks 18 val/image_to_text_mean_rank) - $(metric val 18 val/image_to_text_mean_rank); exit !(d < 1 && d > -1)}" &&
        [ "$(grep -c '"val/loss"' "$dir/ranks/metrics.jsonl")" = 5 ]
}

# ---- between old and new weights ----
sweep() { # a curve whose ends are the checkpoints'; the chosen mix is what --alpha writes
    local best=$dir/val/checkpoints/best
    "$clipc" ckpt mix $golden "$dir/val" --vocab $golden/vocab.txt --sweep 0:1:0.25 --data $golden/pairs.tsv --data $golden/pairs.tsv --precision fp32 \
        --plot "$dir/curve.svg" --out "$dir/swept" >"$dir/table" 2>"$dir/stderr" && grep -q "swept: written, alpha " "$dir/stderr" || return 1
    local chosen
    chosen=$(sed 's/.*alpha //' <(grep "written, alpha" "$dir/stderr"))
    [ "$(wc -l <"$dir/table")" = 7 ] && grep -q "^$chosen .*chosen$" "$dir/table" && [ "$(grep -c "<circle" "$dir/curve.svg")" = 5 ] &&
        python3 -c 'import sys, xml.dom.minidom; xml.dom.minidom.parse(sys.argv[1])' "$dir/curve.svg" &&
        "$clipc" ckpt mix $golden "$best" --vocab $golden/vocab.txt --alpha "$chosen" --out "$dir/by_alpha" 2>"$dir/stderr" &&
        cmp "$dir/swept/open_clip_model.safetensors" "$dir/by_alpha/open_clip_model.safetensors" || return 1
    "$clipc" ckpt mix $golden "$dir/val" --vocab $golden/vocab.txt --sweep 0:1:0.5 --data $golden/pairs.tsv --precision fp32 --json >"$dir/curve.json" 2>"$dir/stderr" &&
        for at in "0 $golden" "2 $best"; do
            "$clipc" eval retrieval --precision fp32 --checkpoint "${at#* }" --vocab $golden/vocab.txt --data $golden/pairs.tsv --json >"$dir/eval.json" 2>&1
            python3 - "$dir/curve.json" "$dir/eval.json" "${at% *}" <<'END' || return 1
import json, sys
curve, one = (json.load(open(p)) for p in sys.argv[1:3])
for r in "R@1", "R@5", "R@10":
    mean = (one["image_to_text"][r] + one["text_to_image"][r]) / 2
    got = curve["curve"][int(sys.argv[3])]["sets"][0][r]
    assert abs(got - mean) < 1e-9, (r, got, mean)
END
        done
}

# ---- moving average ----
ema=(--precision fp32 --ema 0.9 --save-frequency-steps 4)
ema_saved() { # a checkpoint of its own, other weights than the last step's
    train ema "${ema[@]}" "${val[@]}" && [ "$(grep -c '"ema/val/loss"' "$dir/ema/metrics.jsonl")" = 5 ] &&
        "$clipc" eval retrieval --precision fp32 --checkpoint "$dir/ema/checkpoints/epoch_3/ema" --data $golden/pairs.tsv --json >"$dir/eval.json" 2>&1 &&
        ! cmp -s "$dir/ema/checkpoints/epoch_3/ema/open_clip_model.safetensors" "$dir/ema/checkpoints/epoch_3/open_clip_model.safetensors" || return 1
    local want got
    want=$(tr -d '\n' <"$dir/eval.json" | sed 's/.*"image_to_text": *{\([^}]*\)}.*/\1/; s/.*"mean_rank": *//; s/[,} ].*//')
    got=$(metric ema 18 ema/val/image_to_text_mean_rank)
    awk "BEGIN {d = $got - $want; exit !(d < 1e-6 && d > -1e-6)}" || { echo "average: $got, eval: $want"; return 1; }
}
ema_changes_nothing() { cmp "$dir/plain/checkpoints/epoch_3/open_clip_model.safetensors" "$dir/ema/checkpoints/epoch_3/open_clip_model.safetensors"; }
ema_resumed() { killed_and_resumed ema_killed 9 "${ema[@]}" "${val[@]}" && same_metrics ema ema_killed &&
    same_state "$dir/ema/checkpoints/epoch_3" "$dir/ema_killed/checkpoints/epoch_3" &&
    cmp "$dir/ema/checkpoints/epoch_3/ema/open_clip_model.safetensors" "$dir/ema_killed/checkpoints/epoch_3/ema/open_clip_model.safetensors"; }

# ---- trainable tensors ----
changed() { # run A, checkpoint B: the tensors that differ
    "$clipc" ckpt info "$1" --json >"$dir/a.json" && "$clipc" ckpt info "$2" --json >"$dir/b.json" || return 1
    diff <(tensors "$dir/a.json") <(tensors "$dir/b.json") | sed -n 's/^> \([^ ]*\) .*/\1/p'
}
tensors() { tr -d ' \n' <"$1" | grep -o '"name":"[^"]*"[^}]*' | sed 's/"name":"\([^"]*\)".*"norm":\(.*\)/\1 \2/'; }
# every group of options: killed and resumed gives the same bits; and two micro-batches work
resumes() { # name, options…
    local name=$1
    shift
    train "$name" --save-frequency-steps 4 "$@" && killed_and_resumed "${name}_killed" 9 --save-frequency-steps 4 "$@" &&
        same_metrics "$name" "${name}_killed" && same_state "$dir/$name/checkpoints/epoch_3" "$dir/${name}_killed/checkpoints/epoch_3" &&
        train "${name}_accum" "$@" --batch-size 2 --accum-freq 2
}
# resumed from any of its checkpoints, a run ends with the same bits
every_checkpoint() { # name, options…
    local name=$1 from
    shift
    train "$name" --save-frequency-steps 5 --keep-checkpoints 9 "$@" || return 1
    for from in "$dir/$name"/checkpoints/{epoch_1,epoch_2,step_5,step_10,step_15}; do
        rm -rf "$dir/${name}_again"
        train "${name}_again" --resume "$from" "$@" && same_state "$dir/$name/checkpoints/epoch_3" "$dir/${name}_again/checkpoints/epoch_3" ||
            { echo "resumed from $from"; return 1; }
    done
}
# 4 at once, 2 x 2 accumulated and 2 ranks x 2: the same first losses
same_losses() { # name, options…
    local name=$1
    shift
    local o=(--max-steps 3 --precision fp32 --no-shuffle --train-transform eval "$@")
    train "${name}_one" "${o[@]}" && train "${name}_parts" "${o[@]}" --batch-size 2 --accum-freq 2 || return 1
    agree "${name}_one" "${name}_parts" || return 1
    ! no_mpi || { echo "SKIP: $name over ranks: $no_mpi_reason"; return 0; }
    over_two "${name}_ranks" "${o[@]}" --batch-size 2 && agree "${name}_one" "${name}_ranks"
}
agree() { near "$1" "$2" 3 1e-4; }
base() { train base --lr 0 --max-steps 1 && mv "$dir/base/checkpoints/step_1" "$dir/base/start"; }
locked() { # options; what must have learned, as a pattern that each changed tensor matches and whose parts are all there
    local pattern=$1
    shift
    train locked "$@" || return 1
    changed "$dir/base/start" "$dir/locked/checkpoints/epoch_3" >"$dir/changed"
    rm -r "$dir/locked"
    ! grep -vE "$pattern" "$dir/changed" && [ -s "$dir/changed" ]
}
locked_groups() { # the small model has 2 layers a tower
    locked '^visual\.proj$|^logit_scale$' --lock-image --lock-image-unlocked-groups 1 --lock-text && grep -q visual.proj "$dir/changed" &&
        locked '^visual\.(proj|ln_post|transformer.resblocks.1)|^logit' --lock-image --lock-image-unlocked-groups 2 --lock-text &&
        grep -q 'resblocks.1.*in_proj_weight' "$dir/changed" && grep -q ln_post "$dir/changed" &&
        locked '^(text_projection|ln_final|transformer.resblocks.1)|^logit' --lock-image --lock-text --lock-text-unlocked-layers 2 &&
        grep -q '^ln_final' "$dir/changed" &&
        locked '(^|\.)ln_|^logit' --lock-image --lock-text --no-lock-text-freeze-layer-norm && grep -q '^transformer.*ln_1' "$dir/changed" &&
        ! grep -q visual "$dir/changed"
}
lit=(--lock-image --train-transform eval --precision fp32)
cached() { # the frozen tower's features are computed once: the same run as without
    train cached "${lit[@]}" && grep -q "features of 24 samples computed once" "$dir/stderr" &&
        train uncached "${lit[@]}" --feature-cache 0 && ! grep -q "computed once" "$dir/stderr" || return 1
    [ "$(losses cached | wc -l)" = 18 ] && same_metrics cached uncached && same_state "$dir/cached/checkpoints/epoch_3" "$dir/uncached/checkpoints/epoch_3"
}
lit_resumes() { # with one epoch left nothing is cached: features must not depend on their batch, also with the kernels for AVX2
    resumes lit "${lit[@]}" && every_checkpoint lit_all "${lit[@]}" && every_checkpoint lit_text --lock-text &&
        CLIPC_CPU=v3 every_checkpoint lit_avx2 "${lit[@]}" &&
        CLIPC_CPU=v3 every_checkpoint lit_avx2_text --lock-text --precision fp32
}
cached_text() { train cached_text --lock-text --precision fp32 && grep -q "text tower is frozen: features of 24" "$dir/stderr" && resumes cached_text2 --lock-text; }
cached_bad_picture() { # a picture that cannot be read is left out as it is without a cache
    mkdir -p "$dir/bad" && cp $golden/*.jpg $golden/pairs.tsv "$dir/bad" && head -c 300 $golden/05.jpg >"$dir/bad/05.jpg" || return 1
    for cache in 0 100; do
        "$clipc" train --pretrained $golden --vocab $golden/vocab.txt --train-data "$dir/bad/pairs.tsv" --batch-size 4 --epochs 3 \
            --warmup 3 --workers 2 --logs "$dir" --name "bad$cache" "${lit[@]}" --feature-cache $cache 2>"$dir/stderr" || return 1
    done
    paste <(losses bad0) <(losses bad100) | awk '{d = $1 - $2; if (d > 1e-4 || d < -1e-4) bad = 1} END {exit bad || NR != 18}'
}
no_cache_where_pictures_change() { train augmented --lock-image && ! grep -q "computed once" "$dir/stderr"; }
layer_decay() { # r = 1 is no decay; with 0.5 the weights differ
    train decay1 --precision fp32 --lr-layer-decay 1 && cmp "$dir/plain/checkpoints/epoch_3/open_clip_model.safetensors" \
        "$dir/decay1/checkpoints/epoch_3/open_clip_model.safetensors" && resumes decay --lr-layer-decay 0.5 &&
        ! cmp -s "$dir/plain/checkpoints/epoch_3/open_clip_model.safetensors" "$dir/decay/checkpoints/epoch_3/open_clip_model.safetensors"
}
# frozen tensors have neither moments nor an average
locked_state() {
    train frozen "${lit[@]}" --ema 0.9 && "$clipc" ckpt info "$dir/frozen/checkpoints/epoch_3/ema" >/dev/null || return 1
    ! grep -qa 'adam_[mv].visual' "$dir/frozen/checkpoints/epoch_3/train_state.safetensors" &&
        grep -qa adam_m.text_projection "$dir/frozen/checkpoints/epoch_3/train_state.safetensors" &&
        changed "$dir/base/start" "$dir/frozen/checkpoints/epoch_3/ema" >"$dir/changed" && ! grep visual "$dir/changed" &&
        [ "$(grep -c . "$dir/changed")" -ge 20 ]
}
# A run may resume with other frozen tensors: moments of formerly frozen ones start from 0, and a line reports it.
other_frozen() {
    train thaw "${lit[@]}" --max-steps 6 && train thaw --precision fp32 --resume latest --max-steps 12 &&
        grep -q "32 tensors that learn now were frozen.*moments start from 0" "$dir/stderr" &&
        changed "$dir/base/start" "$dir/thaw/checkpoints/epoch_2" | grep -q visual.conv1.weight &&
        train thaw --precision fp32 --resume latest --max-steps 14 && ! grep -q "were frozen" "$dir/stderr"
}
planned() { # what of the plan, options…: MiB
    local what=$1
    shift
    "$clipc" train --dry-run --model ViT-B-32 --batch-size 8 --precision amp_bf16 "$@" | sed -n "s/^  $what  *\([0-9.]*\) MiB/\1/p"
}
plans() { # what is frozen takes weights alone; a teacher is counted
    [ "$(planned gradients)" = 577.1 ] && [ "$(planned 'two moments')" = 1154.2 ] && [ -z "$(planned 'frozen weights')" ] &&
        [ "$(planned gradients --lock-image)" = 242.0 ] && [ "$(planned 'frozen weights' --lock-image)" = 335.1 ] &&
        [ "$(planned 'moving average' --lock-image --ema 0.9)" = 242.0 ] && [ "$(planned gradients --lora-rank 8)" = 8.5 ] &&
        [ "$(planned 'two moments' --lora-rank 8)" = 16.9 ] || return 1
    local o=(--dry-run --pretrained $golden --batch-size 64) alone
    alone=$("$clipc" train "${o[@]}" | sed -n 's/^  total *\([0-9.]*\) .*/\1/p')
    "$clipc" train "${o[@]}" --distill-pretrained $golden |
        awk -v alone="$alone" '/^  teacher/ {t = $5} /^  total/ {exit !(t > 1 && $2 - alone > t - 0.1 && $2 - alone < t + 1)}'
}
lora=(--lora-rank 2 --lora-alpha 4)
lora_ema() { # the factors' average: kept, resumed, and measured as what its checkpoint holds
    resumes lora_ema "${lora[@]}" --ema 0.9 "${val[@]}" &&
        cmp "$dir/lora_ema/checkpoints/epoch_3/ema/open_clip_model.safetensors" "$dir/lora_ema_killed/checkpoints/epoch_3/ema/open_clip_model.safetensors" || return 1
    local want got
    "$clipc" eval retrieval --precision fp32 --checkpoint "$dir/lora_ema/checkpoints/epoch_3/ema" --data $golden/pairs.tsv --json >"$dir/eval.json" 2>&1
    want=$(tr -d '\n' <"$dir/eval.json" | sed 's/.*"image_to_text": *{\([^}]*\)}.*/\1/; s/.*"mean_rank": *//; s/[,} ].*//')
    got=$(metric lora_ema 18 ema/val/image_to_text_mean_rank)
    awk "BEGIN {d = $got - $want; exit !(d < 1e-6 && d > -1e-6)}" || { echo "average: $got, eval: $want"; return 1; }
}
# Two ranks whose optimiser is sharded give the same bits as two whose is not.
sharded() { # name, options…
    local name=$1
    shift
    ! no_mpi || { echo "SKIP: $name: $no_mpi_reason"; return 0; }
    over_two "$name" --batch-size 2 "$@" && over_two "${name}_sharded" --batch-size 2 "$@" --shard-optimizer || { cat "$dir/stderr"; return 1; }
    same_state "$dir/$name/checkpoints/epoch_3" "$dir/${name}_sharded/checkpoints/epoch_3"
}
lora_learns() { # only the blocks' matrices and the scale change; the loss falls; a checkpoint is a plain one
    train lora "${lora[@]}" --lr 1e-2 --precision fp32 || return 1
    changed "$dir/base/start" "$dir/lora/checkpoints/epoch_3" >"$dir/changed"
    ! grep -vE 'resblocks.*(in_proj_weight|out_proj.weight|c_fc.weight|c_proj.weight)$|^logit_scale$' "$dir/changed" &&
        [ "$(grep -c weight "$dir/changed")" = 16 ] &&
        ! "$clipc" ckpt info "$dir/lora/checkpoints/epoch_3" | grep -q lora_ &&
        awk "BEGIN {exit !($(losses lora | tail -1) < 0.7 * $(losses lora | head -1))}"
}
lora_starts_as_the_model() { # B = 0: the first loss is the model's own
    train start --max-steps 1 --precision fp32 && train lora_start --max-steps 1 --precision fp32 "${lora[@]}" &&
        [ "$(losses start)" = "$(losses lora_start)" ]
}
# Duplicate captions have the same text feature, which CLIP's loss cannot distinguish: nothing changes. SigLIP's loss
# treats them as negatives without the option; and class labels join different captions.
multi_positive() {
    local o=(--max-steps 3 --precision fp32 --no-shuffle --train-transform eval)
    awk -F'\t' -v OFS='\t' 'NR > 1 {$2 = NR % 2 ? "a circle" : "a square"} {print}' $golden/pairs.tsv >"$dir/classes.tsv"
    sed -i "2,\$s|^|$PWD/$golden/|" "$dir/classes.tsv"
    train plain3 "${o[@]}" && train multi "${o[@]}" --multi-positive && agree plain3 multi &&
        train classes0 "${o[@]}" --train-data "$dir/classes.tsv" &&
        train classes "${o[@]}" --train-data "$dir/classes.tsv" --multi-positive && agree classes0 classes &&
        train sig0 "${o[@]}" --train-data "$dir/classes.tsv" --siglip &&
        train sig "${o[@]}" --train-data "$dir/classes.tsv" --siglip --multi-positive && ! agree sig0 sig >/dev/null &&
        same_losses sig2 --train-data "$dir/classes.tsv" --siglip --multi-positive || return 1
    mkdir "$dir/shard"
    for i in $(seq -w 0 23); do # a class number and a caption of its own
        cp $golden/$i.jpg "$dir/shard/$i.jpg" && echo $((10#$i % 3)) >"$dir/shard/$i.cls" &&
            sed -n "$((10#$i + 2))p" $golden/pairs.tsv | cut -f2 >"$dir/shard/$i.txt"
    done
    tar -C "$dir/shard" --sort=name -cf "$dir/labels.tar" . && train labels0 "${o[@]}" --train-data "$dir/labels.tar" &&
        train labels "${o[@]}" --train-data "$dir/labels.tar" --multi-positive && agree plain3 labels0 && ! agree labels0 labels >/dev/null &&
        same_losses labels2 --train-data "$dir/labels.tar" --multi-positive
}
distilled() { # a teacher equal to the student: its cross-entropy is its entropy; the gradient is the plain one's at first
    same_losses distilled --distill-pretrained $golden && resumes distill --distill-pretrained $golden &&
        awk "BEGIN {exit !($(losses distilled_one | head -1) > $(losses plain3 | head -1) + 0.01)}"
}
spike() { # past the median's double the step is left out: here every one from the 17th on
    ! train spike --spike-factor 0.5 --skip-limit 2 --precision fp32 && grep -q "step 17: the loss .* more than --spike-factor 0.5" "$dir/stderr" &&
        grep -q "for 2 steps in a row" "$dir/stderr" && [ "$(grep -c '"skipped": true' "$dir/spike/metrics.jsonl")" -ge 1 ]
}
spike_resumed() { resumes spikes --spike-factor 0.97 && grep -q '"skipped": true' "$dir/spikes/metrics.jsonl"; }
scale_is_kept() { # the resumed run goes on with the temperature that was reached
    train scale --max-steps 6 --lr 1e-2 && train scale --max-steps 8 --lr 1e-2 --resume latest || return 1
    local last next
    last=$(sed -n '6s/.*"logit_scale": \([^,]*\).*/\1/p' "$dir/scale/metrics.jsonl")
    next=$(sed -n '7s/.*"logit_scale": \([^,]*\).*/\1/p' "$dir/scale/metrics.jsonl")
    awk "BEGIN {d = ($next - $last) / $last; exit !(d < 0.02 && d > -0.02 && $next != 14.2857142)}"
}

check validates_every_k_steps validates
check mixes_are_swept sweep
check sweep_of_what refused 2 "--sweep measures on --data" "$clipc" ckpt mix $golden $golden --sweep 0:1:0.1
check sweep_range refused 2 "FROM:TO:STEP" "$clipc" ckpt mix $golden $golden --sweep 0:2:0.1 --data $golden/pairs.tsv
check sweep_over_existing refused 1 "exists" "$clipc" ckpt mix $golden $golden --vocab $golden/vocab.txt --sweep 0:1:0.1 --data $golden/pairs.tsv --out $golden
check start_is_measured start_is_that_of_eval
check a_run_means_its_best a_run_is_its_best
check validation_recalls_are_those_of_eval recalls_are_those_of_eval
check validation_changes_no_weight does_not_disturb
check validation_killed_and_resumed val_resumed
check validation_loss_is_the_loss val_loss_of_one_batch
check early_stopping stops_early
if no_mpi; then skip "$no_mpi_reason" validation_over_ranks; else check validation_over_ranks over_ranks; fi
check unknown_metric refused 2 "did you mean 'val/text_to_image_R@1'" train metric "${val[@]}" --best-metric val/text_to_image@1
check average_metric refused 2 "no such metric" train metric "${val[@]}" --best-metric ema/val/loss
check options_before_work options_first
check nothing_to_judge_by refused 2 "--val-data" train nothing --early-stopping-patience 3
check missing_val_data refused 1 "--val-data nowhere.tsv" train missing --val-data nowhere.tsv
check ema_saved ema_saved
check ema_changes_no_weight ema_changes_nothing
check ema_killed_and_resumed ema_resumed
check base base
check locked_groups locked_groups
check frozen_features_are_cached cached
check frozen_text_is_cached cached_text
check cached_bad_picture cached_bad_picture
check no_cache_where_pictures_change no_cache_where_pictures_change
check lit_resumes lit_resumes
check lit_over_ranks same_losses lit_same --lock-image
check locked_state locked_state
check other_tensors_frozen_on_resume other_frozen
check memory_plan plans
check locked_and_sharded sharded lit_two --lock-image --precision amp_bf16
check layer_decay layer_decay
check lora_learns lora_learns
check lora_starts_as_the_model lora_starts_as_the_model
check lora_resumes resumes lora_r "${lora[@]}"
check lora_over_ranks same_losses lora_same "${lora[@]}"
check lora_average lora_ema
check lora_and_sharded sharded lora_two "${lora[@]}" --precision amp_bf16
check multi_positive multi_positive
check distilled distilled
check spike_is_left_out spike
check spikes_resume spike_resumed
check scale_is_kept scale_is_kept
check lora_of_whole_towers refused 2 "adapts whole towers" train no1 "${lora[@]}" --lock-image --lock-image-unlocked-groups 1
check siglip_without_teacher refused 2 "softmax" train no2 --siglip --distill-pretrained $golden
check teacher_of_other_pictures refused 1 "both get the same" train no3 --distill-model ViT-B-32 --distill-pretrained $golden
exit $failed
