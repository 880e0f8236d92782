// What the C probes and the drivers of the peers share: arguments, pinning, clock, payloads, the line of JSON.
//
// A program is called as PROGRAM MEASURE KEY=VALUE... and prints one JSON object on one line. Payloads are written and read in the same way
// everywhere, here and in the Go ends (../payload.go): a message is copied from a source that was filled long ago, so that no wide load meets a narrow
// store that is still in the store buffer, and every byte that arrives is read and summed in place. A wrong sum ends the program.
#pragma once
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct args {
  const char *measure;
  size_t size;      // bytes of a message
  long warm, count; // messages before the clock starts, and measured ones
  int batch;
  size_t footprint; // bytes of a ring's slots
  long pace;        // ns: a message is sent so long after the last
  int cpu[2];       // this process's, and its peer's
  double tick;      // ns
  int sleep;        // 1: wait in the kernel, 0: spin
  int peers;        // how many of what grows
  int touch;        // 0: payloads are neither written nor read
  const char *dir;  // for sockets
  const char *id;   // a name of this run
};

__attribute__((noreturn, format(printf, 1, 2))) static inline void fail(const char *format, ...) {
  va_list ap;
  va_start(ap, format);
  vfprintf(stderr, format, ap);
  va_end(ap);
  fputc('\n', stderr);
  _exit(1);
}

static inline struct args parse(int argc, char **argv) {
  struct args a;
  memset(&a, 0, sizeof a);
  a.size = 8, a.warm = 1000, a.count = 10000, a.batch = 1, a.footprint = 1 << 17, a.cpu[1] = 1, a.tick = 1, a.touch = 1, a.dir = "/tmp", a.id = "0";
  if (argc < 2) fail("usage: %s MEASURE KEY=VALUE...", argv[0]);
  a.measure = argv[1];
  for (int i = 2; i < argc; i++) {
    char *v = strchr(argv[i], '=');
    if (!v) fail("%s: not KEY=VALUE", argv[i]);
    *v++ = 0;
    const char *k = argv[i];
    if (!strcmp(k, "size")) a.size = strtoul(v, 0, 10);
    else if (!strcmp(k, "warm")) a.warm = atol(v);
    else if (!strcmp(k, "count")) a.count = atol(v);
    else if (!strcmp(k, "batch")) a.batch = atoi(v);
    else if (!strcmp(k, "footprint")) a.footprint = strtoul(v, 0, 10);
    else if (!strcmp(k, "pace")) a.pace = atol(v);
    else if (!strcmp(k, "cpu0")) a.cpu[0] = atoi(v);
    else if (!strcmp(k, "cpu1")) a.cpu[1] = atoi(v);
    else if (!strcmp(k, "tick")) a.tick = atof(v);
    else if (!strcmp(k, "sleep")) a.sleep = atoi(v);
    else if (!strcmp(k, "peers")) a.peers = atoi(v);
    else if (!strcmp(k, "touch")) a.touch = atoi(v);
    else if (!strcmp(k, "dir")) a.dir = v;
    else if (!strcmp(k, "id")) a.id = v;
    else fail("%s: unknown key", k);
  }
  if (a.size % 8 || !a.size || a.count < 1 || a.warm < 1 || a.batch < 1) fail("size must be a multiple of 8, count, warm and batch at least 1");
  return a;
}

static inline uint64_t ticks(void) {
#if defined(__x86_64__)
  return __builtin_ia32_rdtsc();
#else
  uint64_t v;
  __asm__ volatile("mrs %0, cntvct_el0" : "=r"(v));
  return v;
#endif
}

static inline void spin_hint(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  __asm__ volatile("yield");
#endif
}

static inline void pin(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  if (sched_setaffinity(0, sizeof set, &set)) fail("pin to CPU %d: %s", cpu, strerror(errno));
}

// forked runs peer in a child that is pinned to the other CPU and dies with its parent.
static inline pid_t forked(const struct args *a, void (*peer)(const struct args *)) {
  pid_t pid = fork();
  if (pid < 0) fail("fork: %s", strerror(errno));
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    pin(a->cpu[1]);
    peer(a);
    _exit(0);
  }
  pin(a->cpu[0]);
  return pid;
}

