/* The queue of docs/queue.md as a Promela model. The letters in brackets are those of docs/queue.md and of
 * pkg/protocol/queue.go. models/README.md says what is modelled and what is not; models/run.sh runs it.
 *
 * Parameters (-D): P producers, M messages each, C consumers (0: see the monitor), CRASHES (deaths of producers, consumers and of the
 * repair together), NACKS, ABORTS, HOLDS (a live process that keeps its slot for good; STOPS: that stops
 * between a nack [N] and lower instead, STOPS_WOKEN: between its wake-up and its look), MAXD (max_deliveries, 0: none;
 * the dead-letter channel has no room, so DEAD stays), REJECTS (leases that are given up: DEAD at once), DRAIN (somebody drains the
 * queue, at any time), START (first position; laps count modulo 16), FIFO, LOOK (consumers look once more, as one of the awake, before they register).
 * Variants that must fail: NAIVE, NO_LOWER_ON_COMMIT, NO_REREAD, NO_REPAIR_LOWER, EARLY_UNBLOCK, NO_RECHECK, NO_WAKEALL,
 * NO_LAP_CHECK, NO_RING_AT_LEASE, NO_HELP_AT_FULL, NO_PASSING_ON, NO_HANDING_ON, NEVER_LATE, REJECT_BY_FREE, ADMIT_FIRST (models/README.md says what each
 * leaves out). */
#ifndef P
#define P 2
#endif
#ifndef M
#define M 1
#endif
#ifdef EARLY_UNBLOCK /* producer 1 sends one: fewer states */
#define MOF(p) ((p) == 1 -> 1 : M)
#else
#define MOF(p) M
#endif
#ifndef C
#define C 1
#endif
#ifndef N
#define N 2
#endif
#ifndef SHIFT
#define SHIFT 1 /* log2 N */
#endif
#ifndef CRASHES
#define CRASHES 1
#endif
#ifndef NACKS
#define NACKS 0
#endif
#ifndef ABORTS
#define ABORTS 0
#endif
#ifndef HOLDS
#define HOLDS 0
#endif
#ifndef MAXD
#define MAXD 0
#endif
#ifndef REJECTS
#define REJECTS 0
#endif
#define DEADS (MAXD > 0 || REJECTS > 0) /* a slot may stay DEAD */
#ifndef START
#define START 30 /* lap 15: the next lap wraps to 0 */
#endif

/* State word: phase 0-2, owner 3-5, deliveries 6-7, passed 8, lap 9-12 (modulo 16). */
#define FREE 0
#define WRITING 1
#define READY 2
#define READING 3
#define DEAD 4
#define W(ph, own, dl, lap) ((ph) | ((own) << 3) | ((dl) << 6) | ((lap) << 9))
#define PASSED 256
#define phase(w) ((w) & 7)
#define owner(w) (((w) >> 3) & 7)
#define dels(w) (((w) >> 6) & 3)
#define passed(w) (((w) >> 8) & 1)
#define lapof(w) (((w) >> 9) & 15)
#define lapat(pos) (((pos) >> SHIFT) & 15)
#define idx(pos) ((pos) & (N - 1))
#define nextlap(w) ((lapof(w) + 1) & 15)
#define more(d) ((d) < 3 -> (d) + 1 : 3)
/* the largest position below t that lies in slot i */
#define window(t, i) ((t) - 1 - (((t) - 1 - (i) + 4 * N) & (N - 1)))

/* shared memory */
short st[N];
byte pa[N], pb[N]; /* payload: two words, written and read one at a time */
byte tail = START, head = START;
byte rw, rep, rbell; /* ReceiveWaiters: count, epoch; ReceiveBell */
byte sw, sep, sbell;
bit rcoming, scoming; /* in the same words: RingOne chose a sleeper that has not looked since */

/* the kernel */
byte asleepR, asleepS; /* who sleeps in which futex: bit of the process */
byte dead;             /* who is dead and not yet repaired */
byte cr = CRASHES;

