#!/usr/bin/env bash
# A CLIP with a ResNet as a user runs it: ranks with synchronised batch normalisation, resumed and exported running
# statistics, frozen ones, inference. Prints cmocka's lines.
. tests/support.sh resnet
export OMP_NUM_THREADS=2
model=tests/golden/resnet
data=(--vocab $golden/vocab.txt --train-data $golden/pairs.tsv)

run=("$clipc") steps=6
train() { # name, options…
    local name=$1
    shift
    "${run[@]}" train --pretrained $model "${data[@]}" --train-transform eval --no-shuffle --max-steps $steps --warmup 2 --lr 1e-4 \
        --precision fp32 --workers 1 --logs "$dir" --name "$name" "$@" 2>"$dir/stderr"
}

# ---- ranks ----
on_ranks() { # number, name, options…
    local run=("${mpirun[@]}" -x OMP_NUM_THREADS=1 -np "$1" "$clipc")
    shift
    train "$@"
}
ranks() { # one rank is two of half the batch; micro-batches of two ranks are one rank's
    train one --batch-size 8 && on_ranks 2 two --batch-size 4 --sync-bn && near one two 6 2e-5 &&
        on_ranks 2 parts --batch-size 2 --accum-freq 2 --sync-bn && on_ranks 2 apart --batch-size 4 && near parts apart 6 2e-5 &&
        ! near one apart 6 1e-2 >/dev/null
}
if no_mpi; then
    skip "$no_mpi_reason" ranks
else
    check ranks ranks
fi

# ---- statistics ----
frozen_norms() { # neither weights nor statistics of batch normalisation move; convolutions do
    train frozen --batch-size 8 --freeze-bn &&
        "$clipc" ckpt diff $model "$dir/frozen/checkpoints/latest" --top 1000 >"$dir/diff" 2>&1
    grep -q 'visual.layer1.0.conv1.weight' "$dir/diff" && ! grep -qE 'running_|visual.*bn[123]\.|downsample\.1' "$dir/diff"
}
moving_statistics() {
    train moving --batch-size 8 && "$clipc" ckpt diff $model "$dir/moving/checkpoints/latest" --top 1000 >"$dir/diff" 2>&1
    grep -q 'visual.bn1.running_mean' "$dir/diff" && grep -q 'visual.layer4.0.bn3.running_var' "$dir/diff"
}
checkpointed() { # the same bits with recomputed activations
    train plain --batch-size 8 && train recomputed --batch-size 8 --grad-checkpointing &&
        same_state "$dir/plain/checkpoints/latest" "$dir/recomputed/checkpoints/latest"
}
resumed() { # with the running statistics
    local steps=60
    train whole --batch-size 8 --save-frequency-steps 7 && killed_and_resumed killed 9 --batch-size 8 --save-frequency-steps 7 &&
        same_state "$dir/whole/checkpoints/latest" "$dir/killed/checkpoints/latest"
}
locked() { # features of a locked tower are computed once, and are the tower's
    train lit --batch-size 8 --lock-image && grep -q "computed once" "$dir/stderr" && train lit_each --batch-size 8 --lock-image --feature-cache 0 &&
        near lit lit_each 6 1e-6
}
check frozen_norms frozen_norms
check moving_statistics moving_statistics
check checkpointed checkpointed
check resumed resumed
check locked locked

# ---- other uses ----
converted() { # every tensor, and the configuration
    "$clipc" ckpt convert $model --out "$dir/converted" 2>"$dir/stderr" && "$clipc" ckpt diff $model "$dir/converted" 2>"$dir/stderr"
}
features_of_any_batch() {
    local images=("$golden"/0?.jpg)
    "$clipc" embed --checkpoint $model --precision fp32 --image "${images[@]}" --batch-size 10 --out "$dir/all.npy" 2>"$dir/stderr" &&
        "$clipc" embed --checkpoint $model --precision fp32 --image "${images[@]}" --batch-size 3 --out "$dir/few.npy" 2>"$dir/stderr" &&
        cmp "$dir/all.npy" "$dir/few.npy"
}
check converted converted
check no_hf refused 1 "has no place for a ResNet" "$clipc" ckpt convert $model --to hf --out "$dir/hf"
check described says 0 "ResNet of 1, 2, 1, 1 blocks, width 2 to 64, 64x64" "$clipc" ckpt info $model
check no_bench refused 2 "bench step measures any model" "$clipc" bench kernels --model RN50
check features_of_any_batch features_of_any_batch

# ---- refused ----
check lora_refused refused 2 "--lora-rank adapts transformers" train lora --lora-rank 2
check both_refused refused 2 "leave --sync-bn out" train both --freeze-bn --sync-bn
check dropout_refused refused 1 "leave --force-patch-dropout out" train dropped --batch-size 8 --force-patch-dropout 0.5
check vit_refused refused 2 "has no batch normalisation" "$clipc" train "${pairs[@]}" --freeze-bn --logs "$dir" --name vit
exit $failed
