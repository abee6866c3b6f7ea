#!/usr/bin/env bash
# Runs every fuzzer for a while on a copy of its seeds: tests/fuzz/run.sh BIN_DIR SECONDS [NAME…] (NAME as in fuzz_NAME).
# One line each, last line "N passed, N failed"; inputs that crash one stay under build/fuzz/crashes.
set -u
bin=$1 seconds=$2
shift 2
names=("$@")
if [ ${#names[@]} = 0 ]; then
    for f in "$bin"/fuzz_*; do
        [ -x "$f" ] && [ ! -d "$f" ] && names+=("$(basename "$f" | sed 's/^fuzz_//')")
    done
fi
crashes=$PWD/build/fuzz/crashes
# in memory: some fuzzers write files
work=$(mktemp -d -p "$([ -w /dev/shm ] && echo /dev/shm || echo "${TMPDIR:-/tmp}")")
export TMPDIR=$work
trap 'rm -rf "$work"' EXIT
mkdir -p "$crashes"
passed=0 failed=0
for name in "${names[@]}"; do
    corpus=$work/$name
    mkdir -p "$corpus"
    seeds=tests/fuzz/seeds/$name
    [ -d "$seeds" ] && cp "$seeds"/* "$corpus/"
    "$bin/fuzz_$name" -max_total_time="$seconds" -rss_limit_mb=2048 -timeout=10 -print_final_stats=1 \
        -artifact_prefix="$crashes/$name-" "$corpus" >"$work/log" 2>&1
    code=$?
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$work/log")
    rss=$(sed -n 's/^stat::peak_rss_mb: *//p' "$work/log")
    if [ $code = 0 ]; then
        passed=$((passed + 1))
        printf '%-16s ok      %9s runs, %5s inputs, %5s MB\n' "$name" "${runs:-?}" "$(find "$corpus" -type f | wc -l)" "${rss:-?}"
    else
        failed=$((failed + 1))
        printf '%-16s FAILED  exit code %d, input under %s\n' "$name" "$code" "$crashes"
        grep -E -A 12 'ERROR|SUMMARY|Assertion|clipc:' "$work/log" | head -40
    fi
done
echo "$passed passed, $failed failed"
[ $failed = 0 ] && [ $passed -gt 0 ]
