# support.sh: what the shell tests share: a folder of their own, cmocka's lines, expectations of a command. Sourced by tests/test_*.sh
# with the test's name: . tests/support.sh NAME
set -u
clipc=${CLIPC:-build/clipc}
golden=tests/golden/openclip
dir=$(mktemp -d "${TMPDIR:-/tmp}/$1.XXXXXX")
trap 'rm -rf "$dir"' EXIT
failed=0

check() { # name, command…: passes when the command succeeds
    local name=$1
    shift
    echo "[ RUN      ] $name"
    if "$@"; then echo "[       OK ] $name"; else
        echo "[  FAILED  ] $name"
        failed=1
    fi
}
skip() { # name, reason
    echo "SKIP: $1: $2"
    echo "[  SKIPPED ] $1"
}
# The command must exit with $1 and say $2 on stdout or stderr; both are in $dir/out.
says() {
    local code=$1 words=$2 got=0
    shift 2
    "$@" >"$dir/out" 2>&1 || got=$?
    if [ $got != "$code" ] || ! grep -qF -- "$words" "$dir/out"; then
        echo "exit $got (wanted $code), wanted '$words', got:"
        cat "$dir/out"
        return 1
    fi
}
# The command must exit with $1 and say $2 on stderr, within 5 lines.
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
same_state() { # two checkpoint folders, bit for bit
    cmp "$1/open_clip_model.safetensors" "$2/open_clip_model.safetensors" &&
        cmp "$1/train_state.safetensors" "$2/train_state.safetensors"
}
# Runs a command that may not write where the modes forbid it, also where we are root.
obeying() {
    if [ "$(id -u)" = 0 ]; then setpriv --bounding-set=-dac_override --inh-caps=-dac_override "$@"; else "$@"; fi
}
