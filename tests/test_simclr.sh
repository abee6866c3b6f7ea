#!/usr/bin/env bash
# Image-image objectives as a user runs them: pictures without captions, ranks, runs that are killed and resumed, what a
# checkpoint holds, options that make no sense. Prints cmocka's lines.
. tests/support.sh simclr
export OMP_NUM_THREADS=2
steps=6
sed 's/224/32/; s/49408/569/' configs/models/resnet18.json >"$dir/resnet18.json"
mkdir -p "$dir/pictures/a/b"
cp $golden/0*.jpg "$dir/pictures/a"
cp $golden/1*.jpg "$dir/pictures/a/b"
cp $golden/2*.jpg "$dir/pictures"
train() { # name, options…
    local name=$1
    shift
    ${run[@]+"${run[@]}"} "$clipc" train --vocab $golden/vocab.txt --max-steps $steps --warmup 2 --lr 1e-4 --precision fp32 --workers 2 \
        --head-hidden 32 --head-dim 16 --logs "$dir" --name "$name" "$@" 2>"$dir/stderr"
}
small=(--pretrained $golden --train-data "$dir/pictures" --batch-size 4 --objective simclr)
slip=(--pretrained $golden --train-data $golden/pairs.tsv --batch-size 4 --objective slip)

# ---- learning ----
lower() { # the last quarter of the losses is below the first
    losses "$1" | awk '{ x[NR] = $1 } END { n = int(NR / 4); for (i = 1; i <= n; i++) { a += x[i]; b += x[NR + 1 - i] } exit !(b < a) }'
}
learns() { local steps=40; train learns "${small[@]}" --lr 1e-3 && grep -q "data: 24 pictures" "$dir/stderr" && lower learns; }
resnet_learns() {
    local steps=40
    train resnet --model "$dir/resnet18.json" --train-data "$dir/pictures" --batch-size 6 --objective simclr --lr 1e-3 && lower resnet
}
slip_learns() { local steps=40; train slip "${slip[@]}" --lr 1e-3 && lower slip && grep -q '"views_loss": [0-9]' "$dir/slip/metrics.jsonl"; }
# Without a vocabulary anywhere; its checkpoint has none, and words are refused when they are needed.
no_vocabulary() {
    local steps=8 alone=$dir/alone
    mkdir "$alone" && cp "$clipc" "$alone/" && (cd "$alone" && unset CLIPC_HOME &&
        ./clipc train --model ../resnet18.json --train-data ../pictures --batch-size 6 --objective simclr --max-steps 4 --warmup 1 --lr 1e-3 --precision fp32 \
            --head-hidden 32 --head-dim 16 --logs .. --name bare --workers 1 2>../stderr && ./clipc train --config ../bare/params.conf --resume latest 2>../stderr &&
        ! ls ../bare/checkpoints/latest/ | grep -q vocab && ./clipc embed --checkpoint ../bare --images ../pictures --out ../bare.npy 2>../stderr &&
        refused 1 vocab ./clipc embed --checkpoint ../bare --text ../bare/params.conf --out ../words.npy)
}
# The encoder's file has no head, and serves like every other; captions' tensors are those of the start.
holds() {
    ! grep -q '"head\.0' "$dir/learns/checkpoints/latest/open_clip_model.safetensors" &&
        grep -q '"param.head\.0' "$dir/learns/checkpoints/latest/train_state.safetensors" &&
        says 1 "" "$clipc" ckpt diff $golden "$dir/learns/checkpoints/latest" --top 1000 && cp "$dir/out" "$dir/diff" &&
        grep -q 'visual.conv1.weight' "$dir/diff" && ! grep -qE '(^| )(token_embedding|transformer\.|visual\.proj|logit_scale)' "$dir/diff" &&
        "$clipc" embed --checkpoint "$dir/resnet/checkpoints/latest" --images "$dir/pictures" --out "$dir/features.npy" >"$dir/out" 2>&1
}

# A ResNet's trunk alone under torchvision's names gives the same features.
torchvision_file() {
    "$clipc" ckpt convert "$dir/resnet/checkpoints/latest" --to torchvision --out "$dir/r18.pth" 2>"$dir/stderr" &&
        grep -qa 'layer4\.1\.bn2\.running_var' "$dir/r18.pth" && ! grep -qaE 'visual|token_embedding|logit_scale' "$dir/r18.pth" &&
        "$clipc" embed --checkpoint "$dir/r18.pth" --model "$dir/resnet18.json" --images "$dir/pictures" --out "$dir/trunk.npy" >"$dir/out" 2>&1 &&
        cmp "$dir/features.npy" "$dir/trunk.npy" || return 1
    says 1 "positional_embedding is missing" "$clipc" embed --checkpoint "$dir/r18.pth" --model "$dir/resnet18.json" --tower both --images "$dir/pictures" --out "$dir/x.npy" &&
        says 1 "positional_embedding is missing" "$clipc" score --checkpoint "$dir/r18.pth" --model "$dir/resnet18.json" --vocab $golden/vocab.txt --image $golden/00.jpg --texts cat &&
        says 1 "no place for the image tower" "$clipc" ckpt convert $golden --to torchvision --out "$dir/x.pth"
}

