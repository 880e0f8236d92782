// The limits of the machine that the rest is measured by. None of these survives the death of a process.
//
//   line   round trip over two cache lines, both ends spinning
//   call   the same through a slot of a call channel, as ../../docs/call.md has it: with all that makes it safe
//   futex  round trip, both ends asleep in the kernel
//   call-asleep  the same through a slot of a call channel
//   ring   one way through a single-producer ring, one at a time or in batches
//   loan   the same with slots of many pages, used in place; touch=0: handed over untouched
//   crowd  one producer and many consumers over one ring, which sleep and are woken as those of a queue of ours: the median of seven rounds of half a second
//   copy   memcpy of the size, nobody else about
//   fetch  memcpy of what the other CPU has just written, while it waits
//   latest   read of the newest of eight versions beside a writer at full speed, as ../../docs/latest.md has it: with all that makes it safe
//   seqlock  read of the newest of eight versions, each behind a sequence number, while the other CPU writes at full speed
#include "harness.h"
#include <linux/futex.h>
#include <stdatomic.h>
#include <sys/syscall.h>

#define LINE 128 // two: the prefetcher takes them in pairs

static struct args a;
static struct source src;

// ------------------------------------------------------------------ round trip

struct side {
  _Alignas(LINE) _Atomic uint64_t seq; // a payload of 8 bytes lies beside it, a longer one in the lines that follow
  uint64_t small;
  _Alignas(64) char large[4096];
};

static struct both {
  struct side request, reply;
  _Alignas(LINE) long slept;
} *both;

static inline char *place(struct side *s, size_t size) { return size <= 8 ? (char *)&s->small : s->large; }

__attribute__((always_inline)) static inline void line_server(size_t size) {
  for (uint64_t i = 1; i <= (uint64_t)(a.warm + a.count); i++) {
    while (atomic_load_explicit(&both->request.seq, memory_order_acquire) != i) spin_hint();
    memcpy(place(&both->reply, size), place(&both->request, size), size);
    atomic_store_explicit(&both->reply.seq, i, memory_order_release);
  }
}

__attribute__((always_inline)) static inline uint64_t line_client(size_t size, uint32_t *t) {
  uint64_t got = 0, last = ticks();
  for (long i = 0; i < a.warm + a.count; i++) {
    memcpy(place(&both->request, size), message(&src, i), size);
    atomic_store_explicit(&both->request.seq, (uint64_t)i + 1, memory_order_release);
    while (atomic_load_explicit(&both->reply.seq, memory_order_acquire) != (uint64_t)i + 1) spin_hint();
    got += sum(place(&both->reply, size), size);
    uint64_t now = ticks();
    if (i >= a.warm) t[i - a.warm] = now - last;
    last = now;
  }
  return got;
}

static void line_peer(const struct args *arg) {
  (void)arg;
  if (a.size == 8) line_server(8);
  else if (a.size == 64) line_server(64);
  else line_server(a.size);
}

static void line(void) {
  if (a.size > sizeof both->request.large) fail("line: size is limited to 4096");
  uint32_t *t = calloc(a.count, sizeof *t);
  both = shared(sizeof *both);
  pid_t pid = forked(&a, line_peer);
  uint64_t got = a.size == 8 ? line_client(8, t) : a.size == 64 ? line_client(64, t) : line_client(a.size, t);
  joined(pid);
  if (got != expected(&src, a.warm + a.count)) fail("line: payloads arrived wrong");
  report_trips(&a, t, 0, 0);
}

// ------------------------------------------------------------------ call

// The twin of pkg/protocol/call.go and of the looks in pkg/shm/call.go, of one caller that keeps its slot and one server: the same words at the same places, the same
// compare-and-swaps and hints, the same letters. What it costs is not Go's. Between two looks of the caller come two pauses more, in place of Go's own way from one to the next.
enum { REQUEST = 2, SERVING = 3, ANSWERED = 4, CALLER = 1, SERVER = 2, CALLER_PAUSES = 6, SERVER_PAUSES = 3 };

static struct calls {
  _Alignas(LINE) _Atomic uint64_t reach;
  _Alignas(LINE) _Atomic uint64_t tickets;
  _Alignas(64) _Atomic uint64_t waiters;
  _Alignas(LINE) _Atomic uint64_t requests; // counters
  _Alignas(64) _Atomic uint64_t answered;
  _Alignas(4096) _Atomic uint64_t state; // the slot: seq:21 | asleep:1 | deliveries:6 | server:16 | caller:16 | phase:4
  _Atomic uint64_t request, reply;       // length:32 | ticket:32, length:32 | code:32
  _Atomic uint32_t bell;
  _Alignas(32) char bytes[2 * 4096 + 64];
} *calls;

