#!/usr/bin/env bash
# `clipc data pack` as a user runs it: input, rejection, shrinking; killed and called again; its report and its bar.
# Prints cmocka's lines.
. tests/support.sh packing
export XDG_CACHE_HOME=$dir/cache
red=$golden/00.jpg blue=$golden/07.jpg green=$golden/03.jpg

pack() { "$clipc" data pack "$@"; }
captions() { "$clipc" data peek "$1" --json | grep -o '"caption": "[^"]*"' | cut -d'"' -f4 | paste -sd';'; }
members() { tar tf "$1" | sed 's/.*\.//' | sort | uniq -c | awk '{printf "%s%s ", $2, $1}'; }
report() { grep -o "\"$1\": [0-9]*" "$dir/out" | head -1 | grep -o '[0-9]*$'; }

jsonl() {
    mkdir -p "$dir/l/img" && cp $red "$dir/l/img/a.jpg" && cp $blue "$dir/l/img/b.jpg" || return 1
    printf '%s\n' '{"file_name": "img/a.jpg", "text": "one", "license": "CC0"}' '' '{"image": "img/b.jpg", "caption": ["two", "three"]}' \
        '{"image": "img/b.jpg", "caption": "four"}' '{"caption": "no picture"}' '{"image": "img/a.jpg", "caption": " "}' >"$dir/l/rows.jsonl"
    says 0 "3 samples in" pack "$dir/l/rows.jsonl" --out "$dir/l/out/t" --json && [ "$(report no_caption)" = 2 ] &&
        [ "$(captions "$dir/l/out")" = "one;two;four" ] && [ "$(members "$dir/l/out/t-000000.tar")" = "jpg3 json3 txt3 " ] &&
        tar xOf "$dir/l/out/t-000000.tar" 000000000.json | grep -q '"license": "CC0"' &&
        says 0 "2 samples in" pack "$dir/l/rows.jsonl" --out "$dir/l/all/t" --captions all --no-metadata &&
        [ "$(captions "$dir/l/all")" = 'one;two\nthree\nfour' ] && [ "$(members "$dir/l/all/t-000000.tar")" = "jpg2 txt2 " ] &&
        echo '[1]' >>"$dir/l/rows.jsonl" && says 1 "line 7: no JSON object" pack "$dir/l/rows.jsonl" --out "$dir/l/bad/t"
}
folders() { # with .txt and .json beside; class folders with a template
    mkdir -p "$dir/f/flat" "$dir/f/classes/red circle" "$dir/f/classes/blue" &&
        cp $red "$dir/f/flat/a.jpg" && echo "a text" >"$dir/f/flat/a.txt" && echo '{"k": 1}' >"$dir/f/flat/a.json" &&
        cp $blue "$dir/f/flat/b.jpg" && cp $red "$dir/f/classes/red circle/1.jpg" && cp $blue "$dir/f/classes/blue/1.jpg" &&
        says 0 "1 without caption" pack "$dir/f/flat" --out "$dir/f/o/flat" &&
        [ "$(members "$dir/f/o/flat-000000.tar")" = "jpg1 json1 txt1 " ] &&
        says 0 "2 samples" pack "$dir/f/classes" --out "$dir/f/o/classes" --caption-template 'a photo of a {}.' &&
        [ "$(captions "$dir/f/o/classes-000000.tar")" = "a photo of a blue.;a photo of a red circle." ] &&
        [ "$(tar xOf "$dir/f/o/classes-000000.tar" 000000001.cls)" = 1 ]
}
img2dataset() { # its folders of files, and its shards: what was not downloaded is left out
    local at=$dir/i/files
    mkdir -p "$at/00000" "$at/00001" "$dir/i/tar" && echo '{"count": 3}' >"$at/00000_stats.json" &&
        cp $red "$at/00000/000000000.jpg" && echo -n first >"$at/00000/000000000.txt" &&
        echo '{"status": "success", "url": "u", "sha256": "s"}' >"$at/00000/000000000.json" &&
        cp $blue "$at/00001/000010000.jpg" && echo -n second >"$at/00001/000010000.txt" &&
        echo '{"status": "failed_to_resize"}' >"$at/00001/000010000.json" && cp $blue "$at/00001/000010001.jpg" || return 1
    says 0 "1 samples in" pack "$at" --out "$dir/i/o/t" --json && [ "$(report not_downloaded)" = 1 ] && [ "$(report no_caption)" = 1 ] &&
        [ "$(members "$dir/i/o/t-000000.tar")" = "jpg1 json1 txt1 " ] || return 1
    tar cf "$dir/i/tar/00000.tar" -C "$at/00000" . && tar cf "$dir/i/tar/00001.tar" -C "$at/00001" . && echo x >"$dir/i/tar/00000.parquet" &&
        says 0 "1 samples in" pack "$dir/i/tar" --out "$dir/i/o/u" --json && [ "$(report not_downloaded)" = 1 ] &&
        cmp "$dir/i/o/t-000000.tar" "$dir/i/o/u-000000.tar"
}
rejects() { # by length and by content
    local tokens
    mkdir "$dir/r" && cp $red $blue $green "$dir/r/" && cp $red "$dir/r/again.jpg" || return 1
    printf 'filepath\ttitle\n00.jpg\ta red circle\n07.jpg\t äé \nagain.jpg\tthe same picture\n03.jpg\tthree words here\n' >"$dir/r/t.tsv"
    says 0 "2 samples in" pack "$dir/r/t.tsv" --out "$dir/r/o/a" --dedup --min-caption-chars 3 --json &&
        [ "$(report duplicate)" = 1 ] && [ "$(report short_caption)" = 1 ] && grep -q "again.jpg: the same picture" "$dir/out" &&
        grep -q '"from": 10, *"captions": 2' <(tr -d '\n' <"$dir/out" | tr -s ' ') &&
        says 0 "4 samples in" pack "$dir/r/t.tsv" --out "$dir/r/o/b" --min-caption-chars 2 &&
        grep -q "  10 and more  *3  ####" "$dir/out" &&
        tokens=$(echo "a red circle" | "$clipc" tok --vocab $golden/vocab.txt | wc -w) &&
        says 0 "3 samples in" pack "$dir/r/t.tsv" --out "$dir/r/o/c" --min-caption-tokens $((tokens - 1)) --vocab $golden/vocab.txt &&
        grep -q "1 with too short a caption" "$dir/out" && grep -q "a caption of $((tokens - 2)) tokens" "$dir/out"
}
sizes() { # the longer side, the shorter one; smaller pictures keep their bytes
    says 0 "some shrunk" pack $golden/pairs.tsv --out "$dir/s/a" --max-side 48 --quality 80 || return 1
    "$clipc" data peek "$dir/s/a-000000.tar" --count 24 --json | grep -o '"\(width\|height\)": [0-9]*' | awk '$2 > 48 {exit 1} {n++} END {exit n != 48}' &&
        says 0 "some shrunk" pack $golden/pairs.tsv --out "$dir/s/b" --max-side 48 --quality 30 &&
        [ "$(stat -c %s "$dir/s/b-000000.tar")" -lt "$(stat -c %s "$dir/s/a-000000.tar")" ] &&
        says 0 "24 samples" pack $golden/pairs.tsv --out "$dir/s/z1" --zstd --zstd-level 1 --no-metadata &&
        says 0 "24 samples" pack $golden/pairs.tsv --out "$dir/s/z19" --zstd --zstd-level 19 --no-metadata &&
        [ "$(stat -c %s "$dir/s/z19-000000.tar.zst")" -lt "$(stat -c %s "$dir/s/z1-000000.tar.zst")" ] &&
        says 2 "needs --zstd" pack $golden/pairs.tsv --out "$dir/s/n" --zstd-level 5
}
# 4,000 rows of 24 pictures, killed after some shards: the same command resumes and gives the same bytes
killed() {
    local options=("$dir/k/rows.tsv" --shard-samples 100 --max-side 40 --workers 2) at
    mkdir "$dir/k" && cp $golden/*.jpg "$dir/k/" || return 1
    awk -F'\t' 'NR == 1 {print; next} {row[n++] = $0} END {for (i = 0; i < 4000; i++) print row[i % n] " " i}' $golden/pairs.tsv >"$dir/k/rows.tsv"
    says 0 "4000 samples in 40 shards" pack "${options[@]}" --out "$dir/k/whole/t" --json || return 1
    cp "$dir/out" "$dir/k/report"
    for at in 3 17; do
        "$clipc" data pack "${options[@]}" --out "$dir/k/$at/t" --json >"$dir/k/log" 2>&1 &
        local job=$!
        await $job test -e "$dir/k/$at/t-$(printf %06d $at).tar.idx" || return 1
        kill -9 $job
        wait $job 2>/dev/null
        [ ! -e "$dir/k/$at/t-000039.tar" ] && [ -e "$dir/k/$at/t.progress.json" ] || return 1
        : >"$dir/k/$at/t-000007.tar.tmp.1.2" && : >"$dir/k/$at/t.progress.json.tmp.1.2"
        says 1 "other data or options" pack "${options[@]}" --quality 50 --out "$dir/k/$at/t" &&
            says 0 "going on behind" pack "${options[@]}" --out "$dir/k/$at/t" --json &&
            diff <(grep -v ^clipc "$dir/k/report") <(grep -v ^clipc "$dir/out") && diff -r -x "*.idx" "$dir/k/whole" "$dir/k/$at" || return 1
    done
    [ "$(ls -A "$dir/k/3" | wc -l)" = 82 ] && says 1 "--force replaces it" pack "${options[@]}" --out "$dir/k/3/t"
}
killed_dedup() { # pictures packed before it was killed are still known
    local options=("$dir/k/rows.tsv" --shard-samples 2 --dedup --workers 1)
    says 0 "24 samples" pack "${options[@]}" --out "$dir/d/whole/t" || return 1
    "$clipc" data pack "${options[@]}" --out "$dir/d/cut/t" >/dev/null 2>&1 &
    local job=$!
    await $job test -e "$dir/d/cut/t.progress.json"
    kill -9 $job
    wait $job 2>/dev/null
    if [ -e "$dir/d/cut/t.progress.json" ]; then
        says 0 "going on behind" pack "${options[@]}" --out "$dir/d/cut/t" || return 1
    fi
    diff -r -x "*.idx" "$dir/d/whole" "$dir/d/cut"
}
locked() { # two at once do not write the same shards
    mkdir -p "$dir/lock"
    (flock 9 && says 1 "another clipc data pack" pack $golden/pairs.tsv --out "$dir/lock/t") 9>"$dir/lock/.t.lock"
}
bar() { # on a terminal
    script -qec "'$clipc' data pack $golden/pairs.tsv --out $dir/bar/t" "$dir/typed" >/dev/null </dev/null &&
        grep -q 'packing \[##############################\] 100 %  24 packed, 0 rejected' "$dir/typed"
}

check jsonl jsonl
check folders folders
check img2dataset img2dataset
check rejects rejects
check sizes_and_quality sizes
check killed_and_called_again killed
check killed_with_dedup killed_dedup
check locked locked
if command -v script >/dev/null; then check bar bar; else skip "no script(1) here" bar; fi
exit $failed
