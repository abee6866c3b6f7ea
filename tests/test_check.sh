#!/usr/bin/env bash
# `clipc data check` as a user runs it: errors, counts and exit codes. Prints cmocka's lines.
. tests/support.sh check
export XDG_CACHE_HOME=$dir/cache
number() { grep -o "\"$1\": [0-9]*" "$dir/out" | grep -o '[0-9]*$'; }
inspect() { "$clipc" data check --vocab $golden/vocab.txt "$@"; }

clean() {
    says 0 "24 samples in 1 shards: 0 bad; 0 left out" inspect $golden/pairs.tsv && [ "$(wc -l <"$dir/out")" = 1 ] &&
        says 0 '"samples": 24' inspect $golden/pairs.tsv --json && [ "$(number bad)$(number duplicates)$(number damaged_shards)" = 000 ]
}
duplicates() { # listed; a problem where they should be unique
    mkdir "$dir/d" && cp $golden/00.jpg "$dir/d/a.jpg" && cp $golden/07.jpg "$dir/d/b.jpg" && cp $golden/00.jpg "$dir/d/c.jpg" || return 1
    for f in a b c; do echo "a picture" >"$dir/d/$f.txt"; done
    says 0 "/d/c.jpg: the same picture as $dir/d/a.jpg" inspect "$dir/d" && grep -q "1 pictures there twice" "$dir/out" &&
        says 1 "1 pictures there twice" inspect "$dir/d" --unique && says 1 '"duplicates": 1' inspect "$dir/d" --unique --json --workers 1 &&
        [ "$(number bad)" = 0 ]
}
captions() { # not UTF-8; nothing but what cleaning removes; longer than the context
    printf 'filepath\ttitle\n00.jpg\tw\xffrds\n03.jpg\ta picture of a red circle\n07.jpg\t&nbsp;\n' >"$dir/t.tsv"
    cp $golden/0[037].jpg "$dir/"
    says 1 "00.jpg: its caption is not UTF-8" inspect "$dir/t.tsv" && grep -q "07.jpg: its caption has no tokens" "$dir/out" &&
        grep -q "0 captions of more than 77" "$dir/out" && says 1 "1 captions of more than 3 tokens" inspect "$dir/t.tsv" --context-length 3 &&
        mkdir "$dir/bin" && cp "$clipc" "$dir/bin/" && # where there is no vocabulary
        says 1 " 1 bad" env -u CLIPC_HOME CLIPC_VOCAB= "$dir/bin/clipc" data check "$dir/t.tsv" &&
        grep -q "UTF-8 alone" "$dir/out"
}
damage() { # a shard that is cut, a picture that is
    "$clipc" data pack $golden/pairs.tsv --out "$dir/s/t" --shard-samples 12 2>/dev/null && rm "$dir"/s/*.idx || return 1
    truncate -s 9000 "$dir/s/t-000001.tar"
    says 1 "1 shards damaged" inspect "$dir/s" && says 1 '"damaged_shards": 1' inspect "$dir/s" --json && [ "$(number bad)" = 0 ] &&
        [ "$(number samples)" -gt 12 ] && [ "$(number samples)" -lt 24 ] || return 1
    mkdir "$dir/p" && head -c 900 $golden/00.jpg >"$dir/p/a.jpg" && echo words >"$dir/p/a.txt" &&
        says 1 "p/a.jpg: " inspect "$dir/p" && says 2 "no data named" inspect && says 1 "No such file" inspect "$dir/none.tsv"
}

check clean clean
check duplicates duplicates
check captions captions
check damage damage
exit $failed