static inline uint64_t call_word(uint64_t phase, uint64_t server, uint64_t seq) { return phase | CALLER << 4 | server << 20 | seq << 43; }

static inline char *call_reply(size_t n) {
  size_t at = (32 + n + 7) & ~(size_t)7;
  return (char *)&calls->state + (at < 64 ? at : (32 + n + 63) & ~(size_t)63);
}

static inline void call_fetch(size_t place, int rw) { // if it is another line than that of the state word
  const char *p = (const char *)&calls->state + place;
  if (place < 64) return;
  if (!rw) __builtin_prefetch(p, 0, 3);
#if defined(__x86_64__)
  else __asm__ volatile("prefetchw %0" : : "m"(*p));
#else
  else __builtin_prefetch(p, 1, 3);
#endif
}

static inline size_t place_of(size_t n) { return call_reply(n) - (char *)&calls->state; }

static inline void rest(int pauses) {
  for (int i = 0; i < pauses; i++) spin_hint();
}

__attribute__((always_inline)) static inline void call_server(size_t size) {
  for (long i = 0; i < a.warm + a.count; i++) {
    uint64_t w, n;
    for (;; rest(SERVER_PAUSES)) {
      call_fetch(64, 0);
      if (!atomic_load(&calls->reach)) continue;
      w = atomic_load(&calls->state);
      n = atomic_load(&calls->request) >> 32;
      if ((w & 15) == REQUEST) break;
      if (n <= size && (w & 15) == ANSWERED) call_fetch(place_of(n), 1);
    }
    call_fetch(place_of(n <= size ? n : size), 1);
    if (!atomic_compare_exchange_strong(&calls->state, &w, call_word(SERVING, SERVER, w >> 43))) fail("call: another server"); // D
    if (atomic_load(&calls->request) >> 32 != size) fail("call: the length of a request is wrong");
    memcpy(call_reply(size), calls->bytes, size);
    w = atomic_load(&calls->state);
    atomic_store_explicit(&calls->reply, (uint64_t)size << 32, memory_order_release);
    if (!atomic_compare_exchange_strong(&calls->state, &w, call_word(ANSWERED, 0, w >> 43))) fail("call: the caller left"); // E
    atomic_fetch_add(&calls->answered, 1);
  }
}

__attribute__((always_inline)) static inline uint64_t call_client(size_t size, uint32_t *t) {
  const size_t near = size < 32 ? size : 32;
  uint64_t got = 0, last = ticks(), word = atomic_load(&calls->state);
  for (long i = 0; i < a.warm + a.count; i++) {
    const char *p = message(&src, i);
    if (size > near) call_fetch(64, 1);
    uint64_t ticket = atomic_fetch_add(&calls->tickets, 1) + 1;
    memcpy(calls->bytes + near, p + near, size - near); // what shares the line of the state word comes last
    memcpy(calls->bytes, p, near);
    atomic_store_explicit(&calls->request, (uint64_t)size << 32 | (uint32_t)ticket, memory_order_release);
    uint64_t next = call_word(REQUEST, 0, (word >> 43) + 1);
    if (!atomic_compare_exchange_strong(&calls->state, &word, next)) fail("call: the slot was lost"); // B
    if ((uint32_t)atomic_load(&calls->waiters)) fail("call: somebody sleeps");                       // C
    atomic_fetch_add(&calls->requests, 1);
    while (((word = atomic_load(&calls->state)) & 15) != ANSWERED) rest(CALLER_PAUSES);
    call_fetch(place_of(size), 0);
    if (atomic_load(&calls->reply) >> 32 != size) fail("call: the length of a reply is wrong");
    got += sum(call_reply(size), size);
    uint64_t now = ticks();
    if (i >= a.warm) t[i - a.warm] = now - last;
    last = now;
  }
  return got;
}

static void call_peer(const struct args *arg) {
  (void)arg;
  if (a.size == 8) call_server(8);
  else if (a.size == 64) call_server(64);
  else call_server(a.size);
}

