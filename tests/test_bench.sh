#!/usr/bin/env bash
# The benchmarks with the backend cuda, on the layer without a GPU: its times are meaningless, its counts and the
# report's format are not. Prints cmocka's lines.
. tests/support.sh bench
export OMP_NUM_THREADS=2 CUDAEMU_QUIET=1

# The benchmarks use the device's times and memory; the printed numbers are consistent.
benches() {
    local emu=$bin/clipc-cudaemu
    cat >"$dir/bench.json" <<'JSON'
{"embed_dim": 32, "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 64, "layers": 1, "head_width": 32},
 "text_cfg": {"context_length": 16, "vocab_size": 569, "width": 64, "heads": 2, "layers": 1}}
JSON
    "$emu" bench step --model "$dir/bench.json" --batch-size 8 --caption-tokens 16 --steps 1 --precision amp_bf16 --device cuda --json >"$dir/step" &&
        "$emu" bench kernels --model "$dir/bench.json" --batch-size 8 --caption-tokens 8 --reps 1 --precision amp_bf16 --device cuda --json >"$dir/kernels" &&
        "$emu" bench loss --n 64 --dim 32 --precision fp32 --device cuda --json >"$dir/loss" &&
        "$clipc" bench loss --n 64 --dim 32 --precision fp32 --device cpu --json >"$dir/loss_cpu" &&
        "$emu" bench loader --train-data $golden/pairs.tsv --vocab $golden/vocab.txt --batch-size 4 --samples 40 --device cuda --json >"$dir/loader" || return 1
    # the work of a step, multiply-adds of the products in units of C² = 64²: keys and values of 8 × 17 rows of pictures
    # and 144 of texts (8 × 16, and 8 sequences of padding in 16), the rest of the block for the 8 + 16 pooled ones, twice
    # that backward; patches, which need no gradient. Attention and projections are the other few hundredths.
    awk -F'[:,]' '{ gsub(/[ "{}]/, "", $1); if (!($1 in v)) v[$1] = $2 } END {
        least = 2 * (3 * 64 * 64 * (2 * (8 * 17 + 144) + 10 * (8 + 16)) + 8 * 2 * 16 * 192 * 64); work = v["gflops"] * 1e9 * v["step_seconds"]
        share = v["gflops"] / v["peak_gflops"] / v["peak_share"]; rate = v["samples_per_s"] * v["step_seconds"] / 8
        ok = work > least && work < 1.05 * least && share > 0.999 && share < 1.001 && rate > 0.999 && rate < 1.001 &&
            v["peak_memory_mib"] > 32 && v["open_clip_equivalent_gflops"] > v["gflops"]
        if (!ok) print "work " work " of " least ", share " share ", rate " rate; exit !ok }' <(tr ',' '\n' <"$dir/step") || return 1
    local name
    for name in patches_u8 image_embed_bwd text_embed_bwd adamw layernorm_bwd attention_bwd; do
        grep -q "\"$name\"" "$dir/kernels" || { echo "no $name" && return 1; }
    done
    grep -q '"images_per_s"' "$dir/loader" && paste <(sed -n 's/.*"loss": *\([0-9.]*\).*/\1/p' "$dir/loss") <(sed -n 's/.*"loss": *\([0-9.]*\).*/\1/p' "$dir/loss_cpu") |
        awk '{ d = $1 - $2; exit NF != 2 || d > 1e-4 || d < -1e-4 }'
}

# The memory of the steps is planned before anything is taken.
plans() {
    refused 1 "GPU memory: these steps take" "$bin/clipc-cudaemu" bench step --model "$dir/bench.json" --batch-size 262144 --caption-tokens 8 --device cuda
}

if [ -x "$bin/clipc-cudaemu" ]; then
    check benches benches
    check steps_are_planned plans
else
    skip "built by a plain make where nvcc is" benches steps_are_planned
fi
exit $failed
