#!/usr/bin/env bash
# The `clipc data` commands as a user runs them: pack, index, check, peek. Prints cmocka's lines.
. tests/support.sh data
export XDG_CACHE_HOME=$dir/cache

table=$dir/pairs.csv
for f in jpeg-420 jpeg-422 jpeg-444 jpeg-grey jpeg-progressive jpeg-cmyk jpeg-restart; do
    cp "tests/golden/image/$f.jpg" "$dir/"
done
files=("$dir"/*.jpg)
{
    echo "filepath,title"
    for f in "${files[@]}"; do echo "$(basename "$f"),\"picture, $(basename "$f" .jpg)\""; done
} >"$table"
n=${#files[@]}

pack() {
    says 0 "$n samples in" "$clipc" data pack "$table" --out "$dir/shards/train" --shard-samples 3 &&
        [ -s "$dir/shards/train-000000.tar.idx" ] && [ -s "$dir/shards/sizes.json" ] &&
        says 1 "--force replaces it" "$clipc" data pack "$table" --out "$dir/shards/train" &&
        says 0 "\"samples\": $n" "$clipc" data pack "$table" --out "$dir/shards/train" --force --json --zstd &&
        says 0 "\"samples\": $n" "$clipc" data pack "$table" --out "$dir/shards/train" --force --json --shard-samples 3 &&
        says 2 "--out is missing" "$clipc" data pack "$table" &&
        says 1 "No such file" "$clipc" data pack "$dir/none.csv" --out "$dir/shards/x"
}
peek() {
    says 0 "train-000000.tar:000000001" "$clipc" data peek "$dir/shards" --count 2 &&
        says 0 "picture, " "$clipc" data peek "$dir/shards" --count 1 &&
        [ "$(wc -l <"$dir/out")" = 2 ] &&
        says 0 "\"key\": \"train-000001.tar:000000003\"" "$clipc" data peek "$dir/shards" --first 3 --count 1 --json &&
        says 0 "\"width\": " "$clipc" data peek "$table" --json &&
        says 2 "no data named" "$clipc" data peek
}
index() {
    rm "$dir"/shards/*.idx
    says 0 "$n usable" "$clipc" data index "$dir/shards" && [ -s "$dir/shards/train-000000.tar.idx" ] &&
        says 0 "0 indexes written" "$clipc" data index "$dir/shards" &&
        says 0 " 0 were up to date" "$clipc" data index "$dir/shards" --force &&
        touch -d '1 hour ago' "$dir/shards/train-000000.tar" &&
        says 0 " 1 indexes written" "$clipc" data index "$dir/shards" &&
        says 1 "not a .tar" "$clipc" data index "$table" &&
        head -c 700 "$dir/shards/train-000000.tar" >"$dir/cut.tar" &&
        says 0 "damaged" "$clipc" data index "$dir/cut.tar" &&
        says 0 "damaged" "$clipc" data index "$dir/cut.tar"
}
good() {
    says 0 "$n samples in" "$clipc" data check "$dir/shards" && says 0 " 0 bad" "$clipc" data check "$table"
}
# A picture whose header is whole but whose data is cut, a caption that is not UTF-8, one that is missing.
bad() {
    mkdir -p "$dir/bad"
    cp "${files[0]}" "$dir/bad/a.jpg"
    echo words >"$dir/bad/a.txt"
    head -c $(($(stat -c %s "${files[0]}") / 2)) "${files[0]}" >"$dir/bad/b.jpg"
    echo words >"$dir/bad/b.txt"
    cp "${files[0]}" "$dir/bad/c.jpg"
    printf 'w\xffrds' >"$dir/bad/c.txt"
    cp "${files[0]}" "$dir/bad/d.jpg"
    says 0 "3 samples in 1 shards" "$clipc" data pack "$dir/bad" --out "$dir/badshards/x" &&
        says 1 "2 bad" "$clipc" data check "$dir/badshards" &&
        grep -q '^x-000000.tar:000000001: ' "$dir/out" && grep -q '^x-000000.tar:000000002: .*UTF-8' "$dir/out" &&
        says 1 "1 left out" "$clipc" data check "$dir/bad" &&
        says 1 "\"bad\": 2" "$clipc" data check "$dir/badshards" --json &&
        says 0 "w?rds" "$clipc" data peek "$dir/badshards" --json
}
# On a terminal control characters of captions and names are shown as text; in a file they are unchanged.
terminal() {
    local esc csi=$'\302\233' picture
    esc=$(printf '\033') picture="a$esc.jpg"
    cp "${files[0]}" "$dir/$picture"
    { echo "filepath,title"; printf '%s,"red %s boat"\n' "$picture" "$csi"; } >"$dir/evil.csv"
    script -qec "'$clipc' data peek '$dir/evil.csv'" /dev/null >"$dir/out" </dev/null &&
        grep -qF 'a\x1b.jpg' "$dir/out" && grep -qF 'red \x9b boat' "$dir/out" && ! grep -qF "$esc" "$dir/out" &&
        "$clipc" data peek "$dir/evil.csv" >"$dir/out" && grep -qF "$picture" "$dir/out" && grep -qF "red $csi boat" "$dir/out" &&
        says 1 '\x1b' "$clipc" data peek "$dir/none$esc.csv" && ! grep -qF "$esc" "$dir/out"
}
# Folders are read to their ends, and what is no sample is named, by line, name or kind.
skipped() {
    mkdir -p "$dir/tree/a/b"
    for f in top a/one a/b/two; do cp "${files[0]}" "$dir/tree/$f.jpg" && echo words >"$dir/tree/$f.txt"; done
    cp "${files[0]}" "$dir/tree/a/bare.jpg"
    touch "$dir/tree/a/x.GIF" "$dir/tree/y.gif" "$dir/tree/a/README"
    ln -s .. "$dir/tree/a/up"
    says 0 "3 samples in 3 folders; skipped: 2 .gif, 1 folders not read (a/up), 1 without caption (a/bare.jpg), 1 without extension" \
        "$clipc" data peek "$dir/tree" && grep -q '^3 samples in 1 shards' "$dir/out" &&
        { printf 'filepath,title\n'; for i in 1 2 3 4 5 6; do printf '%s,\n' "$(basename "${files[0]}")"; done; printf ',x\n'; cat "$table" | tail -n +2; } >"$dir/gaps.csv" &&
        says 0 "$n samples; skipped: 6 without caption (line 2, line 3, line 4, line 5, line 6, ...), 1 without path (line 8)" "$clipc" data peek "$dir/gaps.csv" &&
        printf '{"image": "%s"}\n{"text": "x"}\n' "${files[0]}" >"$dir/gaps.jsonl" &&
        says 1 "no usable sample" "$clipc" data peek "$dir/gaps.jsonl" &&
        grep -q "skipped: 1 without caption (line 1), 1 without path (line 2)" "$dir/out"
}
# Lists of image files serve where images are named.
lists() {
    (cd "$dir" && printf '%s\n' jpeg-4*.jpg >pictures.txt)
    says 0 "3 samples in 1 shards" "$clipc" data peek "$dir/pictures.txt" --text-key '' &&
        says 0 "jpeg-422.jpg" "$clipc" data peek "@$dir/pictures.txt" --text-key '' &&
        "$clipc" data image "@$dir/pictures.txt" --size 8 --out "$dir/3.npy" && head -c 128 "$dir/3.npy" | grep -aq '(3, 3, 8, 8)' &&
        says 1 "$dir/none.txt" "$clipc" data image "@$dir/none.txt" --out "$dir/4.npy"
}
# A failed write is an error.
full() {
    "$clipc" data peek "$table" >/dev/full 2>"$dir/err" && return 1
    [ "$(wc -l <"$dir/err")" = 1 ] && grep -q 'standard output: No space left' "$dir/err"
}
help() {
    for c in pack index check peek; do says 0 "usage: clipc data $c" "$clipc" data $c --help || return 1; done
}

check data_pack pack
check data_peek peek
check data_index index
check data_check_good good
check data_check_bad bad
check data_skipped skipped
check data_lists lists
check data_terminal terminal
check data_full_output full
check data_help help
exit $failed