static void call(void) {
  if (a.size > 4096) fail("call: size is limited to 4096");
  uint32_t *t = calloc(a.count, sizeof *t);
  calls = shared(sizeof *calls);
  calls->reach = 1;
  calls->state = call_word(ANSWERED, 0, 0);
  pid_t pid = forked(&a, call_peer);
  uint64_t got = a.size == 8 ? call_client(8, t) : a.size == 64 ? call_client(64, t) : call_client(a.size, t);
  joined(pid);
  if (got != expected(&src, a.warm + a.count)) fail("call: payloads arrived wrong");
  report_trips(&a, t, 0, 0);
}

// ------------------------------------------------------------------ asleep

static void futex(_Atomic uint64_t *word, int op, uint32_t v) { syscall(SYS_futex, word, op, v, 0, 0, 0); }

// The low half of seq is the futex word (little-endian, as shmd is).
static void await(_Atomic uint64_t *word, uint64_t v) {
  while (atomic_load(word) != v) futex(word, FUTEX_WAIT, (uint32_t)(v - 1));
}

static void publish(_Atomic uint64_t *word, uint64_t v) {
  atomic_store(word, v);
  futex(word, FUTEX_WAKE, 1);
}

static void futex_peer(const struct args *arg) {
  (void)arg;
  long before = 0;
  for (long i = 1; i <= a.warm + a.count; i++) {
    if (i == a.warm + 1) before = sleeps();
    await(&both->request.seq, i);
    memcpy(place(&both->reply, a.size), place(&both->request, a.size), a.size);
    if (i == a.warm + a.count) both->slept = sleeps() - before;
    publish(&both->reply.seq, i);
  }
}

static void futex_trip(void) {
  if (a.size > sizeof both->request.large) fail("futex: size is limited to 4096");
  uint32_t *t = calloc(a.count, sizeof *t);
  both = shared(sizeof *both);
  pid_t pid = forked(&a, futex_peer);
  uint64_t got = 0;
  long slept = 0;
  struct timespec next;
  after(&next, a.pace);
  for (long i = 0; i < a.warm + a.count; i++) {
    until(&next);
    after(&next, a.pace);
    long before = sleeps();
    uint64_t begin = ticks();
    memcpy(place(&both->request, a.size), message(&src, i), a.size);
    publish(&both->request.seq, i + 1);
    await(&both->reply.seq, i + 1);
    got += sum(place(&both->reply, a.size), a.size);
    uint64_t end = ticks();
    if (i >= a.warm) t[i - a.warm] = end - begin, slept += sleeps() - before;
  }
  joined(pid);
  if (got != expected(&src, a.warm + a.count)) fail("futex: payloads arrived wrong");
  report_trips(&a, t, slept, both->slept);
}

// ------------------------------------------------------------------ asleep, by shmd's rules

// The twin of a call whose both ends sleep: the words and letters of docs/call.md as above, the sleepers' word of docs/queue.md for the server, the bit in the state word
// and the slot's own bell for the caller. Each looks once before it sleeps. What it costs beyond the bare futex above is the protocol's, not Go's.
static struct {
  _Alignas(LINE) _Atomic uint64_t waiters; // epoch:32 | coming:1 | count:31
  _Alignas(64) _Atomic uint32_t bell;
} *door;

enum { COMING = 1u << 31 };
#define ASLEEP (UINT64_C(1) << 42)

static void futex32(_Atomic uint32_t *word, int op, uint32_t v) { syscall(SYS_futex, word, op, v, 0, 0, 0); }

static void waiters_add(int64_t n) { // Register [S], Unregister
  uint64_t w = atomic_load(&door->waiters);
  while (!atomic_compare_exchange_strong(&door->waiters, &w, (w + (uint64_t)n) & ~(uint64_t)COMING)) {}
}

static int requested(void) {
  return atomic_load(&calls->reach) && (atomic_load(&calls->state) & 15) == REQUEST;
}

