#!/usr/bin/env bash
# eval retrieval as a user runs it: several captions a picture, features of files. Prints cmocka's lines.
. tests/support.sh retrieval
files=tests/golden/retrieval

retrieval() { # of the small model
    "$clipc" eval retrieval --checkpoint $golden --vocab $golden/vocab.txt "$@"
}
from_files() {
    "$clipc" eval retrieval --image-features $files/images.npy --text-features $files/texts.npy "$@"
}
value() { # direction, name: out of $dir/out
    sed -E "s/.*\"$1\": \{[^}]*\"$2\": ([0-9.e+-]+).*/\1/" "$dir/out"
}

clip_benchmark() { # the recalls that its own functions gave
    # chance: 1 - C(M - c, k) / C(M, k), the mean over pictures of c of M captions
    says 0 "chance, to text     1.67    8.05   15.43       60.3           54" from_files --image-of $files/image_of.txt &&
        grep -q "chance, to image    1.67    8.33   16.67       30.5           30" "$dir/out" || return 1
    from_files --image-of $files/image_of.txt --json >"$dir/out" || return 1
    local direction name want
    while read -r direction name want; do
        awk -v a="$(value "$direction" "$name")" -v b="$want" 'BEGIN {exit !(a - b < 1e-6 && b - a < 1e-6)}' ||
            { echo "$direction $name: $(value "$direction" "$name"), wanted $want"; return 1; }
    done <$files/recalls.txt
}
grouped() { # the same pictures and captions in four forms; a picture that cannot be read takes its captions along
    local i
    mkdir -p "$dir/set" && printf 'filepath\ttitle\n' >"$dir/set/two.tsv" && printf '{"images": [' >"$dir/set/two.json"
    for i in 0 1 2 3 4 5 6 7 8 9; do
        cp $golden/0$i.jpg "$dir/set/"
        printf '0%s.jpg\ta picture of %s\n0%s.jpg\tthe number %s\n' $i $i $i $i >>"$dir/set/two.tsv"
        printf 'a picture of %s\n\nthe number %s\n' $i $i >"$dir/set/0$i.txt"
        printf '%s{"filename": "0%s.jpg", "split": "test", "sentences": [{"raw": "a picture of %s"}, {"raw": "the number %s"}]}' \
            "$([ $i = 0 ] || echo ,)" $i $i $i >>"$dir/set/two.json"
    done
    printf ']}' >>"$dir/set/two.json"
    (cd "$dir/set" && tar cf ../two.tar --sort=name --exclude=two.* .)
    retrieval --data "$dir/set/two.tsv" --json | sed 's/, "rank_seconds.*//' >"$dir/tsv"
    retrieval --data "$dir/set/two.json" --json | sed 's/, "rank_seconds.*//' >"$dir/json"
    retrieval --data "$dir/set" --caption-lines --json | sed 's/, "rank_seconds.*//' >"$dir/folder"
    retrieval --data "$dir/two.tar" --cache-dir "$dir/cache" --caption-lines --json | sed 's/, "rank_seconds.*//' >"$dir/tar"
    grep -q '"images": 10, "captions": 20, "bad": 0' "$dir/tsv" && cmp "$dir/tsv" "$dir/json" && cmp "$dir/tsv" "$dir/folder" &&
        cmp "$dir/tsv" "$dir/tar" && says 0 "10 pairs" retrieval --data "$dir/set/two.json" --captions-per-image 1 &&
        says 0 "chance, to text" retrieval --data "$dir/set/two.json" || return 1
    rm "$dir/set/03.jpg"
    says 0 '"images": 9, "captions": 18, "bad": 1' retrieval --data "$dir/set/two.json" --json &&
        says 1 "no caption in the split \"val\"; there are: test" retrieval --data "$dir/set/two.json" --split val &&
        says 1 "no picture can be read (--image-root" retrieval --data "$dir/set/two.json" --image-root "$dir/none"
}
same_as_embedded() { # features that embed wrote, f32 or f16, give the ranks of the data itself
    tail -n +2 $golden/pairs.tsv | cut -f 2 >"$dir/captions.txt"
    "$clipc" embed --checkpoint $golden --images $golden/pairs.tsv --out "$dir/x.npy" 2>/dev/null &&
        "$clipc" embed --checkpoint $golden --vocab $golden/vocab.txt --text "$dir/captions.txt" --out "$dir/y.npy" 2>/dev/null || return 1
    retrieval --data $golden/pairs.tsv --json | sed 's/, "rank_seconds.*//' >"$dir/a"
    "$clipc" eval retrieval --image-features "$dir/x.npy" --text-features "$dir/y.npy" --json | sed 's/, "rank_seconds.*//' >"$dir/b"
    grep -q '"pairs": 24' "$dir/a" && cmp "$dir/a" "$dir/b"
}
bad_input() {
    says 1 "60 pictures and 228 captions: say with --image-of" from_files &&
        says 2 "go together" "$clipc" eval retrieval --image-features $files/images.npy &&
        says 2 "not both" from_files --data x.json &&
        says 1 "rows of 16" "$clipc" eval retrieval --image-features $files/images.npy --text-features $golden/text_features.npy &&
        says 1 "No such file" "$clipc" eval retrieval --image-features "$dir/no.npy" --text-features $files/texts.npy || return 1
    sed '$d' $files/image_of.txt >"$dir/short" && sed 's/^7$/60/' $files/image_of.txt >"$dir/far" && sed 's/^7$/8/' $files/image_of.txt >"$dir/gap"
    says 1 "has 227 lines, there are 228 captions" from_files --image-of "$dir/short" &&
        says 1 "'60' is no row of 60 pictures" from_files --image-of "$dir/far" &&
        says 1 "picture 7 (from 0) has no caption" from_files --image-of "$dir/gap"
}

check clip_benchmark clip_benchmark
check grouped grouped
check same_as_embedded same_as_embedded
check bad_input bad_input
exit $failed
