#!/usr/bin/env bash
# Models of other families as a user trains them: SigLIP, NaFlex and PE-Core on ranks, in micro-batches, killed and resumed;
# MobileCLIP-B's batch normalisation; SigLIP's recipe.
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
# of the captions' vocabulary, with random weights
sized() { sed 's/"vocab_size": 23/"vocab_size": 569/; s/"context_length": 7/"context_length": 16/' "tests/golden/timm/$1/open_clip_config.json" >"$dir/$1.json"; }
mci() {
    local from=(--model "$dir/mci.json" --vocab $golden/vocab.txt) table=$golden/pairs.tsv steps=4 way
    sized mci && refused 1 "the convolutional stem of" "$clipc" train "${from[@]}" --train-data $table --force-patch-dropout 0.5 --logs "$dir" || return 1
    for way in "" --freeze-bn; do train "mci$way" --batch-size 8 --save-frequency-steps 4 $way || return 1; done
    # a step moves the running means; from 0 on, where they start
    moved mci && ! moved mci--freeze-bn
}
moved() { "$clipc" ckpt info "$dir/$1/checkpoints/latest" | awk '/visual.trunk.patch_embed.backbone.0.bn.running_mean/ {n++; moved = $NF > 0} END {exit n != 1 || !moved}'; }
# as its first lines say
recipe() {
    "$clipc" train --config configs/finetune-siglip2.conf --pretrained tests/golden/siglip/open_clip --train-data $table --val-data $table \
        --batch-size 8 --epochs 2 --min-steps 8 --workers 1 --precision fp32 --logs "$dir" --name recipe 2>"$dir/stderr" &&
        [ "$(wc -l <"$dir/recipe/metrics.jsonl")" -ge 8 ] && [ -e "$dir/recipe/checkpoints/latest/open_clip_model.safetensors" ]
}
pe_core() { # command, prefix: random weights, and the vocabulary of the captions
    local from=(--model "$dir/pe_core.json" --vocab $golden/vocab.txt) table=$golden/pairs.tsv
    sized pe_core && "$@"
}
naflex() { # command, prefix: pictures of any aspect ratio
    local from=(--pretrained tests/golden/naflex/hf --siglip)
    "$@"
}
check siglip_resumed resumed siglip
check naflex_resumed naflex resumed naflex
check pe_core_resumed pe_core resumed pe
check convolutional_stem mci
check siglip2_recipe recipe
if no_mpi; then
    skip "$no_mpi_reason" siglip_on_ranks naflex_on_ranks pe_core_on_ranks
else
    check siglip_on_ranks ranks siglip
    check naflex_on_ranks naflex ranks naflex
    check pe_core_on_ranks pe_core ranks pe
fi
exit $failed
