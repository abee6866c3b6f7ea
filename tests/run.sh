#!/usr/bin/env bash
# Runs test programs and sums up cmocka's output: tests/run.sh BUILD_DIR [NAME…]; last line "N passed, N failed, N
# skipped".
# NAME@SET runs a test with that instruction set (CLIPC_CPU); without names, the numerics run again with each set of this
# machine that a program does not choose itself.
# $CUDA_TESTED: tests with a program cuda_X if nvcc is available; otherwise they count as skipped.
# A failed test's output is shown whole, a skip's reason (a line "SKIP: …") is shown.
# TEST_JOBS=N: tests that run at a time (2). TEST_SECONDS=N: limit of each (300).
set -u
dir=$1
shift
names=("$@") absent=()
if [ ${#names[@]} = 0 ]; then
    # the same tests with the CUDA backend, on the layer without a GPU
    for f in ${CUDA_TESTED:-}; do
        if [ -x "$dir/tests/cuda_$f" ]; then names+=("cuda_$f"); else absent+=("cuda_$f"); fi
    done
    for f in tests/test_*.sh tests/test_*.c; do
        [ -e "$f" ] || continue
        f=$(basename "$f")
        names+=("${f%.c}")
    done
    sets=$("$dir/clipc" --version | sed -n 's/^instruction sets: //p')
    for set in $sets; do
        [ "$set" = "${sets##* }" ] && continue
        for f in kernels_attention kernels_embed kernels_linear kernels_loss kernels_norm kernels_optim kernels_pointwise model openclip; do
            names+=("test_$f@$set")
        done
    done
fi
log=$dir/tests/log
rm -rf "$log"
mkdir -p "$log"
export CLIPC_HOME=$PWD CLIPC="$PWD/$dir/clipc" TMPDIR=$PWD/$dir/tests/tmp
mkdir -p "$TMPDIR"
# Tests use more threads than cores: waiting threads must not spin.
export OMP_WAIT_POLICY=passive

# Runs a test and prints its line; "PASSED FAILED SKIPPED" to $log/NAME.sum.
run() {
    local name=$1 start code ms p f s
    start=$(date +%s%N)
    case $name in
    *.sh) timeout "${TEST_SECONDS:-300}" bash "tests/$name" >"$log/$name" 2>&1 ;;
    *@*) CLIPC_CPU=${name#*@} timeout "${TEST_SECONDS:-300}" "$dir/tests/${name%@*}" >"$log/$name" 2>&1 ;;
    *) timeout "${TEST_SECONDS:-300}" "$dir/tests/$name" >"$log/$name" 2>&1 ;;
    esac
    code=$?
    ms=$((($(date +%s%N) - start) / 1000000))
    p=$(grep -c '^\[       OK \]' "$log/$name")
    # cmocka lists failed and skipped tests a second time at its end
    f=$(grep '^\[  FAILED  \] [A-Za-z_]' "$log/$name" | sort -u | wc -l)
    s=$(grep '^\[  SKIPPED \] [A-Za-z_]' "$log/$name" | sort -u | wc -l)
    if [ $code -ne 0 ] && [ "$f" = 0 ]; then f=1; fi
    if [ $code -eq 0 ] && [ $((p + s)) = 0 ]; then
        echo "$name ran no test" >>"$log/$name"
        f=1
    fi
    {
        printf '%-28s %4d passed %3d failed %3d skipped %7d ms\n' "$name" "$p" "$f" "$s" "$ms"
        grep '^SKIP: ' "$log/$name" | sort -u
        if [ "$f" != 0 ]; then tail -n 60 "$log/$name"; fi
    } >"$log/$name.lines"
    cat "$log/$name.lines" # one write
    echo "$p $f $s" >"$log/$name.sum"
}

for name in "${names[@]}"; do
    while [ "$(jobs -rp | wc -l)" -ge "${TEST_JOBS:-2}" ]; do wait -n; done
    run "$name" &
done
wait
for name in "${absent[@]}"; do
    echo "SKIP: $name: built by a plain make where nvcc is (make setup CUDA=1)"
done
rm -rf "$TMPDIR"
missing=0
for name in "${names[@]}"; do
    [ -s "$log/$name.sum" ] || { echo "$name did not end"; missing=$((missing + 1)); }
done
cat "$log"/*.sum | awk -v absent=${#absent[@]} -v missing=$missing '
    { p += $1; f += $2; s += $3 }
    END { f += missing; printf "%d passed, %d failed, %d skipped\n", p, f, s + absent; exit f > 0 }'
