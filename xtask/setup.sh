#!/usr/bin/env bash
# Installs what building, testing and running Specola needs on Debian 12 (and says so). Quick when nothing is missing.
#   xtask/setup.sh build    what `make build` needs
#   xtask/setup.sh unit     also what the tests without root need
#   xtask/setup.sh test     also what the tests and the demo need
set -euo pipefail

readonly LINKER_VERSION=0.13.0
readonly wanted=${1:-build}

say() { printf 'setup: %s\n' "$*" >&2; }
fail() { say "$1"; shift; for line in "$@"; do say "  $line"; done; exit 1; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else fail "root is needed to run: $*" "run it as root once, or install sudo"; fi
}

installed() { dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null | grep -qx installed; }

# Installs the packages that are not there yet.
packages() {
    local missing=()
    for package in "$@"; do installed "$package" || missing+=("$package"); done
    [ ${#missing[@]} -eq 0 ] && return
    command -v apt-get >/dev/null || fail "these packages are missing: ${missing[*]}" \
        "apt-get is not here: install their counterparts with this system's package manager"
    say "installing with apt: ${missing[*]}"
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

need_cargo() {
    command -v rustup >/dev/null || fail "rustup is not on PATH" \
        "install it from https://rustup.rs, then: rustup toolchain install stable"
    cargo --version >/dev/null || fail "cargo does not run" "rustup toolchain install stable"
}

# The compiler for the kernel programs is Debian's rustc-web: it has the standard library's sources, which
# `-Z build-std=core` needs, and its LLVM is packaged, which bpf-linker needs.
kernel_toolchain() {
    packages rustc-web cargo-web rust-web-src
    local llvm
    llvm=$(/usr/bin/rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
    [ -n "$llvm" ] || fail "/usr/bin/rustc does not say its LLVM version" "apt-get install --reinstall rustc-web"
    linker "$llvm"
}

linker() {
    local llvm=$1 have
    have=$(bpf-linker --version 2>/dev/null || true)
    [ "$have" = "bpf-linker $LINKER_VERSION" ] && return
    packages "llvm-$llvm-dev" "libpolly-$llvm-dev" libzstd-dev zlib1g-dev libxml2-dev g++
    say "installing with cargo: bpf-linker $LINKER_VERSION for LLVM $llvm (about a minute)"
    local prefix=/usr/lib/llvm-$llvm
    env "LLVM_PREFIX=$prefix" "LLVM_SYS_${llvm}0_PREFIX=$prefix" "LLVM_SYS_${llvm}1_PREFIX=$prefix" \
        cargo install --quiet --locked --force bpf-linker --version "$LINKER_VERSION" \
        --no-default-features --features "llvm-$llvm"
}

# Python packages of the tests, in a virtual environment of their own.
python_packages() {
    local list venv=${XDG_CACHE_HOME:-$HOME/.cache}/specola/venv
    list=$(cd "$(dirname "$0")/.." && pwd)/tests/python/requirements.txt
    cmp -s "$list" "$venv/installed.txt" && "$venv/bin/python3" -c 'import pip' 2>/dev/null && return
    python3 -c 'import venv, ensurepip' 2>/dev/null || packages python3 python3-venv
    say "installing with pip into $venv: $(grep -v '^#' "$list" | tr '\n' ' ')"
    # An environment that another interpreter made cannot be brought up to date, only made anew.
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$list"
    cp "$list" "$venv/installed.txt"
}

packages gcc libc6-dev
need_cargo
kernel_toolchain
if [ "$wanted" != build ]; then
    packages tmux
    python_packages
fi
if [ "$wanted" = test ]; then
    packages curl iperf3 iproute2 iputils-ping nftables util-linux
fi
