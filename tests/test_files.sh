#!/usr/bin/env bash
# Files that another user or program put in the way: links under the names of temporary files and locks. Prints cmocka's
# lines.
. tests/support.sh files
export OMP_NUM_THREADS=2 XDG_CACHE_HOME=$dir/cache

links() { # under a name that a command might write to first: it is not followed
    local victim="$dir/victim" name
    mkdir -p "$dir/l" "$dir/l/x"
    for name in x.npy x.npy.keys; do
        echo "not yours" >"$victim"
        ln -sf "$victim" "$dir/l/$name" &&
            says 0 "" "$clipc" embed --checkpoint $golden --images $golden/pairs.tsv --out "$dir/l/x.npy" || return 1
        [ "$(cat "$victim")" = "not yours" ] || { echo "$name was followed"; return 1; }
    done
    for name in v.txt v.txt.part; do
        ln -sf "$victim" "$dir/l/$name" &&
            says 0 "" "$clipc" tok train --captions $golden/pairs.tsv --merges 20 --out "$dir/l/v.txt" || return 1
    done
    ln -sf "$victim" "$dir/l/.tmp-x.pt" && says 0 "" "$clipc" ckpt convert $golden --to pt --out "$dir/l/x.pt" &&
        ln -sf "$victim" "$dir/l/.tmp-y.safetensors" &&
        says 0 "" "$clipc" ckpt convert $golden --to safetensors --out "$dir/l/y.safetensors" || return 1
    ln -sf "$victim" "$dir/l/.t.lock" && says 1 "symbolic links" "$clipc" data pack $golden/pairs.tsv --out "$dir/l/t" &&
        rm "$dir/l/.t.lock" && ln -sf "$victim" "$dir/l/.t.hashes" &&
        says 0 "24 samples" "$clipc" data pack $golden/pairs.tsv --out "$dir/l/t" --dedup || return 1
    ln -sf "$victim" "$dir/l/x/lock" &&
        says 1 "symbolic links" "$clipc" embed --checkpoint $golden --images $golden/pairs.tsv --index "$dir/l/x" &&
        [ "$(cat "$victim")" = "not yours" ]
}
new_cache() { # whatever the umask, no other user can write to a cache folder, which would make it useless
    tar -C $golden -cf "$dir/c.tar" 00.jpg &&
        (umask 002 && XDG_CACHE_HOME=$dir/umask says 0 "1 samples" "$clipc" data peek --text-key '' "pipe:cat $dir/c.tar") &&
        [ "$(stat -c %a "$dir/umask/clipc")" = 700 ]
}
lock_stays() { # of a pack: a process that has it open does not lock a file that others cannot see
    pack() { "$clipc" data pack $golden/pairs.tsv --out "$dir/s/t" "$@"; }
    mkdir "$dir/s" && : >"$dir/s/.t.lock" && exec 8<>"$dir/s/.t.lock" && says 0 "24 samples" pack && flock -n 8 && refused 1 "another clipc data pack" pack --force &&
        exec 8>&- && says 0 "24 samples" pack --force
}
record() { # of a run's options: whole, or nothing is left of it
    local conf="$dir/r/params.conf"
    run() { "$clipc" train "${pairs[@]}" --batch-size 6 --max-steps "$1" --warmup 1 --workers 1 --logs "$dir" --name r --resume latest; }
    says 0 done run 2 && cp "$conf" "$dir/whole" && ! grep -q "max-steps = 3" "$conf" || return 1
    # a limit of 1 KiB, less than the record
    (ulimit -f 1 && trap '' XFSZ && says 1 "File too large" run 3) && cmp "$conf" "$dir/whole" && [ "$(ls "$dir/r" | grep -c params)" = 1 ]
}

closed_streams() { # standard streams that are closed: no message goes into a file; what is printed and cannot be is an error
    "$clipc" embed --checkpoint $golden --images $golden/pairs.tsv --index "$dir/c" 2>&- || return 1
    [ -e "$dir/c/lock" ] && [ ! -s "$dir/c/lock" ] && says 0 "24 pictures" "$clipc" index check "$dir/c" || return 1
    ! "$clipc" data peek $golden/pairs.tsv >&- 2>"$dir/stderr" && grep -q "standard output: Bad file descriptor" "$dir/stderr" &&
        "$clipc" data pack $golden/pairs.tsv --out "$dir/c/t" <&- >"$dir/out" 2>&-
}
size_limit() { # of the shell: a line instead of a signal, also where nobody ignores it
    (ulimit -f 1 && refused 1 "File too large" "$clipc" embed --checkpoint $golden --images $golden/pairs.tsv --out "$dir/big.npy") &&
        ! ls "$dir" | grep -q big.npy
}

