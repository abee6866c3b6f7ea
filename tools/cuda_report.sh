#!/usr/bin/env bash
# The output of ptxas, one line for each kernel and architecture: tools/cuda_report.sh FILE.ptxas…
set -eu
printf '%-8s %-10s %9s %12s  %s\n' build arch registers 'static smem' kernel
for f in "$@"; do
    build=$(basename "$f" .ptxas)
    build=${build##*.}
    awk -v build="$build" '
        /Compiling entry function/ { split($0, part, "\047"); kernel = part[2]; arch = part[4] }
        /Used [0-9]+ registers/ {
            match($0, /Used [0-9]+/); regs = substr($0, RSTART + 5, RLENGTH - 5)
            smem = match($0, /[0-9]+ bytes smem/) ? substr($0, RSTART, RLENGTH - 11) : 0
            printf "%-8s %-10s %9d %12d  %s\n", build, arch, regs, smem, kernel
        }' "$f"
done | c++filt | sed -E 's/\(anonymous namespace\):://; s/_INTERNAL_[0-9a-z_]*:://' | sort -k5,5 -k1,2
