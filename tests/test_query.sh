#!/usr/bin/env bash
# embed, search, score and eval as a user runs them, on open_clip's small model. Prints cmocka's lines.
. tests/support.sh query
vocab=(--vocab $golden/vocab.txt)

model() { # command and options
    "$clipc" "$@" --checkpoint $golden
}

embed() { # pictures alone need no vocabulary; a key for every row, in order
    says 0 "24 rows of 40" model embed --images $golden --out "$dir/folder.npy" &&
        says 0 "24 rows of 40" model embed --images $golden/pairs.tsv --out "$dir/all.npy" &&
        [ "$(wc -l <"$dir/all.npy.keys")" = 24 ] && [ "$(sed -n 4p "$dir/all.npy.keys")" = $golden/03.jpg ] &&
        cmp "$dir/folder.npy" "$dir/all.npy" &&
        says 0 "2 rows of 40" model embed --image $golden/03.jpg $golden/01.jpg --out "$dir/two.npy" &&
        says 1 "could not be read" model embed --image $golden/01.jpg $golden/pairs.tsv --out "$dir/none.npy" &&
        says 1 "6 of 6 image files" model embed --image $golden/pairs.tsv{,,,,,} --out "$dir/none.npy" &&
        [ "$(wc -l <"$dir/out")" -le 5 ] &&
        [ ! -e "$dir/none.npy" ] && says 2 "give one of" model embed --out "$dir/none.npy"
}
one_tower() { # the same rows from one tower as from both; what needs the other one is refused
    local t
    printf 'a red circle\n' >"$dir/line.txt"
    for t in auto image both; do model embed --tower $t --image $golden/03.jpg --out "$dir/$t.npy" 2>/dev/null || return 1; done
    cmp "$dir/image.npy" "$dir/both.npy" && cmp "$dir/auto.npy" "$dir/both.npy" || return 1
    for t in auto text both; do model embed --tower $t "${vocab[@]}" --text "$dir/line.txt" --out "$dir/$t.npy" 2>/dev/null || return 1; done
    cmp "$dir/text.npy" "$dir/both.npy" && cmp "$dir/auto.npy" "$dir/both.npy" &&
        says 2 "the pictures need the image tower" model embed --tower text --image $golden/03.jpg --out "$dir/none.npy" &&
        says 2 "the captions need the text tower" model search --tower image --collection "$dir/all.npy" --texts a &&
        says 2 "the captions need the text tower" model search --tower image --collection "$dir/all.npy" --texts a --image $golden/03.jpg &&
        [ ! -e "$dir/none.npy" ]
}
search() { # a picture finds itself; captions of a file and of the command line are the same queries
    says 0 "$golden/07.jpg" model search --collection "$dir/all.npy" --image $golden/07.jpg --top 1 &&
        grep -q ' 1\.0000  row 7 ' "$dir/out" || return 1
    printf 'a red circle\na blue square\n' >"$dir/queries.txt"
    model search --collection "$dir/all.npy" "${vocab[@]}" --texts 'a red circle' 'a blue square' --json >"$dir/a" &&
        model search --collection "$dir/all.npy" "${vocab[@]}" --text "$dir/queries.txt" --json >"$dir/b" &&
        cmp "$dir/a" "$dir/b" && grep -q '"query": "a blue square"' "$dir/b" &&
        says 2 "give one of" model search --collection "$dir/all.npy" --texts a --text "$dir/queries.txt" &&
        says 1 "$dir/none.txt" model search --collection "$dir/all.npy" --text "$dir/none.txt" &&
        says 1 "cannot open vocabulary" model search --collection "$dir/all.npy" --texts a --vocab "$dir/no"
}
alone() { # features are the same bits in any batch, by any number of threads; a query's are the index's
    local p batch
    printf 'a red circle\na blue square\ntwo dogs\na very long caption of a small green stripe\na red circle\n' >"$dir/lines.txt"
    for p in fp32 amp_bf16; do
        model embed --precision $p --batch-size 24 --images $golden/pairs.tsv --out "$dir/want.npy" 2>/dev/null &&
            model embed --precision $p --batch-size 24 "${vocab[@]}" --text "$dir/lines.txt" --out "$dir/words.npy" 2>/dev/null || return 1
        for batch in 1 7 23; do
            OMP_NUM_THREADS=$batch model embed --precision $p --batch-size $batch --images $golden/pairs.tsv --out "$dir/got.npy" 2>/dev/null &&
                cmp "$dir/want.npy" "$dir/got.npy" &&
                OMP_NUM_THREADS=3 model embed --precision $p --batch-size $batch "${vocab[@]}" --text "$dir/lines.txt" --out "$dir/got.npy" 2>/dev/null &&
                cmp "$dir/words.npy" "$dir/got.npy" || { echo "$p, batches of $batch"; return 1; }
        done
        model embed --precision $p --image $golden/07.jpg --out "$dir/one.npy" 2>/dev/null &&
            cmp <(tail -c 160 "$dir/one.npy") <(tail -c $((17 * 160)) "$dir/want.npy" | head -c 160) || return 1
    done
}
one() { sed 's/, "results".*//'; } # the fields of a single picture
score() { # probabilities of one picture sum to 1; from stdin as well; the best first; each by itself
    model score "${vocab[@]}" --image $golden/00.jpg --text - --json <"$dir/queries.txt" >"$dir/out" &&
        one <"$dir/out" | grep -o '"probability": [^,]*' | awk '{s += $2} END {exit !(NR == 2 && s > 0.999999 && s < 1.000001)}' &&
        printf 'w\xffrds\n' | says 0 '"text": "w?rds"' model score "${vocab[@]}" --image $golden/00.jpg --text - --json &&
        says 2 "give the captions" model score --image $golden/00.jpg &&
        says 1 "No such file" model score "${vocab[@]}" --image "$dir/none.jpg" --texts a || return 1
    local words=(--texts 'a red circle' 'a blue square' 'a green stripe' 'two dogs')
    model score "${vocab[@]}" --image $golden/00.jpg "${words[@]}" >"$dir/all" &&
        model score "${vocab[@]}" --image $golden/00.jpg "${words[@]}" --top 3 >"$dir/three" &&
        sort -rn -k 4 "$dir/all" | head -n 3 | cmp - "$dir/three" && grep -q '#' "$dir/three" &&
        model score "${vocab[@]}" --image $golden/00.jpg $golden/05.jpg "${words[@]}" --json >"$dir/two" &&
        [ "$(grep -o '"image": ' "$dir/two" | wc -l)" = 2 ] && [ "$(grep -o '"text": ' "$dir/two" | wc -l)" = 8 ] &&
        model score "${vocab[@]}" --image $golden/00.jpg "${words[@]}" --sigmoid --json | one >"$dir/out" && grep -o '"probability": [^}]*' "$dir/out" |
        tr -d ',}' | awk -v scale=14.2857 '{want = 1 / (1 + exp(-scale * $4)); d = $2 - want; if (d > 1e-3 || d < -1e-3) exit 1} END {exit NR != 4}' ||
        return 1
    # with the bias of a model trained with SigLIP's loss, which has learned that most pairs do not belong together
    "$clipc" train "${pairs[@]}" --siglip --max-steps 8 --warmup 1 --batch-size 8 --lr 0.1 --logs "$dir" --name siglip 2>/dev/null &&
        "$clipc" ckpt info "$dir/siglip/checkpoints/latest" --json | tr -d ' \n' >"$dir/info" &&
        "$clipc" score --checkpoint "$dir/siglip/checkpoints/latest" "${vocab[@]}" --image $golden/00.jpg "${words[@]}" \
        --sigmoid --json | one >"$dir/out" || return 1
    norm() { sed "s/.*\"name\":\"$1\"[^}]*\"norm\":\([0-9.e+-]*\).*/\1/" "$dir/info"; }
    grep -o '"probability": [^}]*' "$dir/out" | tr -d ',}' | awk -v scale="$(norm logit_scale)" -v bias="$(norm logit_bias)" '
        { want = 1 / (1 + exp(bias - exp(scale) * $4)); d = $2 / want; if (d > 1.01 || d < 0.99) exit 1 }
        END { exit NR != 4 || bias < 0.05 }'
}
score_shape() { # the same, whatever the number of pictures; a single one's fields are at the top too
    local a=$golden/00.jpg b=$golden/05.jpg words=(--texts 'a red circle' 'a blue square' --json)
    model score "${vocab[@]}" --image $a "${words[@]}" >"$dir/one" && model score "${vocab[@]}" --image $a $b "${words[@]}" >"$dir/two" &&
        python3 - "$dir/one" "$dir/two" $a $b <<'EOF'
import json, sys
one, two = (json.load(open(path)) for path in sys.argv[1:3])
assert list(two) == ["results"] and [r["image"] for r in two["results"]] == sys.argv[3:], two
assert [r["image"] for r in one["results"]] == sys.argv[3:4], one
assert one["results"][0] == two["results"][0], (one, two)
assert one == {**one["results"][0], "results": one["results"]}, one
EOF
}
retrieval() { # of a shard without an index: it is built where --cache-dir says
    local files=($golden/0?.jpg)
    mkdir -p "$dir/pairs" && cp "${files[@]}" "$dir/pairs/" && for f in "$dir"/pairs/*.jpg; do echo words >"${f%.jpg}.txt"; done
    (cd "$dir/pairs" && tar cf ../pairs.tar --sort=name .) &&
        says 0 '"pairs": 10' model eval retrieval "${vocab[@]}" --data "$dir/pairs.tar" --cache-dir "$dir/cache" --json &&
        ls "$dir"/cache/*-pairs.tar.idx >/dev/null || return 1
    says 0 '"pairs": 24' model eval retrieval "${vocab[@]}" --data $golden/pairs.tsv --json &&
        says 0 "text -> image" model eval retrieval "${vocab[@]}" --data $golden/pairs.tsv
}
zeroshot() { # class folders in any case, by name
    mkdir -p "$dir/set/Red_Circle" "$dir/set/blue square"
    cp $golden/00.jpg "$dir/set/Red_Circle/" && cp $golden/07.jpg "$dir/set/blue square/"
    echo '{"classes": ["blue square", "red circle"], "templates": ["a {}", "The {} on grey."]}' >"$dir/classes.json"
    says 0 '"images": 2' model eval zeroshot "${vocab[@]}" --data "$dir/set" --classes "$dir/classes.json" --json &&
        grep -q '"top5": 1.0' "$dir/out" && rm -r "$dir/set/Red_Circle" && mkdir "$dir/set/cat" &&
        cp $golden/00.jpg "$dir/set/cat/" &&
        says 1 "class folder 'cat'" model eval zeroshot "${vocab[@]}" --data "$dir/set" --classes "$dir/classes.json"
}
longer_context() { # captions of up to 12 tokens keep their features' bits, longer ones do not
    local long=$dir/long.json made
    sed 's/"context_length": 21/"context_length": 40/' $golden/open_clip_config.json >"$long"
    printf 'red\na green circle\n' >"$dir/short.txt"
    printf 'a red circle and a green circle and a red circle and a green circle\n' >"$dir/words.txt"
    "$clipc" ckpt convert $golden --model "$long" --keep-positions 12 --out "$dir/kept" 2>"$dir/stderr" && "$clipc" ckpt convert $golden --model "$long" --out "$dir/stretched" 2>/dev/null &&
        grep -q 'resized from 21 to 40 positions, the first ones kept' "$dir/stderr" || return 1
    for made in $golden "$dir/kept" "$dir/stretched"; do
        "$clipc" embed --checkpoint "$made" "${vocab[@]}" --precision fp32 --text "$dir/short.txt" --out "$dir/short-${made##*/}.npy" 2>/dev/null &&
            "$clipc" embed --checkpoint "$made" "${vocab[@]}" --precision fp32 --text "$dir/words.txt" --out "$dir/words-${made##*/}.npy" 2>/dev/null || return 1
    done
    cmp "$dir/short-openclip.npy" "$dir/short-kept.npy" && ! cmp -s "$dir/short-openclip.npy" "$dir/short-stretched.npy" &&
        ! cmp -s "$dir/words-openclip.npy" "$dir/words-kept.npy" &&
        says 1 "21 positions become 40: --keep-positions 21 leaves none to stretch" "$clipc" ckpt convert $golden --model "$long" --keep-positions 21 --out "$dir/none" &&
        says 0 "a step" "$clipc" train --pretrained $golden --model "$long" --keep-positions 12 "${vocab[@]}" --train-data $golden/pairs.tsv --batch-size 8 --dry-run
}
help() { # a group's help lists its commands, and each command has its own
    says 0 "data pack" "$clipc" data --help && ! grep -q "eval" "$dir/out" && says 0 "eval zeroshot" "$clipc" eval help &&
        says 2 "clipc data --help" "$clipc" data && says 2 "did you mean 'clipc data pack'" "$clipc" data pck &&
        says 2 "did you mean 'clipc eval zeroshot'" "$clipc" zeroshot && says 2 "see clipc --help" "$clipc" qqqq || return 1
    local c
    for c in train "eval retrieval" "eval zeroshot" "eval probe" "eval similar" "index list" "index remove" embed search score "data image" tok "ckpt info" bench; do
        says 0 "usage: clipc $c" "$clipc" $c --help || return 1
    done
}

check embed embed
check one_tower_alone one_tower
check search search
check features_of_any_batch alone
check score score
check score_has_one_shape score_shape
check eval_retrieval retrieval
check eval_zeroshot zeroshot
check longer_context longer_context
check help help
exit $failed
