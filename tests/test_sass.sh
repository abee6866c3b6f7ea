#!/usr/bin/env bash
# The machine code of the kernels that are meant for tensor cores uses them: every kernel with mma in its name, for every
# architecture, has HMMA or HGMMA instructions. Needs cuobjdump and nvdisasm. Prints cmocka's lines.
. tests/support.sh sass
objects=$bin/obj/kernels/cuda
export PATH="$PATH:$PWD/build/cuda/bin"

tensor_cores() {
    for object in "$objects"/*mma*.bf16.o; do cuobjdump --dump-sass "$object" || return 1; done >"$dir/sass"
    awk '
        /^Fatbin elf code/ { arch = "" }
        /^arch = / { arch = $3 }
        /code for sm_/ { arch = $3 }
        /Function : / { kernel = $3; if (kernel ~ /mma/) count[arch " " kernel] += 0 }
        /HMMA|HGMMA/ { if (kernel ~ /mma/) count[arch " " kernel]++ }
        END { for (k in count) print count[k], k }' "$dir/sass" | sort -k 2 | c++filt >"$dir/counts"
    echo "$(wc -l <"$dir/counts") kernels of $(awk '{print $2}' "$dir/counts" | sort -u | tr '\n' ' ')"
    [ -s "$dir/counts" ] && ! grep '^0 ' "$dir/counts"
}
if ! ls "$objects"/*.bf16.o >/dev/null 2>&1; then
    skip "built by a plain make where nvcc is" tensor_cores
elif ! { command -v cuobjdump && command -v nvdisasm; } >/dev/null; then
    skip "no cuobjdump and nvdisasm (make setup fetches them from PyPI)" tensor_cores
else
    check tensor_cores tensor_cores
fi
exit $failed