# ---- the same bits ----
resumed() { # name, options…: killed and resumed, with the head's weights, moments and average
    local steps=40 name=$1
    shift
    train "$name-whole" "$@" --save-frequency-steps 7 && killed_and_resumed "$name-killed" 9 "$@" --save-frequency-steps 7 &&
        same_state "$dir/$name-whole/checkpoints/latest" "$dir/$name-killed/checkpoints/latest"
}
workers() { train two "${small[@]}" && train three "${small[@]}" --workers 3 && same_state "$dir/two/checkpoints/latest" "$dir/three/checkpoints/latest"; }
ranks() { # 1 × 2n = 2 × n; n views a rank in micro-batches as well; sharded moments
    local run=() two=("${mpirun[@]}" -x OMP_NUM_THREADS=1 -np 2)
    train one "${slip[@]}" --batch-size 8 --no-shuffle && run=("${two[@]}") && train both "${slip[@]}" --no-shuffle && near one both 6 2e-5 &&
        train parts "${slip[@]}" --batch-size 2 --accum-freq 2 --no-shuffle --shard-optimizer && near one parts 6 2e-5
}
synchronised() { # batch normalisation over the views of both ranks
    local net=(--model "$dir/resnet18.json" --train-data "$dir/pictures" --objective simclr --no-shuffle) run=()
    train sync-one "${net[@]}" --batch-size 8 && run=("${mpirun[@]}" -x OMP_NUM_THREADS=1 -np 2) && train sync-two "${net[@]}" --batch-size 4 --sync-bn &&
        near sync-one sync-two 6 1e-4
}

# ---- validation ----
measured() { grep -h '"val/loss"' "$dir/$1/metrics.jsonl" | sed 's/, "time".*//'; }
validates() { # held-out pictures, by the views of which a run learns to tell; the same at every measurement and rank
    local steps=40 run=() held=(--val-data "$dir/held" --val-frequency 20)
    mkdir "$dir/held" && cp $golden/0[0-8].jpg "$dir/held/" && echo no >"$dir/held/09.jpg" &&
        train validated "${small[@]}" "${held[@]}" --lr 1e-3 --ema 0.9 && [ "$(measured validated | wc -l)" = 3 ] || return 1
    measured validated | awk -F'"val/loss": |, "val/views_R@1": |, ' '{ x[NR] = $3 } END { exit !(x[3] < x[1] && x[1] > 0) }' || { measured validated; return 1; }
    grep -q '"ema/val/views_R@1": ' "$dir/validated/metrics.jsonl" && [ -e "$dir/validated/checkpoints/best" ] && grep -q "best val/loss" "$dir/stderr" || return 1
    # a rate of nothing: each measurement is the first
    train still "${small[@]}" "${held[@]}" --lr 0 && [ "$(measured still | sed 's/"step": [0-9]*//' | sort -u | wc -l)" = 1 ] || { measured still; return 1; }
    says 0 "a step" "$clipc" train "${small[@]}" --vocab $golden/vocab.txt "${held[@]}" --dry-run &&
        says 1 "--val-data $dir/none" "$clipc" train "${small[@]}" --vocab $golden/vocab.txt --logs "$dir" --name x --val-data "$dir/none"
}
validates_over_ranks() {
    local run=() held=(--val-data "$dir/pictures" --val-frequency 3 --no-shuffle)
    train val-one "${small[@]}" "${held[@]}" --lr 0 && run=("${mpirun[@]}" -x OMP_NUM_THREADS=1 -np 2) && train val-two "${small[@]}" --batch-size 2 "${held[@]}" --lr 0 &&
        train val-four "${small[@]}" --batch-size 4 "${held[@]}" --lr 0 && [ "$(measured val-one | wc -l)" -ge 2 ] && [ "$(measured val-one)" = "$(measured val-four)" ] || {
            measured val-one; measured val-four; return 1; }
    [ "$(measured val-one | grep -o '"val/views.*')" = "$(measured val-two | grep -o '"val/views.*')" ]
}

