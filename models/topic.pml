/* The topic of docs/topic.md as a Promela model. The letters in brackets are those of docs/topic.md and of
 * pkg/protocol/topic*.go. models/README.md says what is modelled and what is not; models/run.sh runs it.
 *
 * Parameters (-D): P publishers, M messages each, C subscribers, each of which joins when it likes, from new or from the oldest;
 * SINGLE (one publisher at a time, no state words), DROP (drop-oldest; else publishers block), EVICTS (cursors that are ended by others),
 * CRASHES (deaths of publishers, subscribers and of the repair together), ABORTS.
 * Variants that must fail: NO_JOIN_VERSION, NO_OWNER_CHECK, NO_VALIDATE, LATE_FLOOR, EARLY_TAIL, NO_RECHECK, NO_WAKEALL,
 * NO_SKIP, REPAIR_READY, NO_RING_AT_CLOSE (models/README.md says what each leaves out). */
#ifndef P
#define P 1
#endif
#ifndef M
#define M 3
#endif
#ifndef C
#define C 1
#endif
#ifndef CRASHES
#define CRASHES 0
#endif
#ifndef EVICTS
#define EVICTS 0
#endif
#ifndef ABORTS
#define ABORTS 0
#endif
#define N 2
#define STEP 1
#define START 2 /* lap 1 */
#define MAXPOS (START + P * M + CRASHES + ABORTS + 1)

/* State word: phase 0-1, owner 2-3, lap 4-7. */
#define FREE 0
#define WRITING 1
#define READY 2
#define SKIP 3
#define W(ph, own, lap) ((ph) | ((own) << 2) | ((lap) << 4))
#define phase(w) ((w) & 3)
#define owner(w) (((w) >> 2) & 3)
#define lapof(w) ((w) >> 4)
#define lapat(p) ((p) >> 1)
#define idx(p) ((p) & 1)

/* A row */
#define GONE 0
#define JOINING 1
#define OPEN 2
#define EVICTED 3

/* shared memory */
byte st[N];
byte pa[N], pb[N];     /* payload: two words, written and read one at a time */
byte tail = START;
byte limit = START, version; /* one word */
byte floor = START;
byte row[C], at[C];    /* state and position of each subscriber's row */
byte rw, rep, rbell;
byte sw, sep, sbell;

/* the kernel */
byte asleepR, asleepS; /* bit of the process */
byte dead;             /* who is dead and not yet repaired */
byte cr = CRASHES, ev = EVICTS, ab = ABORTS;

/* ghosts */
byte content[MAXPOS + 2]; /* what was published at a position */
byte finished;
byte left;             /* subscribers that ended */
#define bit_(x) (1 << ((x) - 1))

/* One access to shared memory, before which the process may be killed. */
#define X(...) atomic { if :: true -> __VA_ARGS__ :: cr > 0 -> cr--; goto died fi }

inline ringReceivers() {
	atomic { if :: true -> quiet = (rw == 0) :: cr > 0 -> cr--; goto died fi }; /* W */
	if
	:: !quiet -> X(rbell++); X(asleepR = 0)
	:: else
	fi;
	quiet = 0
}
inline ringSenders() {
	atomic { if :: true -> quiet = (sw == 0) :: cr > 0 -> cr--; goto died fi };
	if
	:: !quiet -> X(sbell++); X(asleepS = 0)
	:: else
	fi;
	quiet = 0
}

/* room(t): ok = 1 if position t may be written; then everything below lim may. */
inline room() {
	ok = 0;
#ifdef DROP
	do
	:: X(f = floor);
		if
		:: f + N > t -> lim = f + N; ok = 1; break
		:: else ->
#ifdef LATE_FLOOR
			lim = t + STEP; ok = 1; late = 1; break
#else
			X(if :: floor == f -> floor = t + STEP - N :: else fi) /* A */
#endif
		fi
	od;
	f = 0
#else
	do
	:: X(f = limit; v = version); /* B */
		if
		:: f > t -> lim = f; ok = 1; break
		:: else ->
			low = t + STEP - N;
			i = 0;
			do
			:: i < C ->
				X(x = row[i]);
				if :: x == OPEN -> X(x = at[i]; if :: x < low -> low = x :: else fi) :: else fi;
				i++
			:: i >= C -> break
			od;
			atomic { i = 0; x = 0 };
			if
			:: low + N <= t -> break /* full */
			:: else ->
				X(if :: limit == f && version == v -> limit = low + N; lim = low + N; ok = 1 :: else fi); /* C */
				if :: ok -> break :: else fi
			fi
		fi
	od;
	atomic { f = 0; v = 0; low = 0; x = 0; i = 0 }
#endif
}

