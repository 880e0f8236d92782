/* The lane of docs/lane.md as a Promela model. The letters in brackets are those of docs/lane.md and of pkg/protocol/lane.go.
 * models/README.md says what is modelled and what is not; models/run.sh runs it.
 *
 * The stores that publish are plain release stores, so each end has a store buffer, the producer's of two entries, the consumer's of one:
 * stores wait there, in their order, seen by their own process alone, while that goes on to load. A store that finds it full, a
 * compare-and-swap, going to sleep, death, and the other's membarrier empty it; and it may empty itself at any time. Sleepers make the membarrier
 * always; bell.pml has the bit by which the producer says whether it is needed.
 *
 * Parameters (-D): M messages, CRASHES (deaths of the ends and of the repair together), NACKS, CROSSACKS (two leases, the younger acked
 * first), CROSSES (two loans, the younger committed first), BURNS (two loans, the older given up, then the younger), N and SHIFT.
 * Variants that must fail: NO_MEMBARRIER, NO_RECHECK, ACKED_FIRST, TAIL_FIRST, NO_SECOND_LOOK, OWNER_FIRST, TAIL_AT_ONCE, NO_HEAD_LOOK,
 * NO_WAKEALL, NO_ANNOUNCE (models/README.md says what each leaves out). */
#ifndef M
#define M 2
#endif
#ifndef N
#define N 2
#endif
#ifndef SHIFT
#define SHIFT 1
#endif
#ifndef CRASHES
#define CRASHES 1
#endif
#ifndef NACKS
#define NACKS 0
#endif
#ifndef CROSSACKS
#define CROSSACKS 0
#endif
#ifndef CROSSES
#define CROSSES 0
#endif
#ifndef BURNS
#define BURNS 0
#endif

/* State word: phase 0-1, owner 2-4, passed 5, lap 6-10. Deliveries are not modelled. */
#define FREE 0
#define WRITING 1
#define READY 2
#define READING 3
#define W(ph, own, lap) ((ph) | ((own) << 2) | ((lap) << 6))
#define PASSED 32
#define phase(w) ((w) & 3)
#define owner(w) (((w) >> 2) & 7)
#define passed(w) (((w) >> 5) & 1)
#define lapof(w) ((w) >> 6)
#define lapat(p) ((p) >> SHIFT)
#define idx(p) ((p) & (N - 1))
#define readyat(p) W(READY, 0, lapat(p))
#define bit_(x) (1 << (x))
/* usable: a slot that the producer may write into */
#define usable(w) (phase(w) == FREE || (phase(w) == READY && !passed(w)))

/* shared memory */
short st[N];
byte pa[N], pb[N];
byte tail, head, acked, returned;
byte sendOwner, receiveOwner;
byte rw, rep, rbell;
byte sw, sep, sbell;

/* store buffers: what (0 nothing, 1 st, 2 tail or head, 3 acked), where, value */
byte pk, pi, pk2, pi2; short pv, pv2; /* of the producer two, the older first: [C] and [B] may both wait */
byte ck, ci; short cv;
#define oneP if :: pk == 1 -> st[pi] = pv :: pk == 2 -> tail = pv :: else fi; pk = pk2; pi = pi2; pv = pv2; pk2 = 0; pi2 = 0; pv2 = 0
#define flushP oneP; oneP
#define bufferP(k, i, v) if :: pk2 -> oneP :: else fi; if :: pk -> pk2 = k; pi2 = i; pv2 = v :: else -> pk = k; pi = i; pv = v fi
#define flushC if :: ck == 1 -> st[ci] = cv :: ck == 2 -> head = cv :: ck == 3 -> acked = cv :: else fi; ck = 0; ci = 0; cv = 0
#define seenP(i) (pk2 == 1 && pi2 == (i) -> pv2 : (pk == 1 && pi == (i) -> pv : st[i]))
#define seenC(i) (ck == 1 && ci == (i) -> cv : st[i])

