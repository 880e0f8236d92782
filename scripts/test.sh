#!/bin/bash
# test.sh [STAGE...]: everything that CI runs, or only the stages that are named (test.sh -l lists them).
#
# A stage that fails does not stop the others. At the end: a table of times, and 'N passed, N failed' (tests and
# subtests of Go, and checks, each one) alone on the last line. Exit status 1 if anything failed.
#
# Environment:
#   CI=true          a test that is skipped counts as failed
#   FUZZTIME=4s      for each fuzz target
#   The tests under test/ read their own (their length, for `make torture`).
set -u -o pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
exec </dev/null
export GOFLAGS="${GOFLAGS-} -buildvcs=false" # a clone that belongs to another user has no VCS status
export HOME="${HOME:-/tmp}"

# ------------------------------------------------------------------ stages, in the order in which they run

stage_format() { # gofmt
  check "gofmt" gofmt_clean
}

stage_vet() { # go vet, for this machine
  check "go vet" go vet ./...
  check "go vet, bench" go vet -C bench ./...
}

stage_arm64() { # vet and link of all tests for arm64; those of memory, layout and pkg/shm on an emulated one
  check "go vet, arm64" env GOARCH=arm64 go vet ./...
  check "go vet, arm64, bench" env GOARCH=arm64 go vet -C bench ./...
  check "go test links, arm64" env GOARCH=arm64 go test -vet=off -exec true ./... # links each and runs `true` instead
  check "emulated arm64" emulated_arm64 || return 0
  check "the C reader, arm64" c_reader
  # Left out: a bound on CPU time, of which an emulated processor takes many times as much.
  GOARCH=arm64 CGO_ENABLED=0 gotest -count=1 -p 1 -vet=off -timeout 10m -skip '^TestHubThreadsOfAThousandGoroutines$' -exec "$scratch/arm64 $scratch/debian" ./internal/sys ./pkg/...
}

stage_generated() { # generated files are what the layout description and the commands say
  check "genlayout -check" go run ./internal/genlayout -check
  check "genman -check" go run ./internal/genman -cli docs/cli.md -check
}

stage_shell() { # all shell scripts through shellcheck
  local scripts
  mapfile -t scripts < <(find . -name .git -prune -o -path ./bin -prune -o -name '*.sh' -print -o -path ./.ci/run -print | sort)
  check "shellcheck, ${#scripts[@]} scripts" shellcheck -e SC2015 "${scripts[@]}"
}

stage_unit() { # all packages but those in test/
  packages -v '/test(/|$)' && gotest -timeout 15m "${found[@]}"
  in=bench gotest -timeout 5m ./... # a module of its own
}

stage_race() { # pkg/ and internal/ under the race detector
  packages '/(pkg|internal)/' && gotest -race -timeout 20m "${found[@]}"
}

stage_fuzz() { # every fuzz target, short
  lines scripts/fuzz.sh "${FUZZTIME:-4s}"
}

stage_model() { # the Promela models and their mutants
  [ -x models/run.sh ] || { absent=models/run.sh; return; }
  check "models/run.sh" models/run.sh
}

stage_process() { # test/: crash points, storm, whole programs
  packages '/test(/|$)' && gotest -count=1 -timeout 40m "${found[@]}"
}

stage_systemd() { # the units under a real systemd; beside them, limits of control groups in a virtual machine whose kernel has all of cgroup v2
  local both=(./test/systemd ./test/vm) # one waits for systemd, the other keeps one processor busy
  if [ "$(id -u)" != 0 ]; then
    check "systemd" refuse "needs root (it boots a systemd in namespaces): sudo make test"
    both=(./test/vm)
  else
    check "with-systemd.sh" test/with-systemd.sh systemctl is-system-running
  fi
  gotest -count=1 -timeout 15m "${both[@]}"
}

# ------------------------------------------------------------------ what they are made of

gofmt_clean() {
  local files
  files=$(gofmt -l .) || return
  [ -z "$files" ] || { echo "not formatted (gofmt -w): $files"; return 1; }
}

# emulated_arm64 makes what runs programs of arm64: test/arm64, and what it boots.
emulated_arm64() {
  local debian
  debian=$(test/vm/fetch.sh arm64) && ln -sfn "$debian" "$scratch/debian" && go build -o "$scratch/arm64" ./test/arm64 || return
  GOARCH=arm64 CGO_ENABLED=0 go build -o "$scratch/arm64.init" ./test/arm64 || return
  GOARCH=arm64 CGO_ENABLED=0 go build -o "$scratch/" ./cmd/shmd ./cmd/shmctl
}

