/* The doorbell of a lane's consumer (docs/lane.md, "Sleeping"; pkg/protocol/waiters.go, Register, RingBrisk and RingAll) as a Promela model: when the producer
 * does without a barrier, and when the sleeper pays for it. The consumer's process has several goroutines, each of which sleeps by itself.
 *
 * A message is a number in pub. The producer's store waits in its store buffer (pend), which empties itself at any time, and at a barrier. A repair
 * may come at any time (of others' deaths: it forgets all sleepers and wakes them).
 *
 * Parameters (-D): M messages, S sleepers, R repairs, KEEP: who got a message comes back no more (M at most S).
 * Variants that must fail: NO_BARRIER (the producer makes none where the bit is not set), NO_MEMBARRIER (nor does the sleeper where it is), CLEAR_FIRST (the
 * sleeper takes the bit away before its membarrier), REPAIR_CLEARS (the repair does), CLEAR_ALWAYS (a sleeper does that a repair has forgotten). */
#ifndef M
#define M 3
#endif
#ifndef S
#define S 2
#endif
#ifndef R
#define R 1
#endif

byte pub, pend, taken;
byte bell, count, epoch;
bit brisk;
bit asleep[S];
bit sent;

#define flush pub = pub + pend; pend = 0

active proctype producer() {
	byte m, ep;
	bit quiet;
	if :: brisk = 1 :: true fi; /* as it was left */
	do
	:: m == M -> break
	:: m < M -> m++;
		pend++; /* C */
		atomic { quiet = brisk && count == 0 } /* W: a load, which may come before the store is seen */
		if
		:: quiet -> quiet = 0
		:: else ->
#ifndef NO_BARRIER
			atomic { flush; ep = epoch; quiet = count == 0 && !brisk; if :: count -> ep = 255 :: else fi }
#else
			atomic { ep = epoch; quiet = count == 0 && !brisk; if :: count -> ep = 255 :: else fi }
#endif
			if
			:: ep == 255 -> bell++; /* and the wake, of one that is in the kernel */
				atomic {
					if
					:: asleep[0] -> asleep[0] = 0
					:: S > 1 && asleep[S - 1] -> asleep[S - 1] = 0
					:: else
					fi
				}
			:: ep != 255 && quiet -> /* calm for long enough, or not */
				if
				:: atomic { true; if :: count == 0 && !brisk && epoch == ep -> brisk = 1 :: else fi }
				:: true
				fi
			:: else
			fi;
			atomic { quiet = 0; ep = 0 }
		fi
	od;
	sent = 1
}

active [S] proctype sleeper() {
	byte v, ep, i;
	bit q, got;
	i = _pid - 1;
	do
	:: v = bell;
		atomic { count++; ep = epoch; q = brisk; /* S */
#ifdef CLEAR_FIRST
			brisk = 0
#endif
		}
		if
		:: q ->
#ifndef NO_MEMBARRIER
			atomic { flush }
#endif
			atomic {
#ifndef CLEAR_ALWAYS
				if :: epoch == ep -> brisk = 0 :: else fi
#else
				brisk = 0
#endif
			}
		:: else
		fi;
		atomic { if :: taken < pub -> taken++; got = 1 :: else fi } /* T */
		if
		:: !got -> atomic { if :: bell == v -> asleep[i] = 1 :: else fi }
end:			!asleep[i]
		:: else
		fi;
		atomic { if :: epoch == ep && count -> count-- :: else fi;
#ifdef KEEP
			if :: got -> break :: else fi; /* it is busy with its message from now on */
#endif
			got = 0; q = 0; v = 0; ep = 0 }
	od
}

active proctype repair() {
	byte r;
	do
	:: r == R -> break
	:: r < R -> r++;
		atomic { count = 0; epoch++;
#ifdef REPAIR_CLEARS
			brisk = 0
#endif
		}
		bell++;
		atomic { asleep[0] = 0; asleep[S - 1] = 0 }
	od
}

active proctype memory() {
end:	do
	:: atomic { pend -> flush }
	od
}

active proctype monitor() {
	timeout;
	assert(sent && pend == 0 && taken == M) /* nobody sleeps beside a message */
}