/* the kernel */
bit asleepR, asleepS;
byte dead; /* ids that are dead and not yet repaired */
byte cr = CRASHES;

/* ghosts */
byte msg[N];
byte committed, done, open; /* sets of messages, from bit 1 on */
bit finished;
byte nacks = NACKS, crossacks = CROSSACKS, crosses = CROSSES, burns = BURNS;

/* One access to shared memory, before which the process may be killed. */
#define X(...) atomic { if :: true -> __VA_ARGS__ :: cr > 0 -> cr--; goto died fi }
#define storeP(k, i, v) X(bufferP(k, i, v))
#define storeC(k, i, v) X(flushC; ck = k; ci = i; cv = v)

inline ringReceivers() {
	X(if :: rw == 0 -> quiet = 1 :: else fi); /* W */
	if
	:: !quiet -> X(flushP; flushC; rbell++); X(asleepR = 0)
	:: else -> quiet = 0
	fi
}
inline ringSenders() {
	X(if :: sw == 0 -> quiet = 1 :: else fi); /* W */
	if
	:: !quiet -> X(flushC; sbell++); X(asleepS = 0)
	:: else -> quiet = 0
	fi
}

/* Tail follows what was committed, or taken, and not published. */
inline mendTail() {
	do
	:: X(t = tail);
		X(w = st[idx(t)]);
		if
		:: w == readyat(t) -> again = 1
		:: else ->
#ifndef NO_HEAD_LOOK
			X(if :: head > t -> again = 1 :: else fi)
#endif
		fi;
		if
		:: again -> again = 0; X(if :: tail == t -> tail = t + 1 :: else fi)
		:: else -> break
		fi
	od;
	atomic { t = 0; w = 0 }
}

/* claim: ok = 1: p. ltail is what the producer published, next the first position that it did not loan. */
inline claim(cp) {
	cp = next;
	if
	:: cp - room >= N -> X(room = acked)
	:: else
	fi;
	do
	:: cp - room >= N -> break
	:: else ->
		to = cp;
		do
		:: to - room >= N -> break
		:: else -> X(w = seenP(idx(to)));
			if :: usable(w) -> ok = 1; break :: else -> to++ fi
		od;
		if
		:: ok && to == cp -> break
		:: ok && to != cp -> /* around: the positions are passed over */
			if
			:: ltail == cp -> ltail = to; storeP(2, 0, to)
			:: else
			fi;
			cp = to;
			ringReceivers();
			break
		:: !ok ->
			X(if :: acked == room -> again = 1 :: else -> room = acked fi);
			if :: again -> again = 0; break :: else fi
		fi
	od;
	atomic { if :: ok -> next = cp + 1 :: else -> cp = 0 fi; w = 0; to = 0 }
}

/* commitAt: names the older loan o, if there is one (else o = p), and commits m at p. */
inline commitAt(older, at, mm) {
	do
	:: ltail != at ->
		if
		:: ltail == older -> storeP(1, idx(older), W(WRITING, me, lapat(older))) /* X */
		:: else
		fi;
#ifndef TAIL_AT_ONCE
		storeP(2, 0, ltail + 1); /* B */
#endif
		ltail++
	:: else -> break
	od;
#ifdef TAIL_FIRST
	storeP(2, 0, at + 1);
#endif
	X(bufferP(1, idx(at), readyat(at)); msg[idx(at)] = mm; committed = committed | bit_(mm)); /* C */
	ltail = at + 1;
	storeP(2, 0, ltail); /* B */
	ringReceivers() /* E */
}

