#!/usr/bin/env bash
# One line for each library that the build needs and does not find, with Debian's package name: tools/check_deps.sh CC…
cc=${*:-gcc}
missing=0
need() { # header, package
    printf '#include <stdio.h>\n#include <%s>\n' "$1" | $cc -E - >/dev/null 2>&1 && return
    echo "missing: <$1>: install Debian's $2 (or run: make setup)" >&2
    missing=1
}
need dnnl.h libdnnl-dev
need jpeglib.h libjpeg62-turbo-dev
need png.h libpng-dev
need webp/decode.h libwebp-dev
need zstd.h libzstd-dev
need zlib.h zlib1g-dev
need jansson.h libjansson-dev
need utf8proc.h libutf8proc-dev
exit $missing
