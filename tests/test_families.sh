#!/usr/bin/env bash
# Models of other families as a user trains them: SigLIP and PE-Core on ranks, in micro-batches, killed and resumed.
# Prints cmocka's lines.
. tests/support.sh families
export OMP_NUM_THREADS=2
steps=6 from=(--pretrained tests/golden/siglip/open_clip --siglip) table=tests/golden/siglip/pairs.tsv
train() { # name, options…
    local name=$1
    shift
    ${run[@]+"${run[@]}"} "$clipc" train "${from[@]}" --train-data $table --train-transform eval --max-steps $steps --warmup 2 \
        --lr 1e-4 --precision fp32 --workers 1 --logs "$dir" --name "$name" "$@" 2>"$dir/stderr"
}
# one rank = two of half the batch = two whose batch is in two parts and whose moments are shared out
ranks() { # prefix
    local run=()
    train "$1-one" --no-shuffle --batch-size 8 && run=("${mpirun[@]}" -x OMP_NUM_THREADS=1 -np 2) && train "$1-two" --no-shuffle --batch-size 4 &&
        near "$1-one" "$1-two" 6 2e-5 && train "$1-parts" --no-shuffle --batch-size 2 --accum-freq 2 --shard-optimizer && near "$1-one" "$1-parts" 6 2e-5
}
resumed() { # prefix
    local steps=60
    train "$1-whole" --batch-size 8 --save-frequency-steps 7 && killed_and_resumed "$1-killed" 9 --batch-size 8 --save-frequency-steps 7 &&
        same_state "$dir/$1-whole/checkpoints/latest" "$dir/$1-killed/checkpoints/latest"
}
pe_core() { # command, prefix: random weights, and the vocabulary of the captions
    local from=(--model "$dir/pe_core.json" --vocab $golden/vocab.txt) table=$golden/pairs.tsv
    sed 's/"vocab_size": 23/"vocab_size": 569/; s/"context_length": 7/"context_length": 16/' tests/golden/timm/pe_core/open_clip_config.json >"$dir/pe_core.json"
    "$@"
}
check siglip_resumed resumed siglip
check pe_core_resumed pe_core resumed pe
if no_mpi; then
    skip "$no_mpi_reason" siglip_on_ranks pe_core_on_ranks
else
    check siglip_on_ranks ranks siglip
    check pe_core_on_ranks pe_core ranks pe
fi
exit $failed
