#!/bin/bash
# run.sh [quick|full]: checks the models of the kinds of channels (queue.pml, lane.pml, topic.pml, latest.pml, call.pml), of a doorbell (bell.pml) and a lock (seat.pml), and that their broken variants fail.
#
# quick, the default: under a minute on two idle processors. full: some ten minutes; each search has up to 6 GB of memory.
# JOBS=N: searches at a time (default: quick 2, full 1).
# The last line says whether all came out as expected; so does the exit status. models/README.md explains the rows.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 2
level=${1:-quick}
case $level in quick | full) ;; *) echo "run.sh [quick|full]: not \"$level\"" >&2; exit 2 ;; esac
for tool in spin gcc; do
  command -v $tool >/dev/null || { echo "run.sh: $tool is not installed (apt-get install spin gcc)" >&2; exit 2; }
done
here=$PWD
model=$here/queue.pml
work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 2

jobs=${JOBS:-$([ "$level" = quick ] && echo 2 || echo 1)}
shown=0 rows=0
printf '%-42s %-10s %-28s %12s %6s\n' run expected got states s

# row LEVEL NAME pass|fail exh|bit FLAG DEFS...: exh: every state; bit: with -DBITSTATE, which may miss some, in a fixed
# amount of memory, for at most 90 s; then it says "pass so far". FLAG: -O0, or one for the order of the search, or -.
row() {
  [ "$1" = quick ] || [ "$level" = full ] || return 0
  while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n; done
  rows=$((rows + 1))
  mkdir "$work/$rows"
  search "$model" "$work/$rows" "$@" >"$work/$rows/row" &
  show
}

# title TEXT: a line between rows.
title() {
  rows=$((rows + 1))
  mkdir "$work/$rows"
  echo "--- $1" >"$work/$rows/row"
  : >"$work/$rows/end"
}

# show prints the rows that have ended, as far as all before them have.
show() {
  while [ $shown -lt $rows ] && [ -e "$work/$((shown + 1))/end" ]; do
    shown=$((shown + 1))
    cat "$work/$shown/row"
  done
}

