#!/usr/bin/env bash
# Random kills, stops and signals on a run of four ranks, each followed by --resume latest; the result must equal the
# undisturbed run's, bit for bit: tests/chaos.sh [CYCLES] [SEED]. `make chaos` runs 50.
. tests/support.sh chaos
cycles=${1:-50} seed=${2:-$RANDOM}
export OMP_NUM_THREADS=1 ASAN_OPTIONS=detect_leaks=0
RANDOM=$seed
timeout=5
# long enough that the run is alive in every cycle
steps=$((cycles * 60 + 100))
echo "chaos: $cycles cycles, seed $seed, $steps steps on 4 ranks"

run() { # name, options…
    local name=$1
    shift
    exec "${mpirun[@]}" -np 4 "$clipc" train "${pairs[@]}" --epochs 100000 --max-steps $steps --warmup 3 --lr 1e-4 --workers 1 --batch-size 2 --logs "$dir" \
        --save-frequency 100000 --save-frequency-steps 7 --comm-timeout $timeout --shard-optimizer --name "$name" "$@" \
        >"$dir/out" 2>"$dir/err"
}
fail() {
    echo "chaos: $1 (seed $seed)"
    tail -n 20 "$dir/err"
    exit 1
}

(run whole) || fail "the undisturbed run failed"
interrupted=0
for cycle in $(seq "$cycles"); do
    (run broken --resume latest) &
    launcher=$!
    goal=$(($(lines broken) + RANDOM % 25))
    await $launcher has_lines broken $goal
    # the goal may be before the start: then the kill hits ranks that are starting
    ranks=()
    while [ ${#ranks[@]} != 4 ] && kill -0 $launcher 2>/dev/null; do
        mapfile -t ranks < <(pgrep -P $launcher -x clipc | sort -n)
        sleep 0.01
    done
    [ ${#ranks[@]} = 4 ] || { wait $launcher; break; } # it came to its end
    what=$((RANDOM % 3)) victim=${ranks[$((RANDOM % 4))]}
    case $what in
    0) kill -9 "$victim" ;;
    1) kill -STOP "$victim" ;;
    2) kill -TERM "$victim" ;;
    esac
    wait $launcher
    code=$?
    interrupted=$((interrupted + 1))
    [ $what = 2 ] || [ $code != 0 ] || [ "$(lines broken)" = $steps ] || fail "cycle $cycle: a lost rank and exit 0"
    # before a rank handles signals, SIGTERM ends it like any other program
    [ $what != 2 ] || [ $code = 0 ] || [ $code = 3 ] || ! grep -q 'ranks over' "$dir/err" || fail "cycle $cycle: SIGTERM and exit $code"
    nothing_left broken || fail "cycle $cycle"
done
(run broken --resume latest) || fail "the last part failed"
same_state "$dir/whole/checkpoints/latest" "$dir/broken/checkpoints/latest" ||
    fail "the end differs from the undisturbed run's"
[ "$(lines broken)" = $steps ] || fail "metrics.jsonl has $(lines broken) lines of $steps"
[ $interrupted -ge "$cycles" ] || fail "only $interrupted of $cycles cycles found the run alive"
echo "chaos: ok, $interrupted interruptions"
