#!/bin/bash
# fuzz.sh TIME: fuzzes every Fuzz function of the module, one after the other, each for TIME (4s, 10m).
# A failing input is kept by go in the package's testdata/fuzz; commit it with the fix.
set -u -o pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
time=${1:?usage: fuzz.sh TIME}

# Packages by grep, so that only they are linked; functions by go test -list, so that build tags count.
mapfile -t packages < <(grep -rlE '^func Fuzz[A-Z]' --include='*_test.go' . | xargs -r -n 1 dirname | sort -u)
failed=0 ran=0
for package in "${packages[@]}"; do
  targets=$(go test -list '^Fuzz' "$package" | grep '^Fuzz') || {
    echo "FAIL fuzz $package: does not build:"
    go vet "$package"
    failed=1
    continue
  }
  for target in $targets; do
    ran=$((ran + 1))
    for try in 1 2; do
      output=$(go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" "$package" 2>&1 </dev/null)
      status=$?
      # cmd/go now and then reports its own deadline as a failure; one with an input is ours.
      if [ "$status" = 0 ] || [ $try = 2 ] || [[ $output == *"Failing input"* || $output != *"context deadline exceeded"* ]]; then
        break
      fi
    done
    if [ "$status" = 0 ]; then
      echo "ok   fuzz $package $target: $(grep -oE 'execs: [0-9]+' <<<"$output" | tail -n 1)"
    else
      echo "FAIL fuzz $package $target"
      echo "$output"
      failed=1
    fi
  done
done
[ $ran -gt 0 ] || echo "fuzz: no targets"
exit $failed
