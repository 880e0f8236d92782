// ZeroMQ: a pair of sockets over ipc. Its own threads gather messages, so one way this is a batched figure whatever the caller does.
#include "peer.h"
#include <zmq.h>

static void *context, *sock;
static zmq_msg_t msg;

static void check(int rc, const char *what) {
  if (rc < 0) fail("zmq: %s: %s", what, zmq_strerror(errno));
}

static void open_socket(const struct args *a, int first) {
  char path[256];
  snprintf(path, sizeof path, "ipc://%s/%s.zmq", a->dir, a->id);
  context = zmq_ctx_new();
  sock = zmq_socket(context, ZMQ_PAIR);
  if (first) check(zmq_bind(sock, path), "bind");
  else check(zmq_connect(sock, path), "connect");
}

static void send(const void *p, size_t n) { check(zmq_send(sock, p, n, 0), "send"); }

static const void *take(size_t *n) {
  zmq_msg_init(&msg);
  check(zmq_msg_recv(&msg, sock, 0), "receive");
  *n = zmq_msg_size(&msg);
  return zmq_msg_data(&msg);
}

static void done(void) { zmq_msg_close(&msg); }

static void close_socket(void) {
  zmq_close(sock);
  zmq_ctx_term(context);
}

int main(int argc, char **argv) { return measure(argc, argv, (struct peer){open_socket, send, take, done, close_socket}); }
