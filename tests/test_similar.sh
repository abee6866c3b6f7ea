#!/usr/bin/env bash
# eval similar as a user runs it: against NumPy's float64, chosen queries, bad input. Prints cmocka's lines.
. tests/support.sh similar
files=tests/golden/probe
similar() { "$clipc" eval similar --features $files/test.npy "$@"; }
value() { grep -o "\"$1\": [-0-9.e]*" "$dir/a" | cut -d ' ' -f 2; }
near() { awk -v a="$1" -v b="$2" -v t="$3" 'BEGIN {d = a - b; exit !(d <= t && d >= -t)}'; }

numpy() { # in f32 two rows that are nearly as similar may change places
    local kind precision precision_error map map_error
    while read -r kind precision precision_error map map_error; do
        similar --labels $files/test.$kind --json >"$dir/a" && near "$(value precision)" $precision 4e-4 && near "$(value precision_error)" $precision_error 2e-5 &&
            near "$(value map)" $map 2e-6 && near "$(value map_error)" $map_error 2e-6 || { cat "$dir/a"; return 1; }
    done <$files/similar.txt
}
chosen() { # the means are those of the queries' rows
    similar --labels $files/test.digit --per-query "$dir/all.tsv" >/dev/null && [ "$(wc -l <"$dir/all.tsv")" = 301 ] &&
        printf '7\n200\n7\n' >"$dir/rows" && similar --labels $files/test.digit --queries "$dir/rows" --per-query "$dir/some.tsv" --json >"$dir/a" &&
        awk 'NR == FNR {of[$1] = $0; next} of[$1] != $0 {exit 1}' "$dir/all.tsv" "$dir/some.tsv" &&
        near "$(value map)" "$(awk 'NR > 1 {s += $3} END {print s / 3}' "$dir/some.tsv")" 1e-5 && [ "$(value queries)" = 3 ] &&
        says 0 "precision@1 " similar --labels $files/test.digit --top 1
}
alone() { # labels that one row has
    sed '1s/.*/no other/' $files/test.digit >"$dir/labels" && says 0 "299 queries among 300 rows; left out: 1 without another row of their label" similar --labels "$dir/labels" &&
        echo 0 >"$dir/rows" && says 1 "no query has another row of its label" similar --labels "$dir/labels" --queries "$dir/rows"
}
bad_input() {
    head -299 $files/test.digit >"$dir/short"
    echo 300 >"$dir/outside"
    echo x >"$dir/word"
    : >"$dir/none"
    says 2 "--labels is missing" similar && says 2 "--features is missing" "$clipc" eval similar --labels $files/test.digit &&
        says 1 "299 lines" similar --labels "$dir/short" && says 1 "'300' is no row of 300" similar --labels $files/test.digit --queries "$dir/outside" &&
        says 1 "line 1: 'x'" similar --labels $files/test.digit --queries "$dir/word" && says 1 "holds no query" similar --labels $files/test.digit --queries "$dir/none" &&
        says 1 "No such file" "$clipc" eval similar --features "$dir/none.npy" --labels $files/test.digit &&
        says 1 "" similar --labels $files/test.digit --per-query "$dir/no/folder.tsv"
}
check numpy numpy
check chosen chosen
check alone alone
check bad_input bad_input
exit $failed