static void call_asleep_peer(const struct args *arg) {
  (void)arg;
  long before = 0;
  for (long i = 1; i <= a.warm + a.count; i++) {
    if (i == a.warm + 1) before = sleeps();
    while (!requested()) {
      uint32_t v = atomic_load(&door->bell);
      waiters_add(1);
      if (!requested()) futex32(&door->bell, FUTEX_WAIT, v); // T
      waiters_add(-1);
    }
    uint64_t w = atomic_load(&calls->state), n = atomic_load(&calls->request) >> 32;
    if (!atomic_compare_exchange_strong(&calls->state, &w, call_word(SERVING, SERVER, w >> 43) | (w & ASLEEP))) {
      if (!atomic_compare_exchange_strong(&calls->state, &w, call_word(SERVING, SERVER, w >> 43) | (w & ASLEEP))) fail("call: another server"); // the caller lay down: D
    }
    if (n != a.size) fail("call: the length of a request is wrong");
    memcpy(call_reply(a.size), calls->bytes, a.size);
    atomic_store_explicit(&calls->reply, (uint64_t)a.size << 32, memory_order_release);
    w = atomic_load(&calls->state);
    while (!atomic_compare_exchange_strong(&calls->state, &w, call_word(ANSWERED, 0, w >> 43))) {} // E
    if (i == a.warm + a.count) both->slept = sleeps() - before;
    if (w & ASLEEP) { // W
      atomic_fetch_add(&calls->bell, 1);
      futex32(&calls->bell, FUTEX_WAKE, 1);
    }
    atomic_fetch_add(&calls->answered, 1);
  }
}

static void call_asleep(void) {
  if (a.size > 4096) fail("call-asleep: size is limited to 4096");
  uint32_t *t = calloc(a.count, sizeof *t);
  both = shared(sizeof *both), calls = shared(sizeof *calls), door = shared(sizeof *door);
  calls->reach = 1;
  calls->state = call_word(ANSWERED, 0, 0);
  pid_t pid = forked(&a, call_asleep_peer);
  uint64_t got = 0, word = atomic_load(&calls->state);
  long slept = 0;
  struct timespec next;
  after(&next, a.pace);
  for (long i = 0; i < a.warm + a.count; i++) {
    until(&next);
    after(&next, a.pace);
    long before = sleeps();
    uint64_t begin = ticks();
    uint64_t ticket = atomic_fetch_add(&calls->tickets, 1) + 1;
    memcpy(calls->bytes, message(&src, i), a.size);
    atomic_store_explicit(&calls->request, (uint64_t)a.size << 32 | (uint32_t)ticket, memory_order_release);
    if (!atomic_compare_exchange_strong(&calls->state, &word, call_word(REQUEST, 0, (word >> 43) + 1))) fail("call: the slot was lost"); // B
    uint64_t w = atomic_load(&door->waiters);
    if (w & (COMING - 1) && !(w & COMING)) { // C: wake one, who has not been woken yet
      atomic_compare_exchange_strong(&door->waiters, &w, w | COMING);
      atomic_fetch_add(&door->bell, 1);
      futex32(&door->bell, FUTEX_WAKE, 1);
    }
    atomic_fetch_add(&calls->requests, 1);
    while (((word = atomic_load(&calls->state)) & 15) != ANSWERED) {
      uint32_t v = atomic_load(&calls->bell);
      if (!(word & ASLEEP) && !atomic_compare_exchange_strong(&calls->state, &word, word | ASLEEP)) continue; // S
      futex32(&calls->bell, FUTEX_WAIT, v);
    }
    if (atomic_load(&calls->reply) >> 32 != a.size) fail("call: the length of a reply is wrong");
    got += sum(call_reply(a.size), a.size);
    uint64_t end = ticks();
    if (i >= a.warm) t[i - a.warm] = end - begin, slept += sleeps() - before;
  }
  joined(pid);
  if (got != expected(&src, a.warm + a.count)) fail("call-asleep: payloads arrived wrong");
  report_trips(&a, t, slept, both->slept);
}

// ------------------------------------------------------------------ one way

static struct ring {
  _Alignas(LINE) _Atomic uint64_t tail;
  _Alignas(LINE) _Atomic uint64_t head;
  _Alignas(LINE) double cpu; // the producer's, in ns
} *ring;
static char *slots;
static uint64_t nslots; // a power of two

// Each side keeps what it last saw of the other and looks again only when that does not do.
__attribute__((always_inline)) static inline void produce(size_t size, uint64_t batch, int touch) {
  uint64_t tail = 0, head = 0, total = a.warm + a.count;
  double begin = 0;
  while (tail < total) {
    if (tail >= (uint64_t)a.warm && !begin) begin = cpu_ns();
    uint64_t n = batch < total - tail ? batch : total - tail;
    while (tail + n - head > nslots) {
      head = atomic_load_explicit(&ring->head, memory_order_acquire);
      if (tail + n - head > nslots) spin_hint();
    }
    if (touch && batch == 1) {
      put(slots + (tail & (nslots - 1)) * size, message(&src, tail), size);
    } else if (touch) {
      for (uint64_t i = 0; i < n; i++) memcpy(slots + ((tail + i) & (nslots - 1)) * size, message(&src, tail + i), size);
    }
    tail += n;
    atomic_store_explicit(&ring->tail, tail, memory_order_release);
  }
  ring->cpu = cpu_ns() - begin;
}

