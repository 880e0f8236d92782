#!/usr/bin/env bash
# Counts the words of a directory in four worker processes, one of which is killed halfway.
#
#   run.sh [-o table|json] [--kill N] [--top N] [DIR]      DIR: the source of the Go installation
#
# It starts a shmd of its own, in a temporary directory, and leaves no process and no file behind.
# stdout is the result, stderr the progress. $SHMD_BIN is a directory with shmd, shmctl and
# wordcount; without it they are built.
set -euo pipefail

for arg; do
	case $arg in -h | --help) sed -n '2,/^$/s/^# \{0,1\}//p' "$0" && exit ;; esac
done

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repo=$here/../..
bin=${SHMD_BIN:-$repo/bin}
tmp=$(mktemp -d "${TMPDIR:-/tmp}/wordcount.XXXXXX")
log=''

# What even SIGKILL to this script and all its group leaves nothing behind by: a keeper in a session of its own reads a pipe of which only
# this script has the other end, and cleans up if that ends without a word.
# shellcheck disable=SC2016 # the keeper's shell is to expand them
exec 9> >(exec setsid bash -c '
	read -r || { RUNTIME_DIRECTORY=$2 "$1/shmctl" -r wordcount stop --quiet; rm -rf "$2"; }' keeper "$bin" "$tmp" >/dev/null 2>&1)
keeper=$!

cleanup() {
	code=$?
	trap - EXIT
	trap '' INT TERM HUP
	if [ -n "$log" ]; then # shmctl also stops the workers of a daemon that is dead or hangs
		"$bin/shmctl" stop --quiet >/dev/null 2>&1 || :
	fi
	for signal in TERM CONT; do jobs -p | xargs -r kill -s "$signal" 2>/dev/null || :; done
	for job in $(jobs -p); do # not by wait: after a signal in the middle of a "wait -n" it may wait for ever for one that was reaped
		while kill -0 "$job" 2>/dev/null; do sleep 0.01; done
	done
	if [ "$code" -ne 0 ] && [ -n "$log" ]; then { echo "--- the log of shmd:" && cat "$log"; } >&2; fi
	rm -rf "$tmp"
	echo >&9 || :
	wait "$keeper" || :
	exit "$code"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# while_shmd COMMAND...: runs it, in the background so that a signal is obeyed at once, and fails if shmd
# ends before it does.
while_shmd() {
	local code=0 first
	"$@" 9>&- &
	wait -n -p first $! "$shmd" || code=$?
	if [ "$first" = "$shmd" ]; then
		echo "run.sh: shmd ended with code $code in the middle of the run" >&2
		code=1
	fi
	if [ "$code" -ne 0 ]; then exit "$code"; fi
}

wordcount=${SHMD_BIN:-$tmp}/wordcount
if [ ! -x "$bin/shmd" ] || [ ! -x "$bin/shmctl" ]; then make -C "$repo" build >&2; fi
if [ ! -x "$wordcount" ]; then (cd "$repo" && go build -buildvcs=false -o "$wordcount" ./examples/wordcount); fi
"$wordcount" --check "$@"

# The socket is in a directory of its own, and nothing from around this script reaches in.
export RUNTIME_DIRECTORY=$tmp SHMCTL_REGION=wordcount
unset NOTIFY_SOCKET WATCHDOG_USEC LISTEN_FDS LISTEN_PID SHMD_FDS SHMD_WORKER SHMD_REGION

log=$tmp/shmd.log
"$bin/shmd" -c "$here/shmd.toml" >"$log" 2>&1 9>&- &
shmd=$!
while_shmd "$bin/shmctl" wait --quiet --for=ready --timeout=30s >/dev/null
while_shmd "$wordcount" --report "$tmp/report" "$@"
"$bin/shmctl" stop -o json >"$tmp/stop"
wait "$shmd"
log='' # nothing is left to stop
"$wordcount" --finish "$tmp/report" "$@" <"$tmp/stop"
