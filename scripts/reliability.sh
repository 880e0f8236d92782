#!/bin/bash
# reliability.sh [short|full]: runs the proofs and writes docs/reliability.md from what they print.
# short, the default, is what `make test` runs of them; full is every crash point and mutant, TORTURE (20) times the kills, and the
# large models: an hour or two.
set -u -o pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
level=${1:-short}
work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT
models=quick
case $level in
  short) ;;
  full)
    models=full
    export SHMD_TEST_TORTURE=${TORTURE:-20} SHMD_KILLS=$((2000 * ${TORTURE:-20}))
    ;;
  *) echo "reliability.sh [short|full]: not \"$level\"" >&2; exit 2 ;;
esac
status=0
go test -count=1 -timeout 0 -json ./test/crashpoint ./test/storm ./test/hostile ./test/faults | tee "$work/tests" | go run ./internal/testjson || status=1
go test -count=1 -timeout 0 -json ./test/systemd -run UnderTraffic | tee -a "$work/tests" | go run ./internal/testjson || status=1
models/run.sh $models | tee "$work/model" || status=1
go test ./test/figures -run '^$' -bench Repair -benchtime 300x | tee "$work/bench" || status=1
header="Run on $(sed -n 's/^model name[^:]*: *//p' /proc/cpuinfo | head -n 1), $(nproc) CPUs, Linux $(uname -r), at commit $(git rev-parse --short HEAD), $level."
go run ./internal/genreliability -tests "$work/tests" -model "$work/model" -bench "$work/bench" -header "$header" >"$work/page" || exit 1
cp "$work/page" docs/reliability.md
echo "docs/reliability.md is written"
exit $status