cache() { # one that others can write to is neither believed nor written
    local t="$dir/k/t-000000.tar"
    peek() { says 0 "24 samples" "$clipc" data peek "$t" --cache-dir "$@"; }
    says 0 "24 samples" "$clipc" data pack $golden/pairs.tsv --out "$dir/k/t" && rm "$t.idx" &&
        (umask 0 && peek "$dir/own/cache") && [ "$(stat -c %a "$dir/own/cache")" = 700 ] && peek "$dir/own/cache" &&
        ! grep -q "as a cache" "$dir/out" && [ "$(ls "$dir/own/cache" | wc -l)" = 1 ] || return 1
    mkdir -m 770 "$dir/theirs" && peek "$dir/theirs" && grep -q "others can write to .*theirs (chmod go-w): it is not used as a cache" "$dir/out" &&
        [ -z "$(ls "$dir/theirs")" ] || return 1
    probe() { "$clipc" eval probe --checkpoint $golden --train "$dir/classes" --test "$dir/classes" --c 1 --features-cache "$1"; }
    mkdir -p "$dir/classes"/{a,b} && cp $golden/0*.jpg "$dir/classes/a" && cp $golden/1*.jpg "$dir/classes/b" &&
        mkdir -m 777 "$dir/open" && says 0 "others can write to" probe "$dir/open" && [ -z "$(ls "$dir/open")" ] &&
        says 0 "" probe "$dir/features" && says 0 "from the cache" probe "$dir/features"
}
line_breaks() { # in a picture's name: rows and keys stay in step
    mkdir -p "$dir/n" && cp $golden/00.jpg "$dir/n/a"$'\n'"b.jpg" && cp $golden/01.jpg "$dir/n/c"$'\r\n'".jpg" && cp $golden/02.jpg "$dir/n/d.jpg" &&
        says 0 "3 rows of 40" "$clipc" embed --checkpoint $golden --images "$dir/n" --out "$dir/n.npy" &&
        [ "$(cat "$dir/n.npy.keys")" = "$dir/n/a\\nb.jpg"$'\n'"$dir/n/c\\r\\n.jpg"$'\n'"$dir/n/d.jpg" ] &&
        says 0 "1.0000  row 2  $dir/n/d.jpg" "$clipc" search --checkpoint $golden --collection "$dir/n.npy" --image $golden/02.jpg &&
        says 0 "1 added" "$clipc" embed --checkpoint $golden --images "$dir/n" --index "$dir/ni" &&
        [ "$(grep -c "a name with a line break is left out" "$dir/out")" = 2 ] &&
        says 0 "1 pictures" "$clipc" index check "$dir/ni"
}
hostile_index() { # rows that no file has take no memory
    says 0 "24 added" "$clipc" embed --checkpoint $golden --images $golden/pairs.tsv --index "$dir/h" || return 1
    sed -i 's/"rows":24/"rows":4294967290,"removed":[[0,4294967290]]/; s/"times":\[[^a-z]*\]\],//' "$dir/h/index.json"
    (sanitized || ulimit -v 500000; refused 1 "is not 4294967290 rows of 40" "$clipc" index list "$dir/h")
}

other_wheels() { # a wheel of PyPI with another content than that of the recorded hash
    mkdir -p "$dir/tree/tools" "$dir/wheels" "$dir/bin" && cp tools/fetch_cuda.sh tools/cuda_wheels.txt "$dir/tree/tools" || return 1
    ln -s "$(command -v python3)" "$dir/bin/python3"
    python3 - "$dir/wheels/nvidia_cuda_sanitizer_api-13.0.85-py3-none-any.whl" <<'PY' || return 1
import sys, zipfile
with zipfile.ZipFile(sys.argv[1], "w") as z:
    info = "nvidia_cuda_sanitizer_api-13.0.85.dist-info/"
    z.writestr("nvidia/cu13/bin/compute-sanitizer", "#!/bin/sh\n")
    z.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: nvidia-cuda-sanitizer-api\nVersion: 13.0.85\n")
    z.writestr(info + "WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    z.writestr(info + "RECORD", "")
PY
    says 1 "another SHA-256 than tools/cuda_wheels.txt says" env PATH="$dir/bin:/usr/bin:/bin" PIP_NO_INDEX=1 PIP_FIND_LINKS="$dir/wheels" \
        bash "$dir/tree/tools/fetch_cuda.sh" sanitizer && [ ! -e "$dir/tree/build/cuda" ] &&
        ! grep -v '^#' tools/cuda_wheels.txt | grep -vE '^[a-z0-9-]+==[0-9.]+( --hash=sha256:[0-9a-f]{64}){1,2}$'
}

if python3 -m pip --version >/dev/null 2>&1; then check other_wheels other_wheels; else skip "no pip here" other_wheels; fi
check cache_of_others cache
check new_cache new_cache
check line_breaks_in_names line_breaks
check hostile_index hostile_index
check closed_standard_streams closed_streams
check file_size_limit size_limit
check links_are_not_followed links
check lock_of_a_pack_stays lock_stays
check record_is_replaced_as_a_whole record
exit $failed
