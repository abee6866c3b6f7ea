#!/usr/bin/env bash
# Debian's packages whose drawings and manuals the drawings demo takes (38 MB), unpacked into build/drawings/packages and not
# installed. apt-get downloads them and checks their signatures; a second call fetches only what is missing.
set -eu
cd "$(dirname "$0")/../.."
at=build/drawings/packages
packages=(kicad-symbols qelectrotech-data xfig-libs librecad-data lepton-eda r-doc-pdf octave-doc gnuplot-doc)
mkdir -p $at
missing=()
for package in "${packages[@]}"; do [ -d "$at/$package" ] || missing+=("$package"); done
[ ${#missing[@]} -gt 0 ] || exit 0
command -v apt-get >/dev/null || { echo "setup: drawings: apt-get is needed to download ${missing[*]}" >&2; exit 1; }
echo "setup: fetching to $at: ${missing[*]}"
for package in "${missing[@]}"; do
    rm -rf "$at/$package" "$at/$package.part" $at/"$package"_*.deb
    (cd $at && apt-get -qq -o APT::Sandbox::User="$(id -un)" download "$package") ||
        { echo "setup: drawings: $package could not be downloaded (apt-get update, then make demo-drawings again)" >&2; exit 1; }
    dpkg-deb -x $at/"$package"_*.deb "$at/$package.part"
    mv "$at/$package.part" "$at/$package"
done
