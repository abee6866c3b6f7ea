#!/usr/bin/env bash
# A run takes the memory that --dry-run printed: the host's; a GPU's, on the layer without a GPU, in one allocation. The
# messages of a run with too little memory. Prints cmocka's lines.
. tests/support.sh memory
emu=$clipc-cudaemu
export OMP_NUM_THREADS=2 CUDAEMU_QUIET=1 CUDAEMU_ALLOCATIONS=1 CUDAEMU_LEAKS=1
options=(--device cuda --pretrained $golden --batch-size 4)
data=(--vocab $golden/vocab.txt --train-data $golden/pairs.tsv --max-steps 3 --warmup 1 --lr 1e-3 --workers 1 --logs "$dir")

# One rank, or several ranks of a run.
train() { # ranks, name, options…
    local ranks=$1 name=$2 bad=0 port r pids=()
    shift 2
    if [ "$ranks" = 1 ]; then
        "$emu" train "${options[@]}" "${data[@]}" --name "$name" "$@" 2>"$dir/0.err"
        return
    fi
    port=$(free_port)
    for ((r = 0; r < ranks; r++)); do
        RANK=$r WORLD_SIZE=$ranks LOCAL_RANK=$r MASTER_ADDR=localhost CUDAEMU_DEVICES=$ranks OMP_NUM_THREADS=1 "$emu" train "${options[@]}" \
            "${data[@]}" --comm-port "$port" --comm-timeout 30 --name "$name" "$@" 2>"$dir/$r.err" &
        pids+=($!)
    done
    for r in "${pids[@]}"; do wait "$r" || bad=1; done
    return $bad
}
# The memory printed by --dry-run is taken, and all of it is used ($all=0: may be unused), within 2 % of everything
# except the products' workspace of 32 MiB; by one allocation for each rank, and two for NCCL: what host memory
# travels through, and what its first collectives send.
as_planned() { # ranks, name, options…
    local ranks=$1 name=$2 planned
    shift 2
    planned=$("$emu" train "${options[@]}" --world-size "$ranks" --dry-run "$@" 2>/dev/null | sed -n 's/.*of the GPU.s memory.* \([0-9.]*\) MiB/\1/p')
    train "$ranks" "$name" "$@" || { tail -n 5 "$dir"/*.err && return 1; }
    sed -n 's/.*GPU memory: \([0-9.]*\) MiB were taken of [0-9.]*, \([0-9.]*\) used, \([0-9.]*\) not planned/\1 \2 \3/p' "$dir/0.err" |
        awk -v p="$planned" -v times="$(sed -n 's/.*memory was allocated \([0-9]*\) times/\1/p' "$dir/0.err")" -v ranks="$ranks" -v all="${all:-1}" '
            function off(a, b) { return a > b ? a - b : b - a }
            { t = $1; most = 0.02 * (t - 32) + 0.05; bad = p <= 32 || off(p, t) > most || (all && off($2, t) > most) || $3 > 0 || times != (ranks > 1 ? 3 : 1) }
            END { if (bad || NR != 1) print "planned " p " MiB; taken, used, not planned: " $0 "; " times " allocations"; exit bad || NR != 1 }'
}
whole_model() { as_planned 1 whole --precision amp_bf16; }
accumulated() { as_planned 1 accumulated --precision fp32 --accum-freq 2 --moments bf16 --grad-checkpointing --siglip --force-patch-dropout 0.5; }
averaged() { as_planned 1 averaged --precision amp_bf16 --moments bf16 --ema 0.9; }
in_8_bits() { CUDAEMU_ARCH=90 as_planned 1 eight --precision amp_fp8; }
several_positives() { as_planned 1 positives --precision amp_bf16 --multi-positive --logit-memory 1; }
distilled() { as_planned 1 distilled --precision fp32 --distill-pretrained $golden; }
adapted() { as_planned 1 adapted --precision amp_bf16 --lora-rank 4 --ema 0.9; }
frozen_tower() { as_planned 1 frozen --precision amp_bf16 --lock-image --train-transform eval --max-steps 9 && grep -q 'computed once' "$dir/0.err"; }
# captions longer than stated: 12 of some 6 tokens in the memory of 2 each
in_parts() { as_planned 1 in_parts --precision amp_bf16 --batch-size 12 --text-rows 2 && as_planned 2 parts_of_ranks --precision amp_bf16 --batch-size 12 --text-rows 2 --accum-freq 2 --shard-optimizer; }
measured_products() { as_planned 1 measured --precision fp32 --autotune; }
# the scores of as many pairs as a tile has, of all classes
validated() {
    local class
    for class in red blue; do
        mkdir -p "$dir/kinds/$class" && grep $class $golden/pairs.tsv | cut -f 1 | sed "s|^|$golden/|" | xargs cp -t "$dir/kinds/$class" || return 1
    done
    echo '{"classes": ["red", "blue"]}' >"$dir/classes.json"
    all=0 as_planned 1 validated --precision amp_bf16 --ema 0.9 --val-data $golden/pairs.tsv --imagenet-val "$dir/kinds" \
        --zeroshot-classes "$dir/classes.json" && grep -q 'ema/val/loss' "$dir/validated/metrics.jsonl" &&
        grep -q 'ema/val/imagenet' "$dir/validated/metrics.jsonl"
}
two_ranks() { as_planned 2 ranks --precision amp_bf16; }
sharded_ranks() { as_planned 2 sharded --precision amp_bf16 --shard-optimizer --multi-positive; }

# on a GPU as few blocks are recomputed as its memory requires, with the same bits
few_blocks() {
    cat >"$dir/six.json" <<'JSON'
{"embed_dim": 32, "vision_cfg": {"image_size": 32, "patch_size": 4, "width": 64, "layers": 6, "head_width": 32},
 "text_cfg": {"context_length": 16, "vocab_size": 569, "width": 64, "heads": 2, "layers": 3}}
JSON
    local six=(--device cuda --model "$dir/six.json" --vocab $golden/vocab.txt --train-data $golden/pairs.tsv --batch-size 16 --precision fp32 --logit-memory 1
        --max-steps 2 --warmup 1 --workers 1 --logs "$dir") all least planned
    needs() { "$emu" train "${six[@]}" --dry-run "$@" 2>"$dir/stderr" | sed -n 's/.*of the GPU.s memory.* \([0-9]*\)\.[0-9]* MiB/\1/p'; }
    all=$(needs) && "$emu" train "${six[@]}" --name all 2>/dev/null || return 1
    needs --grad-checkpointing | grep -qx "$all" && grep -q ': 0 of 6 image and 0 of 3 text' "$dir/stderr" || return 1
    # an eighth of the memory is reserved: a MiB less than all blocks take is free
    export CUDAEMU_MEMORY=$(((all - 1) * 8 / 7))
    planned=$(needs --grad-checkpointing)
    least=$(sed -n 's/.*: \([0-9]\) of 6 image.*/\1/p' "$dir/stderr")
    echo "$all MiB; with $CUDAEMU_MEMORY, $least blocks are recomputed: $planned MiB"
    [ "$least" = 1 ] || [ "$least" = 2 ] || return 1
    ! "$emu" train "${six[@]}" --name none 2>/dev/null && "$emu" train "${six[@]}" --name few --grad-checkpointing 2>"$dir/stderr" &&
        grep -q ": $least of 6 image" "$dir/stderr" && same_state "$dir/all/checkpoints/epoch_2" "$dir/few/checkpoints/epoch_2"
}

# one allocation for each block has guards around it and gives the same bits
blocks_apart() {
    train 1 together --precision amp_bf16 --epochs 1 && CLIPC_ARENA=0 train 1 apart --precision amp_bf16 --epochs 1 &&
        [ "$(sed -n 's/.*memory was allocated \([0-9]*\) times/\1/p' "$dir/0.err")" -gt 9 ] &&
        same_state "$dir/together/checkpoints/step_3" "$dir/apart/checkpoints/step_3"
}
too_little() {
    export CUDAEMU_MEMORY=41
    refused 1 "it would fit with" "$emu" train "${options[@]}" "${data[@]}" --batch-size 16 --precision fp32 --name little --logit-memory 1 || return 1
    cat "$dir/stderr"
    # the first option that is named does fit
    local way
    way=$(sed -n 's/.*it would fit with \([^(;]*\) (.*/\1/p' "$dir/stderr")
    # shellcheck disable=SC2086
    [ -n "$way" ] && train 1 little --batch-size 16 --precision fp32 --logit-memory 1 $way
}

# NCCL takes its memory at the start, so that the plan counts what is left
too_little_beside_nccl() {
    export CUDAEMU_NCCL=40
    CUDAEMU_MEMORY=260 train 2 beside --precision fp32 || { cat "$dir/0.err"; return 1; }
    grep -q "NCCL took 160.0 MiB of the GPU's memory" "$dir/0.err" || { cat "$dir/0.err"; return 1; }
    ! CUDAEMU_MEMORY=190 train 2 short --precision fp32 &&
        grep -q "GPU memory: this run takes 36.4 MiB, 5.2 of 190.0 MiB are free for it (NCCL has 160.0)" "$dir"/[01].err || { cat "$dir"/[01].err; return 1; }
    ! CUDAEMU_MEMORY=100 train 2 none --precision fp32 && grep -q "NCCL: .* failed: .*calloc.*GPU memory" "$dir"/[01].err || { cat "$dir"/[01].err; return 1; }
}

# On a CPU, to 2 %, of one rank or two.
host_as_planned() { # ranks, options…
    local ranks=$1 planned taken run=("$clipc")
    shift
    [ "$ranks" = 1 ] || run=("${mpirun[@]}" -x OMP_NUM_THREADS=1 -np "$ranks" "$clipc")
    planned=$("$clipc" train --device cpu --pretrained $golden --batch-size 12 --world-size "$ranks" --dry-run "$@" |
        sed -n 's/^  total *\([0-9.]*\) MiB/\1/p')
    rm -rf "$dir/host"
    "${run[@]}" train --device cpu "${pairs[@]}" --batch-size 12 --max-steps 3 --warmup 1 --workers 1 --logs "$dir" --name host "$@" \
        2>"$dir/host.err" || return 1
    taken=$(sed -n 's/.*memory: \([0-9.]*\) MiB were taken/\1/p' "$dir/host.err")
    awk -v p="$planned" -v t="$taken" 'BEGIN { d = p - t; most = 0.02 * t + 0.05; exit !(p > 3 && t > 3 && d < most && -d < most) }' ||
        { echo "planned $planned MiB, taken $taken"; return 1; }
}
host_memory() {
    host_as_planned 1 --precision fp32 --ema 0.9 &&
        host_as_planned 1 --precision amp_bf16 --moments bf16 --accum-freq 2 --grad-checkpointing --siglip --force-patch-dropout 0.5 &&
        host_as_planned 1 --precision fp32 --distill-pretrained $golden --multi-positive --logit-memory 1 &&
        host_as_planned 1 --precision amp_bf16 --lora-rank 4 && host_as_planned 1 --precision amp_bf16 --text-rows 3 &&
        host_as_planned 1 --precision amp_bf16 --lock-image --train-transform eval --max-steps 9 && grep -q 'computed once' "$dir/host.err"
}
check host_memory host_memory
if no_mpi; then skip "$no_mpi_reason" host_memory_of_ranks; else
    check host_memory_of_ranks host_as_planned 2 --precision amp_bf16 --shard-optimizer
fi

tests=(whole_model accumulated averaged in_8_bits several_positives distilled in_parts adapted frozen_tower measured_products validated blocks_apart two_ranks
    sharded_ranks few_blocks too_little too_little_beside_nccl)
if [ ! -x "$emu" ]; then
    skip "built by a plain make where nvcc is" "${tests[@]}"
    exit 0
fi
for t in "${tests[@]}"; do check "$t" "$t"; done
exit $failed