/* ghosts */
byte msg[N];           /* what was committed into the slot */
byte committed, acked, open, deadm; /* sets of messages */
byte finished;         /* producers that sent all */
byte busy;             /* operations under way */
bit repairing;
byte nacks = NACKS, aborts = ABORTS, holds = HOLDS, holding;
#ifdef STOPS_WOKEN
byte stopped; /* between their wake-ups and their looks, of those that hold */
bit sent;     /* a message was sent meanwhile */
#define SENT if :: stopped > 0 -> sent = 1 :: else fi
#else
#define SENT skip
#endif
#if REJECTS > 0
byte rejects = REJECTS;
#endif
#ifdef DRAIN
bit drain, rested; /* rested: the drain saw the queue at rest */
#endif
bit release;
byte last;
#define bit_(x) (1 << ((x) - 1))
#define ALL (bit_(P * M + 1) - 1)

/* (I): every READY slot i has head <= q(i); head <= tail */
inline invariant() {
#ifdef NAIVE
	skip /* it claims no such thing: it has to fail by what it does to messages */
#else
	d_step {
		if
		:: busy == 0 && dead == 0 && !repairing ->
			assert(head <= tail);
			inv = 0;
			do
			:: inv < N ->
				assert(phase(st[inv]) != READY || head <= window(tail, inv));
				inv++
			:: inv >= N -> break
			od;
			inv = 0
		:: else
		fi
	}
#endif
}

#define OPSTART busy++; inop = 1
#define OPEND busy--; inop = 0; invariant()
#ifdef FIFO
#define ORDER(g) assert((g) > last); last = (g)
#else
#define ORDER(g) skip
#endif
#define GHOSTLEASE(g) \
	assert((g) > 0 && (committed & bit_(g))); \
	assert(!(acked & bit_(g)) && !(open & bit_(g))); \
	ORDER(g); \
	open = open | bit_(g)

/* One access to shared memory, before which the process may be killed. */
#define X(...) atomic { if :: true -> __VA_ARGS__ :: cr > 0 -> cr--; goto died fi }

/* lower(i); uses t, h */
inline lower(i) {
	do
	:: X(t = tail);
		X(h = head);
		if
		:: h <= window(t, i) -> break
		:: else -> X(if :: head == h -> head = window(t, i); break :: else fi)
		fi
	od
}

/* Ring(1). The order of futex wake-ups is not relied on: any sleeper. */
inline wake1(set) {
	if
	:: set == 0
	:: (set & 1) -> set = set & ~1
	:: (set & 2) -> set = set & ~2
	:: (set & 4) -> set = set & ~4
	:: (set & 8) -> set = set & ~8
	fi
}
inline ringReceivers() {
	atomic { if :: true -> if :: rw == 0 -> quiet = 1 :: else fi :: cr > 0 -> cr--; goto died fi }; /* W */
	if
	:: !quiet -> X(rbell++); X(wake1(asleepR))
	:: else -> quiet = 0
	fi
}
inline ringSenders() {
	atomic { if :: true -> if :: sw == 0 -> quiet = 1 :: else fi :: cr > 0 -> cr--; goto died fi }; /* W */
	if
	:: !quiet -> X(sbell++); X(wake1(asleepS))
	:: else -> quiet = 0
	fi
}

/* RingOne. LATE: the one that is on its way has been for a millisecond. Here: it is stopped, and whoever sends meanwhile sends later than that. Elsewhere
 * the code may wake one more than is awaited here. */
#if defined(STOPS_WOKEN) && !defined(NEVER_LATE)
#define LATE (stopped > 0)
#else
#define LATE false
#endif
inline ringOneReceiver() {
	atomic { if :: true -> if :: rw == 0 || (rcoming && !LATE) -> quiet = 1 :: else -> rcoming = 1 fi :: cr > 0 -> cr--; goto died fi }; /* W */
	if
	:: !quiet -> X(rbell++); X(wake1(asleepR))
	:: else -> quiet = 0
	fi
}
inline ringOneSender() {
	atomic { if :: true -> if :: sw == 0 || scoming -> quiet = 1 :: else -> scoming = 1 fi :: cr > 0 -> cr--; goto died fi }; /* W */
	if
	:: !quiet -> X(sbell++); X(wake1(asleepS))
	:: else -> quiet = 0
	fi
}