__attribute__((always_inline)) static inline void consume(size_t size, uint64_t batch, int touch, uint64_t *begin, uint64_t *end) {
  uint64_t tail = 0, head = 0, total = a.warm + a.count, got = 0;
  while (head < total) {
    if (head >= (uint64_t)a.warm && !*begin) {
      *begin = ticks();
      a.count = total - head; // a batch may have gone over the edge
    }
    while (tail == head) {
      tail = atomic_load_explicit(&ring->tail, memory_order_acquire);
      if (tail == head) spin_hint();
    }
    uint64_t n = tail - head < batch ? tail - head : batch;
    if (touch) {
      for (uint64_t i = 0; i < n; i++) got += sum(slots + ((head + i) & (nslots - 1)) * size, size);
    }
    head += n;
    atomic_store_explicit(&ring->head, head, memory_order_release);
  }
  *end = ticks();
  if (touch && got != expected(&src, total)) fail("ring: payloads arrived wrong");
}

static void ring_peer(const struct args *arg) {
  (void)arg;
  if (!a.touch) produce(a.size, 1, 0);
  else if (a.size == 8 && a.batch == 1) produce(8, 1, 1);
  else if (a.size == 64 && a.batch == 1) produce(64, 1, 1);
  else if (a.size == 8) produce(8, a.batch, 1);
  else if (a.size == 64) produce(64, a.batch, 1);
  else if (a.batch == 1) produce(a.size, 1, 1);
  else produce(a.size, a.batch, 1);
}

static void one_way(void) {
  ring = shared(sizeof *ring);
  nslots = 1;
  while (nslots * 2 * a.size <= a.footprint) nslots *= 2;
  if (nslots < (uint64_t)a.batch) fail("ring: a batch does not fit into the footprint");
  slots = a.touch ? shared(nslots * a.size) : 0;
  pid_t pid = forked(&a, ring_peer);
  uint64_t begin = 0, end = 0;
  if (slots) sum(slots, nslots * a.size); // map the pages in
  if (!a.touch) consume(a.size, 1, 0, &begin, &end);
  else if (a.size == 8 && a.batch == 1) consume(8, 1, 1, &begin, &end);
  else if (a.size == 64 && a.batch == 1) consume(64, 1, 1, &begin, &end);
  else if (a.size == 8) consume(8, a.batch, 1, &begin, &end);
  else if (a.size == 64) consume(64, a.batch, 1, &begin, &end);
  else if (a.batch == 1) consume(a.size, 1, 1, &begin, &end);
  else consume(a.size, a.batch, 1, &begin, &end);
  joined(pid);
  report_rate(&a, begin, end, ring->cpu);
}

// ------------------------------------------------------------------ crowd

// Consumers take by compare-and-swap of head; sleepers are counted, and `coming` says that one is on its way or looks, as in ../../docs/queue.md.
enum { SLOTS = 1024, TURN = 1024, LOOKS = 1000, ROUNDS = 7 };

static struct crowd {
  _Alignas(LINE) _Atomic uint64_t tail;
  _Alignas(LINE) _Atomic uint64_t head;
  _Alignas(LINE) _Atomic uint32_t sleepers;
  _Atomic uint32_t coming;
  _Alignas(LINE) _Atomic uint32_t bell;
  _Alignas(LINE) _Atomic int stop;
  _Alignas(LINE) _Atomic uint64_t got[1024]; // by each consumer
  _Alignas(LINE) char slots[SLOTS][64];
} *crowd;

static void ring_one(void) {
  uint32_t none = 0;
  if (!atomic_load(&crowd->sleepers) || !atomic_compare_exchange_strong(&crowd->coming, &none, 1)) return;
  atomic_fetch_add(&crowd->bell, 1);
  syscall(SYS_futex, &crowd->bell, FUTEX_WAKE, 1, 0, 0, 0);
}

static int take(uint64_t *got) {
  for (;;) {
    uint64_t h = atomic_load(&crowd->head), t = atomic_load(&crowd->tail);
    if (h == t) return 0;
    uint64_t s = sum(crowd->slots[h % SLOTS], 64); // it counts only if nobody else has taken it
    if (!atomic_compare_exchange_strong(&crowd->head, &h, h + 1)) continue;
    *got += s;
    if (t - h > 1) ring_one();
    return 1;
  }
}

