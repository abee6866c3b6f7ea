#!/usr/bin/env bash
# make: an up-to-date program is not rebuilt; other flags rebuild its dependents. Prints cmocka's lines.
. tests/support.sh make
program=${clipc#"$PWD/"}
bin=$(dirname "$program")
flavour=$(basename "$bin")
[ "$flavour" = build ] && flavour=release
make=(make --no-print-directory "FLAVOUR=$flavour")
tests=(make_up_to_date make_install make_other_compiler make_other_flags make_other_libraries make_other_gpu)
new=$("${make[@]}" -n "$program" | sed -n "s|^echo '\(.*\)' >$bin/c.flags\$|\1|p")
if [ -n "$new" ] && [ "$new" != "$(cat "$bin/c.flags")" ]; then
    skip "$program was built with other flags than these" "${tests[@]}" cuda_12
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

# an nvcc of CUDA 12, without sm_100: its objects are not packed, and NCCL is taken from build/cuda12; one of 13 is refused
# where 12 is requested
cuda_12() {
    local release commands
    for release in 12.4 13.0; do
        mkdir -p "$dir/$release/bin" "$dir/$release/include" && touch "$dir/$release/include/cublasLt.h" || return 1
        printf '#!/bin/sh\ncase $1 in\n--version) echo "Cuda compilation tools, release %s, V%s" ;;\n--list-gpu-code) echo sm_80 sm_90 ;;\nesac\n' \
            $release $release >"$dir/$release/bin/nvcc" && chmod +x "$dir/$release/bin/nvcc" || return 1
    done
    commands=$(make --no-print-directory -n NVCC="$dir/12.4/bin/nvcc" CUDA_HOME="$dir/12.4" V=1 build/obj/kernels/cuda/queue.o) &&
        grep -q -e '--no-compress' <<<"$commands" && grep -q 'sm_90a' <<<"$commands" && ! grep -q sm_100 <<<"$commands" || return 1
    ! make --no-print-directory -n NVCC="$dir/13.0/bin/nvcc" CUDA_HOME="$dir/13.0" V=1 build/obj/kernels/cuda/queue.o | grep -q -e '--no-compress' &&
        make --no-print-directory -n setup CUDA=12 | grep -q 'setup.sh build test cuda12$' &&
        PATH=$dir/13.0/bin:$PATH refused 1 "CUDA 12's nvcc is not on PyPI: install NVIDIA's toolkit 12" tools/fetch_cuda.sh nccl12 &&
        touch "$dir/12.4/include/nccl.h" && PATH=$dir/12.4/bin:$PATH tools/fetch_cuda.sh nccl12
}

# A prefix with a blank; recipes, models and the vocabulary are found from another folder; nothing remains.
installs() {
    local to="$dir/a b" installed
    "${make[@]}" -o build install NVCC= PREFIX="$to" >"$dir/install" 2>&1 || { cat "$dir/install"; return 1; }
    installed=$to/bin/clipc
    [ -f "$to/share/doc/clipc/LICENSE" ] && [ -f "$to/share/doc/clipc/FINETUNING.md" ] &&
        (cd "$dir" && unset CLIPC_HOME && "$installed" train --config configs/pretrain-vit-b32.conf --dry-run --batch-size 2 >"$dir/plan" &&
            grep -q "^model ViT-B-32" "$dir/plan" && "$installed" train --config configs/finetune-lora.conf --model small --dry-run >"$dir/plan" &&
            { [ -f "$to"/share/clipc/vocab/*.gz ] && echo a cat | "$installed" tok >"$dir/ids" || grep -q "vocabulary is missing" "$dir/install"; }) &&
        "${make[@]}" uninstall PREFIX="$to" >"$dir/uninstall" 2>&1 && [ -z "$(find "$to" -type f)" ]
}
check make_up_to_date up_to_date
check make_install installs
if [ "$flavour" = release ]; then check cuda_12 cuda_12; else skip "a release build alone has CUDA" cuda_12; fi
check make_other_compiler other_compiler
check make_other_flags other_flags
check make_other_libraries other_libraries
if "${make[@]}" -q "$bin/clipc-cuda" 2>/dev/null; then
    check make_other_gpu other_gpu
else
    skip "no build/clipc-cuda that is up to date" make_other_gpu
fi
exit $failed