/* TryLoan: ok = 1: position t is this publisher's. */
inline tryLoan() {
#ifdef SINGLE
	X(t = tail);
	if
	:: t >= lim -> room()
	:: else -> ok = 1
	fi
#else
	do
	:: X(t = tail);
		if :: t >= lim -> room() :: else -> ok = 1 fi;
		if
		:: !ok -> X(again = (tail != t)); if :: again -> again = 0 :: else -> break fi
		:: else ->
			ok = 0;
			X(w = st[idx(t)]);
			if
			:: (phase(w) == FREE && lapof(w) == lapat(t)) || ((phase(w) == READY || phase(w) == SKIP) && lapof(w) + 1 == lapat(t)) ->
				X(if :: st[idx(t)] == w -> st[idx(t)] = W(WRITING, me, lapat(t)); ok = 1 :: else fi); /* E */
				if
				:: ok -> X(if :: tail == t -> tail = t + 1 :: else fi); break
				:: else
				fi
			:: lapof(w) == lapat(t) && phase(w) != FREE -> X(if :: tail == t -> tail = t + 1 :: else fi)
			:: else ->
				X(again = (tail != t));
				if
				:: again -> again = 0
				:: else -> assert(phase(w) == WRITING && lapof(w) + 1 == lapat(t)); break /* a loan of a lap ago */
				fi
			fi
		fi
	od;
	w = 0
#endif
}

/* The sleeper's side ends: it is counted no more. */
#define UNREGISTER(count, epoch) X(if :: epoch == ep && count > 0 -> count-- :: else fi); atomic { reg = 0; bell = 0; ep = 0 }

proctype publisher(byte me) {
	byte t, i, m, v, f, low, x, lim, ep, bell, w, val;
	bit ok, again, quiet, reg, late;
next:
	atomic { ok = 0; again = 0; quiet = 0; reg = 0; t = 0; i = 0; v = 0; f = 0; low = 0; x = 0; w = 0; ep = 0; bell = 0; late = 0; val = 0;
		if :: m == M -> finished = finished | bit_(me); goto end :: else -> m++; val = (me - 1) * M + m fi }
	do
	:: tryLoan();
		if
		:: ok -> break
		:: !ok && !reg ->
			X(bell = sbell);
			X(sw++; ep = sep); /* S */
			reg = 1;
#ifdef NO_RECHECK
			goto sleep
#endif
		:: !ok && reg -> /* T failed */
#ifdef NO_RECHECK
sleep:
#endif
			X(if :: sbell == bell -> asleepS = asleepS | bit_(me) :: else fi);
			atomic { if :: !(asleepS & bit_(me)) :: (asleepS & bit_(me)) && cr > 0 -> cr--; goto died fi };
			UNREGISTER(sw, sep)
		fi
	od;
	if
	:: reg -> UNREGISTER(sw, sep)
	:: else
	fi;
#ifdef EARLY_TAIL
	X(tail = t + 1; content[t] = val);
#endif
	X(pa[idx(t)] = val);
	X(pb[idx(t)] = val);
#ifdef LATE_FLOOR
	if :: late -> X(floor = lim - N) :: else fi;
#endif
	if
	:: ab > 0 ->
		ab--;
#ifndef SINGLE
		X(assert(st[idx(t)] == W(WRITING, me, lapat(t))); st[idx(t)] = W(SKIP, 0, lapat(t)));
		ringReceivers();
		ringSenders()
#endif
	:: true ->
#ifdef SINGLE
#ifndef EARLY_TAIL
		X(assert(tail == t); content[t] = val; tail = t + 1); /* F */
#endif
		ringReceivers()
#else
		X(assert(st[idx(t)] == W(WRITING, me, lapat(t))); content[t] = val; st[idx(t)] = W(READY, 0, lapat(t))); /* F */
		ringReceivers();
		ringSenders()
#endif
	fi;
	goto next;
died:
	atomic { dead = dead | bit_(me); asleepS = asleepS & ~bit_(me);
		ok = 0; again = 0; quiet = 0; reg = 0; t = 0; i = 0; v = 0; f = 0; low = 0; x = 0; w = 0; ep = 0; bell = 0; late = 0; lim = 0; val = 0 }
	atomic { !(dead & bit_(me)) -> goto next } /* another, after the repair */
end:
	skip
}

