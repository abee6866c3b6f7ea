#!/usr/bin/env bash
# The instruction sets of kernels/cpu: which are named, forced and refused; that oneDNN keeps to them; that training with
# each is repeatable and differs by rounding only. Prints cmocka's lines.
. tests/support.sh cpu_sets
export OMP_NUM_THREADS=2
unset CLIPC_CPU
read -r -a sets <<<"$("$clipc" --version | sed -n 's/^instruction sets: //p')"
best=${sets[-1]}

named() {
    [ "${sets[0]}" = v3 ] && says 0 "in use: $best" "$clipc" --version || return 1
    local set
    for set in "${sets[@]}"; do says 0 "in use: $set" env CLIPC_CPU="$set" "$clipc" --version || return 1; done
}
unknown() { refused 1 "CLIPC_CPU=sse9 is no instruction set: this machine has v3" env CLIPC_CPU=sse9 "$clipc" "${command[@]}"; }
command=(embed --checkpoint $golden --images $golden/pairs.tsv --out "$dir/x.npy")

# products: of AVX2 with v3, of AVX-512 without bf16 with v4, …
onednn_keeps_to_it() {
    local set isa
    for set in "${sets[@]}"; do
        ONEDNN_VERBOSE=1 CLIPC_CPU=$set "$clipc" "${command[@]}" >"$dir/out" 2>&1 || return 1
        isa=$(sed -n 's/^onednn_verbose,info,cpu,isa://p' "$dir/out")
        case $set:$isa in
        v3:*AVX-512* | v3:*AVX512*) echo "$set: $isa" && return 1 ;;
        v3:"Intel AVX2"* | v4:*AVX512DQ* | v4bf16:*bfloat16* | amx:*AMX*) ;;
        *) echo "$set: $isa" && return 1 ;;
        esac
        case $set:$isa in v3:*DL\ Boost* | v4:*bfloat16* | v4:*DL\ Boost* | v4bf16:*AMX*) [ "$set" = "$best" ] || { echo "$set: $isa" && return 1; } ;; esac
    done
}
train() { # set, precision, steps, name, options…
    local set=$1 precision=$2 steps=$3 name=$4
    shift 4
    CLIPC_CPU=$set "$clipc" train "${pairs[@]}" --batch-size 8 --warmup 2 --max-steps "$steps" --save-frequency-steps 3 --logs "$dir" \
        --precision "$precision" --name "$name" "$@" 2>"$dir/stderr" && grep -q " cpu-$precision ($set)\$" "$dir/stderr"
}
trajectories() { # precision, factor
    local set
    train "$best" "$1" 6 "$1-$best" || return 1
    for set in "${sets[@]}"; do
        [ "$set" = "$best" ] || { train "$set" "$1" 6 "$1-$set" && near "$1-$set" "$1-$best" 6 "$2"; } || { echo "$set" && return 1; }
    done
}
resumed() {
    local set
    for set in "${sets[@]}"; do
        train "$set" fp32 3 "half-$set" && train "$set" fp32 6 "half-$set" --resume latest &&
            same_state "$dir/half-$set/checkpoints/epoch_2" "$dir/fp32-$set/checkpoints/epoch_2" || { echo "$set" && return 1; }
    done
}
really_other_code() { ! same_state "$dir/fp32-v3/checkpoints/epoch_2" "$dir/fp32-$best/checkpoints/epoch_2" >/dev/null; }
same_pixels() {
    local set
    for set in "${sets[@]}"; do
        CLIPC_CPU=$set "$clipc" data image $golden/*.jpg --size 48 --out "$dir/$set.npy" 2>/dev/null && cmp "$dir/$set.npy" "$dir/v3.npy" || return 1
    done
}
# Two ranks; a value after the name is rank 0's or rank 1's CLIPC_CPU ("": none). A machine that has less is a rank with less.
two_ranks() { # name, of rank 0, of rank 1, options…
    local name=$1 first=$2 second=$3
    shift 3
    local options=(train "${pairs[@]}" --batch-size 4 --warmup 2 --max-steps 3 --logs "$dir" --name "$name" "$@")
    "${mpirun[@]}" -np 1 -x CLIPC_CPU="$first" "$clipc" "${options[@]}" : -np 1 -x CLIPC_CPU="$second" "$clipc" "${options[@]}" \
        >"$dir/out" 2>"$dir/stderr"
}
ranks_agree() { # in every precision, whichever rank has less
    local first second
    two_ranks both v3 v3 --precision amp_bf16 && ! grep -q "on all ranks" "$dir/stderr" || return 1
    for first in "" v3; do
        [ "$first" ] && second="" || second=v3
        two_ranks "first-$first" "$first" "$second" --precision amp_bf16 &&
            grep -q "instruction set v3 on all ranks, because rank $([ "$first" ] && echo 0 || echo 1) uses no later one (rank .* has $best)" "$dir/stderr" &&
            grep -q " cpu-amp_bf16 (v3)\$" "$dir/stderr" && same_state "$dir/first-$first/checkpoints/latest" "$dir/both/checkpoints/latest" || return 1
    done
    two_ranks auto "" v3 && grep -q " cpu-fp32 (v3)\$" "$dir/stderr"
}
ranks_named_apart() {
    ! two_ranks apart "$best" v3 && grep -q "rank 0 has CLIPC_CPU=$best and rank 1 uses v3, .* CLIPC_CPU=v3 on all" "$dir/stderr" && [ ! -e "$dir/apart" ]
}
emulated() { # CPU, command…; the program does not start itself again, which would leave the emulator
    local cpu=$1
    shift
    OMP_WAIT_POLICY=passive qemu-x86_64 -cpu "$cpu" "$@"
}
old_cpu() { refused 1 "this CPU has no AVX2 with FMA" emulated Nehalem "$clipc" --help; }
lacking() {
    says 0 "instruction sets: v3" emulated max "$clipc" --version &&
        CLIPC_CPU=v4 refused 1 "CLIPC_CPU=v4: this machine lacks it and has v3" emulated max "$clipc" --version
}

check named named
check unknown unknown
check onednn_keeps_to_it onednn_keeps_to_it
check trajectories_fp32 trajectories fp32 1e-3
check trajectories_bf16 trajectories amp_bf16 1e-2
check resumed resumed
check same_pixels same_pixels
if [ "$best" = v3 ]; then skip "this machine has one instruction set" really_other_code; else check really_other_code really_other_code; fi
if [ "$best" = v3 ]; then
    skip "this machine has one instruction set" ranks_agree ranks_named_apart
elif no_mpi; then
    skip "$no_mpi_reason" ranks_agree ranks_named_apart
else
    check ranks_agree ranks_agree
    check ranks_named_apart ranks_named_apart
fi
if sanitized; then
    skip "qemu-x86_64 has too little address space for a sanitizer" old_cpu lacking
elif [ "$(emulated max /bin/echo 1 2>/dev/null)" = 1 ]; then
    check old_cpu old_cpu
    check lacking lacking
else
    skip "no qemu-x86_64 (Debian's qemu-user)" old_cpu lacking
fi
exit $failed