static int look(uint64_t *got, int *streak) {
  uint32_t none = 0;
  int promised = atomic_load(&crowd->sleepers) != 0;
  if (promised && !atomic_compare_exchange_strong(&crowd->coming, &none, 1)) return 0;
  int found = take(got), looks = promised && ++*streak % TURN == 0 ? 0 : LOOKS;
  for (int n = 0; !found && n < looks && !atomic_load(&crowd->stop); n++) {
    spin_hint();
    found = take(got);
  }
  if (promised && found) {
    atomic_store(&crowd->coming, 0);
    if (atomic_load(&crowd->tail) != atomic_load(&crowd->head)) ring_one();
  }
  return found;
}

static void crowd_consumer(int i) {
  uint64_t got = 0, n = 0;
  int streak = 0;
  while (!atomic_load(&crowd->stop)) {
    if (take(&got) || look(&got, &streak)) {
      atomic_store_explicit(&crowd->got[i], ++n, memory_order_relaxed);
      continue;
    }
    atomic_fetch_add(&crowd->sleepers, 1);
    for (;;) {
      uint32_t v = atomic_load(&crowd->bell);
      atomic_store(&crowd->coming, 0);
      if (atomic_load(&crowd->head) != atomic_load(&crowd->tail) || atomic_load(&crowd->stop)) break;
      syscall(SYS_futex, &crowd->bell, FUTEX_WAIT, v, 0, 0, 0);
    }
    atomic_fetch_sub(&crowd->sleepers, 1);
  }
  _exit(0);
}

struct outcome { double rate, least, mean; };

static struct outcome crowd_round(void) {
  crowd = shared(sizeof *crowd);
  pid_t pids[1024];
  for (int i = 0; i < a.peers; i++) {
    if ((pids[i] = fork()) < 0) fail("fork: %s", strerror(errno));
    if (pids[i] == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      crowd_consumer(i);
    }
  }
  while (atomic_load(&crowd->sleepers) != (uint32_t)a.peers) sched_yield();
  uint64_t begin = ticks(), t = 0, end = begin + (uint64_t)(5e8 / a.tick);
  for (; t % 64 || ticks() < end; t++) {
    while (t - atomic_load(&crowd->head) == SLOTS) sched_yield();
    memcpy(crowd->slots[t % SLOTS], message(&src, t), 64);
    atomic_store(&crowd->tail, t + 1);
    ring_one();
  }
  end = ticks();
  atomic_store(&crowd->stop, 1);
  atomic_fetch_add(&crowd->bell, 1);
  syscall(SYS_futex, &crowd->bell, FUTEX_WAKE, 1 << 30, 0, 0, 0);
  uint64_t least = ~0ull, total = 0;
  for (int i = 0; i < a.peers; i++) {
    joined(pids[i]);
    if (crowd->got[i] < least) least = crowd->got[i];
    total += crowd->got[i];
  }
  munmap(crowd, sizeof *crowd);
  return (struct outcome){t / ((end - begin) * a.tick) * 1e9, least, (double)total / a.peers};
}

static int by_rate(const void *x, const void *y) {
  double d = ((const struct outcome *)x)->rate - ((const struct outcome *)y)->rate;
  return (d > 0) - (d < 0);
}

// One round is no reference: it swings by ten.
static void crowd_ring(void) {
  struct outcome o[ROUNDS];
  if (a.peers < 1 || a.peers > 1024) fail("crowd: peers must be 1 to 1024");
  for (int i = 0; i < ROUNDS; i++) o[i] = crowd_round();
  qsort(o, ROUNDS, sizeof *o, by_rate);
  printf("{\"rate\":%.1f,\"least\":%.1f,\"mean\":%.1f}\n", o[ROUNDS / 2].rate, o[ROUNDS / 2].least, o[ROUNDS / 2].mean);
}

// ------------------------------------------------------------------ copy

static void copy(void) {
  pin(a.cpu[0]);
  uint32_t *t = calloc(a.count, sizeof *t);
  char *to;
  if (posix_memalign((void **)&to, 4096, a.size)) fail("no memory");
  // Many copies a sample, as the clock costs as much as a small one.
  long each = a.size < 4096 ? 64 : 8;
  for (long i = 0; i < a.warm + a.count; i++) {
    uint64_t begin = ticks();
    for (long k = 0; k < each; k++) {
      memcpy(to, message(&src, k), a.size);
      __asm__ volatile("" : : "r"(to) : "memory");
    }
    if (i >= a.warm) t[i - a.warm] = ticks() - begin;
  }
  a.tick /= each;
  report_trips(&a, t, 0, 0);
}

