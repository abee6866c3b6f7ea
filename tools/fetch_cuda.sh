#!/usr/bin/env bash
# NVIDIA's tools from PyPI's wheels into build/cuda, for a machine without the CUDA toolkit:
# tools/fetch_cuda.sh toolkit|nccl12|disassembler|sanitizer
#   toolkit        compiler, headers, cuBLASLt, NCCL and compute-sanitizer: `make` then builds build/clipc-cuda
#   nccl12         NCCL for CUDA 12 into build/cuda12, beside an installed toolkit 12: PyPI has no nvcc of CUDA 12 (its
#                  wheels hold ptxas and headers alone)
#   sanitizer      compute-sanitizer alone
#   disassembler   cuobjdump and nvdisasm alone, which tests/test_sass.sh reads machine code with
# Does nothing if they exist or are on PATH. Licence of all of them: NVIDIA's EULA, in the wheels.
set -eu
cd "$(dirname "$0")/.."

target=build/cuda
case ${1:-} in
toolkit)
    { nvcc=$(command -v nvcc) && [ -e "$(dirname "$nvcc")/../include/cublasLt.h" ]; } && exit 0
    [ -e $target/toolkit ] && exit 0
    wheels='cuda-nvcc|nvvm|cuda-crt|cuda-runtime|cublas|nccl-cu13|cuda-sanitizer-api'
    ;;
nccl12)
    nvcc=$(command -v nvcc || true)
    if [ -z "$nvcc" ] || ! "$nvcc" --version | grep -q 'release 12\.'; then
        echo "fetch_cuda: CUDA 12's nvcc is not on PyPI: install NVIDIA's toolkit 12 with cuBLAS (on a cluster: module load cuda/12) and put its nvcc on PATH; here is ${nvcc:-none}" >&2
        exit 1
    fi
    for header in "$(dirname "$(readlink -f "$nvcc")")/../include/nccl.h" /usr/include/nccl.h build/cuda12/include/nccl.h; do
        [ -e "$header" ] && exit 0
    done
    target=build/cuda12
    wheels=nccl-cu12
    ;;
disassembler)
    { command -v cuobjdump && command -v nvdisasm; } >/dev/null && exit 0
    [ -e $target/disassembler ] && exit 0
    wheels='cuda-cuobjdump|cuda-nvdisasm'
    ;;
sanitizer)
    command -v compute-sanitizer >/dev/null && exit 0
    [ -x $target/bin/compute-sanitizer ] && exit 0
    nvcc=$(command -v nvcc || true) && [ -n "$nvcc" ] && [ -x "$(dirname "$(readlink -f "$nvcc")")/compute-sanitizer" ] && exit 0
    wheels=cuda-sanitizer-api
    ;;
*) echo 'fetch_cuda: toolkit, nccl12, disassembler or sanitizer?' >&2; exit 2 ;;
esac
if ! python3 -m pip --version >/dev/null 2>&1; then
    echo "fetch_cuda: needs python3 with pip: apt-get install python3-pip" >&2
    exit 1
fi
mkdir -p build
work=$(mktemp -d build/cuda.part.XXXXXX)
trap 'rm -rf "$work"' EXIT
grep -E "^nvidia-($wheels)==" tools/cuda_wheels.txt >"$work/wheels"
echo "setup: from PyPI into $target: $(cut -d' ' -f1 "$work/wheels" | xargs)"
if ! python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --no-deps --only-binary :all: --require-hashes \
    --target "$work" -r "$work/wheels" 2>"$work/why"; then
    cat "$work/why" >&2
    if grep -qi 'do not match the hashes' "$work/why"; then
        echo "fetch_cuda: a wheel has another SHA-256 than tools/cuda_wheels.txt says: nothing was installed" >&2
        exit 1
    fi
    echo "fetch_cuda: pip could not fetch them: install NVIDIA's CUDA toolkit 13 (nvcc, cuBLAS) and NCCL by hand and put nvcc on PATH" >&2
    exit 1
fi
mkdir -p $target
if [ -e "$work/nvidia/cu13" ]; then cp -r "$work"/nvidia/cu13/. $target/; fi
if [ -e "$work/nvidia/nccl" ]; then cp -r "$work"/nvidia/nccl/{include,lib} $target/; fi
if [ "$1" = nccl12 ]; then
    ln -sf libnccl.so.2 $target/lib/libnccl.so
elif [ "$1" = toolkit ]; then
    # the wheels hold libraries by their versioned names; the linker looks for the plain ones
    for lib in cublasLt nccl cudart; do (cd $target/lib && ln -sf lib$lib.so.* lib$lib.so); done
fi
touch $target/"$1"