# c_reader: in C built for arm64, and run there, the golden segments read as they do here.
c_reader() {
  local dir=$scratch/golden flags=(-std=c11 -D_POSIX_C_SOURCE=200809L -Wall -Wextra -Wpedantic -Werror -O2 -I clients/c)
  mkdir "$dir" && cp pkg/protocol/testdata/golden/*.bin "$dir" || return
  # shellcheck disable=SC2016  # the shell there expands it
  printf '#!/bin/sh\nfor segment in *.bin; do echo "$segment"; "${1-./reader}" "$segment" || exit; done\n' >"$dir/run" && chmod 755 "$dir/run" || return
  aarch64-linux-gnu-gcc "${flags[@]}" -static -o "$dir/reader" clients/c/test_golden.c && gcc "${flags[@]}" -o "$scratch/reader" clients/c/test_golden.c || return
  (cd "$dir" && "$scratch/arm64" "$scratch/debian" ./run) >"$scratch/there" || { cat "$scratch/there"; return 1; }
  (cd "$dir" && ./run "$scratch/reader") >"$scratch/here" || return
  [ -s "$scratch/here" ] && diff --ignore-blank-lines "$scratch/here" "$scratch/there"
}

refuse() { echo "$*"; return 1; }

# packages [-v] PATTERN: sets found to the packages of the module that match (do not match) it, without test/systemd
# and test/vm, which have a stage of their own. False if there are none.
packages() {
  local list
  list=$(go list ./...) || { check "go list" refuse "go list ./... fails"; return 1; }
  mapfile -t found < <(grep -vE '/test/(systemd|vm)$' <<<"$list" | grep -E "$@")
  if [ ${#found[@]} = 0 ]; then absent="no package"; return 1; fi
}

# check NAME COMMAND...: one check. Its output is shown if it fails.
check() {
  local name=$1 start=$SECONDS
  shift
  if "$@" >"$scratch/output" 2>&1; then
    count 1 0
    echo "ok   $name ($((SECONDS - start)) s)"
  else
    count 0 1
    echo "FAIL $name ($((SECONDS - start)) s): $*" | tee -a "$scratch/failures"
    sed 's/^/     /' "$scratch/output"
    return 1
  fi
}

# lines COMMAND...: a command that prints "ok ..." or "FAIL ..." for each of its checks, as it goes.
lines() {
  "$@" 2>&1 | tee "$scratch/output"
  local status=$? ok bad
  ok=$(grep -c '^ok ' "$scratch/output") bad=$(grep -c '^FAIL ' "$scratch/output")
  grep '^FAIL ' "$scratch/output" >>"$scratch/failures"
  if [ $status != 0 ] && [ "$bad" = 0 ]; then bad=1; fi
  count "$ok" "$bad"
}

# [in=DIRECTORY] gotest ARGUMENTS...: go test, one line a package, the output of what failed, and its counts.
gotest() {
  local ok=0 bad=1
  go test -C "${in:-.}" -json "$@" 2>&1 | "$scratch/testjson" ${CI:+-no-skip} -counts "$scratch/counts" | tee "$scratch/output"
  grep '^FAIL ' "$scratch/output" >>"$scratch/failures"
  read -r ok bad <"$scratch/counts"
  count "$ok" "$bad"
  rm -f "$scratch/counts"
}

count() {
  passed=$((passed + $1))
  failed=$((failed + $2))
}

# ------------------------------------------------------------------ main

mapfile -t all < <(sed -n 's/^stage_\([a-z0-9]*\)() { # \(.*\)/\1\t\2/p' "${BASH_SOURCE[0]}")
if [ "${1-}" = -l ]; then
  printf '%s\n' "${all[@]}" | expand -t 12
  exit
fi
stages=("$@")
[ $# -gt 0 ] || mapfile -t stages < <(printf '%s\n' "${all[@]%%$'\t'*}")
for stage in "${stages[@]}"; do
  if ! declare -F "stage_$stage" >/dev/null; then
    echo "test.sh: no stage \"$stage\"; test.sh -l lists them" >&2
    exit 2
  fi
done

scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT
go build -o "$scratch/testjson" ./internal/testjson || exit 1

table='' total_passed=0 total_failed=0 found=()
for i in "${!stages[@]}"; do
  stage=${stages[i]}
  echo "==> $((i + 1))/${#stages[@]} $stage"
  passed=0 failed=0 absent='' start=$SECONDS
  "stage_$stage"
  if [ -n "$absent" ]; then
    result=$(printf '%8s %8s   absent: %s' - - "$absent")
  else
    result=$(printf '%8d %8d' "$passed" "$failed")
  fi
  table+=$(printf '%-10s %5d s %s' "$stage" $((SECONDS - start)) "$result")$'\n'
  total_passed=$((total_passed + passed)) total_failed=$((total_failed + failed))
done

printf '\n%-10s %7s %8s %8s\n%s' stage time passed failed "$table"
printf '%-10s %5d s\n\n' all "$SECONDS"
if [ -s "$scratch/failures" ]; then # once more, with the output far above
  cat "$scratch/failures"
  echo
fi
echo "$total_passed passed, $total_failed failed"
[ "$total_failed" = 0 ] && [ "$total_passed" != 0 ]
