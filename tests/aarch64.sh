#!/usr/bin/env bash
# The program for aarch64 beside the one of this machine (build/clipc): its data path writes the same bytes, its training
# differs by rounding, a resumed run has the same bits. Part of `make test-aarch64`. Prints cmocka's lines.
. tests/support.sh aarch64
export OMP_NUM_THREADS=2
unset CLIPC_CPU
declare -A program=([native]=build/clipc [aarch64]=$clipc)

# Runs the command with both programs, $input on standard input; {} in an argument is a folder. Their output and their
# folders must be the same, but for indexes, which hold their shards' times.
input=/dev/null
same() {
    local which
    for which in native aarch64; do
        mkdir -p "$dir/$which"
        "${program[$which]}" "${@//\{\}/$dir/$which}" <$input >"$dir/$which/stdout" 2>"$dir/stderr" || return 1
    done
    [ "$(du -sb "$dir/native" | cut -f1)" -gt 5000 ] && diff -rq -x '*.idx' "$dir/native" "$dir/aarch64" && rm -r "$dir/native" "$dir/aarch64"
}

named() {
    says 0 "in use: neon" "$clipc" --version && says 0 "in use: neon" env CLIPC_CPU=neon "$clipc" --version &&
        says 1 "CLIPC_CPU=v3 is no instruction set: this machine has neon" env CLIPC_CPU=v3 "$clipc" --version
}
tokens() {
    local file input=$dir/captions at=tests/golden/tokenizers
    cat tests/golden/tok/{captions,odd,clean}.txt >"$input"
    for file in $golden/vocab.txt $at/{clip,gemma,bert}.json.gz $at/bpe.model.gz; do
        same tok --vocab "$file" || { echo "$file" && return 1; }
    done
}
pixels() { # of files in all formats, resized in all ways
    local transform interpolation mode files=()
    mapfile -t files < <(find tests/golden/image $golden -name '*-*.jpg' -o -name '*.webp' -o -name '*.png' -o -name '0[0-3].jpg' |
        grep -vE 'damaged|gif|short|animation' | sort)
    for transform in eval train; do
        for interpolation in bicubic bilinear; do
            same data image "${files[@]}" --size 40 --transform $transform --image-interpolation $interpolation --out {}/x.npy || return 1
        done
    done
    for mode in longest squash; do same data image "${files[@]}" --size 24 --image-resize-mode $mode --out {}/x.npy || return 1; done
}
shards() { # with JPEGs written anew
    same data pack $golden/pairs.tsv --shard-samples 10 --max-side 48 --out {}/t &&
        same data pack $golden/pairs.tsv --shard-samples 10 --zstd --out {}/t
}
indexes() { # of the same shards
    local index
    "$clipc" data pack $golden/pairs.tsv --shard-samples 10 --out "$dir/s/t" 2>"$dir/stderr" && mkdir "$dir/of_clipc" && mv "$dir"/s/*.idx "$dir/of_clipc" &&
        build/clipc data index "$dir"/s/*.tar >"$dir/out" 2>"$dir/stderr" && [ "$(find "$dir/s" -name '*.idx' | wc -l)" = 3 ] &&
        for index in "$dir"/of_clipc/*.idx; do cmp "$index" "$dir/s/${index##*/}" || return 1; done
}

train() { # PROGRAM-NAME, options…
    local name=$1
    shift
    "${program[${name%%-*}]}" train "${pairs[@]}" --batch-size 4 --warmup 3 --lr 1e-3 --max-steps 10 --save-frequency-steps 2 --logs "$dir" \
        --name "$name" "$@" 2>"$dir/stderr"
}
trains() { # precision, largest difference of a loss
    train "native-$1" --precision "$1" && train "aarch64-$1" --precision "$1" && grep -q " cpu-$1 (neon)\$" "$dir/stderr" &&
        near "native-$1" "aarch64-$1" 10 "$2"
}
resumed() {
    killed_and_resumed aarch64-killed 5 --precision fp32 && same_metrics aarch64-fp32 aarch64-killed &&
        same_state "$dir/aarch64-fp32/checkpoints/latest" "$dir/aarch64-killed/checkpoints/latest"
}
read_by_the_other() { # a run of one machine resumes on the other
    cp -r "$dir/aarch64-fp32" "$dir/native-moved" && train native-moved --precision fp32 --max-steps 12 --resume latest && [ "$(lines native-moved)" = 12 ]
}

check named named
check tokens tokens
check pixels pixels
check shards shards
check indexes indexes
check trains_fp32 trains fp32 1e-4
check trains_bf16 trains amp_bf16 1e-2
check resumed resumed
check read_by_the_other read_by_the_other
exit $failed
