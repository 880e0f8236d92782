/* The call channel of docs/call.md as a Promela model. The letters in brackets are those of docs/call.md and of pkg/protocol/call.go.
 * models/README.md says what is modelled and what is not; models/run.sh runs it.
 *
 * Parameters (-D): CALLERS (R requests each, the slot is kept between them), SERVERS, SLOTS, CRASHES (deaths of callers, servers and of the repair
 * together), CANCELS (a caller leaves instead of waiting), FAIL (on_server_death = "fail").
 * Variants that must fail: NO_SERVER_CHECK (a caller that leaves frees the slot though a server works at it), NO_SECOND_OWNER (the repair of a
 * server's death forgets the caller that left), NO_CALLER_REPAIR (the repair of a caller's death frees requests only), ANSWER_FIRST (the answer is
 * published before its bytes), IN_PLACE (the answer lies over the request), NO_ASLEEP (the answer does not look whether the caller sleeps),
 * NO_REPAIR_WAKE (the repair rings nobody), NO_RECHECK (a server sleeps without a second look), CLAIM_WITHOUT_SERVER (the server's name is
 * written after the claim). */
#ifndef CALLERS
#define CALLERS 1
#endif
#ifndef SERVERS
#define SERVERS 1
#endif
#ifndef SLOTS
#define SLOTS 1
#endif
#ifndef R
#define R 1
#endif
#ifndef CRASHES
#define CRASHES 1
#endif
#ifndef CANCELS
#define CANCELS 0
#endif
#define FREE 0
#define CALLING 1
#define REQUEST 2
#define SERVING 3
#define ANSWERED 4
#define BROKEN 5
/* State word: phase 0-2, caller 3-4, server 5-6, asleep 7. Callers are 1 and 2, servers 1 and 2. Seq is left out: a compare-and-swap from
 * an old word may then succeed more often, not less. */
#define W(ph, c, s, a) ((ph) | ((c) << 3) | ((s) << 5) | ((a) << 7))
#define phase(w) ((w) & 7)
#define caller(w) (((w) >> 3) & 3)
#define server(w) (((w) >> 5) & 3)
#define asleep(w) (((w) >> 7) & 1)
#define settled(w) (phase(w) == ANSWERED || phase(w) == BROKEN)

byte word[SLOTS];
byte request[SLOTS], reply[SLOTS]; /* 0: being written */
byte cbell[SLOTS];                 /* the caller's bell, modulo 16 */
byte sbell, sleepers;              /* the servers' */
byte freebell, waiting;            /* those of callers without a slot */
byte crashes;
bool calm; /* there are no more deaths */
bool callerdead[3], serverdead[3], torepairc[3], torepairs[3]; /* by id; 0 is nobody's */
byte done, alive; /* callers that ended, by death or not; servers that live */

#define BUMP(b) b = (b + 1) & 15

inline crash_caller(id) { crashes < CRASHES && !calm -> crashes++; callerdead[id] = true; torepairc[id] = true; goto dead }
inline crash_server(id) { crashes < CRASHES && !calm -> crashes++; serverdead[id] = true; torepairs[id] = true; alive--; goto dead }