/* ringSenders(p) of the code: the slot of position p is not one that producers stop at any more. */
inline nudge(p) {
#ifndef NO_RING_AT_LEASE
	atomic { if :: true -> if :: sw == 0 -> quiet = 1 :: else fi :: cr > 0 -> cr--; goto died fi };
	if
	:: !quiet ->
		atomic { if :: true -> if :: phase(st[idx((p) + 1)]) == READY -> quiet = 1 :: else fi :: cr > 0 -> cr--; goto died fi }
	:: else
	fi;
	if
	:: quiet -> quiet = 0
	:: else -> ringOneSender()
	fi
#else
	skip
#endif
}

#define CASTAIL(pos) X(if :: tail == (pos) -> tail = (pos) + 1 :: else fi)

/* TryLoan. ok = 1: i and suspect are set. */
inline tryLoan() {
	pc = 0;
	do
	:: X(t = tail);
		X(w = st[idx(t)]);
		if
		:: phase(w) == FREE ->
			ah = (lapof(w) - lapat(t)) & 15;
			if
			:: ah >= 1 && ah <= 7 -> /* released at or after position t */
				atomic { if :: true -> if :: tail != t -> again = 1 :: else fi :: cr > 0 -> cr--; goto died fi };
				if
				:: again == 0 && ah == 1 -> CASTAIL(t); again = 1
				:: else
				fi
			:: else
			fi;
			if
			:: again -> again = 0; ah = 0
			:: else ->
				ah = 0;
				X(if :: st[idx(t)] == w -> st[idx(t)] = W(WRITING, me, 0, lapat(t)); ok = 1 :: else fi); /* A */
				if
				:: ok -> X(if :: tail == t -> tail = t + 1; suspect = 0 :: else -> suspect = 1 fi); /* B */
					i = idx(t);
					nudge(t);
					break
				:: else
				fi
			fi
		:: phase(w) != FREE && lapof(w) == lapat(t) -> CASTAIL(t) /* tail lags */
		:: else ->
			atomic { if :: true -> if :: tail != t -> again = 1 :: else fi :: cr > 0 -> cr--; goto died fi };
			if
			:: again -> again = 0
			:: else ->
				pc++;
				if
				:: phase(w) == READY ->
#ifndef NO_HELP_AT_FULL
					i = idx(t);
					do /* K: lower(i), and did it have to? */
					:: X(t = tail);
						X(h = head);
						if
						:: h <= window(t, i) -> break
						:: else ->
							X(if :: head == h -> head = window(t, i); again = 1 :: else fi);
							if :: again -> break :: else fi
						fi
					od;
					if :: again -> again = 0; ringReceivers() :: else fi;
					i = 0;
#endif
					break
				:: pc > N -> break
				:: phase(w) != READY && pc <= N -> CASTAIL(t) /* burn */
				fi
			fi
		fi
	od;
	atomic { w = 0; t = 0; h = 0; pc = 0 }
}

