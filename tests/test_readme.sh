#!/usr/bin/env bash
# Runs README.md's `sh` blocks from top to bottom, in one shell and a separate folder, as a reader pastes them. A
# block's output must equal the next fence, if only blank lines are between: a `text` fence exactly; a fence without a
# name except its numbers (all numbers, bars, runs of blanks and instruction sets are equal, and notes on the machine's
# instructions are skipped). Prints cmocka's lines.
. tests/support.sh readme
export OMP_NUM_THREADS=2 XDG_CACHE_HOME=$dir/cache

# N.sh, and N.text or N.shape: block N (the number of its first line) and the output shown for it
awk -v dir="$dir" '
    /^```/ && !fence {
        fence = 1
        kind = substr($0, 4)
        if (kind == "sh") { block = NR + 1; file = dir "/" block ".sh" }
        else if (block && (kind == "" || kind == "text")) { file = dir "/" block (kind == "" ? ".shape" : ".text"); block = 0 }
        else { file = ""; block = 0 }
        if (file) printf "" >file
        next
    }
    /^```/ { fence = 0; if (file) close(file); next }
    fence && file { print >file }
    !fence && /[^ ]/ { block = 0 }' README.md

mkdir -p "$dir/repository/build"
for part in README.md configs tests tools; do ln -s "$PWD/$part" "$dir/repository/"; done
ln -s "$(realpath "$clipc")" "$dir/repository/build/clipc"
blocks=$(cd "$dir" && ls ./*.sh | tr -dc '0-9\n' | sort -n)
{
    echo "cd $dir/repository"
    for n in $blocks; do echo ". $dir/$n.sh >$dir/$n.got 2>&1; echo >$dir/$n.done"; done
} >"$dir/all"

# numbers, their signs with them (a cosine near 0 has either on different CPUs), and bars as one letter
shape() {
    sed -E -e '/bf16 instructions/d' -e 's/cpu-[a-z0-9_]+( \([a-z0-9]+\))?/cpu-P/' -e 's/(([ (:])-)?[0-9]+([.:][0-9]+)*(e[-+]?[0-9]+)?/\2N/g' -e 's/#+/#/g' -e 's/ +/ /g' -e 's/ETA \?/ETA N/' "$1"
}
block() {
    [ -e "$dir/$1.done" ] || { cat "$dir/$1.sh" "$dir/$1.got" 2>/dev/null; return 1; }
    if [ -e "$dir/$1.text" ]; then diff "$dir/$1.text" "$dir/$1.got"; fi &&
        if [ -e "$dir/$1.shape" ]; then diff <(shape "$dir/$1.shape") <(shape "$dir/$1.got"); fi
}

if echo a cat | "$clipc" tok >/dev/null 2>&1; then
    bash -e -o pipefail "$dir/all"
    for n in $blocks; do check "block_of_line_$n" block "$n"; done
else
    skip "CLIP's vocabulary is not here (make setup)" blocks
fi
exit $failed
