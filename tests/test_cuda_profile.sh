#!/usr/bin/env bash
# The profile of the layer that runs CUDA on the CPU (tests/cuda_on_cpu/profile.h): accesses whose sectors, wavefronts
# and lanes are known are counted exactly; and the program's kernels stay near the least sectors and wavefronts. Prints
# cmocka's lines.
. tests/support.sh cuda_profile
bin=$(dirname "$clipc")/tests
export CUDAEMU_QUIET=1

if [ ! -x "$bin/cudaemu_profile" ]; then
    skip "built by a plain make where nvcc is" counts
    exit 0
fi

# kernel, field of its JSON line (a number, or requests bytes units least of one kind of memory), wanted
field() {
    local got
    got=$(sed -nE "s/^\{\"kernel\": \"$1\".*\"$2\": (\{[^}]*\}|[0-9]+).*/\1/p" "$dir/profile" | tr -cd '0-9 ' | xargs)
    [ "$got" = "$3" ] || echo "$1: $2 is '$got', not '$3'"
}
counts() {
    rm -f "$dir/profile"
    CUDAEMU_PROFILE=$dir/profile "$bin/cudaemu_profile" all || return 1
    while read -r kernel what wanted; do field "$kernel" "$what" "$wanted"; done >"$dir/wrong" <<'END'
coalesced launches 1
coalesced blocks 3
coalesced warps 3
coalesced load 3
coalesced read 3 384 12 12
coalesced write 3 384 12 12
coalesced sectors_read 4
coalesced sectors_written 4
strided read 1 128 32 4
strided sectors_read 32
strided write 1 128 4 4
misaligned read 1 128 5 4
broadcast read 1 4 1 1
halves read 1 512 32 16
halves write 1 512 16 16
words_1 shared_memory 65 8320 65 65
words_2 shared_memory 65 8320 66 65
words_32 shared_memory 65 8320 96 65
words_33 shared_memory 65 8320 65 65
pieces shared_memory 9 4608 64 36
tiles_64 ldmatrix 1
tiles_64 shared_memory 37 2816 68 40
tiles_72 shared_memory 37 2816 40 40
divergent read 1 32 4 1
END
    cat "$dir/wrong"
    [ ! -s "$dir/wrong" ]
}
# all lanes of a warp without divergence, fewer if 8 of 32 load
lanes() {
    local kernel
    for kernel in coalesced divergent; do
        [[ $(grep "\"$kernel\"" "$dir/profile") =~ \"instructions\":\ ([0-9]+),\ \"lanes\":\ ([0-9]+) ]] || return 1
        echo "$kernel: ${BASH_REMATCH[2]} lanes in ${BASH_REMATCH[1]} instructions"
        if [ $kernel = coalesced ]; then
            [ "${BASH_REMATCH[2]}" = $((32 * BASH_REMATCH[1])) ] || return 1
        else
            [ "${BASH_REMATCH[2]}" -le $((32 * BASH_REMATCH[1] - 24)) ] || return 1
        fi
    done
}
# the table names the line of a bad access, and nothing is written unless requested
table() {
    CUDAEMU_PROFILE=1 "$bin/cudaemu_profile" all 2>"$dir/table" || return 1
    grep -q '^words_2 ' "$dir/table" && grep -q '2.00 times the least, 2 wavefronts of 1 requests at .*profile.cu:' "$dir/table" || return 1
    CUDAEMU_PROFILE='' "$bin/cudaemu_profile" all 2>"$dir/nothing" && [ ! -s "$dir/nothing" ]
}
# Allowed multiples of the least sectors (read, written) and wavefronts of a kernel: 1.1, except
#   layernorm_*   a lane's 8 weights are 32 bytes, in two loads: a sector comes twice, out of the first-level cache; its
#                 weights' gradients are written once a launch
#   patches_*     so do pixels of 3 bytes (3 loads of a lane's 24)
#   sort_*        a warp's digits and its keys go where they belong
#   *_keys, row_spans   a sequence may begin anywhere
#   lars_join     reads one number of each chunk's description, and writes one pair a tensor
#   mma_*<6,1>    rows of 176 bytes; tiles whose rows are no power of two are written by quarters of a warp that cross a row's end
limits() { # profile on stdin, as a table
    awk '
        /^kernel, instructions/ { exit }
        /^[a-z_0-9]+(<[^>]*>)? +[0-9]/ {
            read = write = shared = 1.1
            if ($1 ~ /^layernorm_/) read = 1.81
            if ($1 == "layernorm_weights") write = 8
            if ($1 ~ /^patches_/) read = 3.01
            if ($1 ~ /(_keys|row_spans)$/) read = write = 1.3
            if ($1 ~ /^sort_/) read = write = shared = 4
            if ($1 == "lars_join") read = 1.3
            if ($1 ~ /<6,1(,[12])?>$/) read = write = shared = 1.15
            count++
            if ($9 > read || $10 > write || $12 > shared) {
                print "too much (read " read ", write " write ", shared " shared " allowed): " $0
                bad = 1
            }
        }
        END { exit bad || !count }'
}
kernels() { # case and sizes…
    CUDAEMU_PROFILE=1 "$bin/cuda_shapes" "$@" 2>"$dir/table" || return 1
    limits <"$dir/table" && return
    cat "$dir/table"
    return 1
}
# the limits work: the planted accesses are beyond them
planted() {
    CUDAEMU_PROFILE=1 "$bin/cudaemu_profile" all 2>"$dir/table" || return 1
    ! limits <"$dir/table" >"$dir/found" || return 1
    for kernel in strided misaligned halves words_32 pieces tiles_64; do grep -q ": $kernel " "$dir/found" || return 1; done
    ! grep -qE ': (coalesced|broadcast|words_33|tiles_72) ' "$dir/found"
}
# warp instructions of GELU's backward in bf16, of 32 elements: one exponential serves value and slope
few_instructions() {
    CUDAEMU_PROFILE=1 "$bin/cuda_shapes" pointwise 32 3072 2>"$dir/table" || return 1
    awk '$1 == "activation_bwd" { print "instructions of 32 elements: " $5 / 3072; exit $5 > 42 * 3072 }' "$dir/table"
}
check counts counts
check lanes lanes
check table table
check planted planted
check few_instructions few_instructions
while read -r name sizes; do
    # shellcheck disable=SC2086
    check "$name" kernels $sizes
done <<'END'
attention attention 1 197 2 64 0
attention_50 attention 4 50 2 64 0
attention_88 attention 1 257 1 88 0
attention_text attention_text 8 8 77 2 64
attention_pool attention_pool 4 50 4 64
layernorm layernorm 1024 512
layernorm_wide layernorm 512 1280
l2norm l2norm 32 512
pointwise pointwise 32 3072
rows rows 4 50 768
image image 2 224 32 768
image_dropout image_dropout 2 224 16 512
text text 16 8 24 1000 512
logits logits 64 1024
optim optim 50000
END
exit $failed
