#!/usr/bin/env bash
# Streams as a user runs them: training from commands and standard input, resumed, with other numbers of workers, over
# ranks; commands that fail; evaluation and packing. Prints cmocka's lines.
. tests/support.sh streams
export OMP_NUM_THREADS=1 XDG_CACHE_HOME=$dir/cache

"$clipc" data pack $golden/pairs.tsv --out "$dir/s/t" --shard-samples 6 2>/dev/null || exit 1
shards="pipe:cat $dir/s/t-{000000..000003}.tar"

train() { # name, source, options…: 24 pairs, batch 4: 6 steps an epoch
    local name=$1 source=$2
    shift 2
    "$clipc" train --pretrained $golden --vocab $golden/vocab.txt --train-data "$source" --train-num-samples 24 --batch-size 4 \
        --epochs 2 --warmup 3 --lr 1e-3 --precision fp32 --shuffle-buffer 10 --save-frequency-steps 3 --logs "$dir" \
        --name "$name" "$@" 2>"$dir/stderr" || { local code=$?; cat "$dir/stderr"; return $code; }
}
last() { echo "$dir/$1/checkpoints/epoch_2"; }

workers() { # the same bits with one worker and with four
    train one "$shards" --workers 1 && train four "$shards" --workers 4 && same_state "$(last one)" "$(last four)" &&
        [ "$(lines one)" = 12 ]
}
resumed() { # in the middle of an epoch
    local step
    for step in 3 9; do
        cp -r "$dir/one" "$dir/again$step"
        rm -r "$dir/again$step"/checkpoints/{epoch_2,latest}
        [ $step = 9 ] || rm -r "$dir/again$step"/checkpoints/{epoch_1,step_9}
        train "again$step" "$shards" --resume latest && grep -q "reading over the first 12 samples" "$dir/stderr" &&
            same_state "$(last one)" "$(last "again$step")" || return 1
    done
}
compressed() { # .tar.zst out of a command, and a shard read from end to end beside it: the same samples
    "$clipc" data pack $golden/pairs.tsv --out "$dir/z/t" --shard-samples 6 --zstd 2>/dev/null &&
        train zstd "pipe:cat $dir/z/t-{000000..000003}.tar.zst" && same_state "$(last one)" "$(last zstd)" &&
        train mixed "$dir/s/t-000000.tar::pipe:cat $dir/s/t-{000001..000003}.tar" && same_state "$(last one)" "$(last mixed)"
}
resampled() { # sources by weight, drawn with replacement, more than there are; resumed in the middle of an epoch; over ranks
    local sources="$dir/s/t-{000000..000002}.tar::$dir/s/t-000003.tar" options=(--dataset-resampled --train-num-samples 48
        --train-data-upsampling-factors 1::6)
    train drawn "$sources" "${options[@]}" && [ "$(lines drawn)" = 24 ] || return 1
    cp -r "$dir/drawn" "$dir/drawn2" && rm -r "$dir"/drawn2/checkpoints/{epoch_2,latest,step_21} &&
        train drawn2 "$sources" "${options[@]}" --resume latest && same_state "$(last drawn)" "$(last drawn2)" &&
        ! train odd "$sources" --train-data-upsampling-factors 1::6 >/dev/null && grep -q "needs --dataset-resampled" "$dir/stderr" &&
        ! train odd "$sources" "${options[@]}" --train-data-upsampling-factors 2 >/dev/null &&
        grep -q "each of the 2 sources" "$dir/stderr"
}
stdin() { # once through, an epoch after the other; then it gives out
    local words="standard input ended after 24 samples"
    train stdin - --epochs 1 <"$dir/all.tar" && [ "$(lines stdin)" = 6 ] || return 1
    ! train longer - --epochs 2 <"$dir/all.tar" >"$dir/out" && grep -q "$words" "$dir/out"
}
ranks() { # each reads its share; refused where there are fewer streams
    local run=("${mpirun[@]}" -np 2 "$clipc" train --pretrained $golden --vocab $golden/vocab.txt --train-num-samples 24
        --batch-size 4 --epochs 1 --logs "$dir" --precision fp32 --comm-timeout 60)
    says 0 "done" "${run[@]}" --train-data "$shards" --name ranks && [ "$(lines ranks)" = 3 ] &&
        says 1 "1 streams for 2 ranks" "${run[@]}" --train-data "pipe:cat $dir/all.tar" --name few || return 1
    # in the middle of an epoch, and with another number of workers
    says 0 "done" "${run[@]}" --train-data "$shards" --name shared --epochs 2 --save-frequency-steps 2 || return 1
    rm -r "$dir"/shared/checkpoints/{epoch_1,epoch_2,step_4,latest}
    ! train shared "$shards" --batch-size 8 --shuffle-buffer 5000 --resume latest >/dev/null && grep -q "read by 2 ranks, now there are 1" "$dir/stderr" &&
        says 0 "reading over the first" "${run[@]}" --train-data "$shards" --name shared --epochs 2 --resume latest
}
failing() { # one of four commands fails: counted, or too much
    local one="pipe:f=$dir/s/t-{000000..000003}.tar; cat \$f; [ \${f##*/} != t-000002.tar ]"
    train tolerated "$one" --max-bad 0.5 && grep -q "stream .*exit status 1, after 6 samples" "$dir/stderr" &&
        grep -q '"bad": *[1-9]' "$dir/tolerated/metrics.jsonl" &&
        ! train strict "$one" --max-bad 0.1 >/dev/null && grep -q "streams failed, more than --max-bad 0.1 allows" "$dir/stderr" &&
        ! train hanging "pipe:sleep 1000" --pipe-timeout 0.3 >/dev/null && grep -q "nothing came for 0.3 s" "$dir/stderr" &&
        ! train nothing "pipe:exit 1" --max-bad 1 >/dev/null && grep -q "no stream has a usable sample" "$dir/stderr"
}
untold() {
    refused 1 "give --train-num-samples" "$clipc" train --pretrained $golden --vocab $golden/vocab.txt --train-data "$shards" --logs "$dir" --name untold &&
        refused 1 "pipe:curl -sf" "$clipc" data peek http://example.org/a.tar
}
killed() { # nothing is left running
    train killed "pipe:echo \$\$ >$dir/pid; cat $dir/all.tar; sleep 1000" --epochs 1000 --pipe-timeout 1000 &
    local job=$! pid
    await $job test -s "$dir/pid"
    pid=$(cat "$dir/pid")
    kill -0 "$pid" && pkill -9 -P $job
    wait $job 2>/dev/null
    for _ in $(seq 300); do kill -0 "$pid" 2>/dev/null || return 0; sleep 0.01; done
    return 1
}
interrupted() { # SIGTERM saves and ends at once, whatever the command does
    train stopped "pipe:cat $dir/all.tar; sleep 1000" --epochs 1000 --pipe-timeout 1000 --train-num-samples 1000 --shuffle-buffer 4 &
    local job=$!
    await $job has_lines stopped 2
    pkill -TERM -P $job
    ends 60 $job && [ $code = 3 ] && grep -q -- "--resume latest --allow-pipe" "$dir/stderr"
}
others() { # commands of recipes and list files, which may be another person's, are run with --allow-pipe only
    local words="is run only with --allow-pipe" conf="$dir/one/params.conf" ran="touch $dir/ran; cat $dir/all.tar"
    again() { says "$1" "$2" "$clipc" train --config "$conf" --logs "$dir" --name "$3" "${@:4}"; }
    again 1 "of a recipe $words" recipe && [ ! -e "$dir/recipe" ] && again 0 done recipe --allow-pipe &&
        same_state "$(last one)" "$(last recipe)" && ! grep -q allow-pipe "$dir/recipe/params.conf" &&
        again 0 done line --train-data "$shards" || return 1
    echo "pipe:$ran" >"$dir/list.txt"
    echo '{"classes": ["a"], "templates": ["a {}"]}' >"$dir/classes.json"
    echo "val-data = pipe:$ran" >>"$conf" && again 1 "$words" val --train-data "$dir/s" &&
        echo "val-data = $dir/list.txt" >>"$conf" && again 1 "of a list file $words" list --train-data "$dir/s" || return 1
    for spec in "$dir/list.txt" "@$dir/list.txt" "$dir/s::$dir/list.txt"; do
        says 1 "of a list file $words" "$clipc" data peek "$spec" || return 1
    done
    says 1 "$words" "$clipc" eval zeroshot --checkpoint $golden --data "$dir/list.txt" --classes "$dir/classes.json" && [ ! -e "$dir/ran" ] &&
        says 0 "24 samples" "$clipc" data peek "$dir/list.txt" --allow-pipe && [ -e "$dir/ran" ] &&
        echo "allow-pipe = true" >>"$conf" && again 2 "no recipe can allow it" recipe2
}
evaluated() { # as a data set of its own, from a command and from standard input
    says 0 "24 samples" "$clipc" data peek "pipe:cat $dir/all.tar" && grep -q "^all.tar:./000000000  " "$dir/out" &&
        says 0 "24 samples" "$clipc" data check - <"$dir/all.tar" &&
        says 0 '"pairs": 24' "$clipc" eval retrieval --checkpoint $golden --vocab $golden/vocab.txt --data "$shards" --json &&
        says 0 "24 samples in" "$clipc" data pack "$shards" --out "$dir/packed/t" --shard-samples 6 &&
        cmp "$dir/packed/t-000002.tar" "$dir/s/t-000002.tar" && [ -z "$(ls "$dir/cache/clipc")" ] &&
        says 1 "exit status 5" "$clipc" data peek "pipe:cat $dir/all.tar; exit 5"
}

mkdir "$dir/x"
for f in "$dir"/s/*.tar; do tar xf "$f" -C "$dir/x"; done
tar cf "$dir/all.tar" --sort=name -C "$dir/x" .
check the_same_with_any_workers workers
check resumed_within_an_epoch resumed
check compressed_and_mixed_with_shards compressed
check sources_by_weight resampled
check standard_input stdin
if no_mpi; then skip "$no_mpi_reason" ranks; else check ranks ranks; fi
check failing_commands failing
check refused_lines untold
check killed_leaves_no_process killed
check interrupted_at_a_silent_stream interrupted
check commands_of_others others
check evaluated_and_packed evaluated
exit $failed
