#!/usr/bin/env bash
# The four tools of compute-sanitizer over programs that run on a GPU: tests/sanitize.sh PROGRAM…
# $COMPUTE_SANITIZER: a program other than PATH's or build/cuda's; $JOBS: concurrent programs (default 4). A program may
# take 15 minutes.
set -u
nvcc=$(command -v nvcc || true)
tool=${COMPUTE_SANITIZER:-}
for candidate in "$(command -v compute-sanitizer || true)" "${nvcc:+$(dirname "$(readlink -f "$nvcc")")/compute-sanitizer}" build/cuda/bin/compute-sanitizer; do
    if [ -z "$tool" ] && [ -n "$candidate" ] && [ -x "$candidate" ]; then tool=$candidate; fi
done
if [ -z "$tool" ]; then
    echo "SKIP: compute-sanitizer is not installed (it comes with the CUDA toolkit; PyPI nvidia-cuda-sanitizer-api)"
    exit 0
fi
# errors inside cuBLAS are not ours; memcheck covers its accesses to our memory
library=()
for name in cutlass xmma gemm gemv cublas nvjet splitK; do library+=(--kernel-name-exclude "kns=$name"); done

# Memory that cuBLAS has written by bulk copies may count as never written: initcheck leaves out the programs whose
# kernels read such memory (a bias gradient summed beside its product).
reads_products=" gpu_kernels_linear "

one() { # check, program
    local log=$2.$1.log options=(--tool "$1" --error-exitcode 9) start=$SECONDS code=0
    if [ "$1" = initcheck ] && [[ $reads_products == *" $(basename "$2") "* ]]; then
        echo "SKIP: initcheck $(basename "$2"): it reads what cuBLAS has written"
        return 0
    fi
    # the test of running out of memory expects a failed call
    if [ "$1" = memcheck ]; then options+=(--report-api-errors no); else options+=("${library[@]}"); fi
    timeout 900 "$tool" "${options[@]}" "$2" >"$log" 2>&1 || code=$?
    if [ $code = 0 ]; then
        echo "$1 $(basename "$2"): ok ($((SECONDS - start)) s)"
    else
        echo "$1 $(basename "$2"): exit $code, see $log"
        grep -m 5 '=========' "$log"
        return 1
    fi
}
failed=0 running=0
for check in memcheck racecheck initcheck synccheck; do
    for program in "$@"; do
        if [ $running -ge "${JOBS:-4}" ]; then
            wait -n || failed=1
            running=$((running - 1))
        fi
        one $check "$program" &
        running=$((running + 1))
    done
done
while [ $running -gt 0 ]; do
    wait -n || failed=1
    running=$((running - 1))
done
exit $failed
