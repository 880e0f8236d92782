#!/bin/sh
# Prints the version of this tree: what `git describe` says of the release tags (v1.2.3, or v1.2.3-4-gabc1234 after
# it), else the newest release of CHANGELOG.md, with "-dev" and the commit while there is none.
cd "$(dirname "$0")/.." || exit 1
git describe --tags --match 'v[0-9]*' --dirty 2>/dev/null && exit
released=$(sed -n 's/^## \[\([0-9][^]]*\)\].*/v\1/p' CHANGELOG.md | head -n 1)
commit=$(git rev-parse --short HEAD 2>/dev/null)
echo "${released:-v0.0.0-dev${commit:++g$commit}}"
