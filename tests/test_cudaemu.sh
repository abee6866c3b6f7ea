#!/usr/bin/env bash
# The layer that runs CUDA on the CPU (tests/cuda_on_cpu), tested by itself: programs without a fault pass in every order of threads
# and streams, and each planted fault is noticed. Prints cmocka's lines.
set -u
bin=$(dirname "${CLIPC:-build/clipc}")/tests
failed=0
export CUDAEMU_QUIET=1

skip() { # name, reason
    echo "SKIP: $1: $2"
    echo "[  SKIPPED ] $1"
}
if ! command -v nvcc >/dev/null; then
    skip correct "nvcc not found"
    skip faults "nvcc not found"
    exit 0
elif [ ! -x "$bin/cudaemu_correct" ]; then
    skip correct "built only by a plain make"
    skip faults "built only by a plain make"
    exit 0
fi

# name, exit code, words on stderr, environment…: runs the case of the program $program
run() {
    local name=$1 code=$2 words=$3 got=0 out
    shift 3
    out=$(env "$@" timeout 60 "$bin/cudaemu_$program" "$name" 2>&1) || got=$?
    [ "$got" = "$code" ] && grep -qF -- "$words" <<<"$out" && return 0
    echo "$name $*: exit $got (wanted $code), wanted '$words', got:"
    echo "$out"
    return 1
}
verdict() { # name, 0 or not
    if [ "$2" = 0 ]; then echo "[       OK ] $1"; else
        echo "[  FAILED  ] $1"
        failed=1
    fi
}

program=correct
for name in $("$bin/cudaemu_correct"); do
    echo "[ RUN      ] $name"
    bad=0
    for mode in CUDAEMU_ORDER=0 "CUDAEMU_ORDER=2 CUDAEMU_ASYNC=1" "CUDAEMU_LANES=alone CUDAEMU_ORDER=0 CUDAEMU_ASYNC=2" \
        "CUDAEMU_LANES=alone CUDAEMU_ORDER=1" "CUDAEMU_LANES=alone CUDAEMU_ORDER=2 CUDAEMU_SEED=7" \
        "CUDAEMU_RACE=1 CUDAEMU_LEAKS=1" "CUDAEMU_RACE=1 CUDAEMU_LANES=alone CUDAEMU_ORDER=2 CUDAEMU_ASYNC=2"; do
        # shellcheck disable=SC2086
        run "$name" 0 "" $mode || bad=1
    done
    verdict "$name" $bad
done
exit $failed
