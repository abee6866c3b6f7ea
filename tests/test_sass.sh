#!/usr/bin/env bash
# The machine code of the kernels that are meant for tensor cores uses them: every kernel with mma in its name, for every
# architecture, has HMMA or HGMMA instructions. Needs cuobjdump and nvdisasm. Prints cmocka's lines.
set -u
objects=$(dirname "${CLIPC:-build/clipc}")/obj/kernels/cuda
name=tensor_cores
export PATH="$PATH:$PWD/build/cuda/bin"

skip() { # reason
    echo "SKIP: $name: $1"
    echo "[  SKIPPED ] $name"
    exit 0
}
ls "$objects"/*.bf16.o >/dev/null 2>&1 || skip "built by a plain make where nvcc is"
{ command -v cuobjdump && command -v nvdisasm; } >/dev/null || skip "no cuobjdump and nvdisasm (make setup fetches them from PyPI)"

echo "[ RUN      ] $name"
work=$(mktemp -d "${TMPDIR:-/tmp}/sass.XXXXXX")
trap 'rm -rf "$work"' EXIT
for object in "$objects"/*mma*.bf16.o; do cuobjdump --dump-sass "$object" || exit 1; done >"$work/sass"
awk '
    /^Fatbin elf code/ { arch = "" }
    /^arch = / { arch = $3 }
    /code for sm_/ { arch = $3 }
    /Function : / { kernel = $3; if (kernel ~ /mma/) count[arch " " kernel] += 0 }
    /HMMA|HGMMA/ { if (kernel ~ /mma/) count[arch " " kernel]++ }
    END { for (k in count) print count[k], k }' "$work/sass" | sort -k 2 | c++filt >"$work/counts"
archs=$(awk '{print $2}' "$work/counts" | sort -u | tr '\n' ' ')
echo "$(wc -l <"$work/counts") kernels of $archs"
if [ -s "$work/counts" ] && ! grep '^0 ' "$work/counts"; then
    echo "[       OK ] $name"
else
    echo "no tensor-core instruction in the kernels above (or no kernel at all)"
    echo "[  FAILED  ] $name"
    exit 1
fi
