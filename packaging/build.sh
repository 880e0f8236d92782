#!/bin/sh
# build.sh OUT: the .deb and the .rpm of this tree into the directory OUT. `make packages` calls it.
#
# The same commit gives the same bytes, wherever it is built: no paths in the binaries (-trimpath), and the time of the commit as the
# time of everything (SOURCE_DATE_EPOCH, https://reproducible-builds.org/specs/source-date-epoch).
#
# Environment: VERSION, as scripts/version.sh prints it; ARCH=amd64 or arm64.
set -eu
out=$(mkdir -p "$1" && cd "$1" && pwd)
cd "$(dirname "$0")/.."

: "${ARCH:=$(go env GOARCH)}"
: "${VERSION:=$(sh scripts/version.sh)}"
: "${SOURCE_DATE_EPOCH:=$(git log -1 --format=%ct 2>/dev/null || date -d "$(sed -n 's/^## \[[0-9][^]]*\] - //p' CHANGELOG.md | head -n 1)" +%s)}"
export SOURCE_DATE_EPOCH ARCH
STAGE=$(mktemp -d)
export STAGE
trap 'rm -rf "$STAGE"' EXIT

# What is built for this machine makes the man pages and completions; the packages may be for another.
GOFLAGS="${GOFLAGS-} -trimpath" make -s BIN="$STAGE/bin" DESTDIR="$STAGE" PREFIX=/usr VERSION="$VERSION" install >/dev/null
if [ "$ARCH" != "$(go env GOARCH)" ]; then
  GOARCH=$ARCH GOFLAGS="${GOFLAGS-} -trimpath" make -s BIN="$STAGE/usr/bin" VERSION="$VERSION" build
fi
rm -rf "${STAGE:?}/bin"
find "$STAGE/usr/share/man" -type f -exec gzip -9n {} +
find "$STAGE" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +

# Package managers order versions by other rules: 1.2.3-4-gabc, which is after 1.2.3, and 0.0.0-dev, which is before 0.0.1.
VERSION=$(echo "${VERSION#v}" | sed -e 's/-dev+/~dev+/' -e 's/-\([0-9]*\)-g/+\1.g/' -e 's/-dirty/+dirty/')
export VERSION
for kind in deb rpm; do
  said=$(go tool -modfile=packaging/go.mod nfpm package --config packaging/nfpm.yaml --packager $kind --target "$out/" 2>&1) || {
    echo "$said" >&2
    exit 1
  }
  echo "$said" | sed -n 's/^created package: //p'
done
