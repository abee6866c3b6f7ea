#!/usr/bin/env bash
# Failures of GPU ranks without a launcher's supervision, on the layer without a GPU: a rank that is killed, is stopped,
# is signalled to end, is missing, or connects to the wrong address. All end in time, with a line that names the cause.
# Prints cmocka's lines.
. tests/support.sh nccl
emu=$clipc-cudaemu
export OMP_NUM_THREADS=1 CUDAEMU_QUIET=1 CUDAEMU_DEVICES=3 CUDAEMU_TIMEOUT=120
timeout=4
tests=(killed_rank stopped_rank sigterm_to_one_rank rank_that_does_not_come wrong_address address_missing rank_out_of_range
    cpu_ranks_are_refused gpu_by_mpi gpu_taken_twice)

nccl_says_what_is_missing() {
    ! "$clipc" train --comm nccl --dry-run --model ViT-B-32 >/dev/null 2>"$dir/a.err" && grep -q "built without NCCL" "$dir/a.err" &&
        [ "$(wc -l <"$dir/a.err")" = 1 ]
}
check nccl_says_what_is_missing nccl_says_what_is_missing
if [ ! -x "$emu" ] || "$emu" train --comm nccl --device cpu --dry-run --model ViT-B-32 2>&1 | grep -q 'built without NCCL'; then
    skip "built by a plain make where nvcc and nccl.h are" "${tests[@]}"
    exit $failed
fi

# One rank of three in the background, as the run $1; its process number in rank[$2].
start_rank() { # run's name, rank, options…
    local name=$1 r=$2
    shift 2
    RANK=$r WORLD_SIZE=3 LOCAL_RANK=${LOCAL_RANK:-$r} "$emu" train --device cuda --precision fp32 "${pairs[@]}" \
        --epochs 100000 --warmup 3 --lr 1e-3 --workers 1 --batch-size 1 --logs "$dir" --save-frequency 100000 \
        --save-frequency-steps 2 --comm-timeout $timeout --comm-port "$port" --name "$name" "$@" >"$dir/$r.out" 2>"$dir/$r.err" &
    rank[r]=$!
}
export MASTER_ADDR=localhost
# Three ranks; up to step 5, by which captured graphs are replayed.
start() {
    port=$(free_port)
    rank=()
    for r in 0 1 2; do start_rank "$1" $r; done
    await "${rank[0]}" has_lines "$1" 5 || { echo "did not come to step 5"; return 1; }
}
# Waits for the ranks $2… at most $1 seconds; their exit codes in codes[].
finish() {
    local seconds=$1 r
    shift
    codes=()
    for r in "$@"; do
        ends "$seconds" "${rank[r]}" || { kill -9 "${rank[@]}" 2>/dev/null; wait; return 1; }
        codes[r]=$code
    done
}
whole() { # the last checkpoint of a run can be gone on with, by one rank
    "$emu" train --device cuda --precision fp32 --vocab $golden/vocab.txt --train-data $golden/pairs.tsv --batch-size 3 --max-steps 1 --logs "$dir" \
        --name "$1" --resume latest 2>"$dir/again.err" && grep -q finished "$dir/again.err" && ! grep -q damaged "$dir/again.err"
}

