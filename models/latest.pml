/* The latest value of docs/latest.md as a Promela model. The letters in brackets are those of docs/latest.md and of
 * pkg/protocol/latest.go. models/README.md says what is modelled and what is not; models/run.sh runs it.
 *
 * Parameters (-D): W writers, M values each, N slots, R readers, L reads each, Z sleepers that wait for changes, CRASHES (deaths of writers and
 * of the repair together), DISCARDS (drafts that are given back), STOPS (live writers that stop for good, anywhere).
 * Variants that must fail: NO_VALIDATE, TAKE_CURRENT, CURRENT_FIRST, NO_VERSION, RELEASE_FIRST, EARLY_REPAIR, REPAIR_FREES, NO_RECHECK,
 * NO_WAKEALL, ZERO_FIRST, COUNT_DOWN (models/README.md says what each leaves out). */
#ifndef W
#define W 2
#endif
#ifndef M
#define M 1
#endif
#ifndef N
#define N 3
#endif
#ifndef R
#define R 1
#endif
#ifndef L
#define L 1
#endif
#ifndef Z
#define Z 0
#endif
#ifndef CRASHES
#define CRASHES 0
#endif
#ifndef DISCARDS
#define DISCARDS 0
#endif
#ifndef STOPS
#define STOPS 0
#endif

/* State word: phase 0-1, owner 2-4, version from 5 on. Current: slot 0-1, version from 2 on. */
#define FREE 0
#define WRITING 1
#define READY 2
#define S(ph, own, v) ((ph) | ((own) << 2) | ((v) << 5))
#define phase(w) ((w) & 3)
#define owner(w) (((w) >> 2) & 7)
#define of(w) ((w) >> 5)
#define CUR(v, s) ((s) | ((v) << 2))
#define slot(c) ((c) & 3)
#define ver(c) ((c) >> 2)
#define bit_(x) (1 << ((x) - 1))

/* shared memory */
short st[N];
byte pa[N], pb[N]; /* payload: two words, written and read one at a time */
short cur;
short wait;  /* Waiters: count 0-3, epoch from 4 on */
byte bell;
#define count(x) ((x) & 15)
#define next(x) ((((x) >> 4) + 1) << 4)

/* the kernel */
byte asleep; /* who sleeps in the futex */
byte dead;   /* who is dead and not yet repaired */
byte cr = CRASHES, discards = DISCARDS, stops = STOPS;

/* ghosts */
byte val[W * M + 1]; /* what was published, by version */
byte told;           /* the newest version whose put has ended */
byte seen[Z + 1];    /* by sleepers */
bit finishing;

/* One access to shared memory, before which the process may be killed, or stop for good. */
#define X(...) atomic { if :: true -> __VA_ARGS__ :: cr > 0 -> cr--; goto died :: stops > 0 -> stops--; goto stopped fi }

/* The same in the repair: whoever repairs is killed, and the repair begins again. */
#define Y(...) atomic { if :: true -> __VA_ARGS__ :: cr > 0 -> cr--; goto again fi }

/* Broadcast; uses w */
inline broadcast() {
	X(w = wait); /* [W] */
	if
	:: count(w) != 0 ->
#ifdef ZERO_FIRST
		X(if :: wait == w -> wait = next(w) :: else fi);
		X(bell++);
		X(asleep = 0)
#else
		X(bell++);
		X(asleep = 0);
		X(if :: wait == w -> wait = next(w) :: else fi)
#endif
	:: else
	fi
}

#ifdef TAKE_CURRENT
#define mayNot(c, i) false
#else
#define mayNot(c, i) (ver(c) != 0 && slot(c) == (i))
#endif
#ifdef NO_VALIDATE
#define still(i, v) true
#else
#define still(i, v) (of(st[i]) == (v))
#endif

proctype writer(byte me) {
	byte n, i, k, first, id;
	short w, c, mine;
	do
	:: n < M ->
		id = (me - 1) * M + n + 1;
claim:
		X(first = ver(cur));
		k = 0;
		do
		:: k < N ->
			i = (first + k) % N;
			k++;
#ifdef CURRENT_FIRST
			X(c = cur);
			X(w = st[i]);
#else
			X(w = st[i]); /* [A1] */
#endif
			if
			:: phase(w) == WRITING
			:: else ->
#ifndef CURRENT_FIRST
				X(c = cur); /* [A2] */
#endif
				if
				:: mayNot(c, i)
				:: !mayNot(c, i) ->
					mine = S(WRITING, me, ver(c) + 1);
					X(if :: st[i] == w -> st[i] = mine; goto claimed :: else fi) /* [A] */
				fi
			fi
		:: k == N -> goto claim
		od;
claimed:
		k = 0; first = 0; w = 0;
		X(pa[i] = id);
		X(pb[i] = id);
		if
		:: discards > 0 -> discards--;
			X(if :: st[i] == mine -> st[i] = S(FREE, 0, of(mine)) :: else fi); /* [G] */
			goto ended
		:: true
		fi;
		do
		:: X(c = cur);
#ifdef RELEASE_FIRST
			X(st[i] = S(READY, 0, ver(c) + 1));
			mine = S(WRITING, me, ver(c) + 1);
#else
#ifdef NO_VERSION
			w = mine;
			mine = S(WRITING, me, ver(c) + 1);
#else
			if
			:: of(mine) != ver(c) + 1 ->
				X(assert(st[i] == mine); mine = S(WRITING, me, ver(c) + 1); st[i] = mine) /* [C] */
			:: else
			fi;
#endif
#endif
			X(if
			  :: cur == c -> /* [D] */
				cur = CUR(of(mine), i);
				val[of(mine)] = id;
				assert(pa[i] == id && pb[i] == id);
				break
			  :: else
			  fi)
		od;
#ifdef NO_VERSION
		mine = w;
#endif
		X(if :: st[i] == mine -> st[i] = S(READY, 0, of(mine)) :: else fi); /* [E] */
#if Z > 0
		k = ver(c) + 1;
		broadcast();
		atomic { if :: told < k -> told = k :: else fi; k = 0; w = 0 };
#endif
ended:
		atomic { n++; i = 0; c = 0; mine = 0; id = 0 }
	:: n == M -> break
	od;
	goto end;
died:
	atomic { n = 0; i = 0; k = 0; first = 0; w = 0; c = 0; mine = 0; id = 0; dead = dead | bit_(me); goto end };
stopped:
	atomic { n = 0; i = 0; k = 0; first = 0; w = 0; c = 0; mine = 0; id = 0 };
end:
	skip
}

