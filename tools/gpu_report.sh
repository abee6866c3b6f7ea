#!/usr/bin/env bash
# All measurements of one GPU, into one file: tools/gpu_report.sh [FILE] (build/gpu-report.txt). The GPU, the tests with
# compute-sanitizer, every benchmark, the peer in alternation; about half an hour on an H100. A failure is recorded and
# the rest continues; the exit code is 1 if anything failed.
#   MODELS="ViT-B-32:4096 …"   models and batches, the largest that fits of a batch and its halves; TOKENS=16
#   SKIP="tests peer"          skipped parts: tests train kernels step loss loader peer
#   DATA=SPEC SAMPLES=20000    pictures for the loader, and how many it reads; without DATA they are made
#   CLIPC, PYTHON              the program, and a Python with torch for the peer
set -u
cd "$(dirname "$0")/.."
out=${1:-build/gpu-report.txt}
clipc=${CLIPC:-build/clipc-cuda}
python=${PYTHON:-python3}
models=${MODELS:-ViT-B-32:4096 ViT-B-16:2048 ViT-L-14:1024}
tokens=${TOKENS:-16}
golden=tests/golden/openclip
if [ "$clipc" = build/clipc-cuda ]; then
    make -j"$(nproc)" build/clipc build/clipc-cuda || exit 1
    [ -x "$clipc" ] || { echo "gpu_report: no $clipc: nvcc and cuBLASLt are needed (make setup CUDA=1)" >&2; exit 1; }
fi
"$clipc" bench loss --n 64 --dim 64 --device cuda >/dev/null || exit 1
mkdir -p "$(dirname "$out")"
work=$(mktemp -d "${TMPDIR:-/tmp}/gpu-report.XXXXXX")
trap 'rm -rf "$work"' EXIT
failed=0
: >"$out"

say() { echo "$*" | tee -a "$out"; }
part() { [[ " ${SKIP:-} " != *" $1 "* ]]; }
# Runs a command with its output in the file; at most 15 minutes.
run() {
    local code=0 start=$SECONDS
    say ""
    say "\$ $*"
    timeout 900 "$@" >"$work/run" 2>&1 || code=$?
    cat "$work/run" >>"$out"
    say "-- exit $code after $((SECONDS - start)) s"
    [ $code = 0 ]
}
tell() {
    run "$@" && return
    failed=1
    return 1
}
# COMMAND… --batch-size B, halving B until it fits; sets $batch.
fitting() {
    batch=$1
    shift
    until run "$@" --batch-size "$batch"; do
        if grep -q 'compute capability' "$work/run"; then return 1; fi # the card has no FP8
        if ! grep -qi 'GPU memory\|out of memory' "$work/run" || [ "$batch" -lt 16 ]; then
            failed=1
            return 1
        fi
        batch=$((batch / 2))
    done
}

say "clip.c $(git rev-parse --short HEAD 2>/dev/null || echo), $(date -u +%F)"
run nvidia-smi --query-gpu=name,driver_version,memory.total,power.limit,clocks.max.sm,clocks.max.mem,ecc.mode.current --format=csv
run nvidia-smi topo -m
run "${NVCC:-nvcc}" --version
run lscpu
part tests && tell make test-gpu
if part train; then # the same run on the GPU and on the CPU: losses side by side
    for device in cuda cpu; do
        for precision in fp32 amp_bf16; do
            tell "$clipc" train --device $device --precision $precision --pretrained $golden --vocab $golden/vocab.txt --train-data $golden/pairs.tsv \
                --batch-size 4 --epochs 4 --warmup 3 --lr 1e-3 --workers 2 --logs "$work" --name $device-$precision
        done
    done
    for precision in fp32 amp_bf16; do
        say ""
        say "losses in $precision: GPU, CPU"
        paste <(sed -n 's/.*"loss": *\([0-9.e+-]*\).*/\1/p' "$work/cuda-$precision/metrics.jsonl") \
            <(sed -n 's/.*"loss": *\([0-9.e+-]*\).*/\1/p' "$work/cpu-$precision/metrics.jsonl") | tee -a "$out"
    done
fi
for pair in $models; do
    model=${pair%:*} largest=${pair##*:}
    step=("$clipc" bench step --model "$model" --caption-tokens "$tokens" --device cuda --steps 20 --warmup 4)
    if part kernels; then
        fitting "$largest" "$clipc" bench kernels --model "$model" --caption-tokens "$tokens" --device cuda --precision amp_bf16
    fi
    if part step; then
        fitting "$largest" "${step[@]}" --precision amp_bf16 && best=$batch
        for more in "--precision amp_bf16 --no-autotune" "--precision amp_fp8" "--precision fp32 --tf32"; do
            # shellcheck disable=SC2086
            fitting "${best:-$largest}" "${step[@]}" $more
        done
    fi
    if part peer; then
        fitting "${best:-$largest}" "$python" tools/bench_peer.py --clipc "$clipc" --model "$model" --caption-tokens "$tokens" --device cuda \
            --precision amp_bf16 --compile --rounds 3 --steps 10
    fi
    unset best
done
if part loss; then
    for n in 4096 32768; do tell "$clipc" bench loss --n $n --precision amp_bf16 --device cuda; done
fi
if part loader; then
    loader() { # DATA, options…: with as many threads as training has by default
        tell "$clipc" bench loader --train-data "$1" --vocab "${VOCAB:-$golden/vocab.txt}" --batch-size 256 --samples "${SAMPLES:-20000}" \
            --workers "$(($(nproc) > 4 ? $(nproc) - 2 : 2))" --device cuda "${@:2}"
    }
    if [ "${DATA:-}" ]; then
        loader "$DATA"
    elif tell "$python" tools/make_pictures.py "$work/pictures" 512; then
        for size in 480 288; do # 640 x 480, as photographs come, and packed for a model of 224
            tell "$clipc" data pack "$work/pictures/pictures.tsv" --out "$work/packed-$size/p" --max-size $size
            loader "$work/packed-$size/p-000000.tar"
            [ $size = 288 ] || loader "$work/packed-$size/p-000000.tar" --jpeg-scale
        done
    fi
fi
say ""
say "$([ $failed = 0 ] && echo 'all parts ended well' || echo 'some part failed, see above')"
echo "written: $out"
exit $failed
