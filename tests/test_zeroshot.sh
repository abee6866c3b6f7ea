#!/usr/bin/env bash
# `clipc eval zeroshot` as a user runs it: every way to store labelled pictures, on one and three ranks, and refusals.
# Prints cmocka's lines.
. tests/support.sh zeroshot
home=$PWD
export XDG_CACHE_HOME=$dir/cache

zeroshot() {
    "$clipc" eval zeroshot --checkpoint $golden --vocab $golden/vocab.txt --precision fp32 --classes "$dir/classes.json" "$@"
}
# Everything except speed.
numbers() { # name, options
    local name=$1
    shift
    zeroshot "$@" --json >"$dir/raw" || return 1
    sed 's/, "images_per_s": [^,]*//' "$dir/raw" >"$dir/$name.json"
}
same_as_table() { # the same pictures and labels, stored in another way
    numbers other --data "$@" && cmp "$dir/table.json" "$dir/other.json"
}

colours=(red green blue yellow black white orange purple)
cat >"$dir/classes.json" <<'J'
{"classes": ["red", "green", "blue", "yellow", "black", "white", "orange", "purple"],
 "folders": ["n03", "n04", "n01", "n02", "n08", "n07", "n06", "n05"],
 "templates": ["a {} circle.", "The {} square on grey."]}
J
synsets=(n03 n04 n01 n02 n08 n07 n06 n05)
printf 'filepath\tclass\n' >"$dir/table.tsv"
printf 'where,what\n' >"$dir/table.csv"
mkdir "$dir/shards"
for i in $(seq 0 23); do
    p=$golden/$(printf %02d.jpg "$i") c=$((i / 3)) k=$(printf '%s/shards/%02d' "$dir" "$i")
    for set in name:${colours[c]^} synset:${synsets[c]} number:$(printf %04d $c); do
        mkdir -p "$dir/${set/://}" && cp "$p" "$dir/${set/://}/"
    done
    printf '%s\t%s\n' "$PWD/$p" "${colours[c]}" >>"$dir/table.tsv"
    printf '%s,%s\n' "$PWD/$p" "$c" >>"$dir/table.csv"
    cp "$p" "$k.jpg"
    echo "$c" >"$k.cls"
    echo "${synsets[c]}" >"$k.name"
    printf '{"meta": {"label": %d}, "class": "%s"}' $c "${colours[c]}" >"$k.json"
done
(cd "$dir/shards" && tar cf ../set.tar --sort=name --owner=0 --group=0 .)