// ------------------------------------------------------------------ fetch

static void fetch_peer(const struct args *arg) {
  (void)arg;
  for (long i = 1; i <= a.warm + a.count; i++) {
    put(slots, message(&src, i), a.size);
    atomic_store_explicit(&both->request.seq, i, memory_order_release);
    while (atomic_load_explicit(&both->reply.seq, memory_order_acquire) != (uint64_t)i) spin_hint();
  }
}

static void fetch(void) {
  uint32_t *t = calloc(a.count, sizeof *t);
  char *to;
  if (posix_memalign((void **)&to, 4096, a.size)) fail("no memory");
  memset(to, 0, a.size);
  both = shared(sizeof *both);
  slots = shared(a.size);
  pid_t pid = forked(&a, fetch_peer);
  for (long i = 1; i <= a.warm + a.count; i++) {
    while (atomic_load_explicit(&both->request.seq, memory_order_acquire) != (uint64_t)i) spin_hint();
    uint64_t begin = ticks();
    put(to, slots, a.size);
    __asm__ volatile("" : : "r"(to) : "memory");
    uint64_t end = ticks();
    if (i > a.warm) t[i - a.warm - 1] = end - begin;
    if (sum(to, a.size) != src.sums[i & (src.n - 1)]) fail("fetch: the payload arrived wrong");
    atomic_store_explicit(&both->reply.seq, i, memory_order_release);
  }
  joined(pid);
  report_trips(&a, t, 0, 0);
}

// ------------------------------------------------------------------ seqlock

// What a latest value needs at least beside a writer at full speed: no claim, no name of the writer, nothing that outlives it.
enum { VERSIONS = 8 };

static size_t version_stride;

static inline _Atomic uint64_t *version_seq(uint64_t v) { return (_Atomic uint64_t *)(slots + v % VERSIONS * version_stride); }

static void seqlock_write(uint64_t v) { // from 1 on
  _Atomic uint64_t *seq = version_seq(v);
  atomic_store_explicit(seq, 2 * v - 1, memory_order_relaxed);
  atomic_thread_fence(memory_order_release);
  put((char *)seq + 16, message(&src, v), a.size);
  atomic_store_explicit(seq, 2 * v, memory_order_release);
  atomic_store_explicit(&both->request.seq, v, memory_order_release);
}

static void seqlock_peer(const struct args *arg) {
  (void)arg;
  for (uint64_t v = 2; !atomic_load_explicit(&both->reply.seq, memory_order_relaxed); v++) seqlock_write(v);
}

static void seqlock(void) {
  uint32_t *t = calloc(a.count, sizeof *t);
  char *to;
  if (posix_memalign((void **)&to, 4096, a.size)) fail("no memory");
  both = shared(sizeof *both);
  version_stride = (a.size + 16 + 63) / 64 * 64;
  slots = shared(VERSIONS * version_stride);
  seqlock_write(1);
  pid_t pid = forked(&a, seqlock_peer);
  uint64_t last = ticks();
  for (long i = 0; i < a.warm + a.count; i++) {
    for (;;) {
      uint64_t v = atomic_load_explicit(&both->request.seq, memory_order_acquire);
      _Atomic uint64_t *seq = version_seq(v);
      if (atomic_load_explicit(seq, memory_order_acquire) != 2 * v) continue;
      put(to, (char *)seq + 16, a.size);
      atomic_thread_fence(memory_order_acquire);
      if (atomic_load_explicit(seq, memory_order_relaxed) == 2 * v) break;
    }
    uint64_t now = ticks();
    if (i >= a.warm) t[i - a.warm] = now - last;
    last = now;
    uint64_t first, end;
    memcpy(&first, to, 8);
    memcpy(&end, to + a.size - 8, 8);
    if (end - first != a.size / 8 - 1) fail("seqlock: a value is torn");
  }
  atomic_store_explicit(&both->reply.seq, 1, memory_order_relaxed);
  joined(pid);
  report_trips(&a, t, 0, 0);
}

// ------------------------------------------------------------------ latest

// The twin of pkg/protocol/latest.go: the same words at the same places, the same compare-and-swaps and fences, the same letters. What it costs is not Go's.
enum { FREE = 0, WRITING = 1, READY = 2, ME = 7 };