/* Next: ok = 1: the message at c may be read. gone = 1: the cursor is not this subscriber's any more. */
inline look() {
	ok = 0;
	X(gone = (row[k] != OPEN));
	do
	:: gone -> break
	:: else ->
#ifdef SINGLE
		X(t = tail); /* G */
		if
#ifdef DROP
		:: t > c + N || t == c ->
			X(f = floor);
			if
			:: f > c -> c = f; X(at[k] = c)
			:: f <= c -> assert(t == c); break
			fi
		:: t > c && t <= c + N -> ok = 1; break
#else
		:: t > c -> ok = 1; break
		:: t == c -> break
#endif
		fi
#else
		X(w = st[idx(c)]); /* G */
		if
		:: lapof(w) == lapat(c) && phase(w) == READY -> ok = 1; break
#ifndef NO_SKIP
		:: lapof(w) == lapat(c) && phase(w) == SKIP -> c++; X(at[k] = c); ringSenders()
#endif
		:: else ->
#ifdef DROP
			X(f = floor);
			if
			:: f > c -> c = f; X(at[k] = c)
			:: else -> assert(lapof(w) <= lapat(c)); break
			fi
#else
			if
			:: lapof(w) > lapat(c) -> X(gone = (row[k] != OPEN)); assert(gone); break
			:: else -> break
			fi
#endif
		fi
#endif
	od;
	atomic { t = 0; f = 0; w = 0 }
}

proctype subscriber(byte me; byte k) {
	byte c, t, f, v, x, y, w, ep, bell;
	bit ok, gone, again, quiet, reg, bad, once;
	X(row[k] = JOINING);
	/* join: from new, or from the oldest */
	X(c = tail);
	if
	:: true
	:: true ->
#ifdef DROP
		X(c = floor)
#else
		X(f = limit); c = (f > START + N -> f - N : START)
#endif
	fi;
	X(at[k] = c);
	X(if :: row[k] == JOINING -> row[k] = OPEN :: else -> goto out fi);
#ifndef DROP
	do
	:: X(f = limit; v = version);
		if :: f > c + N -> c = f - N; X(at[k] = c) :: else fi;
#ifdef NO_JOIN_VERSION
		break
#else
		X(if :: limit == f && version == v -> version++; ok = 1 :: else fi); /* J */
		if :: ok -> break :: else fi
#endif
	od;
#endif
	atomic { f = 0; v = 0; ok = 0 }
loop:
	do
	:: look();
		if
		:: gone -> break
		:: ok -> break
		:: !gone && !ok && !reg ->
			X(bell = rbell);
			X(rw++; ep = rep); /* S */
			reg = 1;
#ifdef NO_RECHECK
			goto sleep
#endif
		:: !gone && !ok && reg ->
#ifdef NO_RECHECK
sleep:
#endif
			X(if :: rbell == bell -> asleepR = asleepR | bit_(me) :: else fi);
			atomic { if :: !(asleepR & bit_(me)) :: (asleepR & bit_(me)) && cr > 0 -> cr--; goto died fi };
			UNREGISTER(rw, rep)
		fi
	od;
	if
	:: reg -> UNREGISTER(rw, rep)
	:: else
	fi;
	if :: gone -> goto out :: else fi;
	X(x = pa[idx(c)]);
	X(y = pb[idx(c)]);
	/* Done: does it count? */
#ifndef NO_OWNER_CHECK
	X(gone = (row[k] != OPEN));
	if :: gone -> goto out :: else fi;
#endif
	bad = 0;
#if defined(DROP) && !defined(NO_VALIDATE)
	X(bad = (floor > c)); /* D */
#endif
	if
	:: bad -> X(f = floor); c = f; f = 0; X(at[k] = c)
	:: else ->
		assert(content[c] != 0 && x == content[c] && y == content[c]); /* whole, and the one that was published there */
		c++;
		X(at[k] = c); /* H */
#ifndef DROP
		ringSenders()
#endif
	fi;
	atomic { x = 0; y = 0; bad = 0; ok = 0 }
	if
	:: goto loop
	:: !once && CRASHES + EVICTS == 0 -> once = 1; goto out /* it leaves when it likes */
	fi;
out:
	X(row[k] = GONE); /* K */
#ifndef NO_RING_AT_CLOSE
	ringSenders();
#endif
	atomic { left = left | bit_(k + 1) }
	goto end;
died:
	atomic { dead = dead | bit_(me); asleepR = asleepR & ~bit_(me); left = left | bit_(k + 1) }
end:
	skip
}