killed_rank() { # NCCL sees it, at once
    start killed && kill -9 "${rank[1]}" && finish $((timeout + slack)) 0 2 && wait "${rank[1]}"
    [ "${codes[0]:-0}" = 1 ] && [ "${codes[2]:-0}" = 1 ] && whole killed &&
        grep -hE "clipc: rank [02]: step [0-9]+: [a-z_]+ failed: NCCL: .*rank 1 is dead" "$dir"/[02].err >/dev/null
}
stopped_rank() { # nobody sees it but the watchdog
    start stopped && kill -STOP "${rank[1]}" && finish $((timeout + slack)) 0 2
    kill -9 "${rank[1]}"
    wait "${rank[1]}"
    [ "${codes[0]:-0}" = 1 ] && [ "${codes[2]:-0}" = 1 ] && whole stopped && [ "$(cat "$dir"/[02].err | grep -c 'has waited')" = 1 ] &&
        grep -hE "clipc: rank [02]: step [0-9]+: (all_reduce|all_gather|reduce_scatter) has waited" "$dir"/[02].err |
        grep -q "for rank 1 (process ${rank[1]}, stopped"
}
sigterm_to_one_rank() { # all end after the same step, and go on from there
    local n
    start ended && kill -TERM "${rank[2]}" && finish $slack 0 1 2 && [ "${codes[*]}" = "3 3 3" ] || return 1
    n=$(lines ended)
    [ -d "$dir/ended/checkpoints/step_$n" ] && grep -q "stopped by a signal to another rank after step $n and saved" "$dir/0.err" || return 1
    port=$(free_port)
    for r in 0 1 2; do start_rank ended $r --resume latest --max-steps $((n + 3)); done
    finish $slack 0 1 2 && [ "${codes[*]}" = "0 0 0" ] && [ "$(lines ended)" = $((n + 3)) ] &&
        tail -n 1 "$dir/ended/metrics.jsonl" | grep -q "\"step\": *$((n + 3))\b"
}
rank_that_does_not_come() {
    port=$(free_port)
    start_rank missing 0
    start_rank missing 2
    finish $((timeout + slack)) 0 2 && [ "${codes[0]} ${codes[2]}" = "1 1" ] && grep -q "2 of 3 ranks came .* missing: 1" "$dir/0.err" &&
        grep -q "missing: 1" "$dir/2.err"
}
wrong_address() {
    port=$(free_port)
    MASTER_ADDR=127.0.0.2 start_rank lost 1
    finish $((timeout + slack)) 1 && [ "${codes[1]}" = 1 ] &&
        grep -q "clipc: rank 1: rank 0 could not be reached at 127.0.0.2 port $port within $timeout s" "$dir/1.err"
}
address_missing() {
    MASTER_ADDR='' start_rank lost 1
    finish $slack 1 && [ "${codes[1]}" = 1 ] && grep -q "clipc: rank 1: MASTER_ADDR is not set" "$dir/1.err" && port=0 &&
        start_rank lost 1 && finish $slack 1 && [ "${codes[1]}" = 1 ] && grep -q "no port to meet rank 0 at" "$dir/1.err"
}
rank_out_of_range() { start_rank lost 3 && finish $slack 3 && [ "${codes[3]}" = 1 ] && grep -q "RANK=3 and WORLD_SIZE=3" "$dir/3.err"; }
cpu_ranks_are_refused() {
    ! RANK=0 WORLD_SIZE=3 "$emu" train --device cpu --dry-run --model ViT-B-32 2>"$dir/a.err" && grep -q "which MPI has to join" "$dir/a.err" &&
        ! RANK=0 WORLD_SIZE=3 "$emu" train --device cpu --comm nccl --dry-run --model ViT-B-32 2>"$dir/a.err" &&
        grep -q "NCCL joins GPU ranks" "$dir/a.err"
}
# no variable names the rank's place on its machine: MPI knows it
gpu_by_mpi() {
    local ranks=("${mpirun[@]}" -np 3 env -u OMPI_COMM_WORLD_LOCAL_RANK "$emu" train --device cuda --precision fp32 "${pairs[@]}" --epochs 1
        --max-steps 1 --batch-size 4 --logs "$dir" --comm-timeout 20)
    "${ranks[@]}" --name by_mpi >"$dir/mpi.err" 2>&1 && ! CUDAEMU_DEVICES=2 "${ranks[@]}" --name none >"$dir/mpi.err" 2>&1 &&
        grep -q "this is rank 2 of its machine, counted from 0 (MPI), and 2 GPUs are visible" "$dir/mpi.err"
}
# two ranks told to take one GPU
gpu_taken_twice() {
    local r
    port=$(free_port)
    for r in 0 1 2; do LOCAL_RANK=0 start_rank twice $r; done
    finish $((timeout + slack)) 0 1 2 && [ "${codes[*]}" = "1 1 1" ] && grep -q "two ranks cannot share a GPU" "$dir/0.err"
}
for t in "${tests[@]}"; do
    rm -f "$dir"/*.err
    if [ "$t" = gpu_by_mpi ] && no_mpi; then skip "$no_mpi_reason" "$t"; else check "$t" "$t"; fi
done
exit $failed
