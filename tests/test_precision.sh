#!/usr/bin/env bash
# --precision auto: what is taken by the device's products, recorded, kept by a resume, and overruled; by CLIPC_CPU also as on an
# AVX2 machine. Prints cmocka's lines.
. tests/support.sh precision
export OMP_NUM_THREADS=1
emulated="no bf16 instructions"

train() { # run's name, steps, options…
    local name=$1 steps=$2
    shift 2
    "$clipc" train "${pairs[@]}" --batch-size 8 --max-steps "$steps" --save-frequency-steps 1 --logs "$dir" --name "$name" "$@" 2>"$dir/stderr"
}
with() { # run's name, precision, the start's record
    grep -q "cpu-$2 (" "$dir/stderr" && grep -qx "precision = $2" "$dir/$1/${3:-params.conf}"
}
without_bf16() {
    CLIPC_CPU=v3 train slow 1 && with slow fp32 && ! grep -q "$emulated" "$dir/stderr" &&
        CLIPC_CPU=v3 train asked 1 --precision amp_bf16 && with asked amp_bf16 && grep -q "$emulated" "$dir/stderr"
}
without_bf16_on_avx512() { # where oneDNN has such products, slower than f32's
    CLIPC_CPU=v4 train wide 1 --precision amp_bf16 && with wide amp_bf16 && grep -q "$emulated" "$dir/stderr"
}
with_bf16() { train fast 1 && with fast amp_bf16; }
resume_keeps() { # on another device than the one it began on; the record is the checkpoint's, not the folder's alone
    train slow 2 --resume latest && with slow fp32 && CLIPC_CPU=v3 train asked 2 --resume latest && with asked amp_bf16 &&
        train moved 3 --resume "$dir/slow/checkpoints/latest" && with moved fp32
}
explicit_wins() {
    train slow 3 --resume latest --precision amp_bf16 && with slow amp_bf16 params-2.conf &&
        CLIPC_CPU=v3 train slow 4 --resume latest && with slow amp_bf16 params-3.conf
}
features() { # option…
    "$clipc" embed --checkpoint $golden --images $golden/pairs.tsv --out "$dir/x.npy" "$@" 2>"$dir/stderr" && md5sum <"$dir/x.npy"
}
evaluation() { # on an AVX2 machine as well
    local fp32
    fp32=$(CLIPC_CPU=v3 features --precision fp32) && [ "$fp32" = "$(CLIPC_CPU=v3 features)" ]
}
evaluation_in_bf16() { [ "$(features --precision amp_bf16)" = "$(features)" ] && [ "$(features --precision fp32)" != "$(features)" ]; }

check without_bf16 without_bf16
if "$clipc" --version | grep -q '^instruction sets:.*v4'; then
    check without_bf16_on_avx512 without_bf16_on_avx512
else
    skip "this CPU has no AVX-512" without_bf16_on_avx512
fi
check resume_keeps resume_keeps
check explicit_wins explicit_wins
check evaluation evaluation
if "$clipc" --version | grep -qE '^in use: (v4bf16|amx)'; then
    check with_bf16 with_bf16
    check evaluation_in_bf16 evaluation_in_bf16
else
    skip "this CPU has no bf16 products" with_bf16 evaluation_in_bf16
fi
exit $failed
