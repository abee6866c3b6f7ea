#!/usr/bin/env bash
# Fine-tuning as a user drives it: validation while training, averaged weights, locked towers. Prints cmocka's lines.
set -u
clipc=${CLIPC:-build/clipc}
golden=tests/golden/openclip
dir=$(mktemp -d "${TMPDIR:-/tmp}/finetune.XXXXXX")
trap 'rm -rf "$dir"' EXIT
failed=0
export OMP_NUM_THREADS=2

check() { # name, command…: passes when the command succeeds
    local name=$1
    shift
    echo "[ RUN      ] $name"
    if "$@"; then echo "[       OK ] $name"; else
        echo "[  FAILED  ] $name"
        failed=1
    fi
}
# 24 pairs, batch 4: 6 steps an epoch, of which 18 steps
train() { # name, options…
    local name=$1
    shift
    "$clipc" train --pretrained $golden --vocab $golden/vocab.txt --train-data $golden/pairs.tsv --batch-size 4 \
        --epochs 3 --warmup 3 --lr 1e-3 --workers 2 --logs "$dir" --name "$name" "$@" 2>"$dir/stderr"
}
refused() { # exit code, words in at most 5 lines, command…
    local code=$1 words=$2 got=0
    shift 2
    "$@" >"$dir/stdout" 2>"$dir/stderr" || got=$?
    if [ $got != "$code" ] || ! grep -qF -- "$words" "$dir/stderr" || [ "$(wc -l <"$dir/stderr")" -gt 5 ]; then
        echo "exit $got (wanted $code), wanted '$words', got:"
        cat "$dir/stderr"
        return 1
    fi
}
same_state() { # two checkpoint folders, bit for bit
    cmp "$1/open_clip_model.safetensors" "$2/open_clip_model.safetensors" &&
        cmp "$1/train_state.safetensors" "$2/train_state.safetensors"
}
same_metrics() { # two runs, but for their speed
    diff <(sed 's/"samples_per_s.*//' "$dir/$1/metrics.jsonl") <(sed 's/"samples_per_s.*//' "$dir/$2/metrics.jsonl")
}
metric() { # run, step, name
    grep "^{\"step\": $2, \"val" "$dir/$1/metrics.jsonl" | sed "s|.*\"$3\": ||; s/[,}].*//"
}
# kill -9 as soon as line $2 is in the log of run $1, then go on
killed() {
    local name=$1 lines=$2
    shift 2
    train "$name" "$@" &
    local pid=$!
    for _ in $(seq 2000); do
        [ "$(cat "$dir/$name/metrics.jsonl" 2>/dev/null | wc -l)" -ge "$lines" ] && break
        kill -0 $pid 2>/dev/null || break
        sleep 0.005
    done
    pkill -9 -P $pid 2>/dev/null
    kill -9 $pid 2>/dev/null
    wait $pid 2>/dev/null
    train "$name" --resume latest "$@"
}

# ---- validation ----
val=(--val-data $golden/pairs.tsv --val-frequency 5 --precision fp32)
validates() { # measured after steps 5, 10, 15 and the last; best stands
    train val "${val[@]}" && [ "$(grep -c '"val/loss"' "$dir/val/metrics.jsonl")" = 4 ] &&
        [ "$(grep '"val/loss"' "$dir/val/metrics.jsonl" | sed 's/.*step": \([0-9]*\).*/\1/' | tr '\n' ' ')" = "5 10 15 18 " ] &&
        [ -f "$dir/val/checkpoints/best/open_clip_model.safetensors" ] && grep -q "best val/loss" "$dir/stderr"
}
recalls_are_those_of_eval() {
    "$clipc" eval retrieval --checkpoint "$dir/val/checkpoints/epoch_3" --data $golden/pairs.tsv --json >"$dir/eval.json" 2>&1
    for pair in image_to_text text_to_image; do
        for r in R@1 R@5 R@10 mean_rank median_rank; do
            local got want
            got=$(metric val 18 "val/${pair}_$r")
            want=$(tr -d '\n' <"$dir/eval.json" | sed "s/.*\"$pair\": *{\([^}]*\)}.*/\1/; s/.*\"$r\": *//; s/[,} ].*//")
            awk "BEGIN {d = $got - $want; exit !(d < 1e-6 && d > -1e-6)}" || { echo "$pair $r: $got, eval: $want"; return 1; }
        done
    done
}
does_not_disturb() { # the weights are those of a run that measures nothing
    train plain --precision fp32 && cmp "$dir/plain/checkpoints/epoch_3/open_clip_model.safetensors" \
        "$dir/val/checkpoints/epoch_3/open_clip_model.safetensors"
}
val_resumed() { killed val_killed 9 "${val[@]}" --save-frequency-steps 4 && same_metrics val val_killed &&
    same_state "$dir/val/checkpoints/epoch_3" "$dir/val_killed/checkpoints/epoch_3" &&
    same_state "$dir/val/checkpoints/best" "$dir/val_killed/checkpoints/best"; }
val_loss_of_one_batch() { # a batch of all pairs, rate 0: the training's loss is the validation's
    train once "${val[@]}" --batch-size 24 --epochs 1 --lr 0 --train-transform eval &&
        awk "BEGIN {d = $(metric once 1 val/loss) - $(sed -n '1s/.*"loss": \([^,]*\).*/\1/p' "$dir/once/metrics.jsonl"); exit !(d < 1e-5 && d > -1e-5)}"
}
stops_early() { # at rate 0 nothing gets better after the first time
    train early "${val[@]}" --val-frequency 2 --lr 0 --early-stopping-patience 3 --best-metric val/text_to_image_R@1 &&
        grep -q "stopped early after step 8" "$dir/stderr" && [ -d "$dir/early/checkpoints/step_8" ] &&
        train early "${val[@]}" --lr 0 --early-stopping-patience 3 --best-metric val/text_to_image_R@1 --resume latest &&
        grep -q "this run is finished" "$dir/stderr"
}
over_ranks() {
    command -v mpirun >/dev/null || { echo "SKIP: over_ranks: no mpirun"; return 0; }
    OMP_NUM_THREADS=1 mpirun --allow-run-as-root --oversubscribe -n 2 "$clipc" train --pretrained $golden \
        --vocab $golden/vocab.txt --train-data $golden/pairs.tsv --batch-size 2 --epochs 3 --warmup 3 --lr 1e-3 --workers 1 \
        --logs "$dir" --name ranks "${val[@]}" 2>"$dir/stderr" || { cat "$dir/stderr"; return 1; }
    awk "BEGIN {d = $(metric ranks 18 val/image_to_text_mean_rank) - $(metric val 18 val/image_to_text_mean_rank); exit !(d < 1 && d > -1)}" &&
        [ "$(grep -c '"val/loss"' "$dir/ranks/metrics.jsonl")" = 4 ]
}

check validates_every_k_steps validates
check validation_recalls_are_those_of_eval recalls_are_those_of_eval
check validation_changes_no_weight does_not_disturb
check validation_killed_and_resumed val_resumed
check validation_loss_is_the_loss val_loss_of_one_batch
check early_stopping stops_early
check validation_over_ranks over_ranks
check unknown_metric refused 1 "no such metric" train metric "${val[@]}" --best-metric val/recall
check nothing_to_judge_by refused 2 "--val-data" train nothing --early-stopping-patience 3
check missing_val_data refused 1 "--val-data nowhere.tsv" train missing --val-data nowhere.tsv
exit $failed
