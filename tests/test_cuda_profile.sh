#!/usr/bin/env bash
# The profile of the layer that runs CUDA on the CPU (tests/cuda_on_cpu/profile.h): accesses whose sectors, wavefronts and lanes are
# known are counted exactly. Prints cmocka's lines.
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
# all lanes of a warp where nothing parts them, fewer where 8 of 32 load
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
# the table names the line of a bad access, and nothing is written without being asked for
table() {
    CUDAEMU_PROFILE=1 "$bin/cudaemu_profile" all 2>"$dir/table" || return 1
    grep -q '^words_2 ' "$dir/table" && grep -q '2.00 times the least, 2 wavefronts of 1 requests at .*profile.cu:' "$dir/table" || return 1
    CUDAEMU_PROFILE='' "$bin/cudaemu_profile" all 2>"$dir/nothing" && [ ! -s "$dir/nothing" ]
}
check counts counts
check lanes lanes
check table table
exit $failed
