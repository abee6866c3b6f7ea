#!/usr/bin/env bash
# Debian's arm64 packages that the program needs, unpacked into build/aarch64/sysroot: a system root for the cross compiler and
# for qemu-aarch64. apt-get runs with lists and a status file of its own, needs no root, and changes nothing of the host;
# it checks signatures by the host's keys.
set -eu
cd "$(dirname "$0")/.."
at=$PWD/build/aarch64
[ -e "$at/sysroot/ok" ] && exit
packages=(libc6-dev libgomp1 libdnnl-dev libjpeg62-turbo-dev libpng-dev libwebp-dev libzstd-dev zlib1g-dev libjansson-dev
    libutf8proc-dev libcmocka-dev)
echo "setup: fetching arm64 packages to build/aarch64/sysroot: ${packages[*]}"
rm -rf "$at/apt" "$at/sysroot"
mkdir -p "$at/apt/lists/partial" "$at/apt/cache/archives/partial" "$at/sysroot"
touch "$at/apt/status"
cat >"$at/apt/conf" <<EOF
APT::Architecture "arm64";
APT::Architectures { "arm64"; };
APT::Sandbox::User "$(id -un)";
Dir::State::lists "$at/apt/lists";
Dir::State::status "$at/apt/status";
Dir::Cache "$at/apt/cache";
EOF
export APT_CONFIG=$at/apt/conf
apt-get update -qq
apt-get install -qq -y --download-only --no-install-recommends "${packages[@]}" >/dev/null
for package in "$at"/apt/cache/archives/*.deb; do dpkg-deb -x "$package" "$at/sysroot"; done
rm -rf "$at/apt"
touch "$at/sysroot/ok"