static inline void *shared(size_t size) {
  void *p = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (p == MAP_FAILED) fail("mmap: %s", strerror(errno));
  return p;
}

static inline void joined(pid_t pid) {
  int status;
  if (waitpid(pid, &status, 0) != pid || status) fail("the peer ended with status %d", status);
}

// paced waits until t ns of CLOCK_MONOTONIC.
static inline void until(const struct timespec *t) {
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, t, 0) == EINTR) {}
}

static inline void after(struct timespec *t, long ns) {
  clock_gettime(CLOCK_MONOTONIC, t);
  t->tv_nsec += ns;
  t->tv_sec += t->tv_nsec / 1000000000;
  t->tv_nsec %= 1000000000;
}

static inline long sleeps(void) {
  struct rusage u;
  getrusage(RUSAGE_SELF, &u);
  return u.ru_nvcsw;
}

static inline double cpu_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return t.tv_sec * 1e9 + t.tv_nsec;
}

// ------------------------------------------------------------------ payloads

struct source {
  size_t size;
  long n; // messages in it, a power of two
  char *data;
  uint64_t *sums;
};

static inline uint64_t sum(const void *p, size_t size) {
  typedef uint64_t v4 __attribute__((vector_size(32), aligned(8), may_alias));
  uint64_t s = 0;
  const char *b = (const char *)p;
  if (size >= 128) { // four accumulators, as in ../touch_amd64.s
    v4 x = {0}, y = {0}, z = {0}, w = {0};
    for (; size >= 128; size -= 128, b += 128) {
      x += *(const v4 *)b, y += *(const v4 *)(b + 32), z += *(const v4 *)(b + 64), w += *(const v4 *)(b + 96);
    }
    x += y + z + w;
    s = x[0] + x[1] + x[2] + x[3];
  }
  for (; size >= 8; size -= 8, b += 8) {
    uint64_t v;
    memcpy(&v, b, 8);
    s += v;
  }
  return s;
}

// write_large copies in chunks: a single copy of a MiB may bypass the cache.
static inline void put(void *to, const void *from, size_t size) {
  const size_t chunk = 128 << 10;
  char *t = (char *)to;
  const char *f = (const char *)from;
  for (; size > chunk; size -= chunk, t += chunk, f += chunk) memcpy(t, f, chunk);
  memcpy(t, f, size);
}

static inline struct source source(size_t size) {
  struct source s = {size, size <= 1024 ? 256 : 1, 0, 0};
  if (posix_memalign((void **)&s.data, 4096, size * s.n) || !(s.sums = (uint64_t *)malloc(s.n * 8))) fail("no memory");
  for (long k = 0; k < s.n; k++) {
    for (size_t w = 0; w < size / 8; w++) {
      uint64_t v = (uint64_t)(k + 1) * 2654435761u + w;
      memcpy(s.data + k * size + w * 8, &v, 8);
    }
    s.sums[k] = sum(s.data + k * size, size);
  }
  return s;
}

static inline const char *message(const struct source *s, long i) { return s->data + (i & (s->n - 1)) * s->size; }

static inline uint64_t expected(const struct source *s, long count) {
  uint64_t t = 0;
  for (long i = 0; i < count; i++) t += s->sums[i & (s->n - 1)];
  return t;
}

// ------------------------------------------------------------------ results

static inline int by_value(const void *a, const void *b) {
  uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
  return (x > y) - (x < y);
}

// report_trips sorts the samples (in ticks) and prints the result.
static inline void report_trips(const struct args *a, uint32_t *t, double sleeps_client, double sleeps_server) {
  qsort(t, a->count, sizeof *t, by_value);
  printf("{\"p50\":%.1f,\"p99\":%.1f,\"sleeps_client\":%.4f,\"sleeps_server\":%.4f}\n", t[a->count / 2] * a->tick, t[a->count * 99 / 100] * a->tick,
         sleeps_client / a->count, sleeps_server / a->count);
}

static inline void report_rate(const struct args *a, uint64_t begin, uint64_t end, double cpu) {
  printf("{\"rate\":%.1f,\"cpu_ns\":%.3f}\n", a->count / ((end - begin) * a->tick) * 1e9, cpu / a->count);
}
