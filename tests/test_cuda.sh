#!/usr/bin/env bash
# Training with the backend cuda as a user runs it, on the layer without a GPU: against the CPU, in shuffled orders,
# resumed after kill -9; and the messages of programs without CUDA. Prints cmocka's lines.
. tests/support.sh cuda
export OMP_NUM_THREADS=2 CUDAEMU_QUIET=1 CUDAEMU_LEAKS=1
# one allocation for each block, so that the layer detects an access past its end (tests/test_memory.sh: one arena gives
# the same bits)
export CLIPC_ARENA=0

# 24 pairs, batch 4: 6 steps an epoch
train() { # name, program, options…
    local name=$1 program=$2
    shift 2
    "$program" train "${pairs[@]}" --batch-size 4 \
        --epochs 4 --warmup 3 --lr 1e-3 --workers 2 --save-frequency-steps 4 --logs "$dir" --name "$name" "$@" \
        2>"$dir/stderr" || { tail -n 5 "$dir/stderr" && return 1; }
}
same_ends() { same_state "$dir/$1/checkpoints/epoch_4" "$dir/$2/checkpoints/epoch_4"; }

refuses_without_cuda() { refused 1 "built without CUDA" train_plain; }
train_plain() { "$clipc" train --device cuda "${pairs[@]}" --batch-size 4 --logs "$dir" --name none; }
names_the_missing_gpu() {
    refused 1 "--device cpu runs without a GPU" "$bin/clipc-cuda" train --device cuda "${pairs[@]}" --batch-size 4 --logs "$dir" --name none
}
# each reason in one line that names the option without a GPU; auto uses the CPU
names_what_is_wrong() {
    local emu="$bin/clipc-cudaemu bench loss --n 8 --dim 8 --device"
    # shellcheck disable=SC2086
    CUDAEMU_DRIVER=0 refused 1 "no NVIDIA driver is installed" $emu cuda &&
        CUDAEMU_DRIVER=12040 refused 1 "the NVIDIA driver is for CUDA 12.4, this build needs" $emu cuda &&
        CUDAEMU_ARCH=75 refused 1 "compute capability 7.5, and 8.0 is needed; --device cpu runs without a GPU" $emu cuda &&
        CUDAEMU_DEVICES=0 refused 1 "no GPU is visible (no CUDA-capable device is detected)" $emu cuda &&
        CUDAEMU_DEVICES=0 CUDA_VISIBLE_DEVICES='' refused 1 "CUDA_VISIBLE_DEVICES is ''; --device cpu runs without a GPU" $emu cuda &&
        CUDAEMU_DRIVER=12040 $emu auto >"$dir/stdout"
}
# the launchers' variables: a rank never shares another one's GPU; a single one is taken to be the rank's own
# without --workers the rank's CPUs decide, whatever OMP_NUM_THREADS is
loader_threads() {
    local cpu
    cpu=$(taskset -pc $$ | sed 's/.*: *\([0-9]*\).*/\1/')
    taskset -c "$cpu" "$bin/clipc-cudaemu" train "${pairs[@]}" --batch-size 4 --max-steps 1 --warmup 1 --device cuda --logs "$dir" --name cpus 2>"$dir/stderr" &&
        grep -q 'loader: 2 threads for 1 CPUs' "$dir/stderr"
}
local_rank_beyond_the_gpus() {
    local variable emu="$bin/clipc-cudaemu bench loss --n 8 --dim 8 --device cuda"
    for variable in OMPI_COMM_WORLD_LOCAL_RANK MPI_LOCALRANKID MV2_COMM_WORLD_LOCAL_RANK PALS_LOCAL_RANKID FLUX_TASK_LOCAL_ID LOCAL_RANK \
        SLURM_LOCALID; do
        # shellcheck disable=SC2086
        refused 1 "this is rank 2 of its machine, counted from 0 ($variable), and 2 GPUs are visible" \
            env CUDAEMU_LEAKS=0 CUDAEMU_DEVICES=2 "$variable=2" $emu && env CUDAEMU_LEAKS=0 CUDAEMU_DEVICES=1 "$variable=2" $emu >"$dir/stdout" || return 1
    done
}
auto_falls_back() { train auto "$bin/clipc-cuda" --device auto --epochs 1 && grep -q "; cpu-" "$dir/stderr"; }
like_the_cpu() { # precision, most difference
    train "cpu_$1" "$clipc" --precision "$1" && train "cuda_$1" "$bin/clipc-cudaemu" --precision "$1" --device cuda &&
        grep -q "cuda-$1" "$dir/stderr" && near "cpu_$1" "cuda_$1" 24 "$2"
}
any_order_gives_the_same_bits() {
    CUDAEMU_ORDER=2 CUDAEMU_ASYNC=2 CUDAEMU_SEED=5 train shuffled "$bin/clipc-cudaemu" --precision amp_bf16 --device cuda &&
        same_ends cuda_amp_bf16 shuffled
}
# measured once the previous step is done, although nothing else waits for its result
validates_like_the_cpu() {
    local o=(--precision fp32 --epochs 2 --val-data $golden/pairs.tsv --val-frequency 5)
    train val_cpu "$clipc" "${o[@]}" && train val_cuda "$bin/clipc-cudaemu" --device cuda "${o[@]}" || return 1
    diff <(grep -o '^{"step": [0-9]*, "[a-z]*' "$dir/val_cpu/metrics.jsonl") <(grep -o '^{"step": [0-9]*, "[a-z]*' "$dir/val_cuda/metrics.jsonl") &&
        near val_cpu val_cuda 12 1e-4 &&
        paste <(grep -o '"val/loss": [0-9.]*' "$dir/val_cpu/metrics.jsonl") <(grep -o '"val/loss": [0-9.]*' "$dir/val_cuda/metrics.jsonl") |
        awk '{ d = $2 - $4; if (NF != 4 || d > 1e-4 || d < -1e-4) exit 1 } END { exit NR != 4 }'
}
# decided on the device, reported one step late; the log has every step
not_finite_stops() {
    ! train nan "$bin/clipc-cudaemu" --lr 1000 --skip-limit 3 --precision fp32 --device cuda &&
        grep -q "not finite for 3 steps in a row" "$dir/stderr" && [ "$(grep -c '"skipped": *true' "$dir/nan/metrics.jsonl")" -ge 2 ]
}
late_streams_give_the_same_bits() {
    CUDAEMU_ASYNC=1 train late "$bin/clipc-cudaemu" --precision amp_bf16 --device cuda &&
        same_ends cuda_amp_bf16 late &&
        same_metrics cuda_amp_bf16 late
}
# GPUs outside the data centre give a block 99 KB: the widest heads use another kernel
with_little_shared_memory() {
    cat >"$dir/wide.json" <<'JSON'
{"embed_dim": 32, "vision_cfg": {"image_size": 32, "patch_size": 4, "width": 128, "layers": 2, "head_width": 128},
 "text_cfg": {"context_length": 16, "vocab_size": 569, "width": 64, "heads": 2, "layers": 1}}
JSON
    local program arch
    for arch in 0 80 89; do
        if [ $arch = 0 ]; then program=$clipc; else program=$bin/clipc-cudaemu; fi
        CUDAEMU_ARCH=$arch "$program" train --model "$dir/wide.json" --vocab $golden/vocab.txt --train-data $golden/pairs.tsv --batch-size 4 \
            --epochs 1 --warmup 1 --lr 1e-3 --precision amp_bf16 --logs "$dir" --name wide_$arch 2>"$dir/stderr" || { tail -n 5 "$dir/stderr" && return 1; }
    done
    paste <(losses wide_0) <(losses wide_80) <(losses wide_89) | awk '
        function off(x, y) { return (x > y ? x - y : y - x) > 2e-2 * y }
        off($2, $1) || off($3, $1) { print "step " NR ": " $0; bad = 1 } END { exit bad || NR != 6 }'
}
heads_too_wide() {
    sed 's/"width": 128, "layers": 2, "head_width": 128/"width": 160, "layers": 1, "head_width": 160/' "$dir/wide.json" >"$dir/wider.json"
    refused 1 "the image tower's heads are 160 wide, and attention on a GPU takes up to 128: --device cpu takes any" \
        "$bin/clipc-cudaemu" train --model "$dir/wider.json" --vocab $golden/vocab.txt --train-data $golden/pairs.tsv --batch-size 4 \
        --device cuda --logs "$dir" --name wider
}
pool_heads_too_wide() {
    cat >"$dir/pool.json" <<'JSON'
{"embed_dim": 16, "vision_cfg": {"timm_model_name": "vit_pe_core_base_patch16_224", "timm_pool": "map", "timm_proj": null,
 "image_size": 32, "patch_size": 16, "width": 1088, "layers": 1},
 "text_cfg": {"context_length": 16, "vocab_size": 569, "width": 64, "heads": 2, "layers": 1}}
JSON
    refused 1 "the image tower's heads are 136 wide, and attention on a GPU takes up to 128: --device cpu takes any" \
        "$bin/clipc-cudaemu" train --model "$dir/pool.json" --vocab $golden/vocab.txt --train-data $golden/pairs.tsv --batch-size 4 \
        --device cuda --logs "$dir" --name pool
}
killed() {
    killed_and_resumed killed 6 "$bin/clipc-cudaemu" --precision amp_bf16 --device cuda && same_ends cuda_amp_bf16 killed
}
# the measured choices of products are stored in the checkpoint; a damaged file is named and measured again
remembers_algorithms() {
    local file=$dir/tuned/checkpoints/epoch_1/gpu_products.txt
    train tuned "$bin/clipc-cudaemu" --precision fp32 --tf32 --device cuda --epochs 1 --lr-scheduler const && grep -q "^autotune = true" "$dir/tuned/params.conf" &&
        head -n 1 "$file" | grep -q '^clipc products 3 cublasLt' && [ "$(wc -l <"$file")" -gt 20 ] || return 1
    cp "$file" "$dir/first"
    train tuned "$bin/clipc-cudaemu" --precision fp32 --tf32 --device cuda --epochs 2 --lr-scheduler const --resume latest &&
        ! grep -q anew "$dir/stderr" && head -n "$(wc -l <"$dir/first")" "$dir/tuned/checkpoints/epoch_2/gpu_products.txt" | cmp - "$dir/first" || return 1
    sed -i '3s/./x/' "$dir/tuned/checkpoints/epoch_2/gpu_products.txt"
    train tuned "$bin/clipc-cudaemu" --precision fp32 --device cuda --epochs 3 --lr-scheduler const --resume latest &&
        grep -q 'line 3 is damaged.*anew' "$dir/stderr"
}
# if cuBLASLt cannot sum dy with a weight gradient, a kernel does
sums_apart() {
    CUDAEMU_LEAKS=0 CUDAEMU_BGRAD=0 "$bin/tests/cuda_kernels_linear" >"$dir/stdout" 2>&1 || { tail -n 3 "$dir/stdout"; return 1; }
    CUDAEMU_BGRAD=0 train apart "$bin/clipc-cudaemu" --precision amp_bf16 --device cuda && near cuda_amp_bf16 apart 24 1e-3
}
# if cuBLASLt takes only aligned rows, copies are multiplied
rows_aligned() {
    CUDAEMU_LEAKS=0 CUDAEMU_STRICT=1 "$bin/tests/cuda_kernels_linear" >"$dir/stdout" 2>&1 || { tail -n 3 "$dir/stdout"; return 1; }
    CUDAEMU_STRICT=1 train aligned "$bin/clipc-cudaemu" --precision amp_bf16 --device cuda && same_ends cuda_amp_bf16 aligned
}
# a model whose sizes are multiples of 16; constant rate: another epoch does not change the previous ones
train_8() { # program, name, epochs, options…
    local program=$1 name=$2 epochs=$3
    shift 3
    cat >"$dir/eight.json" <<'JSON'
{"embed_dim": 32, "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 64, "layers": 2, "head_width": 32},
 "text_cfg": {"context_length": 16, "vocab_size": 569, "width": 64, "heads": 2, "layers": 2}}
JSON
    "$program" train --model "$dir/eight.json" --vocab $golden/vocab.txt --train-data $golden/pairs.tsv --batch-size 8 --lr 2e-4 \
        --epochs "$epochs" --warmup 3 --lr-scheduler const --beta2 0.98 --logs "$dir" --name "$name" "$@" 2>"$dir/stderr"
}
in_8_bits() { # near bf16, but not it; resumed bit for bit; refused where there is none
    export CUDAEMU_ARCH=90
    train_8 "$clipc" eight_cpu 8 --precision amp_bf16 && train_8 "$bin/clipc-cudaemu" eight 8 --precision amp_fp8 --device cuda &&
        near eight_cpu eight 24 6e-2 && ! near eight_cpu eight 24 1e-3 >/dev/null &&
        grep -q "amp_fp8: \([1-9][0-9]*\) of a step's \1 products with block matrices are in 8 bits$" "$dir/stderr" || return 1
    # cuBLASLt refuses 5 pictures of 17 rows; texts are padded
    train_8 "$bin/clipc-cudaemu" eight_odd 1 --precision amp_fp8 --device cuda --batch-size 5 &&
        grep -q "others in bf16, because .* multiples of 8 .*(one is \(5\|85\) rows" "$dir/stderr" &&
        grep -q "amp_fp8: [1-9]" "$dir/stderr" || { grep amp_fp8 "$dir/stderr"; return 1; }
    train_8 "$bin/clipc-cudaemu" eight_resumed 3 --precision amp_fp8 --device cuda &&
        train_8 "$bin/clipc-cudaemu" eight_resumed 8 --precision amp_fp8 --device cuda --resume latest || return 1
    cmp "$dir/eight/checkpoints/epoch_8/train_state.safetensors" "$dir/eight_resumed/checkpoints/epoch_8/train_state.safetensors" &&
        grep -q fp8_scaling "$dir/eight/checkpoints/epoch_8/train_state.safetensors" || return 1
    CUDAEMU_ARCH=80 refused 1 "compute capability 8.9" "$bin/clipc-cudaemu" train --config "$dir/eight/params.conf" --name none --device cuda &&
        refused 1 "needs a GPU" "$clipc" train --config "$dir/eight/params.conf" --name none --device cpu
}

