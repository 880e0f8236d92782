#!/bin/bash
# kernel.sh: prints the path of a Linux kernel of Debian's to boot in a virtual machine.
#
# It is taken out of the newest linux-image-cloud package that apt has, and never installed: no boot entry, no initramfs, no root needed.
# What was taken out stays in ${XDG_CACHE_HOME:-~/.cache}/shmd-vm for the next time; older ones go.
set -eu -o pipefail

die() {
  echo "kernel.sh: $*" >&2
  exit 1
}

meta=linux-image-cloud-amd64
[ "$(dpkg --print-architecture)" = amd64 ] || die "this test is for amd64: it runs the programs of this machine in the virtual one"

# newest prints the package that the meta package stands for.
newest() {
  apt-cache depends --important "$meta" 2>/dev/null | awk '$1 == "Depends:" && !n++ { print $2 }'
}

package=$(newest)
if [ -z "$package" ]; then # no lists
  apt-get update -qq >&2 || die "apt-get update fails, and apt knows no $meta"
  package=$(newest)
  [ -n "$package" ] || die "apt knows no $meta: is this Debian, with its main section in /etc/apt/sources.list?"
fi
version=$(apt-cache policy "$package" | awk '$1 == "Candidate:" && !n++ { print $2 }')
cache=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/shmd-vm
kernel=$cache/${package}_$version.vmlinuz

if [ ! -s "$kernel" ]; then
  mkdir -p "$cache"
  work=$(mktemp -d "$cache/new.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  cd "$work"
  # "APT::Sandbox::User": apt's own user may not write into our directory, and says so.
  get() { apt-get -qq -o APT::Sandbox::User=root download "$package=$version" >&2; }
  get || { apt-get update -qq >&2 && get; } || die "apt-get download $package=$version fails (above); apt-get update, then again"
  dpkg-deb --fsys-tarfile ./*.deb | tar -x -O --wildcards './boot/vmlinuz-*' >vmlinuz || die "there is no ./boot/vmlinuz-* in $package $version"
  rm -f "$cache"/linux-image-*.vmlinuz
  mv vmlinuz "$kernel" # whole or not at all
fi
echo "$kernel"
