#!/bin/sh
# Makes sure that what the tests call is installed: Debian packages, and the Go modules of go.mod.
# As root it installs what is missing; otherwise it prints the command that does, and exits 1.
# Building and `make run` need none of this, only Go and make.
set -eu
cd "$(dirname "$0")/.."

# command, or path of a file, and the package that has it
wanted='
gcc                     gcc
g++                     g++
/usr/include/stdio.h    libc6-dev
python3                 python3
spin                    spin
jq                      jq
shellcheck              shellcheck
awk                     mawk
timeout                 coreutils
dpkg                    dpkg
setpriv                 util-linux
unshare                 util-linux
ps                      procps
/lib/systemd/systemd    systemd
systemd-analyze         systemd
systemd-sysusers        systemd
dbus-daemon             dbus
promtool                prometheus
qemu-system-x86_64      qemu-system-x86
qemu-system-aarch64     qemu-system-arm
aarch64-linux-gnu-gcc   gcc-aarch64-linux-gnu
/usr/aarch64-linux-gnu/include/stdio.h   libc6-dev-arm64-cross
ldd                     libc-bin
'

if ! command -v go >/dev/null; then
  echo "deps: no go in PATH; go.mod says which version at least" >&2
  exit 1
fi

missing=$(echo "$wanted" | while read -r what package; do
  case $what in
    '') ;;
    /*) [ -e "$what" ] || echo "$package" ;;
    *) command -v "$what" >/dev/null || echo "$package" ;;
  esac
done | sort -u | tr '\n' ' ')
missing=${missing% }

if [ -n "$missing" ]; then
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "deps: missing: $missing. Run this, then again what you ran:" >&2
    echo "sudo apt-get install -y --no-install-recommends $missing" >&2
    exit 1
  fi
  echo "deps: installing $missing"
  export DEBIAN_FRONTEND=noninteractive
  # shellcheck disable=SC2144  # one match is enough
  if ! ls /var/lib/apt/lists/*_Packages* >/dev/null 2>&1; then
    apt-get update -qq
  fi
  # shellcheck disable=SC2086  # a list
  apt-get install -y -qq --no-install-recommends $missing </dev/null || {
    apt-get update -qq # lists that are there but old
    apt-get install -y -qq --no-install-recommends $missing </dev/null
  }
fi

go mod download
(cd bench && go mod download)
(cd packaging && go mod download)
