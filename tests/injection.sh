#!/usr/bin/env bash
# Every call of a command that takes memory, changes or reads a file fails once (tests/injection.c), and afterwards: one
# line on stderr and exit 1, or what the undisturbed command writes and exit 0; nothing lost that was there; the same
# command again succeeds with the same bits and leaves no unfinished file.
# tests/injection.sh [EVERY_WRITE EVERY_ALLOC EVERY_READ [COMMAND…]]: every n-th place of each kind of each command.
# `make faults`: all. FAULTS="read stale": only these faults; PIECE=K/N: every N-th of the places, from K (0 … N-1) on.
. tests/support.sh injection
export OMP_NUM_THREADS=1 ASAN_OPTIONS=detect_leaks=0
program=$bin/tests/clipc-injected
declare -A every=([write]=${1:-1} [alloc]=${2:-1} [read]=${3:-1} [stale]=${3:-1} [short]=${3:-1}) places
shift $(($# < 3 ? $# : 3))
commands=("$@")
[ ${#commands[@]} != 0 ] || commands=(train resume pack embed convert search)
jobs=${JOBS:-$(OMP_NUM_THREADS='' nproc)} faults=${FAULTS:-write alloc read stale short} piece=${PIECE:-0/1}

# ---- the commands, in the folder of a run. start_X: what is there before. run_X: the command. whole_X: what was there
# is whole. result_X: what the command must have written, as lines. ----

golden=$PWD/$golden clipc=$(realpath "$clipc") program=$(realpath "$program")
pairs=(--pretrained $golden --vocab $golden/vocab.txt --train-data $golden/pairs.tsv)
printf '%s\n' 'val-data = '$golden/pairs.tsv 'batch-size = 8' 'save-frequency-steps = 2' 'keep-checkpoints = 1' 'precision = fp32' >"$dir/recipe"
# Indexes, logs and pages hold times: their names only. A lock that stays is one without an owner.
hashes() {
    find . -type f ! -name '*.idx' ! -name '*.stamps' ! -name '*.json' ! -name '*.jsonl' ! -name '*events*' ! -name '*lock' ! -name '*.conf' ! -name '*.html' -exec sha1sum {} + | sort -k 2
    find . -name '*.idx' -o -name '*.stamps' -o -name '*.json' -o -name '*.jsonl' -o -name '*.html' -o -type l -o -type d | sort
}

train() {
    "$program" train --config "$dir/recipe" "${pairs[@]}" --workers 1 --warmup 3 --lr 1e-3 --ema 0.5 --logs . --name run --resume latest "$@"
}
start_train() { :; }
run_train() { train --epochs 1; }
whole_train() { :; }
result_train() {
    hashes
    sed "s|$PWD|.|" run/*.conf
    sed 's/"\(samples_per_s\|time\)".*//' run/metrics.jsonl
}
start_resume() { run_train; }
run_resume() { train --epochs 2; }
whole_resume() { diff -r "$start/run/checkpoints/epoch_1" run/checkpoints/epoch_1 && [ -s run/params.conf ]; }
result_resume() { result_train; }

pack() { "$program" data pack $golden/pairs.tsv --workers 1 "$@"; }
start_pack() { pack --out other --shard-samples 24 && pack --out t --shard-samples 6 --zstd; }
run_pack() { pack --out t --shard-samples 10 --force --dedup; }
whole_pack() { cmp "$start/other-000000.tar" other-000000.tar && grep -q '"other-000000.tar"' sizes.json; }
result_pack() {
    hashes
    cat sizes.json
}

start_embed() {
    mkdir ../pictures && cp $golden/0*.jpg ../pictures && touch -d '1 hour ago' ../pictures/* && run_embed &&
        cp $golden/1*.jpg ../pictures && touch -d '1 hour ago' ../pictures/*
}
run_embed() { "$program" embed --checkpoint $golden --precision fp32 --images "$walk/pictures" --index index; }
whole_embed() { "$program" index check index 2>&1 | grep -E '(10|20) pictures'; }
result_embed() { hashes; }

start_convert() { :; }
run_convert() { [ -e hf ] || "$program" ckpt convert $golden --vocab $golden/vocab.txt --to hf --out hf; }
whole_convert() { [ ! -e hf ] || diff -r "$clean/hf" hf; }
result_convert() {
    hashes
    cat hf/*.json
}

start_search() { "$program" embed --checkpoint $golden --precision fp32 --images $golden --index index; }
run_search() { "$program" search index --checkpoint $golden --vocab $golden/vocab.txt --precision fp32 --texts 'a red circle' --image $golden/12.jpg --html hits.html >hits; }
whole_search() { "$program" index check index && diff -r "$start/index" index; }
result_search() {
    hashes
    cat hits
    sed 's|; [0-9-]* [0-9:]*</|</|' hits.html | sha1sum
}

# ---- a walk ----

# Place $2 of kind $1 fails; $3: the job.
walk_place() (
    spec="$1 $2" code=0 work=$walk/work_$3 files=$walk/job_$3
    rm -rf "$work" "$files" && cp -a "$start" "$work" && mkdir "$files" && cd "$work" || return
    wrong() {
        echo "$command: $spec ($(sed -n 's/^failed //p' "$files/report" | head -n 1)), exit $code: $1"
        grep -vxFf "$walk/err" "$files/err" | sed 's/^/    /' | tail -n 4
        echo >>"$walk/failed"
    }
    CLIPC_FAULT=$spec CLIPC_FAULT_REPORT=$files/report "run_$command" >"$files/out" 2>"$files/err" || code=$?
    grep -q ^failed "$files/report" || return # threads met fewer places than before
    echo >>"$walk/walked_$3"
    lines=$(grep -vxFf "$walk/err" "$files/err" | grep -cv '^step ')
    if [ $code -gt 1 ]; then
        wrong "an undocumented exit code"
    elif [ $code = 1 ] && [ "$lines" != 1 ]; then
        wrong "$lines lines"
    fi
    "whole_$command" >"$files/diff" 2>&1 || wrong "what was there is not whole: $(head -n 3 "$files/diff")"
    if [ $code = 0 ] && ! "result_$command" 2>&1 | diff "$walk/result" - >"$files/diff"; then
        wrong "another result: $(head -n 4 "$files/diff")"
    fi
    "run_$command" >"$files/out" 2>"$files/again" || wrong "the next run fails: $(tail -n 1 "$files/again")"
    "result_$command" 2>&1 | diff "$walk/result" - >"$files/diff" || wrong "the next run's result differs: $(head -n 4 "$files/diff")"
)

walk_job() { # its number
    local i=0 n fault
    for fault in $faults; do
        for ((n = 1 + every[$fault] / 2; n <= places[$fault]; n += every[$fault])); do
            [ $((i % jobs)) != "$1" ] || [ $((i / jobs % ${piece#*/})) != "${piece%/*}" ] || walk_place $fault $n "$1"
            i=$((i + 1))
        done
    done
}

walk() {
    command=$1 walk=$dir/$1
    start=$walk/start clean=$walk/clean
    mkdir -p "$start"
    (cd "$start" && "start_$command") >"$dir/out" 2>"$dir/err" && cp -a "$start" "$clean" || return 1
    (cd "$clean" && CLIPC_FAULT_REPORT=$walk/report "run_$command" && "result_$command" >"$walk/result") >"$dir/out" 2>"$walk/err" || return 1
    read -r _ places[alloc] _ places[write] _ places[read] _ places[short] < <(tail -n 1 "$walk/report")
    places[stale]=${places[read]}
    for ((j = 0; j < jobs; j++)); do walk_job $j & done
    wait
    walked=$(cat "$walk"/walked_* 2>/dev/null | wc -l)
    echo "$command: ${places[write]:-0} writes, ${places[alloc]:-0} allocations, ${places[read]:-0} reads," \
        "${places[short]:-0} that may be short; $walked walked"
    [ "$walked" -gt 0 ] && [ ! -e "$walk/failed" ]
}

for command in "${commands[@]}"; do check "$command" walk "$command"; done
exit $failed
