# support.sh: shared by the shell tests: a private folder, cmocka's lines, expectations of a command, training runs that
# are waited for, killed and compared. Sourced by tests/test_*.sh with the test's name: . tests/support.sh NAME
set -u
clipc=${CLIPC:-build/clipc}
bin=$(dirname "$clipc")
golden=tests/golden/openclip
# options of a run on the small model's 24 pairs
pairs=(--pretrained $golden --vocab $golden/vocab.txt --train-data $golden/pairs.tsv)
# ranks of this machine: "${mpirun[@]}" -np N COMMAND; the library itself leaks memory
mpirun=(env ASAN_OPTIONS=detect_leaks=0 mpirun -x ASAN_OPTIONS --allow-run-as-root --oversubscribe --bind-to none)
dir=$(mktemp -d "${TMPDIR:-/tmp}/$1.XXXXXX")
trap 'rm -rf "$dir"' EXIT
failed=0
# a sanitizer reserves more address space than ulimit -v or qemu-user gives
sanitized() { [[ $bin = */asan || $bin = */tsan ]]; }

check() { # name, command…: passes when the command succeeds
    local name=$1
    shift
    echo "[ RUN      ] $name"
    if "$@"; then echo "[       OK ] $name"; else
        tail -n 20 "$dir"/*err* 2>/dev/null
        echo "[  FAILED  ] $name"
        failed=1
    fi
}
skip() { # reason, names…
    local reason=$1 name
    shift
    for name in "$@"; do
        echo "SKIP: $name: $reason"
        echo "[  SKIPPED ] $name"
    done
}
# The command must exit with $1 and print $2 on stdout or stderr; both are in $dir/out.
says() {
    local code=$1 words=$2 got=0
    shift 2
    "$@" >"$dir/out" 2>&1 || got=$?
    if [ $got != "$code" ] || { [ -n "$words" ] && ! grep -qF -- "$words" "$dir/out"; }; then
        echo "exit $got (wanted $code), wanted '$words', got:"
        cat "$dir/out"
        return 1
    fi
}
# The command must exit with $1 and print $2 on stderr, within 5 lines.
refused() {
    local code=$1 words=$2 got=0
    shift 2
    "$@" >"$dir/stdout" 2>"$dir/stderr" || got=$?
    if [ $got != "$code" ] || ! grep -qF -- "$words" "$dir/stderr" || [ "$(wc -l <"$dir/stderr")" -gt 5 ]; then
        echo "exit $got (wanted $code), wanted '$words', got:"
        cat "$dir/stderr"
        return 1
    fi
}
# Runs a command without the right to write against file modes, also as root.
obeying() {
    if [ "$(id -u)" = 0 ]; then setpriv --bounding-set=-dac_override --inh-caps=-dac_override "$@"; else "$@"; fi
}

# ---- processes ----
# seconds that a loaded machine may add
slack=20
# Waits until the command succeeds; fails if process $1 ends before that, or after a minute.
await() {
    local job=$1 end=$((SECONDS + 60))
    shift
    until "$@"; do
        kill -0 "$job" 2>/dev/null && [ $SECONDS -lt $end ] || return 1
        sleep 0.005
    done
}
# Waits until process $2 ends, at most $1 seconds; its exit code is in $code.
ends() {
    local end=$((SECONDS + $1))
    while kill -0 "$2" 2>/dev/null; do
        [ $SECONDS -le $end ] || { echo "process $2 still runs after $1 s"; return 1; }
        sleep 0.02
    done
    code=0
    wait "$2" || code=$?
}
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
no_mpi() { ! command -v mpirun >/dev/null || "$clipc" train --comm mpi --dry-run --model small 2>&1 | grep -q 'no MPI'; }
no_mpi_reason="no mpirun here (or a build without MPI)"
# No process of run $1 is left. A zombie does not count: its parent is only slow to reap it.
nothing_left() {
    for _ in $(seq 40); do
        pgrep -r D,R,S,T -f "logs $dir .*--name $1" >"$dir/left" || return 0
        sleep 0.05
    done
    echo "processes are left: $(cat "$dir/left")"
    return 1
}

# ---- runs under $dir ----
lines() { wc -l 2>/dev/null <"$dir/$1/metrics.jsonl" || echo 0; }
has_lines() { [ "$(lines "$1")" -ge "$2" ]; }
losses() { sed -n 's/.*"loss": *\([0-9.e+-]*\).*/\1/p' "$dir/$1/metrics.jsonl"; }
# Two runs of $3 steps, their losses' relative difference at most $4.
near() {
    paste <(losses "$1") <(losses "$2") | awk -v steps="$3" -v most="$4" '
        { d = $1 - $2; if (d < 0) d = -d; if (NF != 2 || d > most * $1) { print "step " NR ": " $0; bad = 1 } }
        END { if (NR != steps) print NR " steps"; exit bad || NR != steps }'
}
same_metrics() { # two runs, except their speed and time
    local times='s/"\(samples_per_s\|time\)".*//'
    diff <(sed "$times" "$dir/$1/metrics.jsonl") <(sed "$times" "$dir/$2/metrics.jsonl")
}
same_state() { # two checkpoint folders, bit for bit
    cmp "$1/open_clip_model.safetensors" "$2/open_clip_model.safetensors" &&
        cmp "$1/train_state.safetensors" "$2/train_state.safetensors"
}
# Kills (-9) run $1 as soon as its log has $2 lines and resumes it; the test defines `train NAME OPTIONS…`. A run that
# finishes before the kill is repeated.
killed_and_resumed() {
    local name=$1 goal=$2 job
    shift 2
    for _ in 1 2 3 4 5; do
        rm -rf "${dir:?}/$name"
        train "$name" "$@" &
        job=$!
        await $job has_lines "$name" "$goal"
        pkill -9 -P $job
        wait $job && continue
        has_lines "$name" "$goal" && train "$name" "$@" --resume latest
        return
    done
    echo "$name was never killed in time"
    return 1
}
