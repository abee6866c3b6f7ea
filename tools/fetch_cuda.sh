#!/usr/bin/env bash
# NVIDIA's tools from PyPI's wheels into build/cuda, for a machine without the CUDA toolkit:
# tools/fetch_cuda.sh toolkit|disassembler|sanitizer
#   toolkit        compiler, headers, cuBLASLt, NCCL and compute-sanitizer: `make` then builds build/clipc-cuda
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
    wheels=(nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-cuda-runtime==13.0.96
        nvidia-cublas==13.0.2.14 nvidia-nccl-cu13==2.28.9 nvidia-cuda-sanitizer-api==13.0.85)
    ;;
disassembler)
    { command -v cuobjdump && command -v nvdisasm; } >/dev/null && exit 0
    [ -e $target/disassembler ] && exit 0
    wheels=(nvidia-cuda-cuobjdump==13.2.78 nvidia-cuda-nvdisasm==13.2.78)
    ;;
sanitizer)
    command -v compute-sanitizer >/dev/null && exit 0
    [ -x $target/bin/compute-sanitizer ] && exit 0
    nvcc=$(command -v nvcc || true) && [ -n "$nvcc" ] && [ -x "$(dirname "$(readlink -f "$nvcc")")/compute-sanitizer" ] && exit 0
    wheels=(nvidia-cuda-sanitizer-api==13.0.85)
    ;;
*) echo 'fetch_cuda: toolkit, disassembler or sanitizer?' >&2; exit 2 ;;
esac
if ! python3 -m pip --version >/dev/null 2>&1; then
    echo "fetch_cuda: needs python3 with pip: apt-get install python3-pip" >&2
    exit 1
fi
echo "setup: from PyPI into $target: ${wheels[*]}"
mkdir -p build
work=$(mktemp -d build/cuda.part.XXXXXX)
trap 'rm -rf "$work"' EXIT
if ! python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --no-deps --only-binary :all: --target "$work" "${wheels[@]}"; then
    echo "fetch_cuda: pip could not fetch them: install NVIDIA's CUDA toolkit 13 (nvcc, cuBLAS) and NCCL by hand and put nvcc on PATH" >&2
    exit 1
fi
mkdir -p $target
cp -r "$work"/nvidia/cu13/. $target/
if [ "$1" = toolkit ]; then
    cp -r "$work"/nvidia/nccl/{include,lib} $target/
    # the wheels hold libraries by their versioned names; the linker looks for the plain ones
    for lib in cublasLt nccl cudart; do (cd $target/lib && ln -sf lib$lib.so.* lib$lib.so); done
fi
touch $target/"$1"