proctype Caller(byte id) {
  byte s, w, v, n, i;
  bool has = false, ok;
  do
  :: n == R -> break
  :: else ->
    n++;
    v = id * 4 + n;
    do /* a slot: the one that was kept, or a free one */
    :: has -> break
    :: else ->
      i = 0; ok = false;
      do
      :: i < SLOTS && !ok ->
        atomic { if :: phase(word[i]) == FREE -> word[i] = W(CALLING, id, 0, 0); s = i; ok = true :: else fi } /* A */
        i++
      :: else -> break
      od;
      if
      :: ok -> has = true
      :: else ->
        v = freebell;
        waiting++;
        i = 0;
        do
        :: i < SLOTS && !ok -> atomic { if :: phase(word[i]) == FREE -> word[i] = W(CALLING, id, 0, 0); s = i; ok = true :: else fi }; i++
        :: else -> break
        od;
        if
        :: ok -> atomic { if :: waiting > 0 -> waiting-- :: else fi }; has = true
        :: else -> (freebell != v); atomic { if :: waiting > 0 -> waiting-- :: else fi }
        fi;
        v = id * 4 + n
      fi
    od;
    if :: true :: crash_caller(id) fi;
    w = word[s];
    assert(caller(w) == id && (phase(w) == CALLING || settled(w)));
    request[s] = 0;
    if :: true :: crash_caller(id) fi;
    request[s] = v;
    if :: true :: crash_caller(id) fi;
    atomic { assert(word[s] == w); word[s] = W(REQUEST, id, 0, 0) } /* B */
    if :: true :: crash_caller(id) fi;
    if :: sleepers > 0 -> BUMP(sbell) :: else fi; /* C */
    do /* wait, or leave */
    :: w = word[s];
       if
       :: settled(w) -> assert(caller(w) == id); break
       :: else ->
         i = cbell[s];
         atomic {
           w = word[s];
           assert(caller(w) == id);
           if :: settled(w) -> skip :: else -> word[s] = w | 128 fi /* G */
         }
         if
         :: settled(w) -> break
         :: else ->
           if
           :: (cbell[s] != i)
           :: CANCELS > 0 -> goto leaving
           :: crash_caller(id)
           fi
         fi
       fi
    od;
    if
    :: phase(w) == ANSWERED -> assert(reply[s] == v)
    :: else -> assert(crashes > 0)
    fi;
    i = 0;
    if :: true :: crash_caller(id) fi
  od;
leaving:
  atomic { /* H */
    w = word[s];
    assert(caller(w) == id);
    if
#ifndef NO_SERVER_CHECK
    :: phase(w) == SERVING -> word[s] = W(SERVING, 0, server(w), 0); ok = false
    :: else -> word[s] = FREE; ok = true
#else
    :: true -> word[s] = FREE; ok = true
#endif
    fi
  }
  if :: true :: crash_caller(id) fi;
  if :: ok && waiting > 0 -> BUMP(freebell) :: else fi; /* I */
dead:
  done++
}

inline look() { /* T, D */
  i = 0; ok = false;
  do
  :: i < SLOTS && !ok ->
    w = word[i];
    if
    :: phase(w) == REQUEST ->
      atomic {
        if
        :: word[i] == w ->
#ifdef CLAIM_WITHOUT_SERVER
          word[i] = W(SERVING, caller(w), 0, asleep(w));
#else
          word[i] = W(SERVING, caller(w), id, asleep(w));
#endif
          s = i; ok = true
        :: else -> skip /* look at this slot again */
        fi
      }
    :: else -> i++
    fi
  :: else -> break
  od
}

proctype Server(byte id) {
  byte s, w, v, i, b;
  bool ok;
again:
  do
  ::
#ifdef NO_RECHECK
    look();
#endif
    b = sbell;
    sleepers++; /* S */
#ifndef NO_RECHECK
    look();
#endif
    if
    :: ok
    :: else ->
      if
      :: (sbell != b)
      :: crash_server(id)
      fi
    fi;
    atomic { if :: sleepers > 0 -> sleepers-- :: else fi }
    if
    :: ok ->
      if :: true :: crash_server(id) fi;
#ifdef CLAIM_WITHOUT_SERVER
      atomic { w = word[s]; word[s] = W(SERVING, caller(w), id, asleep(w)) }
#endif
      v = request[s];
      assert(v != 0);
#ifndef ANSWER_FIRST
      reply[s] = 0;
#ifdef IN_PLACE
      request[s] = 0;
#endif
      if :: true :: crash_server(id) fi;
      reply[s] = v;
      if :: true :: crash_server(id) fi;
#endif
      atomic { /* E */
        w = word[s];
        assert(phase(w) == SERVING && server(w) == id);
        if
        :: caller(w) == 0 -> word[s] = FREE
        :: else -> word[s] = W(ANSWERED, caller(w), 0, asleep(w))
        fi
      }
      if :: true :: crash_server(id) fi;
#ifdef ANSWER_FIRST
      reply[s] = v;
#endif
      if
      :: caller(w) == 0 -> if :: waiting > 0 -> BUMP(freebell) :: else fi
#ifndef NO_ASLEEP
      :: caller(w) != 0 && asleep(w) -> BUMP(cbell[s]) /* F */
#endif
      :: else
      fi;
      v = 0; s = 0
    :: else
    fi;
    w = 0; i = 0; b = 0; ok = false
  od;
dead:
  atomic { /* another server with the id, which is used again after the repair */
    !torepairs[id] -> serverdead[id] = false; alive++;
    s = 0; w = 0; v = 0; i = 0; b = 0; ok = false;
    goto again
  }
}