# search MODEL DIRECTORY and what row has: one row, in a directory of its own. Its end says whether it is as expected, and the states.
search() {
  local model=$1 name=$4 expected=$5 mode=$6 flag=$7 got n limit=150 s0 secs flags args
  cd "$2" || exit 2
  shift 7
  [ "$level" = quick ] || limit=1500
  [ "$mode" = exh ] || limit=90
  # To optimise the checker costs more than to run it, unless it has to run long.
  case $flag/$expected in
    -O0/* | -/fail) flags=(-O0) ;;
    -/pass) flags=(-O1) ;;
    *) flags=("$flag" -O0) ;;
  esac
  flags+=(-DCOLLAPSE) args=(-m300000 -w24)
  if [ "$mode" = bit ]; then flags+=(-UCOLLAPSE -DBITSTATE) args=(-m300000 -w34 -k3); fi
  s0=$SECONDS
  if ! spin "$@" -a "$model" >spin.out 2>&1 || [ ! -s pan.c ]; then
    got='spin: error'; cat spin.out
  elif ! gcc -w -DSAFETY -DNOCLAIM -DMEMLIM=6000 "${flags[@]}" -o pan pan.c; then
    got='gcc: error'
  else
    timeout -s INT $limit nice ./pan -E "${args[@]}" >out 2>&1
    if [ $? = 124 ]; then
      got="no answer in $limit s"
      [ "$mode/$expected" = bit/pass ] && grep -q 'errors: 0' out && got='pass so far'
    elif ! grep -q 'errors: ' out || grep -qE 'max search depth|out of memory|reached -DMEMLIM|resource' out; then got='search is cut short'
    elif grep -q 'errors: 0' out; then got=pass
    else got="fail: $(sed -n 's/^pan:1: //p' out | sed 's/ (at depth.*//; s/assertion violated *//' | cut -c1-60)"
    fi
  fi
  secs=$((SECONDS - s0))
  n=$(sed -n 's/^ *\([0-9.e+]*\) states, stored.*/\1/p' out 2>/dev/null | head -1)
  n=$(printf '%.0f' "${n:-0}")
  local verdict='' bad=0 counted=0
  case $expected/$got in
    pass/pass) [ "$mode" = bit ] || counted=$n ;;
    'pass/pass so far') ;; # not counted
    fail/fail:*) ;;
    *) verdict=' <== WRONG'; bad=1 ;;
  esac
  [ "$mode" = exh ] || name="$name (bitstate)"
  printf '%-42s %-10s %-28s %12s %6s%s\n' "$name" "$expected" "${got%%:*}" "$n" "$secs" "$verdict"
  [ "$got" = "${got%%:*}" ] || echo "    ${got#*: }"
  rm -f pan pan.* ./*.trail
  echo "$bad $counted" >end
}

title 'the queue as it is'
row quick 'FIFO, 3 messages' pass exh -O0 -DP=1 -DM=3 -DC=1 -DCRASHES=0 -DFIFO
row quick 'FIFO, 3 messages, 1 abort' pass exh -O0 -DP=1 -DM=3 -DC=1 -DCRASHES=0 -DFIFO -DABORTS=1
row quick '1:1, 1 death' pass exh -O0 -DP=1 -DM=2 -DC=1 -DCRASHES=1
row quick '1:1, 2 deaths' pass exh - -DP=1 -DM=2 -DC=1 -DCRASHES=2
row quick '1:1, 1 death, 1 nack, dead letter' pass exh -O0 -DP=1 -DM=2 -DC=1 -DCRASHES=1 -DNACKS=1 -DMAXD=2
row quick '1:1, 1 death, looking' pass exh -O0 -DLOOK -DP=1 -DM=2 -DC=1 -DCRASHES=1
row quick '2:1' pass exh -O0 -DP=2 -DM=1 -DC=1 -DCRASHES=0
row full '1:2, looking' pass exh - -DLOOK -DP=1 -DM=2 -DC=2 -DCRASHES=0
row full '1:2, a slot is kept, looking' pass bit - -DLOOK -DP=1 -DM=2 -DC=2 -DCRASHES=0 -DHOLDS=1
row quick '1:1, 1 death, 1 reject' pass exh -O0 -DP=1 -DM=2 -DC=1 -DCRASHES=1 -DREJECTS=1
row quick '1:1, drain' pass exh -O0 -DP=1 -DM=2 -DC=1 -DCRASHES=0 -DDRAIN
row full '1:1, 1 death, drain' pass exh - -DP=1 -DM=2 -DC=1 -DCRASHES=1 -DDRAIN
row full '2:1, drain' pass exh - -DP=2 -DM=1 -DC=1 -DCRASHES=0 -DDRAIN
row full '1:1, 2 deaths, 1 reject, 1 nack, dead letter' pass exh - -DP=1 -DM=2 -DC=1 -DCRASHES=2 -DNACKS=1 -DREJECTS=1 -DMAXD=2
row full 'FIFO, 4 messages' pass exh - -DP=1 -DM=4 -DC=1 -DCRASHES=0 -DFIFO
row full 'FIFO, 4 messages, 1 abort' pass exh - -DP=1 -DM=4 -DC=1 -DCRASHES=0 -DFIFO -DABORTS=1
row full '2:0, control of EARLY_UNBLOCK' pass exh -O0 -DP=2 -DM=2 -DC=0 -DCRASHES=0
row full '2:1, 1 death' pass exh - -DP=2 -DM=1 -DC=1 -DCRASHES=1
row full '1:1, 3 messages, 1 death' pass exh - -DP=1 -DM=3 -DC=1 -DCRASHES=1
row full '1:2' pass exh - -DP=1 -DM=2 -DC=2 -DCRASHES=0
row full '1:2, a slot is kept' pass exh - -DP=1 -DM=2 -DC=2 -DCRASHES=0 -DHOLDS=1
row full '1:2, 3 messages, stop in nack' pass bit - -DP=1 -DM=3 -DC=2 -DCRASHES=0 -DNACKS=1 -DHOLDS=1 -DSTOPS
row full '1:2, stop on the way' pass exh - -DP=1 -DM=2 -DC=2 -DCRASHES=0 -DHOLDS=1 -DSTOPS_WOKEN
row full '2:1, 2 messages, a slot is kept' pass bit - -DP=2 -DM=2 -DC=1 -DCRASHES=0 -DHOLDS=1
row full '2:2, 1 death' pass bit - -DP=2 -DM=1 -DC=2 -DCRASHES=1

title 'what must fail'
row quick NAIVE fail exh - -DNAIVE -DP=1 -DM=1 -DC=1 -DCRASHES=1
row quick NO_LOWER_ON_COMMIT fail exh - -DNO_LOWER_ON_COMMIT -DP=2 -DM=1 -DC=1 -DCRASHES=0
row quick NO_REREAD fail exh - -DNO_REREAD -DP=2 -DM=1 -DC=1 -DCRASHES=0
row quick NO_REPAIR_LOWER fail exh - -DNO_REPAIR_LOWER -DP=2 -DM=1 -DC=1 -DCRASHES=1
row quick EARLY_UNBLOCK fail exh - -DEARLY_UNBLOCK -DP=2 -DM=2 -DC=0 -DCRASHES=0
row quick NO_RECHECK fail exh - -DNO_RECHECK -DP=1 -DM=1 -DC=1 -DCRASHES=0
row quick NO_WAKEALL fail exh - -DNO_WAKEALL -DP=1 -DM=1 -DC=1 -DCRASHES=1
row quick NO_LAP_CHECK fail exh - -DNO_LAP_CHECK -DP=1 -DM=4 -DC=1 -DCRASHES=0 -DFIFO -DABORTS=1
row quick NO_RING_AT_LEASE fail exh -DT_REVERSE -DNO_RING_AT_LEASE -DP=2 -DM=2 -DC=1 -DCRASHES=0 -DHOLDS=1
row quick NO_PASSING_ON fail exh - -DNO_PASSING_ON -DP=1 -DM=2 -DC=2 -DCRASHES=0 -DHOLDS=1
row full NO_HANDING_ON fail exh - -DNO_HANDING_ON -DLOOK -DP=1 -DM=2 -DC=2 -DCRASHES=0 -DHOLDS=1
row quick NEVER_LATE fail exh - -DNEVER_LATE -DP=1 -DM=2 -DC=2 -DCRASHES=0 -DHOLDS=1 -DSTOPS_WOKEN
row quick REJECT_BY_FREE fail exh - -DREJECT_BY_FREE -DP=1 -DM=1 -DC=1 -DCRASHES=1 -DREJECTS=1
row quick ADMIT_FIRST fail exh - -DADMIT_FIRST -DP=1 -DM=1 -DC=1 -DCRASHES=0 -DDRAIN
row quick NO_HELP_AT_FULL fail exh - -DNO_HELP_AT_FULL -DSTOPS -DNACKS=1 -DP=1 -DM=3 -DC=2 -DCRASHES=0 -DHOLDS=1

model=$here/lane.pml
title 'the lane as it is'
row quick 'lane, 3 messages' pass exh -O0 -DM=3 -DCRASHES=0
row quick 'lane, 1 death' pass exh -O0 -DM=1 -DCRASHES=1
row quick 'lane, out of order' pass exh -O0 -DM=2 -DCRASHES=0 -DCROSSACKS=1 -DCROSSES=1 -DNACKS=1
row full 'lane, 2 messages, 1 death' pass exh - -DM=2 -DCRASHES=1
row full 'lane, positions given up, out of order' pass exh - -DM=2 -DCRASHES=0 -DCROSSACKS=1 -DCROSSES=1 -DBURNS=1 -DNACKS=1
row full 'lane, 1 message, 2 deaths' pass exh - -DM=1 -DCRASHES=2
row full 'lane, loans crossed, 1 death' pass exh - -DM=2 -DCRASHES=1 -DCROSSES=1
row full 'lane, acks crossed, 1 death' pass exh - -DM=2 -DCRASHES=1 -DCROSSACKS=1
row full 'lane, 1 nack, 1 death' pass exh - -DM=2 -DCRASHES=1 -DNACKS=1
row full 'lane, all, 2 deaths' pass bit - -DM=3 -DCRASHES=2 -DCROSSACKS=1 -DCROSSES=1 -DBURNS=1 -DNACKS=1

title 'what must fail'
row quick NO_MEMBARRIER fail exh - -DNO_MEMBARRIER -DM=1 -DCRASHES=0
row quick ACKED_FIRST fail exh - -DACKED_FIRST -DM=2 -DCRASHES=1 -DCROSSACKS=1
row full TAIL_FIRST fail exh - -DTAIL_FIRST -DM=1 -DCRASHES=0
row quick NO_SECOND_LOOK fail exh - -DNO_SECOND_LOOK -DM=2 -DCRASHES=0
row quick OWNER_FIRST fail exh - -DOWNER_FIRST -DM=1 -DCRASHES=2
row full NO_ANNOUNCE fail exh - -DNO_ANNOUNCE -DM=2 -DCRASHES=1 -DCROSSES=1
row full TAIL_AT_ONCE fail exh - -DTAIL_AT_ONCE -DM=2 -DCRASHES=1 -DCROSSES=1
row full NO_HEAD_LOOK fail exh - -DNO_HEAD_LOOK -DM=2 -DCRASHES=1 -DNACKS=1
row full NO_RECHECK fail exh - -DNO_RECHECK -DM=1 -DCRASHES=0
row full NO_WAKEALL fail exh - -DNO_WAKEALL -DM=1 -DCRASHES=1

model=$here/bell.pml
title "the doorbell of a lane's consumer as it is"
row quick 'bell, 2 sleepers' pass exh -O0 -DM=2
row quick 'bell, who got a message comes back no more' pass exh -O0 -DM=2 -DKEEP
row full 'bell, 3 messages, 2 repairs' pass exh - -DM=3 -DR=2

title 'what must fail'
row quick NO_BARRIER fail exh - -DNO_BARRIER -DM=1 -DR=0
row quick NO_MEMBARRIER fail exh - -DNO_MEMBARRIER -DM=1 -DR=0
row quick CLEAR_FIRST fail exh - -DCLEAR_FIRST -DM=2 -DR=0 -DKEEP
row quick REPAIR_CLEARS fail exh - -DREPAIR_CLEARS -DM=1
row quick CLEAR_ALWAYS fail exh - -DCLEAR_ALWAYS -DM=2

model=$here/seat.pml
title "the lock of a lane's end as it is"
row quick 'seat, 2 goroutines' pass exh -O0
row full 'seat, 3 goroutines' pass exh - -DG=3 -DN=2 -DSEATS=3
row full 'seat, 4 locks, 4 seats' pass exh - -DN=4 -DSEATS=4

title 'what must fail'
row quick NO_FENCE fail exh - -DNO_FENCE
row quick NO_LOOK fail exh - -DNO_LOOK
row quick NO_WAIT fail exh - -DNO_WAIT
row quick NO_WAKE fail exh - -DNO_WAKE
row quick LATE fail exh - -DLATE
row quick ONE_SEAT fail exh - -DONE_SEAT

model=$here/topic.pml
title 'the topic as it is'
row quick 'topic, 1 publisher' pass exh -O0 -DSINGLE -DM=3
row quick 'topic, 1 publisher, drop' pass exh -O0 -DSINGLE -DDROP -DM=4
row quick 'topic' pass exh -O0 -DM=3
row quick 'topic, drop' pass exh -O0 -DDROP -DM=4
row quick 'topic, 1 death' pass exh -O0 -DM=2 -DCRASHES=1
row full 'topic, 1 publisher, 1 eviction' pass exh - -DSINGLE -DM=3 -DEVICTS=1
row full 'topic, 1 eviction' pass exh - -DM=3 -DEVICTS=1
row full 'topic, 1 publisher, 1 death' pass exh - -DSINGLE -DM=3 -DCRASHES=1
row full 'topic, drop, 1 death' pass exh - -DDROP -DM=3 -DCRASHES=1
row full 'topic, 2 publishers, drop, 1 death' pass exh - -DP=2 -DM=1 -DDROP -DCRASHES=1
row full 'topic, 2 publishers, 2 messages' pass bit - -DP=2 -DM=2
row full 'topic, 2 subscribers, 1 death' pass bit - -DC=2 -DM=3 -DCRASHES=1

title 'what must fail'
row quick NO_JOIN_VERSION fail exh - -DNO_JOIN_VERSION -DSINGLE -DM=3
row quick NO_OWNER_CHECK fail exh - -DNO_OWNER_CHECK -DSINGLE -DM=4 -DEVICTS=1
row quick NO_VALIDATE fail exh - -DNO_VALIDATE -DSINGLE -DDROP -DM=4
row quick LATE_FLOOR fail exh - -DLATE_FLOOR -DSINGLE -DDROP -DM=4
row quick EARLY_TAIL fail exh - -DEARLY_TAIL -DSINGLE -DM=2
row quick NO_SKIP fail exh - -DNO_SKIP -DM=2 -DABORTS=1
row quick REPAIR_READY fail exh - -DREPAIR_READY -DM=1 -DCRASHES=1
row full 'NO_RECHECK (topic)' fail exh - -DNO_RECHECK -DSINGLE -DM=1
row full 'NO_WAKEALL (topic)' fail exh - -DNO_WAKEALL -DM=1 -DCRASHES=1
row full NO_RING_AT_CLOSE fail exh - -DNO_RING_AT_CLOSE -DSINGLE -DM=4

model=$here/latest.pml
title 'the latest value as it is'
row quick 'latest 2:1, 1 death, 1 discard' pass exh -O0 -DW=2 -DM=1 -DR=1 -DL=2 -DCRASHES=1 -DDISCARDS=1
row quick 'latest 2 writers, 1 sleeper, 1 stops' pass exh -O0 -DW=2 -DM=1 -DR=0 -DZ=1 -DSTOPS=1
row full 'latest 2:1, 2 values each' pass exh - -DW=2 -DM=2 -DR=1 -DL=2 -DDISCARDS=1
row full 'latest 3:1' pass exh - -DW=3 -DM=1 -DR=1 -DL=1
row full 'latest 2 writers, 1 sleeper, 1 death' pass exh - -DW=2 -DM=1 -DR=0 -DZ=1 -DCRASHES=1
row full 'latest 1 writer, 2 sleepers' pass exh - -DW=1 -DM=2 -DR=0 -DZ=2
row full 'latest 3:1, 1 death, 1 discard' pass bit - -DW=3 -DM=1 -DR=1 -DL=1 -DCRASHES=1 -DDISCARDS=1

title 'what must fail'
row quick NO_VALIDATE fail exh - -DNO_VALIDATE -DW=1 -DM=4
row full TAKE_CURRENT fail exh - -DTAKE_CURRENT -DW=2 -DM=1 -DR=0 -DSTOPS=1
row quick CURRENT_FIRST fail exh - -DCURRENT_FIRST -DW=3 -DM=1
row quick NO_VERSION fail exh - -DNO_VERSION -DW=2 -DM=1
row full RELEASE_FIRST fail exh - -DRELEASE_FIRST -DW=3 -DM=1
row full EARLY_REPAIR fail exh - -DEARLY_REPAIR -DW=2 -DM=1
row full REPAIR_FREES fail exh - -DREPAIR_FREES -DW=3 -DM=1 -DCRASHES=1 -DDISCARDS=1
row full 'NO_RECHECK (latest)' fail exh - -DNO_RECHECK -DW=2 -DM=1 -DR=0 -DZ=1
row full 'NO_WAKEALL (latest)' fail exh - -DNO_WAKEALL -DW=2 -DM=1 -DR=0 -DZ=1 -DCRASHES=1
row quick ZERO_FIRST fail exh - -DZERO_FIRST -DW=2 -DM=1 -DR=0 -DZ=1 -DSTOPS=1
row quick COUNT_DOWN fail exh - -DCOUNT_DOWN -DW=1 -DM=2 -DR=0 -DZ=2

model=$here/call.pml
title 'the call as it is'
row quick 'call' pass exh -O0 -DCRASHES=0 -DR=2
row quick 'call, 1 death' pass exh -O0 -DCRASHES=1
row quick 'call, 1 death, cancel, fail' pass exh -O0 -DCRASHES=1 -DCANCELS=1 -DFAIL
row quick 'call, 2 callers, 1 slot' pass exh -O0 -DCRASHES=0 -DCALLERS=2
row full 'call, 1 death, 2 requests, cancel' pass exh - -DCRASHES=1 -DR=2 -DCANCELS=1
row full 'call, 2 deaths, cancel' pass exh - -DCRASHES=2 -DCANCELS=1
row full 'call, 2 callers, 2 slots' pass bit - -DCRASHES=0 -DCALLERS=2 -DSLOTS=2
row full 'call, 2 callers, 2 servers, 1 death' pass bit - -DCRASHES=1 -DCALLERS=2 -DSERVERS=2

title 'what must fail'
row quick NO_SERVER_CHECK fail exh - -DNO_SERVER_CHECK -DCRASHES=0 -DCANCELS=1
row quick NO_SECOND_OWNER fail exh - -DNO_SECOND_OWNER -DCRASHES=1 -DCANCELS=1
row quick NO_CALLER_REPAIR fail exh - -DNO_CALLER_REPAIR -DCRASHES=1
row quick IN_PLACE fail exh - -DIN_PLACE -DCRASHES=1
row quick CLAIM_WITHOUT_SERVER fail exh - -DCLAIM_WITHOUT_SERVER -DCRASHES=1
row quick NO_ASLEEP fail exh - -DNO_ASLEEP -DCRASHES=0
row quick NO_REPAIR_WAKE fail exh - -DNO_REPAIR_WAKE -DCRASHES=1
row full ANSWER_FIRST fail exh - -DANSWER_FIRST -DCRASHES=0
row full 'NO_RECHECK (call)' fail exh - -DNO_RECHECK -DCRASHES=0

wait
show
searches=0 bad=0 states_good=0
for ((i = 1; i <= rows; i++)); do
  if ! [ -e "$work/$i/end" ]; then
    echo "row $i did not end"
    bad=$((bad + 1))
  elif read -r wrong n <"$work/$i/end"; then
    searches=$((searches + 1)) bad=$((bad + wrong)) states_good=$((states_good + n))
  fi
done
echo
echo "$searches runs, $bad not as expected; $states_good states of what is as it is; $SECONDS s"
[ $bad = 0 ]
