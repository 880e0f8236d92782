// libqb: its IPC over shared memory. A server dispatches requests from its main loop; a client sends, and may wait for an answer.
#include "harness.h"
#include <qb/qbdefs.h>
#include <qb/qbipcc.h>
#include <qb/qbipcs.h>
#include <qb/qbloop.h>

static struct args a;
static qb_loop_t *loop;
static long received, slept_before, *slept;
static uint64_t got, begin_ticks, end_ticks;
static int answering;
static volatile int *serving; // in shared memory: 1: the server is there, 2: it has got everything
static char name[64];

static int32_t job_add(enum qb_loop_priority p, void *data, qb_loop_job_dispatch_fn fn) { return qb_loop_job_add(loop, p, data, fn); }
static int32_t poll_add(enum qb_loop_priority p, int32_t fd, int32_t events, void *data, qb_ipcs_dispatch_fn_t fn) { return qb_loop_poll_add(loop, p, fd, events, data, fn); }
static int32_t poll_mod(enum qb_loop_priority p, int32_t fd, int32_t events, void *data, qb_ipcs_dispatch_fn_t fn) { return qb_loop_poll_mod(loop, p, fd, events, data, fn); }
static int32_t poll_del(int32_t fd) { return qb_loop_poll_del(loop, fd); }

static int32_t accepted(qb_ipcs_connection_t *c, uid_t uid, gid_t gid) { (void)c, (void)uid, (void)gid; return 0; }
static void created(qb_ipcs_connection_t *c) { (void)c; }
static int32_t closed(qb_ipcs_connection_t *c) { (void)c; return 0; }
static void destroyed(qb_ipcs_connection_t *c) { (void)c; qb_loop_stop(loop); }

static int32_t process(qb_ipcs_connection_t *c, void *data, size_t size) {
  struct qb_ipc_request_header *request = data;
  (void)size;
  const char *payload = (const char *)(request + 1);
  if (received == a.warm) begin_ticks = ticks(), slept_before = sleeps();
  received++;
  if (answering) {
    if (received == a.warm + a.count) *slept = sleeps() - slept_before;
    struct qb_ipc_response_header h = {.id = 1, .size = (int32_t)(sizeof h + a.size)};
    struct iovec v[2] = {{&h, sizeof h}, {(void *)payload, a.size}};
    ssize_t rc = qb_ipcs_response_sendv(c, v, 2);
    if (rc < 0) fail("libqb: answer: %s", strerror(-rc));
  } else {
    got += sum(payload, a.size);
    if (received == a.warm + a.count) {
      end_ticks = ticks();
      __atomic_store_n(serving, 2, __ATOMIC_SEQ_CST);
      qb_loop_stop(loop);
    }
  }
  return 0;
}

static void serve(void) {
  loop = qb_loop_create();
  struct qb_ipcs_service_handlers h = {accepted, created, process, closed, destroyed};
  struct qb_ipcs_poll_handlers p = {job_add, poll_add, poll_mod, poll_del};
  qb_ipcs_service_t *s = qb_ipcs_create(name, 0, QB_IPC_SHM, &h);
  if (!s) fail("libqb: no service");
  qb_ipcs_enforce_buffer_size(s, (uint32_t)(a.size + 4096 > 65536 ? a.size + 4096 : 65536));
  qb_ipcs_poll_handlers_set(s, &p);
  int rc = qb_ipcs_run(s);
  if (rc) fail("libqb: run: %s", strerror(-rc));
  __atomic_store_n(serving, 1, __ATOMIC_SEQ_CST);
  qb_loop_run(loop);
  qb_ipcs_destroy(s);
}

static qb_ipcc_connection_t *dial(void) {
  while (!__atomic_load_n(serving, __ATOMIC_SEQ_CST)) usleep(100);
  qb_ipcc_connection_t *c = qb_ipcc_connect(name, a.size + 4096 > 65536 ? a.size + 4096 : 65536);
  if (!c) fail("libqb: connect: %s", strerror(errno));
  return c;
}

static void server(const struct args *arg) {
  (void)arg;
  answering = 1;
  serve();
}

static void trip(void) {
  struct source src = source(a.size);
  uint32_t *t = calloc(a.count, sizeof *t);
  pid_t pid = forked(&a, server);
  qb_ipcc_connection_t *c = dial();
  size_t room = sizeof(struct qb_ipc_response_header) + a.size;
  char *answer = malloc(room);
  long slept_client = 0;
  uint64_t last = ticks();
  struct timespec next;
  after(&next, a.pace);
  for (long i = 0; i < a.warm + a.count; i++) {
    long before = 0;
    if (a.pace) {
      until(&next);
      after(&next, a.pace);
      before = sleeps();
      last = ticks();
    }
    struct qb_ipc_request_header h = {.id = 1, .size = (int32_t)(sizeof h + a.size)};
    struct iovec v[2] = {{&h, sizeof h}, {(void *)message(&src, i), a.size}};
    ssize_t n = qb_ipcc_sendv_recv(c, v, 2, answer, room, -1);
    if (n != (ssize_t)room) fail("libqb: round trip: %s", n < 0 ? strerror(-n) : "short answer");
    got += sum(answer + sizeof(struct qb_ipc_response_header), a.size);
    uint64_t now = ticks();
    if (i >= a.warm) {
      t[i - a.warm] = now - last;
      if (a.pace) slept_client += sleeps() - before;
    }
    last = now;
  }
  qb_ipcc_disconnect(c);
  joined(pid);
  if (got != expected(&src, a.warm + a.count)) fail("libqb: payloads arrived wrong");
  report_trips(&a, t, slept_client, *slept);
}

static void sender(const struct args *arg) {
  (void)arg;
  struct source src = source(a.size);
  qb_ipcc_connection_t *c = dial();
  for (long i = 0; i < a.warm + a.count; i++) {
    struct qb_ipc_request_header h = {.id = 1, .size = (int32_t)(sizeof h + a.size)};
    struct iovec v[2] = {{&h, sizeof h}, {(void *)message(&src, i), a.size}};
    ssize_t n;
    while ((n = qb_ipcc_sendv(c, v, 2)) == -EAGAIN) spin_hint();
    if (n < 0) fail("libqb: send: %s", strerror(-n));
  }
  while (__atomic_load_n(serving, __ATOMIC_SEQ_CST) != 2) usleep(100); // what is under way is dropped with the connection
  qb_ipcc_disconnect(c);
}

static void way(void) {
  struct source src = source(a.size);
  pid_t pid = forked(&a, sender);
  serve();
  joined(pid);
  if (received != a.warm + a.count) fail("libqb: %ld messages arrived", received);
  if (got != expected(&src, received)) fail("libqb: payloads arrived wrong");
  report_rate(&a, begin_ticks, end_ticks, 0);
}

int main(int argc, char **argv) {
  a = parse(argc, argv);
  snprintf(name, sizeof name, "shmd-bench-%d", getpid());
  serving = shared(4096);
  slept = (long *)serving + 8;
  if (!strcmp(a.measure, "trip")) trip();
  else if (!strcmp(a.measure, "way")) way();
  else fail("%s: unknown measure", a.measure);
}
