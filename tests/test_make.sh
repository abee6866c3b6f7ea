#!/usr/bin/env bash
# make: an up-to-date program is not rebuilt; other flags rebuild its dependents. Prints cmocka's lines.
. tests/support.sh make
program=${clipc#"$PWD/"}
bin=$(dirname "$program")
flavour=$(basename "$bin")
[ "$flavour" = build ] && flavour=release
make=(make --no-print-directory "FLAVOUR=$flavour")
tests=(make_up_to_date make_other_compiler make_other_flags make_other_libraries make_other_gpu)
new=$("${make[@]}" -n "$program" | sed -n "s|^echo '\(.*\)' >$bin/c.flags\$|\1|p")
if [ -n "$new" ] && [ "$new" != "$(cat "$bin/c.flags")" ]; then
    skip "$program was built with other flags than these" "${tests[@]}"
    exit 0
fi

up_to_date() { "${make[@]}" -q "$program"; }
count() { # word, target and flags: so many of its commands would run
    local word=$1
    shift
    "${make[@]}" -n "$@" | grep -c "^echo '  $word "
}
other_compiler() {
    local objects
    objects=$(find kernels data train eval tools -maxdepth 2 -name '*.c' ! -path 'kernels/cuda/*' | wc -l)
    [ "$(count CC "$program" CC=other-cc)" -ge "$objects" ] && [ "$(count LINK "$program" CC=other-cc)" = 1 ]
}
other_flags() { [ "$(count CC "$program" OPENMP=)" -gt 100 ]; }
other_libraries() { [ "$(count CC "$program" LDLIBS=-lm)" = 0 ] && [ "$(count LINK "$program" LDLIBS=-lm)" = 1 ]; }
other_gpu() { [ "$(count NVCC "$bin/clipc-cuda" CUDA_ARCHS=75)" -gt 10 ] && [ "$(count CC "$bin/clipc-cuda" CUDA_ARCHS=75)" -lt 5 ]; }

check make_up_to_date up_to_date
check make_other_compiler other_compiler
check make_other_flags other_flags
check make_other_libraries other_libraries
if "${make[@]}" -q "$bin/clipc-cuda" 2>/dev/null; then
    check make_other_gpu other_gpu
else
    skip "no build/clipc-cuda that is up to date" make_other_gpu
fi
exit $failed