proctype producer() {
	byte me = 1, next, ltail, room, p, q, to, t, v, ep, m;
	short w;
	bit ok, again, quiet, reg, cross, burn;
take:
	X(sendOwner == 0; sendOwner = me);
	mendTail();
	X(ltail = tail; next = tail);
	X(room = acked);
send:
	atomic {
		ok = 0; p = 0; q = 0; cross = 0; burn = 0;
		if :: m == M -> finished = 1; goto end :: else -> m++ fi;
		if :: crosses > 0 && m < M -> crosses--; cross = 1 :: true fi;
		if :: burns > 0 && !cross -> burns--; burn = 1 :: true fi
	}
	do
	:: claim(p);
		if
		:: ok -> break
		:: !ok && !reg -> X(v = sbell); X(flushP; sw++; ep = sep); /* S */
#ifndef NO_MEMBARRIER
			X(flushC);
#endif
			reg = 1
		:: !ok && reg -> /* T failed */
			X(flushP; if :: sbell == v -> asleepS = 1 :: else fi);
			atomic { if :: !asleepS :: asleepS && cr > 0 -> cr--; goto died fi };
			X(if :: sep == ep && sw > 0 -> sw-- :: else fi);
			atomic { reg = 0; v = 0; ep = 0 }
		fi
	od;
	if
	:: reg -> X(flushP; if :: sep == ep && sw > 0 -> sw-- :: else fi); atomic { reg = 0; v = 0; ep = 0 }
	:: else
	fi;
	ok = 0;
	if
	:: cross || burn -> claim(q) /* a second loan, if there is room */
	:: else
	fi;
	if
	:: ok && cross -> /* the younger first */
		ok = 0;
		X(pa[idx(q)] = m); X(pb[idx(q)] = m);
		X(pa[idx(p)] = m + 1);
		commitAt(p, q, m);
		m++;
		X(pb[idx(p)] = m);
		X(flushP; assert(st[idx(p)] == W(WRITING, me, lapat(p))); st[idx(p)] = readyat(p) | PASSED; msg[idx(p)] = m; committed = committed | bit_(m)); /* C */
		X(returned++);
		ringReceivers()
	:: ok && burn -> /* the older is given up: its position is passed over; then the younger, which is the newest */
		ok = 0;
		ltail = q;
		storeP(2, 0, ltail);
		ringReceivers();
		next = q;
		m-- /* nothing was sent */
	:: else ->
		ok = 0;
		X(pa[idx(p)] = m); X(pb[idx(p)] = m);
		commitAt(p, p, m)
	fi;
	goto send;
died:
	atomic { flushP; dead = dead | bit_(me); asleepS = 0;
		next = 0; ltail = 0; room = 0; p = 0; q = 0; to = 0; t = 0; v = 0; ep = 0; w = 0; ok = 0; again = 0; quiet = 0; reg = 0; cross = 0; burn = 0;
		me = me + 2 } /* its successor has another id */
	goto take;
end:
	skip
}

/* done: all before position x is acked, or stamped; then what follows and has ended. */
inline doneTo(upto) {
	t = upto;
	do
	:: t == lhead -> break
	:: t != lhead -> X(w = seenC(idx(t)));
		if :: w == readyat(t) -> break :: else -> t++ fi
	od;
	lacked = t;
	storeC(3, 0, t); /* G */
	atomic { t = 0; w = 0 };
	ringSenders()
}

/* stamp: what this process has leased before position x is named in the slots. */
inline stamp(before) {
	t = lacked;
	do
	:: t == before -> break
	:: else -> X(w = seenC(idx(t)));
		if
		:: w == readyat(t) -> storeC(1, idx(t), W(READING, me, lapat(t))) /* Y */
		:: else
		fi;
		t++
	od;
	atomic { t = 0; w = 0 }
}

#define LEASE(g, i) g = msg[i]; assert(g > 0 && (committed & bit_(g)) && !(done & bit_(g)) && !(open & bit_(g))); open = open | bit_(g)