proctype reader() {
	byte g, a, b, i, v, last;
	do
	:: g < L ->
		atomic { v = ver(cur); i = slot(cur) }; /* [F] */
		if
		:: v == 0 -> g++
		:: else ->
			atomic { if :: of(st[i]) != v -> goto over :: else fi };
			a = pa[i];
			b = pb[i];
			atomic {
				if
				:: still(i, v) -> /* [H] */
					assert(a == val[v] && b == val[v]);
					assert(v >= last);
					last = v;
					g++
				:: else
				fi
			}
		fi;
over:
		atomic { a = 0; b = 0; i = 0; v = 0 }
	:: g == L -> break
	od
}

#if Z > 0
proctype sleeper(byte me) {
	byte b, e;
	do
	:: b = bell;
		atomic { e = wait >> 4; wait++ }; /* [S] */
#ifndef NO_RECHECK
		atomic { if :: ver(cur) != seen[me] -> seen[me] = ver(cur); goto leave :: else fi }; /* [T] */
#endif
		atomic { if :: bell == b -> asleep = asleep | bit_(me) :: else fi };
end_asleep:
		(asleep & bit_(me)) == 0;
		atomic { seen[me] = ver(cur) };
leave:
#ifdef COUNT_DOWN
		atomic { if :: wait >> 4 == e && count(wait) > 0 -> wait-- :: else fi };
#endif
		atomic { b = 0; e = 0 }
	od
}
#endif

proctype supervisor() {
	byte i, who;
	short w, c;
end_idle:
	do
	:: atomic { dead != 0 -> who = dead };
again:
		i = 0;
		do
		:: i < N ->
			Y(w = st[i]);
			if
			:: phase(w) == WRITING && (who & bit_(owner(w))) ->
				Y(c = cur);
#ifdef REPAIR_FREES
				Y(if :: st[i] == w -> st[i] = S(FREE, 0, of(w)) :: else fi)
#else
				Y(if :: st[i] == w -> st[i] = S((of(w) > ver(c) -> FREE : READY), 0, of(w)) :: else fi) /* [R] */
#endif
			:: else
			fi;
			i++
		:: i == N -> break
		od;
#if Z > 0
#ifndef NO_WAKEALL
		Y(wait = next(wait));
		Y(bell++);
		Y(asleep = 0);
#endif
#endif
		atomic { dead = dead & ~who; who = 0; i = 0; w = 0; c = 0 }
#ifdef EARLY_REPAIR
	:: atomic { finishing == 0 && phase(st[0]) == WRITING -> finishing = 1; st[0] = S(FREE, 0, of(st[0])) } /* it was only slow */
#endif
	od
}

/* At rest, that is when nobody can take a step. */
proctype monitor() {
	byte i;
end_wait:
	timeout ->
	d_step {
		assert(dead == 0);
		if
		:: ver(cur) != 0 ->
			assert(of(st[slot(cur)]) == ver(cur));
			assert(pa[slot(cur)] == val[ver(cur)] && pb[slot(cur)] == val[ver(cur)])
		:: else
		fi;
		i = 0;
		do
		:: i < N -> assert(STOPS > 0 || phase(st[i]) != WRITING); i++
		:: i == N -> break
		od;
#if Z > 0
		i = 1;
		do
		:: i <= Z -> assert(seen[i] >= told); assert(STOPS > 0 || seen[i] == ver(cur)); i++
		:: i > Z -> break
		od
#endif
	}
}

init {
	byte i;
	atomic {
		i = 1;
		do
		:: i <= W -> run writer(i); i++
		:: i > W -> break
		od;
		i = 1;
		do
		:: i <= R -> run reader(); i++
		:: i > R -> break
		od;
#if Z > 0
		i = 1;
		do
		:: i <= Z -> run sleeper(i); i++
		:: i > Z -> break
		od;
#endif
#if CRASHES > 0 || defined(EARLY_REPAIR)
		run supervisor();
#endif
		run monitor();
		i = 0
	}
}