/* TryReceive. ok = 1: i and w are set. */
inline tryReceive() {
walk:
	do
	::	X(h = head);
		X(t = tail);
		if
		:: t > h + N -> X(if :: head == h -> head = t - N :: else fi)
		:: else ->
			X(w = st[idx(h)]);
			if
			:: t == h && phase(w) != FREE && lapof(w) == lapat(h) -> CASTAIL(t)
			:: t == h && !(phase(w) != FREE && lapof(w) == lapat(h)) ->
				X(if :: head != h -> again = 1 :: else -> OPEND fi);
				if :: again -> again = 0 :: else -> break fi
			:: t > h && phase(w) == READY ->
#ifndef NO_LAP_CHECK
				if
				:: lapof(w) != lapat(h) && ((lapof(w) - lapat(h)) & 15) <= 7 -> /* sent after h: t is stale */
					X(if :: tail != t -> again = 1 :: else fi)
				:: else
				fi;
				if :: again -> again = 0; goto walk :: else fi;
#endif
				X(if :: st[idx(h)] == w -> st[idx(h)] = W(READING, me, dels(w), lapof(w)); ok = 1; GHOSTLEASE(msg[idx(h)]) :: else fi); /* F */
				if
				:: ok ->
					X(if :: head == h -> head = h + 1 :: else fi; OPEND);
					i = idx(h);
					w = W(READING, me, dels(w), lapof(w));
					nudge(h);
#ifndef NO_PASSING_ON
					if :: t > h + 1 -> ringOneReceiver() /* L */ :: else fi;
#endif
					break
				:: else
				fi
			:: t > h && phase(w) == WRITING && t == h + 1 ->
				X(if :: head != h -> again = 1 :: else -> OPEND fi);
				if :: again -> again = 0 :: else -> break fi
			:: t > h && phase(w) != READY && !(phase(w) == WRITING && t == h + 1) ->
				if
				:: phase(w) == WRITING && !passed(w) ->
					X(if :: st[idx(h)] == w -> st[idx(h)] = w | PASSED :: else -> again = 1 fi) /* P */
				:: else
				fi;
				if
				:: again -> again = 0
				:: else ->
					X(if :: head == h -> head = h + 1 :: else -> again = 1 fi); /* H */
#ifndef NO_REREAD
					if
					:: !again ->
						X(w = st[idx(h)]); /* J */
						if :: phase(w) == READY -> i = idx(h); lower(i) :: else fi
					:: else
					fi;
#endif
					again = 0
				fi
			fi
		fi
	od;
	atomic { h = 0; t = 0; if :: !ok -> w = 0; i = 0 :: else fi }
}
proctype producer(byte me) {
	byte t, h, i, pc, v, ep, m, inv;
	short w;
	bit ok, again, suspect, quiet, reg, inop;
	byte ah;
#ifdef DRAIN
	bit dr;
#endif
next:
	atomic { ok = 0; again = 0; quiet = 0; reg = 0; t = 0; h = 0; i = 0; pc = 0; w = 0; v = 0; ep = 0; suspect = 0; ah = 0;
#ifdef DRAIN
		dr = 0;
#endif
		if :: m == MOF(me) -> finished = finished | bit_(me); goto end :: else -> m++ fi }
	do
	::
#ifdef ADMIT_FIRST
		X(dr = drain);
#endif
		atomic { OPSTART };
#ifdef NAIVE
		do
		:: X(t = tail);
			X(w = st[idx(t)]);
			if
			:: phase(w) == FREE && lapof(w) == lapat(t) ->
				X(if :: tail == t -> tail = t + 1; ok = 1; i = idx(t) :: else fi);
				if :: ok -> break :: else fi
			:: else -> X(if :: tail != t -> again = 1 :: else fi);
				if :: again -> again = 0 :: else -> break fi
			fi
		od;
#else
		tryLoan();
#endif
		atomic { OPEND };
		if
		:: ok -> break
		:: !ok && !reg ->
			X(v = sbell);
			X(sw++; scoming = 0; ep = sep); /* S */
			reg = 1;
#ifdef NO_RECHECK
			goto sleep
#endif
		:: !ok && reg -> /* T failed */
sleep:
			X(if :: sbell == v -> asleepS = asleepS | bit_(me) :: else fi);
			atomic { if :: !(asleepS & bit_(me)) :: (asleepS & bit_(me)) && cr > 0 -> cr--; goto died fi };
			X(if :: sep == ep && sw > 0 -> sw--; scoming = 0 :: else fi);
			atomic { reg = 0; v = 0; ep = 0 }
		fi
	od;
	if
	:: reg -> X(if :: sep == ep && sw > 0 -> sw--; scoming = 0 :: else fi); atomic { reg = 0; v = 0; ep = 0 }
	:: else
	fi;
#ifdef DRAIN
#ifndef ADMIT_FIRST
	X(dr = drain); /* Z: after A */
#endif
	if
	:: dr ->
		atomic { OPSTART };
		X(assert(phase(st[i]) == WRITING && owner(st[i]) == me); st[i] = W(FREE, 0, 0, nextlap(st[i])));
		ringSenders();
		atomic { OPEND; finished = finished | bit_(me); goto end }
	:: else
	fi;
#endif
	/* the payload */
	X(pa[i] = (me - 1) * M + m);
#if !defined(STOPS) && !defined(STOPS_WOKEN)
	atomic { if :: holds > 0 -> holds--; holding++; release; holding-- :: true fi };
#endif
	X(pb[i] = (me - 1) * M + m);
	if
	:: aborts > 0 ->
		atomic { aborts--; OPSTART };
		X(assert(phase(st[i]) == WRITING && owner(st[i]) == me); st[i] = W(FREE, 0, 0, nextlap(st[i])));
		ringSenders()
	:: true ->
		atomic { OPSTART };
#ifdef NAIVE
		X(st[i] = W(READY, 0, 0, lapat(t)); msg[i] = (me - 1) * M + m; committed = committed | bit_(msg[i]));
#else
		X(if
		:: phase(st[i]) == WRITING && owner(st[i]) == me -> /* C */
			suspect = suspect | passed(st[i]);
			st[i] = W(READY, 0, 0, lapof(st[i]));
			msg[i] = (me - 1) * M + m;
#ifdef DRAIN
			assert(!rested);
#endif
			SENT;
			committed = committed | bit_(msg[i])
		:: else -> /* lost: only a repair of a live process can do it */
			OPEND; goto next
		fi);
#ifndef NO_LOWER_ON_COMMIT
		if :: suspect -> lower(i) :: else fi; /* D */
#endif
#endif
		ringOneReceiver() /* E */
	fi;
	atomic { OPEND };
	goto next;
died:
	atomic { dead = dead | bit_(me); asleepS = asleepS & ~bit_(me); if :: inop -> busy--; inop = 0 :: else fi;
		t = 0; h = 0; i = 0; pc = 0; w = 0; v = 0; ep = 0; ok = 0; again = 0; suspect = 0; quiet = 0; reg = 0; ah = 0 }
	atomic { !(dead & bit_(me)) -> goto next } /* started again, with the same id */
end:
	skip
}

