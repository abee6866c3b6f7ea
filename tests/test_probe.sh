#!/usr/bin/env bash
# eval probe as a user runs it: features of files, data with a cache, few-shot, bad input. Prints cmocka's lines.
. tests/support.sh probe
files=tests/golden/probe

from_files() { # kind of label, options
    local kind=$1
    shift
    "$clipc" eval probe --train-features $files/train.npy --train-labels $files/train.$kind \
        --test-features $files/test.npy --test-labels $files/test.$kind "$@"
}

scikit_learn() { # accuracies to 0.1 points
    local kind c want objective got
    while read -r kind c want objective; do
        got=$(from_files $kind --c $c --json | sed -E 's/.*"accuracy": ([0-9.]+).*/\1/')
        awk -v a="$got" -v b="$want" 'BEGIN {d = a - b; exit !(d <= 0.001 && d >= -0.001)}' ||
            { echo "$kind C $c: $got, scikit-learn $want ($objective)"; return 1; }
    done <$files/results.txt
}
chosen() { # C from a held-out fifth, from a validation set; neighbours beside
    says 0 "on validation" from_files digit && says 0 '"knn": {"k": 5, "accuracy": 0.9' from_files digit --knn 5 --no-linear --json &&
        ! grep -q linear "$dir/out" &&
        says 0 '"val": 300' from_files digit --val-features $files/test.npy --val-labels $files/test.digit --json
}
few_shot() { # more pictures, better; the same seeds, the same numbers; other seeds, others
    from_files digit --shots 1,4,16 --seeds 2 --c 30 --json >"$dir/a" && from_files digit --shots 1,4,16 --seeds 2 --c 30 --json | cmp - "$dir/a" || return 1
    grep -o '"shots": [0-9]*, "accuracy": [0-9.]*' "$dir/a" | awk '{if ($4 <= last) exit 1; last = $4} END {exit NR != 3}' &&
        ! from_files digit --shots 1,4,16 --seeds 2 --seed 5 --c 30 --json | cmp -s - "$dir/a" && says 0 "%" from_files digit --shots 2 --seeds 1
}
data() { # class folders; the second time from the cache, unless it is of other data
    local i
    mkdir -p "$dir/set/one" "$dir/set/two" "$dir/test/two" "$dir/test/one"
    for i in 0 1 2 3 4; do cp $golden/0$i.jpg "$dir/set/one/" && cp $golden/2$((i % 4)).jpg "$dir/set/two/$i.jpg"; done
    cp $golden/05.jpg "$dir/test/one/" && cp $golden/19.jpg "$dir/test/two/"
    says 0 "2 classes, 10 training and 2 test pictures" "$clipc" eval probe --checkpoint $golden --train "$dir/set" --test "$dir/test" --features-cache "$dir/f" --c 100 --knn 1 &&
        cp "$dir/out" "$dir/first" && [ "$(sort "$dir/f/train.labels" | uniq -c | awk '{print $1 $2}' | xargs)" = "5one 5two" ] &&
        says 0 "train.npy: 10 rows from the cache" "$clipc" eval probe --checkpoint $golden --train "$dir/set" --test "$dir/test" --features-cache "$dir/f" --c 100 --knn 1 &&
        grep -v 'from the cache' "$dir/out" | cmp - "$dir/first" &&
        says 0 "2 test pictures" "$clipc" eval probe --checkpoint $golden --train "$dir/set" --test "$dir/test/" --features-cache "$dir/f" --c 100 &&
        grep -q 'train.npy: 10 rows' "$dir/out" && ! grep -q 'test.npy: 2 rows' "$dir/out" &&
        says 0 "probe" "$clipc" eval probe --train-features "$dir/f/train.npy" --train-labels "$dir/f/train.labels" --test-features "$dir/f/test.npy" --test-labels "$dir/f/test.labels" --c 100 || return 1
    mv "$dir/test/one" "$dir/test/three"
    says 1 "class 'three' does not occur in the training set" "$clipc" eval probe --checkpoint $golden --train "$dir/set" --test "$dir/test" --c 100
}
bad_input() {
    head -n 399 $files/train.digit >"$dir/short" && sed 's/.*/a/' $files/train.digit >"$dir/one" && sed '3s/.*//' $files/train.digit >"$dir/gap"
    says 1 "has 399 lines" "$clipc" eval probe --train-features $files/train.npy --train-labels "$dir/short" --test-features $files/test.npy --test-labels $files/test.digit &&
        says 1 "line 3 is empty" "$clipc" eval probe --train-features $files/train.npy --train-labels "$dir/gap" --test-features $files/test.npy --test-labels $files/test.digit &&
        says 1 "has one class" "$clipc" eval probe --train-features $files/train.npy --train-labels "$dir/one" --test-features $files/train.npy --test-labels "$dir/one" &&
        says 1 "they are not of one model" "$clipc" eval probe --train-features $files/train.npy --train-labels $files/train.digit --test-features $golden/image_features.npy --test-labels <(seq 24) &&
        says 2 "go together" "$clipc" eval probe --train-features $files/train.npy &&
        says 2 "--shots '1,,2'" from_files digit --shots 1,,2 && says 2 "not both" from_files digit --checkpoint $golden &&
        says 2 "--test is missing" "$clipc" eval probe --checkpoint $golden --train "$dir" &&
        says 2 "leaves nothing" from_files digit --no-linear
}

check scikit_learn scikit_learn
check chosen chosen
check few_shot few_shot
check data data
check bad_input bad_input
exit $failed