# ---- LARS ----
lars=(--optimizer lars --lr 2 --wd 1e-4)
lars_learns() { # one moment; its norms are those of whole tensors, however they are divided
    local steps=40 run=()
    train lars "${small[@]}" "${lars[@]}" && lower lars && grep -q '"lars_m\.' "$dir/lars/checkpoints/latest/train_state.safetensors" &&
        ! grep -q '"adam_' "$dir/lars/checkpoints/latest/train_state.safetensors" || return 1
    says 0 "momentum" "$clipc" train "${small[@]}" --vocab $golden/vocab.txt "${lars[@]}" --dry-run && ! grep -q "two moments" "$dir/out"
}
lars_ranks() {
    local run=() two=("${mpirun[@]}" -x OMP_NUM_THREADS=1 -np 2)
    train lars-one "${slip[@]}" "${lars[@]}" --batch-size 8 --no-shuffle && run=("${two[@]}") &&
        train lars-both "${slip[@]}" "${lars[@]}" --no-shuffle && near lars-one lars-both 6 1e-4 &&
        train lars-shared "${slip[@]}" "${lars[@]}" --no-shuffle --shard-optimizer && near lars-one lars-shared 6 1e-4 &&
        says 0 "" "$clipc" ckpt diff "$dir/lars-both/checkpoints/latest" "$dir/lars-shared/checkpoints/latest" --tolerance 1e-4 &&
        train lars-half "${slip[@]}" "${lars[@]}" --no-shuffle --shard-optimizer --precision amp_bf16 --moments bf16 && near lars-one lars-half 6 5e-2
}
lars_refused() {
    local net=("$clipc" train "${small[@]}" --vocab $golden/vocab.txt --logs "$dir" --name x --optimizer lars)
    says 2 "--optimizer lars needs --lr" "${net[@]}" && says 2 "--eps is AdamW's" "${net[@]}" --lr 1 --eps 1e-6 &&
        says 2 "--lora-rank without --optimizer lars" "$clipc" train --pretrained $golden --train-data $golden/pairs.tsv --vocab $golden/vocab.txt \
            --logs "$dir" --name x --batch-size 4 --optimizer lars --lr 1 --lora-rank 2 &&
        ! train learns "${small[@]}" --optimizer lars --lr 1 --resume latest && grep -q "was trained with optimizer=adamw, now it is lars" "$dir/stderr"
}

# ---- refusals ----
no_sense() {
    local o
    for o in "--siglip" "--multi-positive" "--imagenet-val $dir/pictures" "--lock-text" "--lora-rank 2" "--lock-image" "--jpeg-scale"; do
        # shellcheck disable=SC2086 # an option and its value
        "$clipc" train "${small[@]}" --vocab $golden/vocab.txt --logs "$dir" --name x $o >"$dir/out" 2>&1
        [ $? = 2 ] && grep -q -- "--objective simclr without ${o%% *}:" "$dir/out" || { cat "$dir/out"; return 1; }
    done
    "$clipc" train "${slip[@]}" --vocab $golden/vocab.txt --logs "$dir" --name x --lora-rank 2 >"$dir/out" 2>&1
    [ $? = 2 ] && grep -q -- "--objective slip without --lora-rank:" "$dir/out" || return 1
    says 2 "go from low to high" "$clipc" train "${small[@]}" --vocab $golden/vocab.txt --logs "$dir" --name x --view-scale 1,0.5
}

recipes() { # shipped ones say what they plan
    local recipe
    for recipe in pretrain-simclr-resnet18 pretrain-siglip-b16; do
        says 0 "a step" "$clipc" train --config configs/$recipe.conf --dry-run --batch-size 2 || return 1
    done
}

check recipes recipes
check learns learns
check resnet_learns resnet_learns
check slip_learns slip_learns
check holds holds
check torchvision_file torchvision_file
check no_vocabulary no_vocabulary
check workers workers
check resumed_simclr resumed simclr "${small[@]}" --ema 0.9
check resumed_slip resumed slip "${slip[@]}" --accum-freq 2 --grad-checkpointing
check validates validates
check lars_learns lars_learns
check resumed_lars resumed lars "${small[@]}" "${lars[@]}" --moments bf16
check lars_refused lars_refused
check no_sense no_sense
if no_mpi; then
    skip "$no_mpi_reason" ranks synchronised lars_ranks validates_over_ranks
else
    check ranks ranks
    check synchronised synchronised
    check lars_ranks lars_ranks
    check validates_over_ranks validates_over_ranks
fi
exit $failed
