#!/usr/bin/env bash
# Uses of a trained model with the backend cuda on the layer without a GPU: every kind of fine-tuning, every evaluation,
# search and scores give the CPU's numbers. Prints cmocka's lines.
. tests/support.sh cuda_jobs
emu=$(dirname "$clipc")/clipc-cudaemu
export OMP_NUM_THREADS=2 CUDAEMU_QUIET=1 XDG_CACHE_HOME=$dir/cache

# $1 on the CPU and on the layer; stdout in $dir/cpu and $dir/cuda. {} in the options is "cpu" or "cuda".
both() {
    local device program=$clipc
    for device in cpu cuda; do
        "$program" "${@//\{\}/$device}" --precision fp32 --device $device >"$dir/$device" 2>"$dir/stderr" ||
            { tail -n 5 "$dir/stderr" && return 1; }
        program=$emu
    done
}
# Two texts that differ only in numbers, by at most $3 of the larger one (or of 1); speeds do not count.
alike() {
    awk -v most="$3" -v other="$2" '
        { if ((getline line < other) <= 0) { print "more lines in the first"; bad = 1; exit }
          n = split($0, a, /[ \t,:{}\[\]]+/); m = split(line, b, /[ \t,:{}\[\]]+/)
          if (n != m) { print $0 "\n" line; bad = 1 }
          for (i = 1; i <= n && n == m; i++) {
              if (a[i] ~ /_per_s|seconds/) { i++; continue }
              if (a[i] == b[i]) continue
              if (a[i] !~ /^-?[0-9.]+(e[-+]?[0-9]+)?%?$/ || b[i] !~ /^-?[0-9.]+(e[-+]?[0-9]+)?%?$/) { print a[i] " against " b[i]; bad = 1; continue }
              d = a[i] - b[i]; if (d < 0) d = -d
              s = a[i] < 0 ? -a[i] : a[i] + 0; if (s < 1) s = 1
              if (d > most * s) { print a[i] " against " b[i]; bad = 1 }
          }
        }
        END { if (!bad && (getline line < other) > 0) { print "more lines in the second"; bad = 1 }
              if (NR == 0) { print "nothing to compare"; bad = 1 }
              exit bad }' "$1" | head -n 9; [ "${PIPESTATUS[0]}" = 0 ]
}
checkpoint=(--checkpoint $golden --vocab $golden/vocab.txt --precision fp32)

evaluates() { # most difference, command and options…
    local most=$1
    shift
    both "$@" --json && alike "$dir/cpu" "$dir/cuda" "$most"
}
retrieval() { evaluates 1e-6 eval retrieval "${checkpoint[@]}" --data $golden/pairs.tsv; }
zeroshot() { evaluates 1e-6 eval zeroshot "${checkpoint[@]}" --data "$dir/classes.tsv" --classes "$dir/classes.json"; }
# a choice of C on three pictures a class, and the number of iterations, turn on last bits
probe() { evaluates 1e-4 eval probe "${checkpoint[@]}" --train "$dir/classes.tsv" --test "$dir/classes.tsv" --c 100 --max-iterations 20 --knn 3; }
scores() { evaluates 1e-5 score "${checkpoint[@]}" --image $golden/0*.jpg --texts 'a red circle' 'a blue square'; }
searches() {
    both embed "${checkpoint[@]}" --images $golden/pairs.tsv --index "$dir/{}.index" &&
        evaluates 1e-5 search "$dir/cpu.index" "${checkpoint[@]}" --texts 'a red circle' --top 5 &&
        evaluates 1e-5 search "$dir/cuda.index" "${checkpoint[@]}" --image $golden/07.jpg --top 5
}
# float32 values of an .npy file of 24 rows of 40
values() { tail -c $((24 * 40 * 4)) "$1" | od -An -v -w160 -t f4; }
embeds() { # also as open_clip's own features
    both embed "${checkpoint[@]}" --images $golden/pairs.tsv --out "$dir/{}.npy" &&
        alike <(values "$dir/cpu.npy") <(values "$dir/cuda.npy") 2e-6 && alike <(values $golden/image_features.npy) <(values "$dir/cuda.npy") 2e-6 || return 1
    tail -n +2 $golden/pairs.tsv | cut -f 2 >"$dir/captions"
    both embed "${checkpoint[@]}" --text "$dir/captions" --out "$dir/{}.npy" && alike <(values $golden/text_features.npy) <(values "$dir/cuda.npy") 2e-6
}

# 12 steps; losses and validation stay near the CPU's
tunes() { # options…
    rm -rf "$dir/run_cpu" "$dir/run_cuda"
    both train --pretrained $golden --vocab $golden/vocab.txt --train-data $golden/pairs.tsv --val-data $golden/pairs.tsv --batch-size 8 \
        --epochs 4 --warmup 2 --lr 5e-4 --workers 1 --logs "$dir" --name run_{} "$@" || return 1
    local device
    for device in cpu cuda; do sed 's/"\(samples_per_s\|data_wait\|time\|seconds\)": *[0-9.e+-]*,* *//g' "$dir/run_$device/metrics.jsonl" >"$dir/$device"; done
    [ "$(grep -c '"loss"' "$dir/cuda")" -ge 12 ] && alike "$dir/cpu" "$dir/cuda" 1e-4
}
tunes_lora() { tunes --lora-rank 4; }
tunes_locked_tower() { tunes --lock-image --train-transform eval; }
tunes_by_layers() { tunes --lock-text --lock-text-unlocked-layers 2 --lr-layer-decay 0.7; }
tunes_with_average() { tunes --ema 0.9 --moments bf16; }
tunes_siglip() { tunes --siglip; }
tunes_with_teacher() { tunes --distill-pretrained $golden --multi-positive; }
tunes_in_parts() { tunes --batch-size 4 --accum-freq 2 --grad-checkpointing --spike-factor 5; }

jobs=(retrieval zeroshot probe scores searches embeds tunes_lora tunes_locked_tower tunes_by_layers tunes_with_average tunes_siglip
    tunes_with_teacher tunes_in_parts)
colours=(red green blue yellow black white orange purple)
echo '{"classes": ["red", "green", "blue", "yellow", "black", "white", "orange", "purple"], "templates": ["a {} circle.", "The {} square."]}' >"$dir/classes.json"
printf 'filepath\tclass\n' >"$dir/classes.tsv"
for i in {0..23}; do printf '%s/%02d.jpg\t%s\n' "$PWD/$golden" "$i" "${colours[i % 8]}" >>"$dir/classes.tsv"; done

if [ -x "$emu" ]; then
    for job in "${jobs[@]}"; do check "$job" "$job"; done
else
    skip "built by a plain make where nvcc is (make setup CUDA=1)" "${jobs[@]}"
fi
exit $failed
