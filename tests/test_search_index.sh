#!/usr/bin/env bash
# Index folders as a user runs them: embed --index, search DIR, index …. Prints cmocka's lines.
. tests/support.sh search
vocab=(--vocab $golden/vocab.txt)

# 20 hits in $dir/a and $dir/b each, scores within $1
same_scores() {
    paste "$dir/a" "$dir/b" | tail -n +2 | awk -v t="$1" '{d = $2 - $7; if (d > t || d < -t) exit 1} END {exit NR != 20}'
}
# The state of a file that is written within a tick of the clock before its embedding is not known.
settle() { sleep 0.05; }
embed() { "$clipc" embed --checkpoint $golden "$@"; }

add() { # what is there is not embedded again; what is found is what a .npy finds
    mkdir -p "$dir/p" && cp $golden/0*.jpg "$dir/p/" && settle
    says 0 "10 added, 0 were there, 10 in all" embed --images "$dir/p" --index "$dir/i" &&
        cp "$dir/i/index.json" "$dir/before" &&
        says 0 "0 added, 10 were there, 10 in all" embed --images "$dir/p" --index "$dir/i" &&
        cmp "$dir/i/index.json" "$dir/before" && cp $golden/1*.jpg "$dir/p/" && settle &&
        says 0 "10 added, 10 were there, 20 in all" embed --images "$dir/p" --index "$dir/i" &&
        says 0 "20 pictures, 2 segments: sound" "$clipc" index check "$dir/i" || return 1
    embed --images "$dir/p" --out "$dir/p.npy" 2>/dev/null
    "$clipc" search "$dir/i" "${vocab[@]}" --texts 'a red circle' --top 20 >"$dir/a" &&
        "$clipc" search --checkpoint $golden --collection "$dir/p.npy" "${vocab[@]}" --texts 'a red circle' --top 20 >"$dir/b" &&
        same_scores 2e-4 && says 0 '"pictures": 20' "$clipc" index list "$dir/i" --json &&
        says 0 "07.jpg" "$clipc" search "$dir/i" --image "$dir/p/07.jpg" --top 1
}
read_as_recorded() { # pictures that are added and queries are read as those of the index; an option that says otherwise is refused
    found() { "$@" 2>"$dir/err" | grep -q " 1\.0000  .*exif-6"; }
    local image=tests/golden/image made="was made with --background white --exif --pdf-dpi 100"
    local query=("$clipc" search "$dir/ri" --image $image/exif-6.jpg --top 1)
    mkdir "$dir/r" && cp $image/exif-[36].jpg $image/exif-1.jpg "$dir/r/" && settle &&
        says 0 "3 added" embed --images "$dir/r" --index "$dir/ri" --exif --background white &&
        grep -qF '"read":{"background":"white","exif":true,"pdf_dpi":100}' "$dir/ri/index.json" &&
        found "${query[@]}" && found "${query[@]}" --exif --background white || return 1
    cp $image/exif-8.jpg "$dir/r/" && settle && says 0 "1 added, 3 were there" embed --images "$dir/r" --index "$dir/ri" &&
        embed --exif --image $image/exif-8.jpg --out "$dir/turned.npy" 2>/dev/null && embed --image $image/exif-8.jpg --out "$dir/stored.npy" 2>/dev/null &&
        ! cmp -s "$dir/turned.npy" "$dir/stored.npy" && cmp <(tail -c 160 "$dir/turned.npy") <(tail -c 160 "$dir/ri/00000002.npy") || return 1
    says 1 "$made: leave out --exif" "${query[@]}" --no-exif && says 1 "$made: leave out --background" "${query[@]}" --background black &&
        says 1 "$made: leave out --exif" embed --images "$dir/r" --index "$dir/ri" --no-exif &&
        says 1 "$made: leave out --pdf-dpi" embed --images "$dir/r" --index "$dir/ri" --pdf-dpi 99 || return 1
    sed -i -E 's/,"read":\{[^}]*\}//' "$dir/ri/index.json" && ! grep -q '"read"' "$dir/ri/index.json" && # of an older version: the options decide
        ! found "${query[@]}" && found "${query[@]}" --exif &&
        says 0 "0 added, 4 were there" embed --images "$dir/r" --index "$dir/ri" --no-exif
}
again() {
    settle
    embed --images "$dir/ch" --index "$dir/chi"
}
changed() { # what has changed under its name is embedded again, whatever its time of modification; what cannot be read stays as it was
    mkdir -p "$dir/ch" && cp $golden/0*.jpg "$dir/ch/" && says 0 "10 added" again &&
        cp $golden/12.jpg "$dir/ch/05.jpg" && cp -p $golden/13.jpg "$dir/ch/new" && mv "$dir/ch/new" "$dir/ch/06.jpg" && echo >"$dir/ch/07.jpg" &&
        says 0 "3 pictures have changed" again && grep -q "2 added, 7 were there, 10 in all" "$dir/out" &&
        grep -q "1 pictures could not be read" "$dir/out" || return 1
    "$clipc" search "$dir/chi" --image $golden/12.jpg --top 1 | grep -q '1\.0000 .*/05.jpg' &&
        "$clipc" search "$dir/chi" --image $golden/13.jpg --top 1 | grep -q '1\.0000 .*/06.jpg' &&
        "$clipc" search "$dir/chi" --image $golden/07.jpg --top 1 | grep -q '1\.0000 .*/07.jpg' &&
        says 0 '"removed": 2' "$clipc" index list "$dir/chi" --json && says 0 "sound" "$clipc" index check "$dir/chi" || return 1
    cp $golden/14.jpg "$dir/ch/07.jpg" && says 0 "1 added, 9 were there, 10 in all" again &&
        says 0 "0 added, 10 were there" again
}
clocks() { # what is stale does not depend on the clock
    touch -d 2090-01-01 "$dir/ch/00.jpg" && says 0 "1 added, 9 were there" again && says 0 "0 added, 10 were there" again &&
        sed -i -E 's/,1([0-9]{18})\]/,2\1]/g' "$dir/chi/index.json" && # embedded before the clock was set back
        cp $golden/16.jpg "$dir/ch/01.jpg" && cp $golden/17.jpg "$dir/ch/02.jpg" && touch -d 2001-01-01 "$dir/ch/02.jpg" &&
        says 0 "2 added, 8 were there" again && says 0 "0 added, 10 were there" again &&
        "$clipc" search "$dir/chi" --image $golden/17.jpg --top 1 | grep -q '1\.0000 .*/02.jpg' &&
        says 0 "10 pictures in 1 segment" "$clipc" index compact "$dir/chi" && says 0 "0 added, 10 were there" again &&
        touch "$dir/ch/03.jpg" && says 0 "1 added, 9 were there" again
}
before_stamps() { # indexes of older versions
    rm "$dir"/chi/*.stamps && sed -i -E 's/,"stamps":"[0-9a-f]*"//g; s/,2([0-9]{18})\]/,1\1]/g' "$dir/chi/index.json" &&
        "$clipc" search "$dir/chi" --image $golden/17.jpg --top 1 | grep -q '1\.0000 .*/02.jpg' && says 0 "sound" "$clipc" index check "$dir/chi" &&
        says 0 "1 added, 9 were there" again && says 0 "0 added, 10 were there" again && # the one of the future
        touch "$dir/ch/04.jpg" && says 0 "1 added, 9 were there" again && says 0 "10 pictures in 1 segment" "$clipc" index compact "$dir/chi" &&
        touch "$dir/ch/04.jpg" "$dir/ch/05.jpg" && says 0 "2 added, 8 were there" again || return 1
    rm "$dir"/chi/*.stamps && sed -i -E 's/,"stamps":"[0-9a-f]*"//g; s/,"times":\[[^a-z]*\]\]//g' "$dir/chi/index.json" &&
        touch "$dir"/ch/*.jpg && says 0 "0 added, 10 were there" again # without times
}
pages() { # of PDFs: a page a row; hits, pages of HTML and keys name file and page
    local pdf=tests/golden/pdf/pages.pdf
    mkdir -p "$dir/pdf" && cp $pdf "$dir/pdf/d.pdf" && cp tests/golden/pdf/encrypted.pdf "$dir/pdf/" && cp $golden/00.jpg "$dir/pdf/" && settle &&
        says 0 "4 added, 0 were there" embed --images "$dir/pdf" --index "$dir/pi" && grep -q "encrypted.pdf: .*Incorrect password" "$dir/out" &&
        grep -q "1 pictures could not be read" "$dir/out" && says 0 "0 added, 4 were there" embed --images "$dir/pdf" --index "$dir/pi" &&
        says 0 "row 3  $dir/pdf/d.pdf#3" "$clipc" search "$dir/pi" --image "$pdf#3" --top 1 --html "$dir/p.html" && grep -q '1\.0000' "$dir/out" &&
        grep -q "<a href=\"file://$(realpath "$dir")/pdf/d.pdf#page=3\">" "$dir/p.html" && grep -q 'img src="data:image/jpeg;base64,/9j/' "$dir/p.html" || return 1
    "$clipc" search "$dir/pi" --image "$dir/pdf/d.pdf#2" --exclude-self --top 4 >"$dir/a" && ! grep -q 'd.pdf#2$' <(tail -n +2 "$dir/a") &&
        grep -q 'd.pdf#1$' "$dir/a" && says 1 "d.pdf: which page? d.pdf#1 is its first" "$clipc" search "$dir/pi" --image "$dir/pdf/d.pdf" &&
        says 1 "d.pdf#9: Wrong page range" "$clipc" search "$dir/pi" --image "$dir/pdf/d.pdf#9" || return 1
    cp $pdf "$dir/pdf/new" && printf '\n' >>"$dir/pdf/new" && mv "$dir/pdf/new" "$dir/pdf/d.pdf" && settle && # all pages of a changed file
        says 0 "3 pictures have changed" embed --images "$dir/pdf" --index "$dir/pi" && rm "$dir/pdf/d.pdf" &&
        says 0 "d.pdf#2" "$clipc" index remove "$dir/pi" --missing --yes && grep -q "3 removed, 1 left" "$dir/out" || return 1
    embed --images $pdf --out "$dir/pages.npy" 2>/dev/null && [ "$(cat "$dir/pages.npy.keys")" = "$(printf '%s\n' $pdf\#1 $pdf\#2 $pdf\#3)" ] &&
        embed --image "$pdf#1" "$pdf#2" "$pdf#3" --out "$dir/each.npy" && cmp "$dir/pages.npy" "$dir/each.npy" &&
        embed --images $pdf --pdf-dpi 30 --out "$dir/coarse.npy" 2>/dev/null && ! cmp -s "$dir/pages.npy" "$dir/coarse.npy" &&
        says 1 "no readable image" embed --images tests/golden/pdf/empty.pdf --out "$dir/none.npy" && [ ! -e "$dir/none.npy" ]
}
half() { # f16: the same hits, scores to 1e-3
    says 0 "20 in all" embed --images "$dir/p" --index "$dir/h" --dtype f16 --thumbnails 0 && [ ! -e "$dir/h/00000001.thumbs" ] &&
        [ "$(stat -c %s "$dir/h/00000001.npy")" = $((128 + 20 * 40 * 2)) ] &&
        "$clipc" search "$dir/h" --image "$dir/p/07.jpg" --top 20 >"$dir/a" && "$clipc" search "$dir/i" --image "$dir/p/07.jpg" --top 20 >"$dir/b" &&
        same_scores 1e-3 &&
        says 1 "holds f16: --dtype is for a new index" embed --images "$dir/p" --index "$dir/h" --dtype f32 &&
        says 1 "--thumbnails is for a new index" embed --images "$dir/p" --index "$dir/h" --thumbnails 64 || return 1
    embed --images "$dir/p" --out "$dir/h.npy" --dtype f16 2>/dev/null &&
        says 0 "07.jpg" "$clipc" search --checkpoint $golden --collection "$dir/h.npy" --image "$dir/p/07.jpg" --top 1
}
both() { # all weight on one side is that side's search
    "$clipc" search "$dir/i" --image "$dir/p/03.jpg" | tail -n +2 >"$dir/a"
    "$clipc" search "$dir/i" --image "$dir/p/03.jpg" --texts 'a red circle' "${vocab[@]}" --weight 0 | tail -n +2 >"$dir/b"
    cmp "$dir/a" "$dir/b" || return 1
    "$clipc" search "$dir/i" --texts 'a red circle' "${vocab[@]}" | tail -n +2 >"$dir/a"
    "$clipc" search "$dir/i" --image "$dir/p/03.jpg" --texts 'a red circle' "${vocab[@]}" --weight 1 | tail -n +2 >"$dir/b"
    cmp "$dir/a" "$dir/b" || return 1
    says 0 "a red circle + $dir/p/03.jpg" "$clipc" search "$dir/i" --image "$dir/p/03.jpg" --texts 'a red circle' "${vocab[@]}" --html "$dir/x.html" &&
        [ "$(grep -c 'img src="data:image/jpeg;base64,/9j/' "$dir/x.html")" = 5 ] && [ "$(grep -c "<a href=\"file://$(realpath "$dir")/p/..*jpg\">" "$dir/x.html")" = 5 ] &&
        grep -q "$dir/i, [0-9]* pictures; model .*; 20[0-9-]* [0-9:]*</p>" "$dir/x.html" &&
        says 2 "2 texts and 3 images" "$clipc" search "$dir/i" --image $golden/0{1,2,3}.jpg --texts a b "${vocab[@]}" &&
        says 2 "--weight is for words and pictures together" "$clipc" search "$dir/i" --texts a --weight 0.3
}
remove() { # removed pictures are not found, and come back when they are embedded again
    says 1 "has no 'nothing'" "$clipc" index remove "$dir/i" "$dir/p/03.jpg" nothing &&
        says 0 "20 left" "$clipc" index remove "$dir/i" --match '*/1*.jpg' --dry-run &&
        says 0 "1 removed, 19 left" "$clipc" index remove "$dir/i" "$dir/p/03.jpg" &&
        [ "$("$clipc" search "$dir/i" --image "$dir/p/03.jpg" --top 100 | grep -c 03.jpg)" = 1 ] && rm "$dir/p/04.jpg" &&
        says 0 "$dir/p/04.jpg" "$clipc" index remove "$dir/i" --missing &&
        "$clipc" index list "$dir/i" >"$dir/list" && [ "$(wc -l <"$dir/list")" = 18 ] && ! grep -q '0[34].jpg' "$dir/list" &&
        says 0 "18 pictures in 1 segment" "$clipc" index compact "$dir/i" && "$clipc" index list "$dir/i" | cmp - "$dir/list" &&
        says 0 "1 added, 18 were there, 19 in all" embed --images "$dir/p" --index "$dir/i" &&
        says 0 "03.jpg" "$clipc" search "$dir/i" --image $golden/03.jpg --top 1 &&
        says 0 "19 pictures, 2 segments: sound" "$clipc" index check "$dir/i" &&
        says 2 "nothing to remove" "$clipc" index remove "$dir/i"
}
# One picture has one key, however it is named and from wherever; what is missing is missed from everywhere.
names() {
    local program model from
    program=$(realpath "$clipc") model=$(realpath $golden)
    mkdir -p "$dir/n/a/b" "$dir/n/far" && cp $golden/0*.jpg "$dir/n/a/b/" && cp $golden/1[0-2].jpg "$dir/n/far/" && ln -s a/b "$dir/n/link" && settle
    from() { (cd "$dir/n/$1" && shift && "$program" "$@"); }
    add_as() { says 0 "$1" from "$2" embed --checkpoint "$model" --images "$3" --index "$dir/n/ix"; }
    add_as "10 added, 0 were there, 10 in all" . a/b && add_as "0 added, 10 were there, 10 in all" . ./a/b/ &&
        add_as "0 added, 10 were there, 10 in all" a b && add_as "0 added, 10 were there, 10 in all" . "$dir/n/a/b" &&
        add_as "0 added, 10 were there, 10 in all" far ../link && [ "$("$clipc" index list "$dir/n/ix" | head -n 1)" = a/b/00.jpg ] &&
        says 0 "0 removed, 10 left" from far index remove ../ix --missing && add_as "3 added, 0 were there, 13 in all" far . &&
        [ "$("$clipc" index list "$dir/n/ix" | tail -n 1)" = far/12.jpg ] &&
        says 0 "1 removed, 12 left" from a/b index remove ../../ix 00.jpg && says 0 "1 removed, 11 left" from far index remove ../ix a/b/01.jpg || return 1
    # a tenth and no more, unless it is meant
    mv "$dir/n/far" "$dir/n/gone" && cp "$dir/n/ix/index.json" "$dir/before" &&
        refused 1 "3 of 11 pictures would be removed" "$clipc" index remove "$dir/n/ix" --missing && [ ! -s "$dir/stdout" ] &&
        refused 1 "more than a tenth" "$clipc" index remove "$dir/n/ix" --match 'a/*' && cmp "$dir/before" "$dir/n/ix/index.json" &&
        says 0 "3 would be removed" "$clipc" index remove "$dir/n/ix" --missing --dry-run &&
        says 0 "3 removed, 8 left" "$clipc" index remove "$dir/n/ix" --missing --yes
}
# Keys of older versions started where clipc was called; embedding from there gives them a folder of their own.
older() {
    local program model
    program=$(realpath "$clipc") model=$(realpath $golden)
    mkdir -p "$dir/old/deep/a" && cp $golden/0*.jpg "$dir/old/deep/a/" && settle
    (cd "$dir/old" && "$program" embed --checkpoint "$model" --images deep/a --index deep/ix 2>"$dir/stderr") || return 1
    # as if from $dir/old: keys with the folder's name, and every picture twice
    python3 - "$dir/old/deep/ix" <<'END' || return 1
import json, struct, sys
folder = sys.argv[1]
def crc32c(data):
    crc = 0xffffffff
    for byte in data:
        crc ^= byte
        for _ in range(8): crc = crc >> 1 ^ (0x82f63b78 if crc & 1 else 0)
    return crc ^ 0xffffffff
index = json.load(open(folder + '/index.json'))
index.pop('paths')
keys = open(folder + '/00000001.keys', 'rb').read()
keys = keys.replace(b'a/', b'deep/a/')
keys = keys.replace(b'a/01.jpg', b'./a/00.jpg'.replace(b'./', b'')) # the second row names the first one's picture
open(folder + '/00000001.keys', 'wb').write(keys)
index['segments'][0]['crc32c'][1] = '%08x' % crc32c(keys)
json.dump(index, open(folder + '/index.json', 'w'))
END
    cp -r "$dir/old/deep/ix" "$dir/old/deep/other" && settle
    again() { says 0 "$3" "$program" embed --checkpoint "$model" --images "$1" --index "$2"; }
    (cd "$dir/old" && says 0 "0 removed, 10 left" "$program" index remove deep/ix --missing) &&
        refused 1 "10 of 10 pictures would be removed" "$clipc" index remove "$dir/old/deep/ix" --missing &&
        says 0 "call clipc once in the folder where it was made" "$program" embed --checkpoint "$model" --images "$dir/old/deep/a" --index "$dir/old/deep/other" &&
        (cd "$dir/old" && again deep/a deep/ix "1 rows of pictures that it has more than once" && grep -q "(10 have changed)" "$dir/out" &&
            grep -q "1 added, 9 were there, 10 in all" "$dir/out") &&
        again "$dir/old/deep/a" "$dir/old/deep/ix" "0 added, 10 were there, 10 in all" && says 0 sound "$clipc" index check "$dir/old/deep/ix" &&
        [ "$("$clipc" index list "$dir/old/deep/ix" | sort | head -n 2 | xargs)" = "a/00.jpg a/01.jpg" ] || return 1
    # made in its own folder: the keys are right as they are
    (cd "$dir/old/deep" && says 0 "10 added" "$program" embed --checkpoint "$model" --images a --index own) &&
        sed -i 's|,"paths":"index"||' "$dir/old/deep/own/index.json" && ! grep -q paths "$dir/old/deep/own/index.json" &&
        again "$dir/old/deep/a" "$dir/old/deep/own" "0 added, 10 were there, 10 in all" && grep -q "(0 have changed)" "$dir/out" &&
        ! grep -q "more than once" "$dir/out" && says 0 sound "$clipc" index check "$dir/old/deep/own" &&
        (cd "$dir/old/deep" && says 0 "1 would be removed" "$program" index remove own a/00.jpg ./a/00.jpg "$PWD/a/00.jpg" --dry-run &&
            says 1 "has no './a/99.jpg'" "$program" index remove own a/00.jpg ./a/99.jpg --dry-run)
}
duplicates() { # two copies under other names
    mkdir -p "$dir/d" && cp $golden/0[0-4].jpg "$dir/d/" && cp $golden/01.jpg "$dir/d/x.jpg" && cp $golden/01.jpg "$dir/d/y.jpg"
    embed --images "$dir/d" --index "$dir/dup" 2>/dev/null
    says 0 "3 pairs of 7 pictures are at least 0.9999 alike: 3 pictures in 1 groups" "$clipc" search "$dir/dup" --duplicates 0.9999 &&
        grep -q "1.0000  row 5  $dir/d/x.jpg" "$dir/out" &&
        says 0 '"pairs": 21' "$clipc" search "$dir/dup" --duplicates 0.2 --json &&
        says 0 "0 pictures in 0 groups" "$clipc" search "$dir/h" --duplicates 1 &&
        says 2 "give one of" "$clipc" search "$dir/dup" --duplicates 0.9 --texts a
}
words() { # bare words are a query; a picture need not find itself
    "$clipc" search "$dir/i" "${vocab[@]}" --texts 'a red circle' >"$dir/a" && "$clipc" search "$dir/i" a red circle "${vocab[@]}" | cmp - "$dir/a" &&
        says 2 "for queries by --image" "$clipc" search "$dir/i" --texts a --exclude-self "${vocab[@]}" &&
        says 2 "one index is searched" "$clipc" search "$dir/i" "$dir/h" --texts a &&
        "$clipc" search "$dir/i" --image "$dir/p/07.jpg" --top 3 >"$dir/a" && "$clipc" search "$dir/i" --image "$dir/p/07.jpg" --top 2 --exclude-self >"$dir/b" &&
        [ "$(grep -c 07.jpg "$dir/b")" = 1 ] && [ "$(tail -n 2 "$dir/a" | awk '{print $2, $5}')" = "$(tail -n 2 "$dir/b" | awk '{print $2, $5}')" ] &&
        (program=$(realpath "$clipc") && cd "$dir/p" && "$program" search ../i --image 07.jpg --top 2 --exclude-self) 2>/dev/null | tail -n 2 | cmp - <(tail -n 2 "$dir/b")
}
another_model() { # the same architecture with other weights is refused, also for adding
    cp -r $golden "$dir/other" && printf '\101' | dd of="$dir/other/open_clip_model.safetensors" bs=1 seek=500001 conv=notrunc 2>/dev/null
    says 1 "was embedded by another model" "$clipc" search "$dir/i" --checkpoint "$dir/other" --image "$dir/p/07.jpg" &&
        says 1 "was embedded by another model" "$clipc" embed --checkpoint "$dir/other" --images "$dir/p" --index "$dir/i" &&
        cp -r "$dir/other" "$dir/moved" && "$clipc" embed --checkpoint "$dir/moved" --images "$dir/p" --index "$dir/m" 2>/dev/null &&
        mv "$dir/moved" "$dir/away" && says 1 "say with --checkpoint where it is" "$clipc" search "$dir/m" --image "$dir/p/07.jpg" &&
        says 0 "07.jpg" "$clipc" search "$dir/m" --checkpoint "$dir/away" --image "$dir/p/07.jpg" --top 1
}
checksum() { # a checkpoint of ours carries one: it decides, and where it does not, all weights do
    local own="$dir/own" out='s/,"checksum":"[0-9a-f]*"//' other='s/"identity":"......../"identity":"12345678/'
    "$clipc" ckpt convert $golden --vocab $golden/vocab.txt --out "$own" 2>"$dir/stderr" &&
        says 0 "10 added" "$clipc" embed --checkpoint "$own" --images "$dir/ch" --index "$dir/k" &&
        grep -q '"checksum":"[0-9a-f]\{16\}"' "$dir/k/index.json" && ! grep -q checksum "$dir/i/index.json" || return 1
    query() { "$clipc" search "$dir/k" --image "$dir/ch/00.jpg" --top 1 "$@"; }
    says 0 "00.jpg" query && says 0 "00.jpg" query --checkpoint $golden && # the same weights without a checksum
        says 1 "was embedded by another model" query --checkpoint "$dir/other" || return 1
    cp "$dir/k/index.json" "$dir/whole"
    sed -i "$other" "$dir/k/index.json" && ! cmp -s "$dir/k/index.json" "$dir/whole" && says 0 "00.jpg" query &&
        says 1 "was embedded by another model" query --checkpoint $golden || return 1
    sed -i "$out" "$dir/k/index.json" && says 1 "was embedded by another model" query || return 1
    # an index of an older program has no checksum; the next pictures add it
    sed "$out" "$dir/whole" >"$dir/k/index.json" && says 0 "00.jpg" query && cp $golden/20.jpg "$dir/ch" && settle &&
        says 0 "1 added, 10 were there" "$clipc" embed --checkpoint "$own" --images "$dir/ch" --index "$dir/k" &&
        [ "$(grep -o '"checksum":"[0-9a-f]*"' "$dir/k/index.json")" = "$(grep -o '"checksum":"[0-9a-f]*"' "$dir/whole")" ] || return 1
    # a weight that has changed: the file's checksum no longer fits it
    printf '\101' | dd of="$own/open_clip_model.safetensors" bs=1 seek=500001 conv=notrunc 2>/dev/null
    says 1 "damaged" query &&
        "$clipc" ckpt convert "$dir/other" --vocab $golden/vocab.txt --out "$dir/changed" 2>"$dir/stderr" && says 1 "was embedded by another model" query --checkpoint "$dir/changed"
}
# the checkpoint that an index names is compared before its weights are read, and never taken from the index itself
named_checkpoint() {
    query() { "$clipc" search "$dir/named" --image "$dir/p/07.jpg" --top 1 "$@"; }
    names() { sed -i "s|\"checkpoint\":\"[^\"]*\"|\"checkpoint\":\"$1\"|" "$dir/named/index.json"; }
    cp -r "$dir/i" "$dir/named" && cp -r "$dir/other" "$dir/named/model" && says 0 "07.jpg" query || return 1
    names "$dir/named/../named/model" && refused 1 "names a checkpoint inside itself" query &&
        refused 1 "was embedded by another model" query --checkpoint "$dir/named/model" &&
        says 0 "07.jpg" query --checkpoint $golden && ln -s "$dir/named" "$dir/linked" && names "$dir/linked/model" &&
        refused 1 "names a checkpoint inside itself" query || return 1
    # other preprocessing shows without the weights
    cp -r $golden "$dir/resized" && : >"$dir/resized/open_clip_model.safetensors" && names "$dir/resized" &&
        sed -i 's/"interpolation": "[a-z]*"/"interpolation": "bilinear"/' "$dir/resized/open_clip_config.json" &&
        ! cmp -s $golden/open_clip_config.json "$dir/resized/open_clip_config.json" &&
        refused 1 "another architecture or preprocessing" query
}
crash() { # a full disk, or a kill at any time, leaves the index as it was
    cp -r "$dir/i" "$dir/c" && mkdir -p "$dir/more" && cp $golden/2*.jpg "$dir/more/"
    (ulimit -f 1 && trap '' XFSZ && says 1 "too large" embed --images "$dir/more" --index "$dir/c") &&
        says 0 "sound" "$clipc" index check "$dir/c" && cmp "$dir/c/index.json" "$dir/i/index.json" || return 1
    local t
    for t in 0.01 0.03 0.05 0.08; do
        { timeout -s KILL $t "$clipc" embed --checkpoint $golden --images "$dir/more" --index "$dir/c" & wait $!; } >/dev/null 2>&1
        says 0 "sound" "$clipc" index check "$dir/c" || return 1
    done
    says 0 "23 in all" embed --images "$dir/more" --index "$dir/c" && says 0 "23 pictures" "$clipc" index check "$dir/c" &&
        ! ls "$dir/c" | grep -q tmp
}
bad_input() {
    says 1 "is no index folder" "$clipc" search "$dir/p" --texts a &&
        says 2 "give --out, or --index" embed --images "$dir/p" &&
        says 2 "--index takes --images" embed --image "$dir/p/00.jpg" --index "$dir/n" &&
        says 2 "--thumbnails goes with --index" embed --images "$dir/p" --out "$dir/n.npy" --thumbnails 3 &&
        says 1 "No such file" "$clipc" search "$dir/i" --image "$dir/none.jpg" &&
        says 2 "name one index folder" "$clipc" search --texts a || return 1
    mkdir -p "$dir/text" && echo no picture >"$dir/text/a.jpg"
    says 1 "holds no picture" embed --images "$dir/text" --index "$dir/n" &&
        says 1 "holds no picture" "$clipc" search "$dir/n" --texts a
}

check add add
check read_as_recorded read_as_recorded
check changed changed
check clocks clocks
check before_stamps before_stamps
if command -v pdftoppm >/dev/null; then check pages pages; else skip "no pdftoppm (poppler-utils)" pages; fi
check half half
check both both
check remove remove
check one_key_a_picture names
check keys_of_older_versions older
check duplicates duplicates
check bare_words words
check another_model another_model
check checksum checksum
check named_checkpoint named_checkpoint
check crash crash
check bad_input bad_input
exit $failed
