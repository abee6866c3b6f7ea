#!/usr/bin/env bash
# Checks the rules of docs/CONTRIBUTING.md; each violation prints a line, and the exit code is 1.
set -u
cd "$(dirname "$0")/.."
[ -n "${CFLAGS:-}" ] || exec make --no-print-directory lint
tools/setup.sh build lint || exit 1
bad=0
complain() {
    bad=1
    echo "lint: $1"
    [ -z "${2:-}" ] || printf '%s\n' "$2" | sed 's/^/    /' | head -20
}

mapfile -t sources < <(git ls-files '*.c' '*.h')

# Layers, lowest first: a file includes files of its folder and of folders in lines above. The printed table counts the
# includes of a column's folder by a row's; "-" is none, and none is allowed.
layers='
kernels
data/io
data/image data/text data/tensors
data
train/ranks
train/model
eval
train
tools tests'
wrong=$(git grep -E '^ *# *include "' -- '*.c' '*.h' '*.cu' '*.cuh' | awk -v layers="$layers" '
    function folder(path, at) { # the longest one that holds it
        for (at = path; sub("/[^/]*$", "", at);) if (at in level) return at
        return "?"
    }
    BEGIN {
        rows = split(layers, row, "\n")
        for (i = 1; i <= rows; i++) for (j = 1; j <= split(row[i], name, " "); j++) level[order[++n] = name[j]] = i
    }
    {
        from = $0; sub(":.*", "", from)
        to = $0; sub("^[^\"]*\"", "", to); sub("\".*", "", to)
        a = folder(from); b = folder(to)
        count[a, b]++
        if (a != b && !(b in level && level[b] < level[a])) print from " includes " to
    }
    END {
        table = sprintf("%-13s", "includes of")
        for (j = 1; j <= n; j++) { label = order[j]; sub(".*/", "", label); table = table sprintf(" %7s", label) }
        for (i = 1; i <= n; i++) {
            table = table sprintf("\n%-13s", order[i])
            for (j = 1; j <= n; j++) {
                up = i != j && level[order[j]] >= level[order[i]]
                table = table sprintf(" %7s", up && !count[order[i], order[j]] ? "-" : count[order[i], order[j]] + 0)
            }
        }
        print table >"/dev/stderr"
    }')
[ -z "$wrong" ] || complain "includes of a layer that is no lower" "$wrong"
hits=$(git grep -nE '#include "kernels/' -- data | grep -vE 'kernels/(base|cpu_sets|hash|rng|terminal)\.h' || true)
[ -z "$hits" ] || complain "data/ includes more of kernels/ than base.h, cpu_sets.h, hash.h, rng.h and terminal.h" "$hits"
for backend in host ref cpu cuda; do
    hits=$(git grep -nE "#include \"kernels/$backend/" -- ':!kernels/'$backend || true)
    [ -z "$hits" ] || complain "a private header of kernels/$backend leaves its folder" "$hits"
done
hits=$(git grep -nE 'cuda_runtime\.h|dnnl\.h' -- '*.c' '*.h' '*.cu' '*.cuh' ':!kernels/cuda' ':!train/ranks/comm_nccl.c' ':!kernels/cpu/onednn.h' || true)
[ -z "$hits" ] || complain "cuda_runtime.h or dnnl.h outside its place" "$hits"

for macro in $(git grep -hoE '\bHAVE_[A-Z0-9_]+' -- '*.c' '*.h' '*.cu' '*.cuh' | sort -u); do
    hits=$(git grep -lw "$macro" -- '*.c' '*.h' '*.cu' '*.cuh')
    [ "$(wc -l <<<"$hits")" = 1 ] || complain "$macro in more than one file" "$hits"
done

# names of functions and types: a file-local name never repeats one that a header declares (the layer that runs CUDA
# without a GPU is a separate program)
repeated() {
    awk '{
        name = ""; own = /^(__[a-z]+__ |[a-z]+ )?static /
        if (open && match($0, /^[A-Za-z_0-9]+\(/)) { name = substr($0, 1, RLENGTH - 1); own = 1 } # the line above has its type
        open = /^static [^(=;]*[^(=;,]$/
        if (name == "" && /^[A-Za-z_]/) {
            line = $0; sub(/=.*/, "", line)
            while (match(line, /[A-Za-z_0-9]+\(/)) {
                name = substr(line, RSTART, RLENGTH - 1); line = substr(line, RSTART + RLENGTH)
                if (name !~ /^(__.*|[A-Z_0-9]+)$/) break
                name = ""
            }
            if (name == "" && /^typedef .*;$/) { name = $NF; sub(/;/, "", name); own = 1 }
        }
        if (/^} [A-Za-z_0-9]+;$/) { name = $2; sub(/;/, "", name); own = 1 }
        if (name == "") next
        if (FILENAME ~ /\.(h|cuh)$/) public[name] = FILENAME
        else if (own && !((FILENAME, name) in at)) { at[FILENAME, name] = FNR; file[++n] = FILENAME; names[n] = name }
    }
    END {
        for (i = 1; i <= n; i++)
            if (names[i] in public) print file[i] ":" at[file[i], names[i]] ": " names[i] " is declared in " public[names[i]]
    }' "$@"
}
mapfile -t program < <(git ls-files '*.c' '*.h' '*.cu' '*.cuh' ':!tests/cuda_on_cpu')
mapfile -t layer < <(git ls-files tests/cuda_on_cpu | grep -E '\.(c|h|cu)$')
hits=$(repeated "${program[@]}" && repeated "${layer[@]}")
[ -z "$hits" ] || complain "file-local names that headers declare" "$hits"

# a .c with a header of its name includes it first
for c in "${sources[@]}"; do
    case $c in *.c) ;; *) continue ;; esac
    h=${c%.c}.h
    [ -e "$h" ] || continue
    first=$(grep -m1 '^#include' "$c")
    [ "$first" = "#include \"$h\"" ] || complain "$c does not include $h first"
done

long=$(wc -l "${sources[@]}" | awk '$1 > 620 && $2 != "total" && $2 !~ /_tables?\.c$/ {print $2 ": " $1 " lines"}')
[ -z "$long" ] || complain "files over 600 lines" "$long"
# files named in documents, comments and recipes exist (X and NAME are any name)
hits=$(git grep -hoE '\b(kernels|data|train|eval|tools|tests|configs|docs)(/[A-Za-z0-9_{},*-]+)+\.(cuh?|[ch]|sh|py|md|conf|json|sbatch|png)\b' \
    -- '*.md' '*.conf' '*.sh' '*.py' '*.[ch]' '*.cu' '*.cuh' '*.sbatch' Makefile | sort -u | grep -vE '[/_](X|NAME)\.' |
    while read -r path; do
        eval "set -- $path"
        for file; do [ -e "$file" ] || echo "$file"; done
    done)
[ -z "$hits" ] || complain "files that are named but not there" "$hits"
hits=$(git grep -nIE '\b(TODO|FIXME|XXX|HACK)\b' -- '*.c' '*.h' '*.sh' '*.py' Makefile ':!tools/lint.sh' || true)
[ -z "$hits" ] || complain "unfinished work" "$hits"
hits=$(git grep -niE 'called by|only [a-z_/]+\.cu? (calls|may call)' -- '*.c' '*.h' '*.cu' '*.cuh' || true)
[ -z "$hits" ] || complain "comments that name callers" "$hits"
hits=$(git grep -nE 'ffast-math|reduction *\([-+*]' -- '*.c' '*.h' Makefile || true)
[ -z "$hits" ] || complain "-ffast-math or an OpenMP reduction: sums must have a fixed order" "$hits"

if command -v clang-format >/dev/null; then
    hits=$(git ls-files '*.c' '*.h' '*.cu' '*.cuh' | xargs clang-format --dry-run 2>&1 | grep -E 'warning:' | cut -d: -f1 | sort | uniq -c || true)
    [ -z "$hits" ] || complain "not formatted (make format)" "$hits"
fi
# warnings of a second compiler
compile() {
    case $1 in
    kernels/cpu/*)
        clang $CFLAGS $CPU_FLAGS -DCPU_SET=v4bf16 -DACT_BF16 -Werror -fsyntax-only "$1" 2>&1
        set -- "$1" -DCPU_SET=v3 -DACT_F32
        ;;
    esac
    clang $CFLAGS -Werror -fsyntax-only "$@" 2>&1
}
export -f compile
if command -v clang >/dev/null; then
    hits=$(printf '%s\n' "${sources[@]}" | grep '\.c$' | grep -vE '^tests/(fuzz|cuda_on_cpu)/' | xargs -P"$(nproc)" -I{} bash -c 'compile {}' || true)
    [ -z "$hits" ] || complain "clang" "$hits"
fi
if command -v cppcheck >/dev/null; then
    hits=$(cppcheck --quiet --inline-suppr --enable=warning,portability --std=c11 --max-configs=4 -j2 -I. -DACT_F32 -DCPU_SET=v3 -D__AVX2__ -D__FMA__ \
        --suppress=missingIncludeSystem --suppress=unknownMacro --suppress=invalidPointerCast --template='{file}:{line}: {message} [{id}]' \
        --error-exitcode=0 kernels data train eval tools 2>&1 || true)
    [ -z "$hits" ] || complain "cppcheck" "$hits"
fi
[ $bad = 0 ] && echo "lint: ok (${#sources[@]} files)"
exit $bad