static struct newest {
  _Alignas(LINE) _Atomic uint64_t current; // version:56 | slot:8
  _Alignas(LINE) _Atomic uint64_t waiters;
} *newest;

static inline _Atomic uint64_t *state_of(uint64_t slot) { return (_Atomic uint64_t *)(slots + slot * version_stride + 48); } // the value begins on the next line

static inline uint64_t state(uint64_t phase, uint64_t owner, uint64_t version) { return phase | owner << 4 | version << 20; }

static void latest_write(uint64_t v) { // from 1 on
  uint64_t c = atomic_load(&newest->current), i = c >> 8;
  for (;; i++) {
    i %= VERSIONS;
    uint64_t w = atomic_load(state_of(i)); // A1
    if ((w & 15) == WRITING && (w >> 4 & 0xffff)) continue;
    c = atomic_load(&newest->current); // A2
    if (c && (c & 255) == i) continue;
    if (atomic_compare_exchange_strong(state_of(i), &w, state(WRITING, ME, v))) break; // A
  }
  atomic_load(&newest->current); // B
  put((char *)state_of(i) + 16, message(&src, v), a.size);
  if (atomic_load(state_of(i)) != state(WRITING, ME, v)) fail("latest: the claim was lost");
  atomic_exchange((_Atomic uint32_t *)(state_of(i) + 1), a.size); // Go's atomic store
  c = atomic_load(&newest->current);
  uint64_t mine = state(WRITING, ME, v);
  if (!atomic_compare_exchange_strong(&newest->current, &c, v << 8 | i)) fail("latest: another writer"); // D
  atomic_compare_exchange_strong(state_of(i), &mine, state(READY, 0, v));                                // E
  if ((uint32_t)atomic_load(&newest->waiters)) fail("latest: somebody sleeps");                         // W
}

static void latest_peer(const struct args *arg) {
  (void)arg;
  for (uint64_t v = 2; !atomic_load_explicit(&both->reply.seq, memory_order_relaxed); v++) latest_write(v);
}

static void latest(void) {
  uint32_t *t = calloc(a.count, sizeof *t);
  char *to;
  if (posix_memalign((void **)&to, 4096, a.size)) fail("no memory");
  both = shared(sizeof *both);
  newest = shared(sizeof *newest);
  version_stride = a.size >= 4096 ? (a.size + 16 + 4095) / 4096 * 4096 : (a.size + 16 + 63) / 64 * 64;
  slots = shared(VERSIONS * version_stride + 4096);
  latest_write(1);
  pid_t pid = forked(&a, latest_peer);
  uint64_t last = ticks();
  for (long i = 0; i < a.warm + a.count; i++) {
    for (;;) {
      uint64_t c = atomic_load(&newest->current), v = c >> 8; // F
      _Atomic uint64_t *s = state_of(c & 255 & (VERSIONS - 1));
      if (atomic_load(s) >> 20 != v) continue;
      uint32_t n = atomic_load((_Atomic uint32_t *)(s + 1));
      if (n != a.size) continue;
      put(to, (char *)s + 16, n);
      atomic_thread_fence(memory_order_acquire); // H
      if (atomic_load(s) >> 20 == v) break;
    }
    uint64_t now = ticks();
    if (i >= a.warm) t[i - a.warm] = now - last;
    last = now;
    uint64_t first, end;
    memcpy(&first, to, 8);
    memcpy(&end, to + a.size - 8, 8);
    if (end - first != a.size / 8 - 1) fail("latest: a value is torn");
  }
  atomic_store_explicit(&both->reply.seq, 1, memory_order_relaxed);
  joined(pid);
  report_trips(&a, t, 0, 0);
}

int main(int argc, char **argv) {
  a = parse(argc, argv);
  src = source(a.size);
  if (!strcmp(a.measure, "line")) line();
  else if (!strcmp(a.measure, "call")) call();
  else if (!strcmp(a.measure, "futex")) futex_trip();
  else if (!strcmp(a.measure, "call-asleep")) call_asleep();
  else if (!strcmp(a.measure, "ring") || !strcmp(a.measure, "loan")) one_way();
  else if (!strcmp(a.measure, "crowd")) crowd_ring();
  else if (!strcmp(a.measure, "copy")) copy();
  else if (!strcmp(a.measure, "fetch")) fetch();
  else if (!strcmp(a.measure, "latest")) latest();
  else if (!strcmp(a.measure, "seqlock")) seqlock();
  else fail("%s: unknown measure", a.measure);
}