/* The repair of one death after the other. It may be killed between any two of its steps, and is then run again. */
proctype Repair() {
  byte s, w, c, k;
  do
  :: c == 0 && k == 0 ->
    atomic {
      if
      :: torepairc[1] -> c = 1
      :: torepairc[2] -> c = 2
      :: torepairs[1] -> k = 1
      :: torepairs[2] -> k = 2
      fi;
      s = 0
    }
  :: else ->
again:
    s = 0;
    do
    :: s < SLOTS ->
      do
      :: w = word[s];
        if
        :: k != 0 && phase(w) == SERVING && server(w) == k ->
          atomic {
            if
            :: word[s] == w ->
              if
#ifndef NO_SECOND_OWNER
              :: caller(w) == 0 -> word[s] = FREE
#else
              :: caller(w) == 0 -> word[s] = W(SERVING, 0, 0, 0)
#endif
#ifdef FAIL
              :: else -> word[s] = W(BROKEN, caller(w), 0, asleep(w)) /* R */
#else
              :: else -> word[s] = W(REQUEST, caller(w), 0, asleep(w)) /* R */
#endif
              fi
            :: else
            fi
          }
#ifdef NO_CALLER_REPAIR
        :: c != 0 && caller(w) == c && phase(w) == REQUEST ->
#else
        :: c != 0 && caller(w) == c ->
#endif
          atomic {
            if
            :: word[s] == w ->
              if
              :: phase(w) == SERVING -> word[s] = W(SERVING, 0, server(w), 0)
              :: else -> word[s] = FREE
              fi
            :: else
            fi
          }
        :: else -> break
        fi;
        if :: true :: crashes < CRASHES && !calm -> crashes++; goto again fi
      od;
#ifndef NO_REPAIR_WAKE
      if :: settled(w) && asleep(w) -> BUMP(cbell[s]) :: else fi;
#endif
      s++
    :: else -> break
    od;
#ifndef NO_REPAIR_WAKE
    sleepers = 0;
    if :: true :: crashes < CRASHES && !calm -> crashes++; goto again fi;
    BUMP(sbell);
    waiting = 0;
    if :: true :: crashes < CRASHES && !calm -> crashes++; goto again fi;
    BUMP(freebell);
#endif
    atomic { torepairc[c] = false; torepairs[k] = false; c = 0; k = 0; w = 0; s = 0 }
  od
}

/* At rest, if a server lives: every caller got what it wanted or died, and no slot is held. */
proctype Monitor() {
  byte s;
  calm = true;
  timeout ->
  if
  :: alive > 0 ->
    assert(done == CALLERS);
    for (s : 0 .. SLOTS - 1) { assert(word[s] == FREE) }
  :: else
  fi
}

init {
  atomic {
    run Caller(1);
#if CALLERS > 1
    run Caller(2);
#endif
    alive = SERVERS;
    run Server(1);
#if SERVERS > 1
    run Server(2);
#endif
    run Repair();
    run Monitor()
  }
}
