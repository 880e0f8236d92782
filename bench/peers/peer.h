// The two measurements of a peer. A driver fills in a struct peer and calls measure.
#pragma once
#include "harness.h"

struct peer {
  // open connects; it is called in both processes, each on its CPU. first is 1 in the process that measures: the client of a round trip, or the receiver.
  void (*open)(const struct args *a, int first);
  // send copies n bytes into a message and sends it.
  void (*send)(const void *p, size_t n);
  // take waits for a message and returns it, valid until done.
  const void *(*take)(size_t *n);
  void (*done)(void);
  void (*close)(void);
};

static struct meeting {
  volatile int opened[2], finished;
  volatile long slept;
} *meeting;

static struct peer peer;

static void meet(int first) {
  __atomic_store_n(&meeting->opened[first], 1, __ATOMIC_SEQ_CST);
  while (!__atomic_load_n(&meeting->opened[!first], __ATOMIC_SEQ_CST)) usleep(100);
}

// part waits until the first process has everything: a library may drop what is under way when a process ends.
static void part(int first) {
  if (first) __atomic_store_n(&meeting->finished, 1, __ATOMIC_SEQ_CST);
  while (!__atomic_load_n(&meeting->finished, __ATOMIC_SEQ_CST)) usleep(100);
  if (peer.close) peer.close();
}

static void trip_server(const struct args *a) {
  peer.open(a, 0);
  meet(0);
  long before = 0;
  for (long i = 0; i < a->warm + a->count; i++) {
    if (i == a->warm) before = sleeps();
    size_t n;
    const void *p = peer.take(&n);
    if (i == a->warm + a->count - 1) meeting->slept = sleeps() - before;
    peer.send(p, n);
    peer.done();
  }
  part(0);
}

static void trip(const struct args *a) {
  struct source src = source(a->size);
  uint32_t *t = (uint32_t *)calloc(a->count, sizeof *t);
  pid_t pid = forked(a, trip_server);
  peer.open(a, 1);
  meet(1);
  uint64_t got = 0, last = ticks();
  long slept = 0;
  struct timespec next;
  after(&next, a->pace);
  for (long i = 0; i < a->warm + a->count; i++) {
    long before = 0;
    if (a->pace) {
      until(&next);
      after(&next, a->pace);
      before = sleeps();
      last = ticks();
    }
    peer.send(message(&src, i), a->size);
    size_t n;
    const void *p = peer.take(&n);
    if (n != a->size) fail("a message of %zu bytes instead of %zu", n, a->size);
    got += sum(p, n);
    peer.done();
    uint64_t now = ticks();
    if (i >= a->warm) {
      t[i - a->warm] = now - last;
      if (a->pace) slept += sleeps() - before;
    }
    last = now;
  }
  if (got != expected(&src, a->warm + a->count)) fail("payloads arrived wrong");
  part(1);
  joined(pid);
  report_trips(a, t, slept, meeting->slept);
}

static void way_sender(const struct args *a) {
  struct source src = source(a->size);
  peer.open(a, 0);
  meet(0);
  for (long i = 0; i < a->warm + a->count; i++) peer.send(message(&src, i), a->size);
  part(0);
}

static void way(const struct args *a) {
  struct source src = source(a->size);
  pid_t pid = forked(a, way_sender);
  peer.open(a, 1);
  meet(1);
  uint64_t got = 0, begin = 0;
  for (long i = 0; i < a->warm + a->count; i++) {
    if (i == a->warm) begin = ticks();
    size_t n;
    const void *p = peer.take(&n);
    if (n != a->size) fail("a message of %zu bytes instead of %zu", n, a->size);
    got += sum(p, n);
    peer.done();
  }
  uint64_t end = ticks();
  if (got != expected(&src, a->warm + a->count)) fail("payloads arrived wrong");
  part(1);
  joined(pid);
  report_rate(a, begin, end, 0);
}

static int measure(int argc, char **argv, struct peer p) {
  struct args a = parse(argc, argv);
  peer = p;
  meeting = (struct meeting *)shared(sizeof *meeting);
  if (!strcmp(a.measure, "trip")) trip(&a);
  else if (!strcmp(a.measure, "way")) way(&a);
  else fail("%s: unknown measure", a.measure);
  return 0;
}

// messages returns how many messages of a size a channel should hold.
static inline size_t messages(const struct args *a) {
  size_t n = a->footprint / a->size;
  return n < 4 ? 4 : n > 1024 ? 1024 : n;
}