proctype consumer(byte me) {
	byte t, h, i, v, ep, x, inv;
	short w;
	bit ok, again, quiet, reg, inop, looked, promised;
next:
	atomic { ok = 0; again = 0; quiet = 0; reg = 0; looked = 0; promised = 0; t = 0; h = 0; i = 0; w = 0; v = 0; ep = 0; x = 0 }
	do
	::
		atomic { OPSTART };
#ifdef NAIVE
		do
		:: X(h = head);
			X(w = st[idx(h)]);
			if
			:: phase(w) == READY && lapof(w) == lapat(h) ->
				X(if :: head == h -> head = h + 1; ok = 1; i = idx(h); GHOSTLEASE(msg[i]) :: else fi);
				if :: ok -> OPEND; break :: else fi
			:: else -> X(if :: head != h -> again = 1 :: else -> OPEND fi);
				if :: again -> again = 0 :: else -> break fi
			fi
		od;
#else
		tryReceive();
#endif
		if
		:: ok -> break
#ifdef LOOK
		:: !ok && !reg && !looked -> looked = 1; /* Look: and try again */
			X(if :: rw > 0 && !rcoming -> rcoming = 1; promised = 1 :: else fi)
		:: !ok && !reg && looked ->
#else
		:: !ok && !reg ->
#endif
			X(v = rbell);
			X(rw++; rcoming = 0; ep = rep); /* S */
			atomic { reg = 1; promised = 0 };
#ifdef NO_RECHECK
			goto sleep
#endif
		:: !ok && reg -> /* T failed */
sleep:
			X(if :: rbell == v -> asleepR = asleepR | bit_(me) :: else fi);
			atomic { if :: !(asleepR & bit_(me)) :: (asleepR & bit_(me)) && cr > 0 && finished != bit_(P + 1) - 1 -> cr--; goto died fi };
#ifdef STOPS_WOKEN
			atomic { if :: holds > 0 -> holds--; holding++; stopped++; release; holding--; stopped-- :: true fi };
#endif
			X(if :: rep == ep && rw > 0 -> rw--; rcoming = 0 :: else fi);
			atomic { reg = 0; v = 0; ep = 0; looked = 0 }
		fi
	od;
	if
	:: reg -> X(if :: rep == ep && rw > 0 -> rw--; rcoming = 0 :: else fi); atomic { reg = 0; v = 0; ep = 0 }
	:: else
	fi;
	looked = 0;
	if
	:: promised -> /* Found */
		promised = 0;
#ifndef NO_HANDING_ON
		X(rcoming = 0); /* M */
		X(if :: tail > head -> again = 1 :: else fi);
		if :: again -> again = 0; ringOneReceiver() :: else fi
#endif
	:: else
	fi;
	X(x = pa[i]);
	assert(x == msg[i]);
	X(assert(x == pb[i])); /* torn */
#if !defined(STOPS) && !defined(STOPS_WOKEN)
	atomic { if :: holds > 0 -> holds--; holding++; release; holding-- :: true fi };
#endif
	atomic { OPSTART };
	if
	:: nacks > 0 ->
		atomic { if
		:: true -> nacks--; assert(st[i] == w); open = open & ~bit_(x); /* N */
			if
			:: MAXD > 0 && dels(w) + 1 >= MAXD -> st[i] = W(DEAD, 0, more(dels(w)), lapof(w)); deadm = deadm | bit_(x)
			:: else -> st[i] = W(READY, 0, more(dels(w)), lapof(w)); again = 1
			fi
		:: cr > 0 -> cr--; goto died
		fi };
#ifdef STOPS
		atomic { if :: again && holds > 0 -> holds--; holding++; release; holding-- :: true fi };
#endif
		if :: again -> again = 0; lower(i); ringReceivers() :: else fi
#if REJECTS > 0
	:: rejects > 0 ->
#ifdef REJECT_BY_FREE
		X(rejects--; assert(st[i] == w); open = open & ~bit_(x); st[i] = W(FREE, 0, 0, nextlap(w)));
		X(st[i] = W(DEAD, 0, more(dels(w)), lapof(w)); deadm = deadm | bit_(x))
#else
		X(rejects--; assert(st[i] == w); open = open & ~bit_(x); deadm = deadm | bit_(x); st[i] = W(DEAD, 0, more(dels(w)), lapof(w))) /* N */
#endif
#endif
	:: true ->
#ifdef NAIVE
		X(st[i] = W(FREE, 0, 0, nextlap(st[i])); open = open & ~bit_(x); acked = acked | bit_(x));
#else
		X(assert(st[i] == w); st[i] = W(FREE, 0, 0, nextlap(w)); open = open & ~bit_(x); acked = acked | bit_(x)); /* G */
#endif
		ringOneSender()
	fi;
	atomic { OPEND };
	goto next;
died:
	atomic { dead = dead | bit_(me); asleepR = asleepR & ~bit_(me); if :: inop -> busy--; inop = 0 :: else fi;
		t = 0; h = 0; i = 0; w = 0; v = 0; ep = 0; ok = 0; again = 0; quiet = 0; reg = 0; looked = 0; promised = 0; x = 0 }
	atomic { !(dead & bit_(me)) -> goto next }
}