if [ -x "$bin/clipc-cudaemu" ]; then
    if [ -e /dev/nvidiactl ]; then
        skip "there is a GPU" names_the_missing_gpu auto_falls_back
    else
        check names_the_missing_gpu names_the_missing_gpu
        check auto_falls_back auto_falls_back
    fi
    check like_the_cpu_fp32 like_the_cpu fp32 1e-4
    check like_the_cpu_amp_bf16 like_the_cpu amp_bf16 3e-2
    check any_order_gives_the_same_bits any_order_gives_the_same_bits
    check late_streams_give_the_same_bits late_streams_give_the_same_bits
    check validates_like_the_cpu validates_like_the_cpu
    check not_finite_stops not_finite_stops
    check names_what_is_wrong names_what_is_wrong
    check local_rank_beyond_the_gpus local_rank_beyond_the_gpus
    check loader_threads loader_threads
    check with_little_shared_memory with_little_shared_memory
    check heads_too_wide heads_too_wide
    check pool_heads_too_wide pool_heads_too_wide
    check killed_and_resumed killed
    check remembers_algorithms remembers_algorithms
    check sums_apart sums_apart
    check rows_aligned rows_aligned
    check in_8_bits in_8_bits
else
    skip "built by a plain make where nvcc is" names_the_missing_gpu auto_falls_back like_the_cpu_fp32 like_the_cpu_amp_bf16 \
        any_order_gives_the_same_bits late_streams_give_the_same_bits validates_like_the_cpu not_finite_stops names_what_is_wrong local_rank_beyond_the_gpus loader_threads \
        with_little_shared_memory heads_too_wide pool_heads_too_wide killed_and_resumed remembers_algorithms sums_apart rows_aligned in_8_bits kernels_on_the_layer model_on_the_layer
fi
check refuses_without_cuda refuses_without_cuda
exit $failed
