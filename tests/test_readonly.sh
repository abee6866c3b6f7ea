#!/usr/bin/env bash
# Read-only folders: each command reports it in a few lines, with exit code 1, and leaves nothing there. This also holds
# for root, whose right to write everywhere is dropped. Prints cmocka's lines.
. tests/support.sh readonly
export XDG_CACHE_HOME=$dir/cache OMP_NUM_THREADS=1
ro=$dir/ro

really() { ! obeying touch "$ro/x" 2>/dev/null; }
untouched() { [ -z "$(ls -A "$ro")" ]; }
denied() { # words, command…
    local words=$1
    shift
    refused 1 "Permission denied" obeying "$@" && grep -qF -- "$words" "$dir/stderr" && untouched
}
train() { # run's name, options…
    local name=$1
    shift
    "$clipc" train "${pairs[@]}" --batch-size 8 --epochs 1 --name "$name" "$@"
}
pack() { denied "$ro/" "$clipc" data pack $golden/pairs.tsv --out "$ro/t" && denied "$ro/" "$clipc" data pack $golden/pairs.tsv --out "$ro/deeper/t"; }
pack_behind_its_lock() { # the lock was there, the shard cannot be made
    mkdir "$dir/half" && : >"$dir/half/.t.lock" && chmod 555 "$dir/half" &&
        refused 1 "Permission denied" obeying "$clipc" data pack $golden/pairs.tsv --out "$dir/half/t" &&
        [ "$(ls -A "$dir/half")" = .t.lock ]
}
embed() { denied "$ro/" "$clipc" embed --checkpoint $golden --images $golden/pairs.tsv --out "$ro/x.npy"; }
image() { denied "$ro/" "$clipc" data image $golden/00.jpg --size 32 --out "$ro/x.npy"; }
logs() { denied "$ro/" "$clipc" train "${pairs[@]}" --batch-size 8 --logs "$ro" --name run; }
shards() { # beside them no index can be written: said of each; it is built in the cache where that is asked for nothing
    cp "$dir/t-000000.tar" "$dir/sealed/" && chmod 555 "$dir/sealed" &&
        refused 1 "Permission denied" obeying "$clipc" data index "$dir/sealed" && says 0 "24 samples" obeying "$clipc" data peek "$dir/sealed" &&
        [ "$(ls "$dir/sealed")" = t-000000.tar ]
}
cache() { # nor in the cache
    chmod 755 "$dir/sealed" && cp "$dir/t-000000.tar" "$dir/sealed/u.tar" && refused 1 "Permission denied" obeying "$clipc" data peek "$dir/sealed/u.tar" --cache-dir "$ro" && untouched
}
checkpoints() { # a run whose folder is closed half-way: the checkpoints before that stand
    train run --logs "$dir" --save-frequency-steps 1 2>"$dir/stderr" && chmod 555 "$dir/run/checkpoints" || return 1
    local before
    before=$(ls -A "$dir/run/checkpoints")
    says 1 "Permission denied" obeying "$clipc" train --config "$dir/run/params.conf" --epochs 2 --warmup 1 --resume latest
    local code=$?
    chmod 755 "$dir/run/checkpoints"
    [ $code = 0 ] && [ "$before" = "$(ls -A "$dir/run/checkpoints")" ]
}

mkdir "$ro" "$dir/sealed" && chmod 555 "$ro" && "$clipc" data pack $golden/pairs.tsv --out "$dir/t" 2>/dev/null
if [ "$(id -u)" = 0 ] && ! setpriv --bounding-set=-dac_override true 2>/dev/null; then
    skip "root here, and setpriv cannot drop its rights" the_folder_is_read_only pack pack_behind_its_lock embed data_image logs shards cache checkpoints
    exit 0
fi
check the_folder_is_read_only really
check pack pack
check pack_behind_its_lock pack_behind_its_lock
check embed embed
check data_image image
check logs logs
check shards shards
check cache cache
check checkpoints checkpoints
exit $failed
