#!/usr/bin/env bash
# SIGKILL at random moments of short runs of one rank, half of them while a checkpoint is saved, each followed by --resume
# latest: tests/kills.sh [KILLS] [SEED]. Every run must end with the undisturbed run's bits. `make chaos RANKS=1`.
. tests/support.sh kills
kills=${1:-1000} seed=${2:-$RANDOM}
export OMP_NUM_THREADS=1 ASAN_OPTIONS=detect_leaks=0
RANDOM=$seed
echo "kills: $kills, seed $seed"

run() { # name
    exec "$clipc" train "${pairs[@]}" --val-data $golden/pairs.tsv --epochs 3 --warmup 3 --lr 1e-3 --workers 1 --batch-size 8 \
        --save-frequency-steps 2 --keep-checkpoints 2 --logs "$dir" --name "$1" --resume latest >"$dir/out" 2>"$dir/err"
}
fail() {
    echo "kills: $1 (seed $seed)"
    tail -n 20 "$dir/err"
    exit 1
}
saving() { compgen -G "$dir/broken/checkpoints/.tmp-*" >/dev/null; }
same() {
    local name
    for name in epoch_1 epoch_2 epoch_3 best latest; do
        same_state "$dir/whole/checkpoints/$name" "$dir/broken/checkpoints/$name" || return 1
    done
    same_metrics whole broken || return 1
    find "$dir/broken" -name '*.tmp*' -o -name lock >"$dir/left"
    [ ! -s "$dir/left" ] || { echo "left: $(cat "$dir/left")"; return 1; }
}

begin=$(date +%s%N)
(run whole) || fail "the undisturbed run failed"
took=$((($(date +%s%N) - begin) / 1000000))
killed=0 within=0 last=0 runs=0 job=0
# The next run's process number, and whether it still runs.
begin() { (run broken) & job=$!; }
alive() { kill -0 $job 2>/dev/null; }
while [ $killed -lt "$kills" ]; do
    begin
    if [ $((RANDOM % 2)) = 0 ]; then
        for ((skip = RANDOM % 3; skip >= 0; skip--)); do
            while alive && ! saving; do :; done
            [ $skip = 0 ] || while alive && saving; do :; done
        done
        sleep "0.00$((RANDOM % 10))"
    else
        ms=$((RANDOM % took))
        sleep "$((ms / 1000)).$(printf %03d $((ms % 1000)))"
    fi
    kill -9 $job 2>/dev/null
    code=0
    wait $job 2>/dev/null || code=$?
    case $code in
    137)
        killed=$((killed + 1))
        ! saving || within=$((within + 1))
        [ "$(lines broken)" -lt 6 ] || last=$((last + 1))
        ;;
    0) # it came to its end
        same || fail "the result differs from the undisturbed run's"
        runs=$((runs + 1))
        rm -rf "$dir/broken"
        ;;
    *) fail "exit $code after $killed kills" ;;
    esac
done
(run broken) || fail "the last part failed"
same || fail "the result differs from the undisturbed run's"
echo "kills: ok, $killed kills in $((runs + 1)) runs: $within while a checkpoint was saved, $last in the last epoch"
