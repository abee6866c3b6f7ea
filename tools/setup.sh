#!/usr/bin/env bash
# Installs missing packages, and does nothing if all exist: tools/setup.sh [build] [test] [demo] [drawings] [sets] [fuzz]
# [lint] [aarch64] [cuda] [cuda12] Names the packages before installing them. Debian packages through apt-get (as root or through sudo), which
# checks their signatures; the rest from PyPI, compared with SHA-256 sums that the scripts hold.
set -eu
cd "$(dirname "$0")/.."

packages=(gcc make pkg-config libdnnl-dev libjpeg62-turbo-dev libpng-dev libwebp-dev libzstd-dev zlib1g-dev
    libjansson-dev libutf8proc-dev)
for purpose in "$@"; do
    case $purpose in
    build) ;;
    test) packages+=(libcmocka-dev python3 python3-pip libopenmpi-dev openmpi-bin poppler-utils) ;;
    demo) packages+=(python3 python3-pip python3-pil python3-fonttools gnuplot-nox fonts-noto-color-emoji fonts-dejavu-core librsvg2-bin
        unicode-cldr-core openclipart-png openclipart-svg ruby-gemojione tuxpaint-stamps-default) ;;
    drawings) packages+=(python3 python3-pil python3-ezdxf fig2dev fonts-dejavu-core librsvg2-bin poppler-utils tuxpaint-stamps-default) ;;
    sets) packages+=(python3 python3-pip) ;;
    fuzz) packages+=(clang libclang-rt-14-dev libomp-dev) ;;
    lint) packages+=(clang-format cppcheck clang libomp-dev libcmocka-dev) ;;
    aarch64) packages+=(gcc-aarch64-linux-gnu qemu-user) ;;
    cuda | cuda12) packages+=(g++ python3 python3-pip) ;;
    *) echo "setup: unknown purpose '$purpose': build, test, demo, drawings, sets, fuzz, lint, aarch64, cuda or cuda12" >&2; exit 2 ;;
    esac
done

installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "${packages[@]}" 2>/dev/null | sed -n 's/^installed //p' || true)
missing=()
for p in $(printf '%s\n' "${packages[@]}" | sort -u); do
    # another compiler, make or pip on PATH is as good as Debian's
    case $p in
    gcc | g++ | make | python3 | clang | clang-format | cppcheck | pkg-config) command -v "$p" >/dev/null && continue ;;
    python3-pip) python3 -m pip --version >/dev/null 2>&1 && continue ;;
    esac
    grep -qx "$p" <<<"$installed" || missing+=("$p")
done

if [ ${#missing[@]} -gt 0 ]; then
    if ! command -v apt-get >/dev/null; then
        echo "setup: missing: ${missing[*]} (Debian's names); there is no apt-get here: install them by hand" >&2
        exit 1
    fi
    sudo=
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || { echo "setup: run as root: apt-get install ${missing[*]}" >&2; exit 1; }
        sudo=sudo
    fi
    echo "setup: installing with apt-get: ${missing[*]}"
    $sudo apt-get update -qq
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

for purpose in "$@"; do
    case $purpose in
    test | demo) tools/fetch_vocab.sh || echo "setup: no vocabulary: what needs it is skipped" >&2 ;;
    drawings) tools/demo/fetch_drawings.sh ;;
    aarch64) tools/fetch_aarch64.sh ;;
    cuda) tools/fetch_cuda.sh toolkit ;;
    cuda12) tools/fetch_cuda.sh nccl12 ;;
    esac
    if [ "$purpose" = test ]; then
        configs/zeroshot/fetch.py imagenet --pictures || echo "setup: no class file of ImageNet: what needs it is skipped" >&2
    fi
    if [ "$purpose" = test ] && { command -v nvcc || [ -x build/cuda/bin/nvcc ]; } >/dev/null; then
        tools/fetch_cuda.sh disassembler || echo "setup: no disassembler: tests/test_sass.sh is skipped" >&2
    fi
done
