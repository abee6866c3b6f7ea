#!/usr/bin/env bash
# The four tools of compute-sanitizer over programs that run on a GPU: tests/sanitize.sh PROGRAM…
set -u
tool=${COMPUTE_SANITIZER:-$(command -v compute-sanitizer || true)}
if [ -z "$tool" ]; then
    echo "SKIP: compute-sanitizer is not installed (it comes with the CUDA toolkit; PyPI nvidia-cuda-sanitizer-api)"
    exit 0
fi
failed=0
for check in memcheck racecheck initcheck synccheck; do
    for program in "$@"; do
        # the test of running out of memory is meant to see a failed call
        if "$tool" --tool $check --error-exitcode 9 --report-api-errors no "$program" >"$program.$check.log" 2>&1; then
            echo "$check $(basename "$program"): ok"
        else
            echo "$check $(basename "$program"): see $program.$check.log"
            failed=1
        fi
    done
done
exit $failed
