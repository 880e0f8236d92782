/* The lock of an end of a lane within one process (pkg/protocol/endlock.go) as a Promela model: one goroutine comes and goes by plain stores, until another takes its seat away.
 *
 * A store of a goroutine waits in its store buffer, which empties itself at any time, in order, and at each locked instruction of that goroutine and each membarrier of anyone.
 *
 * Parameters (-D): G goroutines, N times that each locks, SEATS that are given at most.
 * Variants that must fail: NO_FENCE (who takes the seat away makes no membarrier), NO_LOOK (who has the seat does not look again [B]), NO_WAIT (nobody waits for who is inside
 * [D]), NO_WAKE (who leaves does not look whether somebody waits [F]), LATE (the seat is marked as revoked after the membarrier), ONE_SEAT (a seat is used again for another goroutine). */
#ifndef G
#define G 2
#endif
#ifndef N
#define N 3
#endif
#ifndef SEATS
#define SEATS 2
#endif

byte seat;               /* 0: nobody's */
byte owner[SEATS + 1];   /* goroutine + 1 */
bit in[SEATS + 1], revoked[SEATS + 1], token[SEATS + 1];
byte given;
bit mu;
byte inside, done;

/* Store buffers: of stores to in alone, two at most (2 * seat + value + 1). */
byte old[G], young[G];

inline see(g) { /* the oldest store is seen */
	d_step {
		in[(old[g] - 1) / 2] = (old[g] - 1) % 2;
		old[g] = young[g];
		young[g] = 0
	}
}

inline drain(g) {
	d_step {
		do
		:: old[g] -> in[(old[g] - 1) / 2] = (old[g] - 1) % 2; old[g] = young[g]; young[g] = 0
		:: else -> break
		od
	}
}

inline put(g, s, v) { /* a store, once there is room for it */
	atomic {
		young[g] == 0;
		if
		:: old[g] -> young[g] = 2 * s + v + 1
		:: else -> old[g] = 2 * s + v + 1
		fi
	}
}

inline leave(g, s) {
	put(g, s, 0); /* E */
#ifndef NO_WAKE
	if
	:: revoked[s] -> /* F */
		atomic { drain(g); token[s] = 1 }
	:: else
	fi
#endif
}

inline critical() {
	inside++;
	assert(inside == 1);
	inside--
}

active [G] proctype goroutine() {
	byte g, n, s;
	g = _pid;
	do
	:: n == N -> break
	:: n < N -> n++;
		s = seat;
		if
		:: s && owner[s] == g + 1 ->
			put(g, s, 1); /* A */
#ifndef NO_LOOK
			if
			:: seat == s -> /* B */
				critical();
				leave(g, s);
				s = 0;
				goto next
			:: else -> leave(g, s)
			fi
#else
			critical();
			leave(g, s);
			s = 0;
			goto next
#endif
		:: else
		fi;
		atomic { mu == 0; drain(g); mu = 1 }
		s = seat;
		if
		:: s ->
#ifndef LATE
			revoked[s] = 1;
#endif
			atomic { drain(g); seat = 0 } /* C */
#ifndef NO_FENCE
			atomic { drain(0); drain(1); if :: G > 2 -> drain(G - 1) :: else fi }
#endif
#ifdef LATE
			revoked[s] = 1;
#endif
#ifndef NO_WAIT
			do
			:: atomic { in[s] == 0 -> break } /* D */
			:: atomic { in[s] -> skip }
				atomic { token[s] -> token[s] = 0 }
			od
#endif
		:: else
		fi;
		if /* it has locked often enough, or not */
#ifdef ONE_SEAT
		:: given < SEATS -> atomic { given++; revoked[1] = 0; owner[1] = g + 1; seat = 1 }
#else
		:: given < SEATS -> atomic { given++; owner[given] = g + 1; seat = given }
#endif
		:: true
		fi;
		critical();
		atomic { drain(g); mu = 0; s = 0 }
next:		skip
	od;
	done++
}

active [G] proctype buffer() {
	byte g;
	g = _pid - G;
end:	do
	:: atomic { old[g] -> see(g) }
	od
}

active proctype watch() { /* nobody waits for ever */
	timeout -> assert(done == G)
}
