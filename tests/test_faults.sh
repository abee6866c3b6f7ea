#!/usr/bin/env bash
# Failures of runs of several ranks: a rank that is killed, stopped, signalled to end, started with other options, given
# bad data. All must end in time, with a line that names the cause, a complete checkpoint and no process left. Prints
# cmocka's lines.
. tests/support.sh faults
export OMP_NUM_THREADS=1 ASAN_OPTIONS=detect_leaks=0
timeout=4
# long enough that the run is alive at its third interruption
steps=300
tests=(killed_rank stopped_rank sigterm_to_one_rank same_bits_after_all sigterm_before_the_first_step other_options_on_one_rank
    bad_data_on_one_rank self_refuses_nothing)

if no_mpi; then
    skip "$no_mpi_reason" "${tests[@]}"
    exit 0
fi

options() { # run's name
    echo "train ${pairs[*]} --epochs 100000 --warmup 3 --lr 1e-3 --workers 1 --batch-size 2 --logs $dir --save-frequency 100000
        --save-frequency-steps 5 --comm-timeout $timeout --name $1"
}
# Starts or resumes the run $1 on 3 ranks and waits until its log has 7 lines more; sets launcher and ranks (their process
# numbers).
start() {
    local name=$1 before
    shift
    before=$(lines "$name")
    # shellcheck disable=SC2046
    "${mpirun[@]}" -np 3 "$clipc" $(options "$name") --resume latest "$@" >"$dir/$name.out" 2>"$dir/$name.err" &
    launcher=$!
    await $launcher has_lines "$name" $((before + 7))
    mapfile -t ranks < <(pgrep -P $launcher | sort -n)
}
# Waits for the launcher at most $1 seconds; its exit code in `code`.
finish() { ends "$1" $launcher || { kill -9 "${ranks[@]}" $launcher; return 1; }; }
# A copy of the run $1 resumes with another number of ranks (here one) from a complete checkpoint.
goes_on() {
    local before
    before=$(lines "$1")
    rm -rf "$dir/copy" && cp -r "$dir/$1" "$dir/copy" || return
    # shellcheck disable=SC2046
    "$clipc" $(options copy) --batch-size 6 --resume latest --max-steps $((before + 3)) 2>"$dir/again.err" &&
        [ "$(lines copy)" = $((before + 3)) ] && ! grep -q damaged "$dir/again.err"
}

# One run is killed, resumed and stopped, resumed and signalled, and resumed to its end.
disturb() { start disturbed --max-steps $steps; }
killed_rank() {
    disturb && kill -9 "${ranks[1]}" && finish $((timeout + slack)) && nothing_left disturbed && [ $code != 0 ] && goes_on disturbed
}
stopped_rank() {
    disturb && kill -STOP "${ranks[1]}" && finish $((timeout + slack)) && nothing_left disturbed && [ $code != 0 ] &&
        [ "$(grep -c 'has waited' "$dir/disturbed.err")" = 1 ] &&
        grep -qE "clipc: rank [02]: step [0-9]+: [a-z_]+ has waited" "$dir/disturbed.err" &&
        grep -qE "(for|,) rank 1 \(process ${ranks[1]}, stopped" "$dir/disturbed.err" && goes_on disturbed
}
sigterm_to_one_rank() {
    disturb && kill -TERM "${ranks[2]}" && finish $slack && nothing_left disturbed && [ $code = 3 ] &&
        grep -q -- "--resume latest" "$dir/disturbed.err" && [ -d "$dir/disturbed/checkpoints/step_$(lines disturbed)" ] && goes_on disturbed
}
same_bits_after_all() {
    local name
    for name in disturbed whole; do
        # shellcheck disable=SC2046
        "${mpirun[@]}" -np 3 "$clipc" $(options $name) --max-steps $steps --resume latest >"$dir/out" 2>"$dir/$name.err" || return
    done
    grep -q 'checkpoints/step_' "$dir/disturbed.err" && [ "$(lines whole)" = $steps ] && same_metrics whole disturbed &&
        same_state "$dir/whole/checkpoints/latest" "$dir/disturbed/checkpoints/latest"
}
# The model's file is a pipe on which rank 0 waits while the signal reaches rank 1, which then reads a plain file.
sigterm_before_the_first_step() {
    local pipe=$dir/model.json
    mkfifo "$pipe"
    # shellcheck disable=SC2046
    "${mpirun[@]}" -np 2 "$clipc" $(options early) --model "$pipe" >"$dir/out" 2>"$dir/early.err" &
    launcher=$!
    exec 9>"$pipe"
    rm "$pipe" && cp $golden/open_clip_config.json "$pipe"
    mapfile -t ranks < <(pgrep -P $launcher | sort -n)
    kill -TERM "${ranks[1]}"
    cat $golden/open_clip_config.json >&9
    exec 9>&-
    finish $((timeout + slack)) && nothing_left early && [ $code = 3 ] && [ ! -s "$dir/early/metrics.jsonl" ] &&
        grep -q "stopped by a signal to another rank after step 0 and saved" "$dir/early.err" && [ -d "$dir/early/checkpoints/step_0" ] &&
        goes_on early
}
other_options_on_one_rank() {
    # shellcheck disable=SC2046
    "${mpirun[@]}" -np 2 "$clipc" $(options other) --lr 0.001 : -np 1 "$clipc" $(options other) \
        --lr 0.002 >"$dir/out" 2>"$dir/err"
    [ $? != 0 ] && grep -q "rank 2 has another --lr than rank 0" "$dir/err" && [ "$(grep -c '^clipc' "$dir/err")" = 1 ] &&
        [ ! -e "$dir/other" ]
}
bad_data_on_one_rank() {
    cp -r $golden "$dir/data"
    echo "no picture" >"$dir/data/05.jpg"
    start bad --train-data "$dir/data/pairs.tsv" --max-bad 0
    finish $((timeout + slack)) && nothing_left bad && [ $code != 0 ] && grep -q "clipc: rank [0-2]: 1 of .* samples are bad" "$dir/bad.err" &&
        [ "$(grep -c 'samples are bad' "$dir/bad.err")" = 1 ]
}
self_refuses_nothing() { # `self` under a launcher: processes of their own
    "${mpirun[@]}" -np 2 "$clipc" train --dry-run --model ViT-B-32 --comm self >"$dir/out" 2>"$dir/err" &&
        [ "$(grep -c '^global batch: 64 = 64 x 1 accumulated x 1 ranks' "$dir/out")" = 2 ]
}

for t in "${tests[@]}"; do
    check "$t" "$t"
    rm -f "$dir"/*err
done
exit $failed
