#!/usr/bin/env bash
# The training program as a user runs it: run folder, resume after kill -9, signals, refusals. Prints cmocka's lines.
. tests/support.sh train
export OMP_NUM_THREADS=2

# 24 pairs, batch 4: 6 steps an epoch
train() { # name, options…
    local name=$1
    shift
    "$clipc" train "${pairs[@]}" --batch-size 4 \
        --epochs 5 --warmup 3 --lr 1e-3 --workers 2 --save-frequency 2 --save-frequency-steps 4 --logs "$dir" \
        --name "$name" "$@" 2>"$dir/stderr"
}

undisturbed() {
    train whole && [ "$(lines whole)" = 30 ] &&
        [ -f "$dir/whole/checkpoints/epoch_5/open_clip_model.safetensors" ] &&
        [ -f "$dir/whole/checkpoints/epoch_5/open_clip_config.json" ] &&
        [ -f "$dir/whole/checkpoints/epoch_5/train_state.safetensors" ] && [ -f "$dir/whole/params.conf" ]
}
again_is_the_same() {
    train twice && same_state "$dir/whole/checkpoints/epoch_5" "$dir/twice/checkpoints/epoch_5"
}
last_steps_are_kept() { # steps 4 8 16 20 28 are saved within epochs; the last three stay
    [ "$(ls -d "$dir"/whole/checkpoints/step_* | sed 's/.*step_//' | sort -n | tr '\n' ' ')" = "16 20 28 " ]
}
plans_a_gpu() { # without one: the hours are the steps' seconds, the price theirs; data are counted; in JSON the same
    local o=(--config configs/pretrain-vit-b32.conf --workers 4 --world-size 64 --dry-run --device cuda --gpu h100 --gpu-hour-price 2)
    "$clipc" train "${o[@]}" >"$dir/plan" 2>"$dir/stderr" && grep -q "^on 64 H100" "$dir/plan" && grep -q "workers 4 are too few" "$dir/plan" &&
        grep -Eq "run: 131072 steps, .* GPU-hours, at 2 each" "$dir/plan" && "$clipc" train "${o[@]}" --json >"$dir/plan.json" 2>"$dir/stderr" &&
        "$clipc" train "${o[@]}" --gpu b200 --json >"$dir/faster.json" 2>"$dir/stderr" && python3 - "$dir/plan.json" "$dir/faster.json" <<'END' || return 1
import json, sys
p, faster = (json.load(open(path)) for path in sys.argv[1:])
assert p["steps"] == 131072 and p["epochs"] == 32 and p["ranks"] == 64 and p["global_batch"] == 32768, p
assert abs(p["hours"] * 3600 - p["steps"] * p["step_seconds"]) < 1 and abs(p["gpu_hours"] - 64 * p["hours"]) < 1e-6
assert abs(p["price"] - 2 * p["gpu_hours"]) < 1e-6 and p["loader_threads"] > 4 and p["memory_total"] == sum(p["memory"].values())
assert faster["hours"] < p["hours"] and faster["memory_total"] == p["memory_total"]
END
    "$clipc" train "${pairs[@]}" --batch-size 4 --epochs 3 --dry-run --gpu a100 >"$dir/plan" 2>"$dir/stderr" &&
        grep -q "data: 24 samples an epoch, 6 steps; 3 epochs" "$dir/plan" && grep -q "run: 18 steps" "$dir/plan" &&
        refused 2 "go with --dry-run" train planned --gpu h100 && "$clipc" train "${pairs[@]}" --batch-size 400 --dry-run >"$dir/plan" 2>"$dir/stderr" && grep -q "^global batch: 24 = 24 x 1" "$dir/plan" &&
        grep -q "^data: 24 samples an epoch, 1 steps" "$dir/plan" && refused 1 "nowhere.tar" "$clipc" train --model small --dry-run --train-data nowhere.tar
}
capped_batch() { # 24 pairs: all of them, in micro-batches of equal size; recorded
    train capped --batch-size 16 --accum-freq 3 --epochs 2 && grep -q "a batch of 16 x 3 x 1 ranks is more than the 24 pairs" "$dir/stderr" &&
        grep -q "steps of 24 an epoch$" "$dir/stderr" && [ "$(lines capped)" = 2 ] && grep -qx "batch-size = 12" "$dir/capped/params.conf" &&
        grep -qx "accum-freq = 2" "$dir/capped/params.conf" && train capped_one --batch-size 400 --epochs 2 && near capped capped_one 2 1e-2
}
# Captions have 6.5 tokens on average. Less memory than for full contexts, the same losses, of two ranks also.
text_rows() {
    local o=(--batch-size 12 --precision fp32 --no-shuffle --epochs 3 --accum-freq 2) rows planned=()
    for rows in 21 auto 3; do
        train "rows-$rows" "${o[@]}" --text-rows $rows || return 1
        planned+=("$("$clipc" train "${pairs[@]}" "${o[@]}" --text-rows $rows --dry-run 2>/dev/null | sed -n 's/^  activations (captions of --text-rows) *\([0-9]*\)\.\([0-9]\) MiB/\1\2/p')")
    done
    echo "activations, in tenths of a MiB: ${planned[*]}"
    [ "${planned[0]}" -gt "${planned[1]}" ] && [ "${planned[1]}" -gt "${planned[2]}" ] && near rows-21 rows-auto 3 2e-5 &&
        near rows-21 rows-3 3 2e-5 && grep -qx "text-rows = 9" "$dir/rows-auto/params.conf" || return 1
    train rows-more "${o[@]}" --text-rows 3 --max-steps 2 && train rows-more "${o[@]}" --text-rows 3 --resume latest &&
        same_state "$dir/rows-more/checkpoints/epoch_3" "$dir/rows-3/checkpoints/epoch_3" || return 1
    refused 2 "from 1 to" train rows-22 --text-rows 22 && refused 2 "not 'some'" train rows-some --text-rows some &&
        refused 2 "reads captions of --train-data" "$clipc" train --model small --text-rows auto --dry-run &&
        refused 2 "reads whole contexts" "$clipc" train --model ViT-B-16-SigLIP --text-rows 8 --dry-run || return 1
    no_mpi && return
    OMP_NUM_THREADS=1 "${mpirun[@]}" -np 2 "$clipc" train "${pairs[@]}" --epochs 3 --warmup 3 --lr 1e-3 --workers 1 --logs "$dir" --name rows-two \
        "${o[@]}" --batch-size 6 --text-rows 3 --shard-optimizer 2>"$dir/stderr" && near rows-21 rows-two 3 2e-5
}
shares() { # --min-steps adds epochs; a tenth of 24 steps warms up, a quarter saves; the default warm-up is a tenth at most
    train shares --epochs 1 --min-steps 20 --warmup 10% --save-frequency-steps 25% --precision fp32 --keep-checkpoints 9 &&
        [ "$(lines shares)" = 24 ] && [ "$(ls "$dir/shares/checkpoints" | grep step | sort | tr '\n' ' ')" = "step_18 step_6 " ] &&
        [ "$(sed -n 's/.*"lr": \([^,]*\),.*/\1/p' "$dir/shares/metrics.jsonl" | head -3 | tr '\n' ' ')" = "0.0005 0.001 0.001 " ] &&
        "$clipc" train "${pairs[@]}" --batch-size 4 --max-steps 20 --lr 1e-3 --logs "$dir" --name default_warmup 2>"$dir/stderr" &&
        [ "$(sed -n 's/.*"lr": \([^,]*\),.*/\1/p' "$dir/default_warmup/metrics.jsonl" | head -2 | tr '\n' ' ')" = "0.0005 0.001 " ]
}
existing_run() { refused 1 "--resume latest" train whole; cp "$dir/stderr" "$dir/e"; grep -q "this run exists" "$dir/e"; }
finished_run() {
    local before after
    before=$(find "$dir/whole" -type f -printf '%p %T@ %s\n' | sort)
    train whole --resume latest && grep -q finished "$dir/stderr" || return 1
    after=$(find "$dir/whole" -type f -printf '%p %T@ %s\n' | sort)
    [ "$before" = "$after" ]
}
# kill -9 as soon as step $1 is in the log, then resume: the same bits at the end
kill_at() {
    local name=killed_$1
    killed_and_resumed "$name" "$1" || return 1
    [ "$(lines "$name")" = 30 ] && same_metrics whole "$name" && same_state "$dir/whole/checkpoints/epoch_5" "$dir/$name/checkpoints/epoch_5"
}
# bf16 moments: half the state; resuming from an epoch's checkpoint gives the same bits, and f32 moments can resume from
# it
bf16_moments() {
    train half --moments bf16 && cp -r "$dir/half" "$dir/half_again" && rm -r "$dir"/half_again/checkpoints/{step_*,epoch_[45]} &&
        cp -r "$dir/half_again" "$dir/half_to_f32" &&
        train half_again --moments bf16 --resume latest && train half_to_f32 --resume latest &&
        same_state "$dir/half/checkpoints/epoch_5" "$dir/half_again/checkpoints/epoch_5" &&
        [ $((10 * $(stat -c %s "$dir/half/checkpoints/epoch_5/train_state.safetensors"))) -lt \
            $((6 * $(stat -c %s "$dir/whole/checkpoints/epoch_5/train_state.safetensors"))) ] &&
        ! cmp -s "$dir/whole/checkpoints/epoch_5/open_clip_model.safetensors" "$dir/half/checkpoints/epoch_5/open_clip_model.safetensors" &&
        paste <(losses whole) <(losses half) |
        awk '{ d = $1 - $2; if (d < 0) d = -d; if (d > 0.05 * $1 + 0.02) { print "step " NR ": " $0; bad = 1 } } END { exit bad || NR != 30 }'
}
fresh_resume() { train fresh --resume latest && same_state "$dir/whole/checkpoints/epoch_5" "$dir/fresh/checkpoints/epoch_5"; }
sigterm() {
    train stopped --epochs 100000 &
    local job=$!
    await $job has_lines stopped 7 && pkill -TERM -P $job
    ends 60 $job && [ $code = 3 ] || return 1
    grep -q -- "--resume latest" "$dir/stderr" &&
        [ -f "$dir/stopped/checkpoints/step_$(lines stopped)/train_state.safetensors" -o \
            -f "$dir/stopped/checkpoints/epoch_$(($(lines stopped) / 6))/train_state.safetensors" ]
}
stopped_code() { # for schedulers that take any other code for a failure; a run that is done exits 0
    train quiet --epochs 100000 --stopped-exit-code 0 &
    local job=$!
    await $job has_lines quiet 7 && pkill -TERM -P $job && ends 60 $job && [ $code = 0 ] &&
        grep -q "stopped by SIGTERM" "$dir/stderr" && train quiet --max-steps $(($(lines quiet) + 1)) --stopped-exit-code 7 --resume latest
}
# During a run, a second start and a resumption end with a line and change nothing; evaluation of its checkpoint works.
second_start() {
    train living --epochs 100000 --save-frequency-steps 1000000 --save-frequency 1 2>/dev/null &
    local job=$! pid before
    await $job has_lines living 7 && pid=$(pgrep -P $job) && kill -STOP "$pid" || return 1
    before=$(find "$dir/living" -printf '%p %T@ %s\n' | sort)
    refused 1 "living is in use by process $(hostname):$pid" train living && refused 1 ":$pid" train living --resume latest &&
        [ "$before" = "$(find "$dir/living" -printf '%p %T@ %s\n' | sort)" ] &&
        "$clipc" ckpt info "$dir/living/checkpoints/epoch_1" >"$dir/stdout" && train living --dry-run >"$dir/stdout"
    local code=$?
    kill -CONT "$pid" && kill -TERM "$pid" && [ $code = 0 ] && ends 60 $job && [ $code = 3 ] && [ ! -e "$dir/living/lock" ] && [ ! -e "$dir/whole/lock" ]
}
# A picture's opening waits for a process that has a lease on it (as for a server that does not answer): SIGTERM saves and ends the run.
waiting_loader() {
    cp $golden/*.jpg $golden/pairs.tsv "$dir/waiting_pairs/" && python3 - "$dir/waiting_pairs" <<'END' &
import fcntl, os, signal, sys, time
signal.signal(signal.SIGIO, signal.SIG_IGN)
held = [open(sys.argv[1] + f'/{i:02}.jpg', 'rb+') for i in range(1, 24)]
for f in held: fcntl.fcntl(f, fcntl.F_SETLEASE, fcntl.F_WRLCK)
open(sys.argv[1] + '/ready', 'w').close()
while os.path.exists(sys.argv[1] + '/ready'): time.sleep(.1)
END
    local holder=$! job pid
    await $holder [ -e "$dir/waiting_pairs/ready" ] || return 1
    train waiting --train-data "$dir/waiting_pairs/pairs.tsv" &
    job=$!
    await $job grep -qs "6 steps of 4 an epoch" "$dir/stderr" && sleep 1 && pid=$(pgrep -P $job) && kill -TERM "$pid" && ends 20 $job
    local ended=$?
    rm "$dir/waiting_pairs/ready"
    wait $holder
    [ $ended = 0 ] && [ $code = 3 ] && grep -q "left alone" "$dir/stderr" && ls "$dir/waiting/checkpoints" | grep -q _0
}
no_lease() {
    mkdir "$dir/waiting_pairs" && : >"$dir/waiting_pairs/file" && ! python3 -c "
import fcntl, sys
fcntl.fcntl(open(sys.argv[1], 'rb+'), fcntl.F_SETLEASE, fcntl.F_WRLCK)" "$dir/waiting_pairs/file" 2>/dev/null
}
# FIFOs and devices among the pictures are bad samples, not waited for.
fifos() {
    mkdir "$dir/fifos" && cp $golden/*.jpg $golden/pairs.tsv "$dir/fifos/" && rm "$dir"/fifos/0[12].jpg &&
        mkfifo "$dir/fifos/01.jpg" && ln -s /dev/tty "$dir/fifos/02.jpg" || return 1
    train fifos --train-data "$dir/fifos/pairs.tsv" --max-bad 0.5 &
    local job=$!
    ends 60 $job && [ $code = 0 ] && grep -q "01.jpg: not a regular file" "$dir/stderr" && grep -q "02.jpg: not a regular file" "$dir/stderr"
}
# 8 to 4 pairs a batch after two epochs, and four epochs instead of two: two epochs of 6 steps follow, at the rates of the second half of four
other_batch() {
    train wide --batch-size 8 --epochs 2 && cp -r "$dir/wide" "$dir/other" && train wide --epochs 4 --resume latest &&
        grep -q "global-batch 4 (before: 8), epochs 4 (before: 2)" "$dir/stderr" && grep -q "schedule ends at step 18 (before: 6)" "$dir/stderr" &&
        [ "$(lines wide)" = 18 ] && train four_epochs --epochs 4 &&
        diff <(tail -n 12 "$dir/wide/metrics.jsonl" | grep -o '"lr": [^,]*') <(tail -n 12 "$dir/four_epochs/metrics.jsonl" | grep -o '"lr": [^,]*') &&
        [ "$(tail -n 1 "$dir/wide/metrics.jsonl" | grep -o '"samples": [0-9]*')" = '"samples": 96' ]
}
more_epochs() { # from an epoch's end, and no word where nothing changes
    train other --batch-size 8 --epochs 3 --resume latest && grep -q "schedule ends at step 9 (before: 6)" "$dir/stderr" &&
        train other --batch-size 8 --epochs 3 --resume latest && ! grep -q "changed since\|schedule ends" "$dir/stderr"
}
another_run() { # what cannot be resumed is refused, and nothing is touched; within an epoch also what changes the order
    head -n 20 $golden/pairs.tsv | sed "2,\$ s#^#$PWD/$golden/#" >"$dir/fewer.tsv"
    cp -r "$dir/other" "$dir/within" && rm -r "$dir"/within/checkpoints/epoch_*
    [ -d "$dir/within/checkpoints/step_8" ] || return 1
    local before
    before=$(find "$dir/other" "$dir/within" -type f -printf '%p %T@ %s\n' | sort)
    refused 1 "siglip=false" train other --batch-size 8 --siglip --epochs 9 --resume latest &&
        refused 1 "another architecture" train other --batch-size 8 --model ViT-B-32 --epochs 9 --resume latest &&
        refused 1 "data is '19 samples" train within --batch-size 8 --train-data "$dir/fewer.tsv" --epochs 9 --resume latest &&
        refused 1 "shuffle is 'false'" train within --batch-size 8 --no-shuffle --epochs 9 --resume latest &&
        [ "$before" = "$(find "$dir/other" "$dir/within" -type f -printf '%p %T@ %s\n' | sort)" ] &&
        train within --batch-size 8 --lr 2e-3 --epochs 3 --resume latest && grep -q "lr 0.002 (before: 0.001)" "$dir/stderr" &&
        train other --batch-size 8 --train-data "$dir/fewer.tsv" --epochs 4 --resume latest && grep -q "data 19 samples" "$dir/stderr"
}
truncated_checkpoint() { # the newest one is cut: the one before it is taken, and the damage named
    cp -r "$dir/whole" "$dir/cut"
    rm -r "$dir/cut/checkpoints/epoch_5"
    truncate -s -100 "$dir/cut/checkpoints/step_28/train_state.safetensors"
    train cut --resume latest || return 1
    grep -q step_28 "$dir/stderr" && same_state "$dir/whole/checkpoints/epoch_5" "$dir/cut/checkpoints/epoch_5"
}
not_finite() {
    ! train nan --lr 1000 --skip-limit 3 --precision fp32 && grep -q "not finite for 3 steps in a row" "$dir/stderr"
}
recipe() {
    "$clipc" train --config "$dir/whole/params.conf" --name recipe 2>"$dir/stderr" &&
        same_state "$dir/whole/checkpoints/epoch_5" "$dir/recipe/checkpoints/epoch_5"
}
# A recipe of a run names its files from everywhere, and the run that it is in, wherever that was moved.
from_elsewhere() {
    local program
    program=$(realpath "$clipc")
    mkdir -p "$dir/here" && cp -r $golden "$dir/here/data" &&
        (cd "$dir/here" && "$program" train --pretrained data --vocab data/vocab.txt --train-data data/pairs.tsv --batch-size 4 --epochs 2 \
            --warmup 3 --workers 2 --name one 2>"$dir/stderr") && mv "$dir/here/logs" "$dir/moved" &&
        (cd / && "$program" train --config "$dir/moved/one/params.conf" --epochs 3 --resume latest 2>"$dir/stderr" &&
            "$program" train --config "$dir/moved/one/params.conf" --name two 2>"$dir/stderr") &&
        [ "$(lines moved/one)" = 18 ] && [ "$(lines moved/two)" = 12 ] && [ ! -e "$dir/here/logs" ]
}
# params.conf is the start's, whatever a resumption changed; that is recorded beside it.
after_resuming() {
    train first --epochs 2 --stopped-exit-code 5 && cp "$dir/first/params.conf" "$dir/before" &&
        touch "$dir/first/params.conf.tmp.7.1" "$dir/first/params-12.conf.tmp.7.2" && # of a killed start
        train first --epochs 2 --stopped-exit-code 5 --resume latest && train first --epochs 4 --resume latest &&
        cmp "$dir/before" "$dir/first/params.conf" && [ "$(cd "$dir/first" && echo params*)" = "params-12.conf params.conf" ] &&
        grep -q '^epochs = 4$' "$dir/first/params-12.conf" && grep -q '^epochs = 2$' "$dir/first/params.conf" &&
        "$clipc" train --config "$dir/first/params.conf" --name second 2>"$dir/stderr" &&
        same_state "$dir/first/checkpoints/epoch_2" "$dir/second/checkpoints/epoch_2" && [ "$(lines second)" = 12 ] &&
        train first --epochs 6 --resume latest && [ "$(cd "$dir/first" && echo params*)" = "params-12.conf params-24.conf params.conf" ] &&
        train first --epochs 5 --resume "$dir/first/checkpoints/epoch_2" && # drops what came after
        [ "$(cd "$dir/first" && echo params*)" = "params-12.conf params.conf" ] && grep -q '^epochs = 5$' "$dir/first/params-12.conf"
}
# The checkpoint of one run does not start another that exists.
checkpoint_of_another() {
    local before
    before=$(find "$dir/second" -type f -printf '%p %T@ %s\n' | sort)
    refused 1 "first/checkpoints/epoch_1 is not a checkpoint of it" \
        train second --epochs 4 --resume "$dir/first/checkpoints/epoch_1" &&
        [ "$before" = "$(find "$dir/second" -type f -printf '%p %T@ %s\n' | sort)" ]
}
# A run that begins anew in a folder that lost its params.conf keeps no later recipe of the run before.
old_recipes() {
    mkdir "$dir/again" && echo "epochs = 9" >"$dir/again/params-0.conf" && echo "epochs = 9" >"$dir/again/params-3.conf" &&
        train again --epochs 1 && [ "$(cd "$dir/again" && echo params*)" = params.conf ]
}
siglip() { train siglip --siglip --epochs 2 && [ "$(lines siglip)" = 12 ]; }
accumulated() { # 2 x 2 accumulated is the same first loss as 4 at once
    train four --max-steps 3 --precision fp32 --no-shuffle --train-transform eval || return 1
    train two --max-steps 3 --precision fp32 --no-shuffle --train-transform eval --batch-size 2 --accum-freq 2 || return 1
    near four two 3 1e-4
}
fewer_samples() { # 10 of the 24 an epoch: two steps, two samples left over
    train fewer --train-num-samples 10 --epochs 3 && [ "$(lines fewer)" = 6 ] &&
        grep -q "2 steps of 4 an epoch" "$dir/stderr" && grep -q "2 samples are left over" "$dir/stderr" &&
        train more --train-num-samples 1000 --epochs 1 && [ "$(lines more)" = 6 ] &&
        grep -q "there are 24" "$dir/stderr"
}
dry_run() { # needs no data, minds no run that exists, writes nothing
    "$clipc" train --model ViT-B-32 --dry-run --logs "$dir/dry" >"$dir/stdout" && grep -q 151277313 "$dir/stdout" &&
        [ ! -e "$dir/dry" ] && train whole --dry-run >"$dir/stdout" && grep -q "memory a rank" "$dir/stdout"
}
named_by_itself() { # the record of a run without --name has the name it got: --config alone goes on with it
    "$clipc" train "${pairs[@]}" --batch-size 4 --epochs 1 \
        --logs "$dir/auto" 2>"$dir/stderr" && local conf=("$dir"/auto/*/params.conf) && [ -f "${conf[0]}" ] &&
        "$clipc" train --config "${conf[0]}" --resume latest 2>"$dir/stderr" && grep -q "this run is finished" "$dir/stderr"
}
betas_on_resuming() { # they go by the model's name, not by the checkpoint's path
    cp $golden/open_clip_config.json "$dir/tiny-ViT.json"
    local options=(--model "$dir/tiny-ViT.json" --vocab $golden/vocab.txt --train-data $golden/pairs.tsv --batch-size 4
        --logs "$dir" --name betas)
    "$clipc" train "${options[@]}" --epochs 1 2>"$dir/stderr" && grep -q '^beta2 = 0.98$' "$dir/betas/params.conf" &&
        "$clipc" train "${options[@]}" --epochs 2 --resume latest 2>"$dir/stderr" &&
        grep -q '^beta2 = 0.98$' "$dir/betas/params.conf" && [ "$(lines betas)" = 12 ]
}
full_disk() {
    mkdir "$dir/small" && mount -t tmpfs -o size=3m tmpfs "$dir/small" 2>/dev/null || return 2
    "$clipc" train --config "$dir/whole/params.conf" --logs "$dir/small" --name full 2>"$dir/stderr"
    local code=$? whole
    whole=$(ls "$dir/small/full/checkpoints" | grep -c '^step_\|^epoch_')
    umount "$dir/small"
    [ $code = 1 ] && grep -qi "space" "$dir/stderr" && [ "$(grep -vc '^clipc: \(model\|data\|step\)' "$dir/stderr")" -le 5 ] && [ "$whole" -ge 0 ]
}