/* take: ok = 1: in order, x at p, word ready; ok = 2: from behind head, x in slot p. */
inline takeNext(tp, tx) {
	if
	:: look -> skip
	:: else -> X(if :: returned != lret -> look = 1 :: else fi)
	fi;
	do
	:: look ->
		X(lret = returned);
		tp = 0; look = 0;
		do
		:: tp < N -> X(w = seenC(tp));
			if
			:: phase(w) == READY && passed(w) -> look = 1; /* there may be more */
				X(flushC; if :: st[tp] == w -> st[tp] = W(READING, me, lapof(w)); LEASE(tx, tp); ok = 2 :: else fi);
				if :: ok -> break :: else fi
			:: else
			fi;
			tp++
		:: tp >= N -> break
		od;
		break
	:: else -> break
	od;
	if
	:: ok == 0 ->
		do
		:: tp = lhead;
			X(w = seenC(idx(tp)); if :: w == readyat(tp) -> LEASE(tx, idx(tp)); ok = 1 :: else fi); /* F */
			if
			:: ok -> lhead = tp + 1; break
			:: else ->
				X(if :: tail <= tp -> again = 1 :: else fi);
				if
				:: again -> again = 0; break
				:: else ->
#ifndef NO_SECOND_LOOK
					X(w = seenC(idx(tp)));
#else
					w = 0;
#endif
					if
					:: w == readyat(tp) -> skip
					:: else -> /* passed over */
						lhead = tp + 1;
						storeC(2, 0, lhead);
						stamp(tp);
						doneTo(tp + 1)
					fi
				fi
			fi
		od
	:: else
	fi;
	if
	:: ok == 1 -> storeC(2, 0, lhead)
	:: else
	fi;
	w = 0
}

#define READPAYLOAD(i, x) X(assert(pa[i] == x)); X(assert(pb[i] == x))

/* ackOf ends lease kind k of message x at p. */
inline ackOf(ak, ap, ax) {
	if
	:: ak == 2 -> X(flushC; assert(phase(st[ap]) == READING && owner(st[ap]) == me); st[ap] = W(FREE, 0, lapof(st[ap]) + 1); open = open & ~bit_(ax); done = done | bit_(ax)); ringSenders()
	:: ak == 1 && ap < lacked -> /* overtaken */
		X(flushC; assert(st[idx(ap)] == W(READING, me, lapat(ap))); st[idx(ap)] = W(FREE, 0, lapat(ap) + 1); open = open & ~bit_(ax); done = done | bit_(ax)); ringSenders()
	:: else ->
#ifndef ACKED_FIRST
		stamp(ap);
#else
		to = lacked;
#endif
		/* doneTo, with the ghosts at [G] */
		t = ap + 1;
		do
		:: t == lhead -> break
		:: t != lhead -> X(w = seenC(idx(t)));
			if :: w == readyat(t) -> break :: else -> t++ fi
		od;
		X(flushC; ck = 3; cv = t; open = open & ~bit_(ax); done = done | bit_(ax)); /* G */
		lacked = t;
#ifdef ACKED_FIRST
		lacked = to; to = 0;
		atomic { to = t; t = 0; w = 0 };
		stamp(ap);
		lacked = to; to = 0;
#endif
		atomic { t = 0; w = 0 };
		ringSenders()
	fi
}

