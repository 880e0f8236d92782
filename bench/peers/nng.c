// nng: a pair of sockets over ipc.
#include "peer.h"
#include <nng/nng.h>
#include <nng/protocol/pair0/pair.h>

static nng_socket sock;
static nng_msg *msg;

static void check(int rc, const char *what) {
  if (rc) fail("nng: %s: %s", what, nng_strerror(rc));
}

static void open_socket(const struct args *a, int first) {
  char path[256];
  snprintf(path, sizeof path, "ipc://%s/%s.nng", a->dir, a->id);
  check(nng_pair0_open(&sock), "open");
  check(nng_socket_set_size(sock, NNG_OPT_RECVMAXSZ, 0), "limit");
  if (first) check(nng_listen(sock, path, NULL, 0), "listen");
  else {
    int rc;
    for (int i = 0; (rc = nng_dial(sock, path, NULL, 0)) && i < 1000; i++) usleep(1000); // the listener may not be there yet
    check(rc, "dial");
  }
}

static void send(const void *p, size_t n) { check(nng_send(sock, (void *)p, n, 0), "send"); }

static const void *take(size_t *n) {
  check(nng_recvmsg(sock, &msg, 0), "receive");
  *n = nng_msg_len(msg);
  return nng_msg_body(msg);
}

static void done(void) { nng_msg_free(msg); }

static void close_socket(void) { nng_close(sock); }

int main(int argc, char **argv) { return measure(argc, argv, (struct peer){open_socket, send, take, done, close_socket}); }