/* The supervisor: after each death, one repair. It may be killed at any access, too; its successor repairs again. */
proctype supervisor() {
	byte t, h, i, inv, d;
	bit quiet, again;
	bit inop;
#ifdef EARLY_UNBLOCK
	bit once;
#endif
idle:
	atomic { i = 0; t = 0; h = 0; d = 0;
		if
		:: dead -> d = dead; repairing = 1
#ifdef EARLY_UNBLOCK
		:: !once && phase(st[0]) == WRITING && owner(st[0]) == 1 && pa[0] == 1 -> once = 1; d = 1; repairing = 1 /* producer 1 is alive, but slow */
#endif
		fi }
#ifndef NAIVE
	do
	:: i < N ->
		atomic { if
		:: true -> /* R */
			if
			:: phase(st[i]) == WRITING && (bit_(owner(st[i])) & d) -> st[i] = W(FREE, 0, 0, nextlap(st[i]))
			:: phase(st[i]) == READING && (bit_(owner(st[i])) & d) ->
				open = open & ~bit_(msg[i]);
				if
				:: MAXD > 0 && dels(st[i]) + 1 >= MAXD -> st[i] = W(DEAD, 0, more(dels(st[i])), lapof(st[i])); deadm = deadm | bit_(msg[i])
				:: else -> st[i] = W(READY, 0, more(dels(st[i])), lapof(st[i])); again = 1
				fi
			:: else
			fi
		:: cr > 0 -> cr--; goto died
		fi };
		if :: again -> again = 0; lower(i); ringReceivers() :: else fi;
		i++
	:: i >= N -> break
	od;
#ifndef NO_REPAIR_LOWER
	do
	:: X(t = tail);
		X(h = head);
		if
		:: h <= t - N -> break
		:: else -> X(if :: head == h -> head = t - N; break :: else fi)
		fi
	od;
#endif
#endif
#ifndef NO_WAKEALL
	X(rw = 0; rcoming = 0; rep++);
	X(rbell++);
	X(asleepR = 0);
	X(sw = 0; scoming = 0; sep++);
	X(sbell++);
	X(asleepS = 0);
#endif
	atomic { repairing = 0; dead = dead & ~d; invariant() }
	goto idle;
died:
	atomic { again = 0; quiet = 0; goto idle }
}