check undisturbed undisturbed
check the_same_run_twice_is_bit_identical again_is_the_same
check last_step_checkpoints_are_kept last_steps_are_kept
check existing_run_is_refused existing_run
check finished_run_is_left_alone finished_run
for step in 1 $((RANDOM % 20 + 5)) $((RANDOM % 4 + 25)); do check "killed_at_step_${step}_and_resumed" kill_at $step; done
check bf16_moments_train_and_resume bf16_moments
check resume_without_checkpoint_starts_afresh fresh_resume
check sigterm_saves_and_exits_3 sigterm
check stopped_exit_code stopped_code
check second_start_of_a_living_run second_start
if no_lease; then skip "no leases on this file system" sigterm_while_a_loader_waits; else check sigterm_while_a_loader_waits waiting_loader; fi
check fifos_and_devices_are_bad_samples fifos
check other_batch_on_resuming other_batch
check more_epochs_on_resuming more_epochs
check another_run_is_refused another_run
check truncated_checkpoint_is_passed_over truncated_checkpoint
check loss_that_is_not_finite_stops not_finite
check params_conf_gives_the_run_again recipe
check params_conf_from_elsewhere from_elsewhere
check params_conf_is_of_the_start after_resuming
check checkpoint_of_another_run checkpoint_of_another
check old_recipes_do_not_stay old_recipes
check siglip_trains siglip
check accumulation_is_one_large_batch accumulated
check train_num_samples fewer_samples
check betas_on_resuming betas_on_resuming
check dry_run_changes_nothing dry_run
check record_holds_the_name named_by_itself
check resume_without_model refused 2 "--model (or --pretrained) is needed" "$clipc" train --train-data $golden/pairs.tsv --logs "$dir" --name nothing --resume latest
check unknown_option refused 2 "did you mean 'batch-size'" "$clipc" train --batch-sise 4
check negative_batch_size refused 2 "batch-size must lie between" train negative --batch-size -4
check missing_data refused 1 "nowhere.tar" "$clipc" train --model small --train-data nowhere.tar --logs "$dir" --name missing
check unknown_model refused 1 "no-such-model" "$clipc" train --model no-such-model --train-data $golden/pairs.tsv --logs "$dir" --name unknown
check wrong_vocabulary refused 1 "entries" "$clipc" train --model small --vocab $golden/vocab.txt --train-data $golden/pairs.tsv --logs "$dir" --name vocab
check batch_larger_than_the_data capped_batch
check captions_in_parts text_rows
check shares_of_a_short_run shares
check plan_of_a_gpu_without_one plans_a_gpu
check unwritable_logs refused 1 "/proc/" "$clipc" train --config "$dir/whole/params.conf" --logs /proc/logs --name x
full_disk
case $? in
0) check full_disk_is_named true ;;
2) skip "no tmpfs can be mounted here" full_disk_is_named ;;
*) check full_disk_is_named false ;;
esac
exit $failed
