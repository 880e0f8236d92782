#!/bin/bash
# fetch.sh [ARCHITECTURE]: prints a directory with what a virtual machine of this architecture boots, all of it Debian's:
#
#   vmlinuz   the kernel of the linux-image-cloud package
#   busybox   of busybox-static; for an architecture that is not this machine's, whose own programs do not run there
#
# Both are taken out of the newest packages that apt has, and never installed: no boot entry, no initramfs, no foreign architecture in dpkg, no root needed. They
# stay in ${XDG_CACHE_HOME:-~/.cache}/shmd-vm: remove that for newer ones.
set -eu -o pipefail

die() {
  echo "fetch.sh: $*" >&2
  exit 1
}

here=$(dpkg --print-architecture)
arch=${1:-$here}
case $arch in
  amd64 | arm64) ;;
  *) die "no virtual machine for $arch: amd64, arm64" ;;
esac
cache=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/shmd-vm

if [ ! -d "$cache/$arch" ]; then
  mkdir -p "$cache"
  work=$(mktemp -d "$cache/new.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  mkdir "$work/$arch" "$work/get"
  cd "$work/get"
  # apt's own user may not write into our directory, and apt would say so.
  apt=(-o APT::Sandbox::User=root)
  if [ "$arch" != "$here" ]; then # lists of its own, beside the system's
    mkdir -p "$work/apt/lists/partial" "$work/apt/archives/partial"
    touch "$work/apt/status"
    apt+=(-o APT::Architecture="$arch" -o APT::Architectures="$arch" -o Dir::State="$work/apt" -o Dir::State::lists="$work/apt/lists"
      -o Dir::State::status="$work/apt/status" -o Dir::Cache="$work/apt")
  fi

  # package prints the kernel's package, which the meta package stands for.
  package() {
    apt-cache "${apt[@]}" depends --important "linux-image-cloud-$arch" 2>/dev/null | awk '$1 == "Depends:" && !n++ { print $2 }'
  }
  get() { apt-get "${apt[@]}" -qq download "$@" >&2; }
  update() { apt-get "${apt[@]}" -qq update >&2 || echo "fetch.sh: apt-get update fails (above)" >&2; }

  wanted=$(package) || wanted=''
  if [ -z "$wanted" ]; then # no lists
    update
    wanted=$(package) || wanted=''
  fi
  [ -n "$wanted" ] || die "apt knows no linux-image-cloud-$arch: is this Debian, with its main section in apt's sources?"
  packages=("$wanted")
  [ "$arch" = "$here" ] || packages+=(busybox-static)
  if ! get "${packages[@]}"; then # lists that are there but old
    update
    get "${packages[@]}" || die "apt-get download ${packages[*]} fails (above)"
  fi

  # extract PACKAGE PATTERN FILE takes one file out of a package.
  extract() {
    dpkg-deb --fsys-tarfile "$1"_*.deb | tar -x -O --wildcards "$2" >"$work/$arch/$3" || die "there is no $2 in $1"
  }
  extract "$wanted" './boot/vmlinuz-*' vmlinuz
  if [ "$arch" != "$here" ]; then
    extract busybox-static '*/bin/busybox' busybox
    chmod 755 "$work/$arch/busybox"
  fi
  mv -T "$work/$arch" "$cache/$arch" 2>/dev/null || [ -d "$cache/$arch" ] || die "cannot make $cache/$arch" # whole, or another run was faster
fi
echo "$cache/$arch"