/* An operator, or a publisher that waited for long. */
proctype evictor() {
	byte k;
	bit quiet;
	do
	:: ev > 0 ->
		if :: k = 0 :: C > 1 -> k = C - 1 fi;
		atomic { (row[k] == OPEN || row[k] == JOINING) -> row[k] = EVICTED; ev-- } /* K */
		ringReceivers();
		ringSenders()
	:: ev == 0 -> break
	od;
	goto end;
died:
	skip
end:
	skip
}

/* The supervisor: after each death, one repair. It may be killed at any access, too; its successor repairs again. */
proctype supervisor() {
	byte i, d;
idle:
	atomic { i = 0; d = 0; dead -> d = dead }
	do
	:: i < C ->
		X(if :: (d & bit_(P + 1 + i)) -> row[i] = GONE :: else fi); /* R */
		i++
	:: i >= C -> break
	od;
#ifndef SINGLE
	i = 0;
	do
	:: i < N ->
#ifdef REPAIR_READY
		X(if :: phase(st[i]) == WRITING && (bit_(owner(st[i])) & d) -> st[i] = W(READY, 0, lapof(st[i])) :: else fi);
#else
		X(if :: phase(st[i]) == WRITING && (bit_(owner(st[i])) & d) -> st[i] = W(SKIP, 0, lapof(st[i])) :: else fi); /* R */
#endif
		i++
	:: i >= N -> break
	od;
#endif
#ifndef NO_WAKEALL
	X(rw = 0; rep++);
	X(rbell++);
	X(asleepR = 0);
	X(sw = 0; sep++);
	X(sbell++);
	X(asleepS = 0);
#endif
	atomic { dead = dead & ~d }
	goto idle;
died:
	goto idle
}

/* At rest, that is when nobody can take a step. */
proctype monitor() {
	byte k;
	do
	:: timeout -> break
	od;
	atomic {
		assert(dead == 0);
		assert(finished == bit_(P + 1) - 1); /* every publisher that lives has published all: nobody keeps it waiting */
		assert(asleepS == 0);
		do /* every subscriber that lives has read all */
		:: k < C ->
#ifdef SINGLE
			assert((left & bit_(k + 1)) || at[k] == tail);
#else
			assert((left & bit_(k + 1)) || phase(st[idx(at[k])]) == FREE || lapof(st[idx(at[k])]) < lapat(at[k]));
#endif
			assert(!(left & bit_(k + 1)) || row[k] == GONE);
			k++
		:: k >= C -> break
		od
	}
}

init {
	atomic {
		byte k;
		for (k : 0 .. N - 1) { st[k] = W(FREE, 0, 1) }
		for (k : 1 .. P) { run publisher(k) }
		for (k : 1 .. C) { run subscriber(P + k, k - 1) }
#if EVICTS > 0
		run evictor();
#endif
		run supervisor();
		run monitor();
		k = 0
	}
}