table() {
    numbers table --data "$dir/table.tsv" && grep -q '"images": 24, "bad": 0, "unlabelled": 0, "classes": 8, "occurring_classes": 8' "$dir/table.json" &&
        same_as_table "$dir/table.csv" --csv-img-key where --csv-label-key what
}
shards() {
    same_as_table "$dir/set.tar" && same_as_table "$dir/set.tar" --label-key name && same_as_table "$dir/set.tar" --label-key json.class &&
        same_as_table "$dir/set.tar" --label-key 'none;json.meta.label'
}
# folders are read in their own order: the sums are the same, and so are the classes' numbers
folders() {
    local want got way
    want=$(grep -o '"per_class": \[.*\]' "$dir/table.json")
    for way in name synset number; do
        numbers "$way" --data "$dir/$way" || return 1
        got=$(grep -o '"per_class": \[.*\]' "$dir/$way.json")
        [ "$want" = "$got" ] || { echo "$way: $got"; return 1; }
    done
}
some_folders() { # half of the classes, the rest is still chosen from
    mkdir "$dir/some" && cp -r "$dir"/synset/n0[5-8] "$dir/some/" && numbers some --data "$dir/some" &&
        grep -q '"images": 12, "bad": 0, "unlabelled": 0, "classes": 8, "occurring_classes": 4' "$dir/some.json" || return 1
    local line
    grep -q '"class": "purple", "index": 7, "images": 3, "recall": [01]' "$dir/some.json" || return 1
    for line in purple orange white black; do
        [ "$(grep -o "\"class\": \"$line\", \"index\": [0-9], \"images\": 3, \"recall\": [0-9.]*" "$dir/some.json")" = \
            "$(grep -o "\"class\": \"$line\", \"index\": [0-9], \"images\": 3, \"recall\": [0-9.]*" "$dir/table.json")" ] || return 1
    done
}
ranks() {
    "${mpirun[@]}" -np 3 env OMP_NUM_THREADS=1 "$clipc" eval zeroshot --checkpoint $golden --vocab $golden/vocab.txt --precision fp32 --batch-size 5 \
        --classes "$dir/classes.json" --data "$dir/table.tsv" --per-template --json 2>"$dir/err" |
        sed 's/, "images_per_s": [^,]*//' >"$dir/three.json"
    numbers one --data "$dir/table.tsv" --per-template --batch-size 5 && cmp "$dir/one.json" "$dir/three.json" || { cat "$dir/err"; return 1; }
}
ranks_cached() { # two ranks get what rank 0 reads, and one of two writes it; the same bits
    local both=("${mpirun[@]}" -np 2 env OMP_NUM_THREADS=1 "$clipc" eval zeroshot --checkpoint $golden --vocab $golden/vocab.txt --precision fp32
        --classes "$dir/classes.json" --data "$dir/table.tsv" --json --cache-dir "$dir/shared")
    mkdir -m 700 "$dir/shared"
    for run in write read; do
        "${both[@]}" 2>"$dir/err" | sed 's/, "images_per_s": [^,]*//' >"$dir/both_$run.json"
    done
    numbers alone --data "$dir/table.tsv" --no-cache && cmp "$dir/alone.json" "$dir/both_write.json" && cmp "$dir/alone.json" "$dir/both_read.json" &&
        [ "$(grep -c "classifier: $dir/shared/" "$dir/err")" = 1 ] && numbers after --data "$dir/table.tsv" --cache-dir "$dir/shared" 2>"$dir/err" &&
        grep -q "classifier: $dir/shared/" "$dir/err" && cmp "$dir/alone.json" "$dir/after.json"
}
unreadable() { # left out and counted
    cp -r "$dir/name" "$dir/broken" && echo no >"$dir/broken/Red/00.jpg" && numbers broken --data "$dir/broken" 2>"$dir/err" &&
        grep -q '"images": 23, "bad": 1' "$dir/broken.json" && grep -q 00.jpg "$dir/err"
}
for_people() {
    zeroshot --data "$dir/name" --per-template --html "$dir/page.html" --rows 3 >"$dir/out" &&
        grep -q '^24 images, 8 classes, 2 templates: top-1 ' "$dir/out" && grep -q '^95 % confidence' "$dir/out" &&
        grep -q 'a {} circle.$' "$dir/out" && grep -q 'data:image/jpeg;base64,' "$dir/page.html" && [ "$(wc -l <"$dir/out")" = 17 ] &&
        grep -q '<tr><th>red' "$dir/page.html" && [ "$(grep -o '<th class=v>' "$dir/page.html" | wc -l)" = "$(grep -c '^<tr><th>[a-z]*<td' "$dir/page.html")" ]
}
cached() { # by model, classes and templates; the same numbers; a damaged file or one that others can write to is not used
    local folder=$dir/classifiers got
    files() { ls "$folder" 2>/dev/null | grep -c '^classifier-.*npy$'; }
    numbers fresh --data "$dir/table.tsv" --no-cache --cache-dir "$folder" && [ "$(files)" = 0 ] &&
        numbers first --data "$dir/table.tsv" --cache-dir "$folder" && [ "$(files)" = 1 ] && cmp "$dir/fresh.json" "$dir/first.json" &&
        numbers again --data "$dir/table.tsv" --cache-dir "$folder" 2>"$dir/err" && grep -q "classifier: $folder/" "$dir/err" && cmp "$dir/fresh.json" "$dir/again.json" || return 1
    sed 's/a {} circle/one {} circle/' "$dir/classes.json" >"$dir/other_classes.json"
    numbers other --data "$dir/table.tsv" --classes "$dir/other_classes.json" --cache-dir "$folder" && [ "$(files)" = 2 ] &&
        numbers bf16 --data "$dir/table.tsv" --precision amp_bf16 --cache-dir "$folder" && [ "$(files)" = 3 ] || return 1
    for got in "$folder"/*.npy; do truncate -s -4 "$got"; done
    numbers damaged --data "$dir/table.tsv" --cache-dir "$folder" 2>"$dir/err" && ! grep -q "classifier: " "$dir/err" && cmp "$dir/fresh.json" "$dir/damaged.json" &&
        chmod 777 "$folder" && numbers open --data "$dir/table.tsv" --cache-dir "$folder" 2>"$dir/err" && ! grep -q "classifier: " "$dir/err" &&
        cmp "$dir/fresh.json" "$dir/open.json"
}
wrong_classes() { # 999 names for 1,000 folders
    local few="$dir/few.json"
    echo '{"classes": ["red", "green", "blue", "yellow", "black", "white", "orange"]}' >"$few"
    refused 1 "class folder 'Purple' is none of the 7 classes of $few (7 of 8 folders were matched by name)" zeroshot --data "$dir/name" --classes "$few" &&
        refused 1 "class folder 'n01' is none of the 7 classes" zeroshot --data "$dir/synset" --classes "$few" &&
        refused 1 "class folder '0007' is none of the 7 classes" zeroshot --data "$dir/number" --classes "$few" &&
        refused 1 "label \"purple\" is none of the 7 classes" zeroshot --data "$dir/table.tsv" --classes "$few" &&
        refused 1 "label \"7\" is none of the 7 classes" zeroshot --data "$dir/set.tar" --classes "$few" &&
        refused 1 "no usable sample" zeroshot --data "$dir/set.tar" --label-key nothing &&
        refused 1 'no column "class"' zeroshot --data "$dir/table.csv" --csv-img-key where &&
        refused 2 "--classes is missing" "$clipc" eval zeroshot --checkpoint $golden --data "$dir/name" &&
        refused 1 "$dir/no.json" zeroshot --data "$dir/name" --classes "$dir/no.json"
}

# 24 pairs, 6 steps an epoch with a global batch of 4
train() { # name, options…
    local name=$1
    shift
    OMP_NUM_THREADS=1 ${launcher:-} "$clipc" train "${pairs[@]}" --batch-size 4 \
        --precision fp32 --epochs 3 --warmup 3 --lr 1e-3 --eps 1e-4 --workers 1 --logs "$dir" --name "$name" \
        --imagenet-val "$dir/table.tsv" --zeroshot-classes "$dir/classes.json" "$@" 2>"$dir/stderr"
}
measured() { # run: its measurements, without times
    grep -h imagenet-zeroshot "$dir/$1/metrics.jsonl" | sed 's/, "time".*//'
}
not_a_number() { # a weight that is no number: not an accuracy of 0
    cp -r $golden "$dir/nan"
    local file="$dir/nan/open_clip_model.safetensors"
    printf '\000\000\300\177' | dd of="$file" bs=1 seek=$(($(stat -c %s "$file") - 4)) conv=notrunc status=none
    refused 1 "features that are not finite: the checkpoint is damaged" zeroshot --checkpoint "$dir/nan" --data "$dir/table.tsv"
}
in_training() { # before the first step, after steps 4, 8, … and epochs; the last is what the command says of the checkpoint
    train inside --zeroshot-frequency 1 --zeroshot-frequency-steps 4 || { cat "$dir/stderr"; return 1; }
    [ "$(measured inside | grep -o '"step": [0-9]*' | tr -dc '0-9\n' | tr '\n' ' ')" = "0 4 6 8 12 16 18 " ] || { measured inside; return 1; }
    [ "$(measured inside | sort -u -k3 | wc -l)" -gt 1 ] || { echo "always the same"; return 1; }
    zeroshot --checkpoint "$dir/inside/checkpoints/latest" --data "$dir/table.tsv" --json >"$dir/raw" || return 1
    local last=($(measured inside | tail -1 | grep -oE 'val-[a-z0-9_]*": [0-9.]+' | sed 's/.*: //'))
    local want=($(grep -oE '"(top1|top5|mean_per_class_recall)": [0-9.]+' "$dir/raw" | sed 's/.*: //' | head -3))
    [ ${#want[@]} = 3 ] || return 1
    for i in 0 1 2; do awk -v a="${last[i]}" -v b="${want[i]}" 'BEGIN {exit !(a - b < 1e-8 && b - a < 1e-8)}' || { measured inside; cat "$dir/raw"; return 1; }; done
}
in_training_over_ranks() { # two ranks of half the batch measure the same
    launcher="${mpirun[*]} -np 2" train two --zeroshot-frequency-steps 6 --batch-size 2 ||
        { cat "$dir/stderr"; return 1; }
    train one --zeroshot-frequency-steps 6 && [ "$(measured two | wc -l)" = 4 ] && diff <(measured one) <(measured two)
}
in_training_refused() { # before the first step
    local few="$dir/few.json"
    ! train no_data --imagenet-val "$dir/no" && grep -q -- "--imagenet-val $dir/no: " "$dir/stderr" &&
        ! train no_folder --imagenet-val "$dir/name" --zeroshot-classes "$few" && grep -q "class folder 'Purple' is none" "$dir/stderr" &&
        [ ! -e "$dir/no_folder/metrics.jsonl" ] || return 1
    mkdir "$dir/bare" && cp "$clipc" "$dir/bare/" && (cd "$dir/bare" && refused 1 "make zeroshot-sets" env -u CLIPC_HOME ./clipc train \
        --pretrained "$home/$golden" --vocab "$home/$golden/vocab.txt" --train-data "$home/$golden/pairs.tsv" --batch-size 4 \
        --imagenet-val "$dir/name" --logs "$dir" --name no_classes)
}

classes_are_read_not_run() { # lambdas of a Python file become templates; anything more than that is refused
    local use="import sys; sys.path.insert(0, 'configs/zeroshot'); import fetch; print(fetch.templates(sys.argv[1], 'A'))" bad
    [ "$(python3 -Bc "$use" 'import os
A = (lambda c: f"the {c}s.", lambda x: f"{x}",)')" = "['the {}s.', '{}']" ] || return 1
    for bad in 'lambda c: f"{c} {print(1)}"' 'print("run")' 'lambda c: c' 'lambda c: f"{c!r}"'; do
        refused 1 "fetch: line 1" python3 -Bc "$use" "A = ($bad,)" && ! grep -q run "$dir/stdout" || return 1
    done
    : >"$dir/open_clip_torch-3.3.0-py3-none-any.whl"
    refused 1 "another SHA-256" python3 -B configs/zeroshot/fetch.py imagenet --wheels "$dir" --out "$dir/sets" &&
        refused 1 "no such wheel" python3 -B configs/zeroshot/fetch.py dtd --wheels "$dir" --out "$dir/sets" &&
        refused 1 "no set nothing" python3 -B configs/zeroshot/fetch.py nothing && [ ! -e "$dir/sets" ]
}
# Without --classes: folders or labels that are synset ids, and the folders 0 to 999, are ImageNet's. Numbers of another
# set are not, whatever they would mean there.
imagenet_is_the_default() {
    local bare=("$(realpath "$clipc")" eval zeroshot --checkpoint "$home/$golden" --vocab "$home/$golden/vocab.txt" --precision fp32 --no-cache --json)
    local share=$dir/share ids=(n01440764 n02099601 n15075141) i
    mkdir -p "$share/build/zeroshot"
    python3 -c 'import json
ids = {0: "n01440764", 207: "n02099601", 999: "n15075141"}
print(json.dumps({"classes": ["thing %d" % i for i in range(1000)], "folders": [ids.get(i, "n%08d" % i) for i in range(1000)]}))' \
        >"$share/build/zeroshot/imagenet.json"
    mkdir "$dir/thousand" "$dir/shifted" "$dir/ids"
    (cd "$dir/thousand" && mkdir {0..999} && for i in {0..999}; do ln ../shards/00.jpg "$i/"; done)
    (cd "$dir/shifted" && mkdir {1..1000} && for i in {1..1000}; do ln ../shards/00.jpg "$i/"; done)
    printf 'filepath\tclass\n' >"$dir/ids.tsv"
    for i in 0 1 2; do
        mkdir "$dir/ids/${ids[i]}" && cp $golden/0$i.jpg "$dir/ids/${ids[i]}/"
        printf '%s\t%s\n' "$PWD/$golden/0$i.jpg" "${ids[i]}" >>"$dir/ids.tsv"
    done
    here() (cd "$share" && "$@")
    for data in ids ids.tsv; do
        here "${bare[@]}" --data "$dir/$data" >"$dir/$data.json" 2>"$dir/err" &&
            grep -q "the labels are ImageNet's: --classes imagenet (build/zeroshot/" "$dir/err" &&
            [ "$(grep -o '"index": [0-9]*' "$dir/$data.json" | tr -dc '0-9\n' | sort -n | tr '\n' ' ')" = "0 207 999 " ] || return 1
    done
    here "${bare[@]}" --data "$dir/thousand" >"$dir/thousand.json" 2>"$dir/err" && grep -q '"occurring_classes": 1000' "$dir/thousand.json" || return 1
    for data in shifted number name table.csv; do
        here refused 2 "--classes is missing" "${bare[@]}" --data "$dir/$data" --csv-img-key where --csv-label-key what || return 1
    done
    here refused 2 "those of $dir/set.tar are not" "${bare[@]}" --data "$dir/set.tar" &&
        mkdir "$dir/alone" && cp "$clipc" "$dir/alone/" && (cd "$dir/alone" && unset CLIPC_HOME &&
        refused 1 "make zeroshot-sets" ./clipc eval zeroshot --checkpoint "$home/$golden" --vocab "$home/$golden/vocab.txt" --data "$dir/ids")
}
# 20 pictures in folders named by synset: each is counted under ImageNet's number
imagenet_folders() {
    zeroshot --classes build/zeroshot/imagenet.json --data build/zeroshot/imagenet-20 --batch-size 1024 --json >"$dir/raw" || return 1
    grep -q '"images": 20, "bad": 0, "unlabelled": 0, "classes": 1000, "occurring_classes": 19, "templates": 80' "$dir/raw" &&
        [ "$(grep -o '"index": [0-9]*, "images": [12]' "$dir/raw" | tr -dc '0-9 \n' | sort -n | awk '{printf "%s:%s ", $1, $2}')" = \
            "22:1 99:1 129:1 243:1 251:1 305:1 317:1 438:1 455:1 471:1 541:1 559:1 609:2 630:1 741:1 853:1 915:1 949:1 990:1 " ]
}

check table table
check shards shards
check folders folders
check some_folders some_folders
if no_mpi; then
    skip "$no_mpi_reason" ranks in_training_over_ranks cached_over_ranks
else
    check ranks ranks
    check cached_over_ranks ranks_cached
    check in_training_over_ranks in_training_over_ranks
fi
check unreadable unreadable
check for_people for_people
check wrong_classes wrong_classes
check not_a_number not_a_number
check classifier_is_cached cached
check imagenet_is_the_default imagenet_is_the_default
check in_training in_training
if command -v python3 >/dev/null; then check classes_are_read_not_run classes_are_read_not_run; else skip "no python3" classes_are_read_not_run; fi
if [ -e build/zeroshot/imagenet.json ] && [ -d build/zeroshot/imagenet-20 ]; then
    check imagenet_folders imagenet_folders
else
    skip "no build/zeroshot (make setup fetches it)" imagenet_folders
fi
check in_training_refused in_training_refused
exit $failed