proctype consumer() {
	byte me = 2, lhead, lacked, lret, p, x, q, y, t, to, v, ep;
	short w;
	byte ok, k;
	bit again, quiet, reg, look, cross;
take:
	X(receiveOwner == 0; receiveOwner = me);
	X(lhead = head; lacked = head; look = 1);
receive:
	atomic { ok = 0; p = 0; x = 0; q = 0; y = 0; k = 0 }
	do
	:: takeNext(p, x);
		if
		:: ok -> break
		:: !ok && !reg -> X(v = rbell); X(flushC; rw++; ep = rep); /* S */
#ifndef NO_MEMBARRIER
			X(flushP);
#endif
			reg = 1;
#ifdef NO_RECHECK
			goto sleep
#endif
		:: !ok && reg -> /* T failed */
sleep:
			X(flushC; if :: rbell == v -> asleepR = 1 :: else fi);
			atomic { if :: !asleepR :: asleepR && cr > 0 && !finished -> cr--; goto died fi };
			X(if :: rep == ep && rw > 0 -> rw-- :: else fi);
			atomic { reg = 0; v = 0; ep = 0 }
		fi
	od;
	if
	:: reg -> X(flushC; if :: rep == ep && rw > 0 -> rw-- :: else fi); atomic { reg = 0; v = 0; ep = 0 }
	:: else
	fi;
	atomic { k = ok; ok = 0; if :: crossacks > 0 -> crossacks--; cross = 1 :: true fi }
	READPAYLOAD(idx(p), x);
	if
	:: cross -> cross = 0;
		takeNext(q, y);
		if
		:: ok -> READPAYLOAD(idx(q), y); ackOf(ok, q, y)
		:: else
		fi;
		READPAYLOAD(idx(p), x) /* still there, whole */
	:: else
	fi;
	atomic { ok = 0; q = 0; y = 0 }
	if
	:: nacks > 0 && k == 1 && p >= lacked -> /* N */
		stamp(p);
		X(flushC; nacks--; assert(st[idx(p)] == readyat(p)); st[idx(p)] = readyat(p) | PASSED; open = open & ~bit_(x));
		X(returned++);
		ringReceivers();
		doneTo(p + 1)
	:: true -> ackOf(k, p, x)
	fi;
	goto receive;
died:
	atomic { flushC; dead = dead | bit_(me); asleepR = 0; open = 0;
		lhead = 0; lacked = 0; lret = 0; p = 0; x = 0; q = 0; y = 0; t = 0; to = 0; v = 0; ep = 0; w = 0; ok = 0; k = 0; again = 0; quiet = 0; reg = 0; look = 0; cross = 0;
		me = me + 2 }
	goto take
}

/* The supervisor: after each death, one repair, which may be killed and is run again. */
proctype supervisor() {
	byte t, h, p, i, d;
	short w;
	bit quiet, again;
idle:
	atomic { i = 0; t = 0; h = 0; p = 0; w = 0; d = 0; dead -> d = dead }
	X(t = (tail + 1 < N -> tail + 1 : N)); /* reached */
	do
	:: i < t ->
		X(w = st[i];
			if
			:: phase(w) == WRITING && (d & bit_(owner(w))) -> st[i] = W(FREE, 0, lapof(w) + 1)
			:: phase(w) == READING && (d & bit_(owner(w))) -> st[i] = W(READY, 0, lapof(w)) | PASSED; again = 1
			:: else
			fi);
		if :: again -> again = 0; X(returned++) :: else fi;
		i++
	:: i >= t -> break
	od;
	if
	:: sendOwner != 0 && (d & bit_(sendOwner)) ->
		mendTail();
		X(sendOwner = 0)
	:: else
	fi;
	if
	:: receiveOwner != 0 && (d & bit_(receiveOwner)) ->
#ifdef OWNER_FIRST
		X(receiveOwner = 0);
#endif
		X(t = acked);
		X(h = head);
		p = t;
		do
		:: p < h -> X(if :: st[idx(p)] == readyat(p) -> st[idx(p)] = readyat(p) | PASSED; again = 1 :: else fi); /* R */
			if :: again -> again = 0; X(returned++) :: else fi;
			p++
		:: p >= h -> break
		od;
		X(if :: acked == t -> acked = h :: else fi);
		X(receiveOwner = 0)
	:: else
	fi;
#ifndef NO_ANNOUNCE
	X(returned++);
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
	atomic { again = 0; quiet = 0 }
	goto idle
}

/* Store buffers empty themselves, at some time. */
proctype memory() {
	do
	:: atomic { pk -> oneP }
	:: atomic { ck -> flushC }
	od
}

/* At rest, that is when nobody can take a step. */
proctype monitor() {
	byte k, p;
	timeout;
	atomic {
		assert(dead == 0);
		assert(finished && !asleepS);  /* the producer sent all */
		assert(done == committed);     /* nothing committed is lost, nothing else was seen */
		assert(open == 0);
		assert(head == tail && acked == tail);
		do
		:: k < N -> assert(usable(st[k])); k++
		:: k >= N -> break
		od
	}
}

init {
	atomic {
		run producer();
		run consumer();
		run supervisor();
		run memory();
		run monitor()
	}
}