#ifdef DRAIN
/* Drain, and Stat until it shows the queue at rest: nothing is committed after that. */
proctype drainer() {
	byte i;
	drain = 1; /* X */
	do
	:: i < N ->
		atomic { if :: phase(st[i]) == FREE -> i++ fi } /* Y; it looks again when the slot has changed */
	:: i == N -> rested = 1; break
	od
}
#endif

/* Would TryLoan find room now? */
inline room(r) {
	k = 0;
	r = 0;
	do
	:: k <= N && phase(st[idx(tail + k)]) == FREE -> r = 1; break
	:: k <= N && phase(st[idx(tail + k)]) == READY -> break
	:: k <= N && phase(st[idx(tail + k)]) != FREE && phase(st[idx(tail + k)]) != READY -> k++
	:: k > N -> break
	od
}

/* At rest, that is when nobody can take a step. */
proctype monitor() {
	byte k, r;
	do
	:: timeout && holding == 0 -> break
#if HOLDS > 0
	:: timeout && holding > 0 -> /* somebody is alive and keeps its slot: nobody may sleep beside work */
		atomic {
			assert(dead == 0);
			room(r);
			assert(!(asleepS != 0 && r));
			k = 0;
			do
#ifdef STOPS
			:: k < N -> assert(!(asleepR != 0 && asleepS != 0 && phase(st[k]) == READY)); k++
#elif defined(STOPS_WOKEN) /* what was sent before may wait for the next one that is sent */
			:: k < N -> assert(!(sent && asleepR != 0 && phase(st[k]) == READY)); k++
#else
			:: k < N -> assert(!(asleepR != 0 && phase(st[k]) == READY)); k++
#endif
			:: k >= N -> break
			od;
			k = 0; r = 0
		}
		release = 1
#endif
	od;
	atomic {
		assert(dead == 0 && !repairing);
#if C == 0
		k = 0;                                    /* nobody consumes: what lies there must be whole */
		do
		:: k < N -> assert(phase(st[k]) != READY || (pa[k] == msg[k] && pb[k] == msg[k])); k++
		:: k >= N -> break
		od
#else
#if MAXD > 0 || REJECTS > 0
		room(r);
		assert(!(asleepS != 0 && r));
#else
		assert(finished == bit_(P + 1) - 1);      /* every live producer finished */
		assert(asleepS == 0);
#endif
		assert((acked | deadm) == committed);     /* no committed message lost, none seen that was not committed */
		assert(open == 0);
		k = 0;
		do
		:: k < N -> assert(phase(st[k]) == FREE || (DEADS && phase(st[k]) == DEAD)); k++
		:: k >= N -> break
		od;
		assert(head <= tail && tail - START <= 100)
#endif
	}
}

init {
	atomic {
		byte k;
		for (k : 0 .. N - 1) {
			st[k] = W(FREE, 0, 0, ((START + N - 1 - k) >> SHIFT) & 15)
		}
		for (k : 1 .. P) { run producer(k) }
		for (k : P + 1 .. P + C) { run consumer(k) }
		run supervisor();
#ifdef DRAIN
		run drainer();
#endif
		run monitor();
		k = 0
	}
}
