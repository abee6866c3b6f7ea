#!/usr/bin/env bash
# Long commands: each shows the one progress bar on a terminal; Ctrl-C says what it loses. Prints cmocka's lines.
. tests/support.sh progress
export OMP_NUM_THREADS=2 XDG_CACHE_HOME=$dir/cache
model=(--checkpoint $golden --vocab $golden/vocab.txt)

shows() { # words of bars, a command
    local words=$1 word
    shift
    script -qec "$(printf '%q ' "$@")" "$dir/typed" >/dev/null </dev/null || { cat "$dir/typed"; return 1; }
    for word in $words; do grep -q "${word//_/ } \[#*\] 100 %" "$dir/typed" || { echo "no bar '$word':"; cat -v "$dir/typed"; return 1; }; done
}
bars() {
    printf 'filepath\tclass\n' >"$dir/t.tsv"
    for i in 0{0..9} {10..19}; do printf '%s\t%s\n' "$PWD/$golden/$i.jpg" "c$((10#$i % 2))" >>"$dir/t.tsv"; done
    echo '{"classes": ["c0", "c1"], "templates": ["{}"]}' >"$dir/classes.json"
    mkdir -p "$dir/shards"
    shows pictures "$clipc" embed "${model[@]}" --images $golden/pairs.tsv --out "$dir/x.npy" &&
        shows "pictures captions" "$clipc" eval retrieval "${model[@]}" --data $golden/pairs.tsv &&
        shows "pictures choosing_C" "$clipc" eval probe "${model[@]}" --train "$dir/t.tsv" --test "$dir/t.tsv" &&
        shows "classes images" "$clipc" eval zeroshot "${model[@]}" --data "$dir/t.tsv" --classes "$dir/classes.json" &&
        shows writing "$clipc" ckpt convert $golden --out "$dir/converted" --vocab $golden/vocab.txt &&
        "$clipc" data pack $golden/pairs.tsv --shard-samples 10 --out "$dir/shards/s" 2>/dev/null && rm -f "$dir"/shards/*.idx &&
        shows indexing "$clipc" data index "$dir/shards"
}
no_bars_within() { # nor lines in a log of short work
    "$clipc" embed "${model[@]}" --images $golden/pairs.tsv --out "$dir/y.npy" 2>"$dir/stderr" && ! grep -q "left$" "$dir/stderr" &&
        ! grep -aq "captions \[" <(script -qec "'$clipc' eval zeroshot ${model[*]} --data '$dir/t.tsv' --classes '$dir/classes.json'" /dev/null </dev/null)
}
interrupt() { # what it says, a command that waits for a stream
    python3 - "$@" <<'END'
import signal, subprocess, sys, time
p = subprocess.Popen(sys.argv[2:], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
time.sleep(1.5)
p.send_signal(signal.SIGINT)
said = p.communicate(timeout=30)[1].decode()
assert p.returncode == -signal.SIGINT, (p.returncode, said)
assert "interrupted: " + sys.argv[1] in said, said
END
}
interrupted() {
    interrupt "an index keeps what was added" "$clipc" embed "${model[@]}" --images 'pipe:sleep 20' --index "$dir/ix" &&
        interrupt "there is no result" "$clipc" eval retrieval "${model[@]}" --data 'pipe:sleep 20' && [ ! -e "$dir/ix" ]
}
standard_streams() { # features from and to pipes; a byte order mark is no part of a text
    printf 'a red circle\na blue square\n' >"$dir/texts" && printf '\xef\xbb\xbfa red circle\na blue square\n' >"$dir/marked" &&
        "$clipc" embed "${model[@]}" --text "$dir/texts" --out "$dir/texts.npy" 2>/dev/null &&
        "$clipc" embed "${model[@]}" --text - --out - <"$dir/marked" 2>/dev/null | cmp - "$dir/texts.npy" &&
        cmp <("$clipc" tok --vocab $golden/vocab.txt <"$dir/texts") <("$clipc" tok --vocab $golden/vocab.txt <"$dir/marked") &&
        "$clipc" embed "${model[@]}" --images $golden/pairs.tsv --out - 2>/dev/null | cmp - "$dir/x.npy" && [ ! -e "./-.keys" ] || return 1
    { printf '\xef\xbb\xbf'; cat "$dir/classes.json"; } >"$dir/marked.json"
    "$clipc" eval zeroshot "${model[@]}" --data "$dir/t.tsv" --classes "$dir/marked.json" >"$dir/out" 2>&1 || { cat "$dir/out"; return 1; }
}
learns_of_data() { # the vocabulary of what train takes is that of its captions; the size to write is said
    tail -n +2 $golden/pairs.tsv | cut -f 2 >"$dir/captions" &&
        says 0 '"vocab_size": 544' "$clipc" tok train --captions "$dir/captions" --merges 30 --out "$dir/a.txt" &&
        says 0 '"vocab_size": 544' "$clipc" tok train --data $golden/pairs.tsv --merges 30 --out "$dir/b.txt" && cmp "$dir/a.txt" "$dir/b.txt" &&
        says 0 '"vocab_size": 544' "$clipc" tok train --data "$dir/shards" --merges 30 --out "$dir/c.txt" && cmp "$dir/a.txt" "$dir/c.txt" &&
        says 2 "--captions or --data" "$clipc" tok train --data x --captions y --out "$dir/d.txt"
}
large_pictures() { # 48 megapixels and A4 at 600 dpi are read, a limit refuses them
    python3 - "$dir" <<'END' || return 1
import struct, sys, zlib
for name, w, h in (("photo", 8064, 6048), ("a4", 4961, 7016)):
    rows = zlib.compressobj(1)
    data = b"".join(rows.compress(b"\0" + bytes(w)) for _ in range(h)) + rows.flush()
    chunk = lambda kind, body: struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    with open(f"{sys.argv[1]}/{name}.png", "wb") as f:
        f.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 8, 0, 0, 0, 0)) + chunk(b"IDAT", data) + chunk(b"IEND", b""))
END
    "$clipc" embed "${model[@]}" --image "$dir/photo.png" "$dir/a4.png" --out "$dir/large.npy" 2>"$dir/stderr" &&
        refused 1 "the limit is 1000000" "$clipc" embed "${model[@]}" --image "$dir/photo.png" --out "$dir/l.npy" --max-image-pixels 1000000 &&
        refused 1 "the limit is 1000000" "$clipc" score "${model[@]}" --image "$dir/photo.png" --texts a --max-image-pixels 1000000 &&
        printf 'filepath\ttitle\n%s\ta\n%s\tb\n' "$dir/photo.png" "$PWD/$golden/00.jpg" >"$dir/large.tsv" &&
        says 0 "1 too large" "$clipc" data pack "$dir/large.tsv" --out "$dir/packed/p" --max-image-pixels 1000000
}

if command -v script >/dev/null; then
    check bars bars
    check one_bar_at_a_time no_bars_within
else
    skip "no script(1) here" bars one_bar_at_a_time
fi
check interrupted interrupted
check standard_streams standard_streams
check vocabulary_of_a_data_set learns_of_data
check large_pictures large_pictures
exit $failed
