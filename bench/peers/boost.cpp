// boost::interprocess::message_queue: a queue in /dev/shm under a mutex and two condition variables.
#include "peer.h"
#include <boost/interprocess/ipc/message_queue.hpp>
#include <memory>
#include <string>

using boost::interprocess::message_queue;

static std::unique_ptr<message_queue> queues[2]; // to the first process, and to the second
static std::string names[2];
static std::unique_ptr<char[]> buffer;
static size_t size;
static int me, polling;

static void open_queues(const struct args *a, int first) {
  me = first, size = a->size, polling = !a->sleep;
  buffer = std::make_unique<char[]>(size);
  for (int i = 0; i < 2; i++) queues[i] = std::make_unique<message_queue>(boost::interprocess::open_or_create, names[i].c_str(), messages(a), size);
}

static void send(const void *p, size_t n) {
  if (!polling) return queues[!me]->send(p, n, 0);
  while (!queues[!me]->try_send(p, n, 0)) spin_hint();
}

static const void *take(size_t *n) {
  unsigned priority;
  message_queue::size_type got;
  if (!polling) queues[me]->receive(buffer.get(), size, got, priority);
  else while (!queues[me]->try_receive(buffer.get(), size, got, priority)) spin_hint();
  *n = got;
  return buffer.get();
}

static void done() {}

static void close_queues() {
  if (me) for (auto &name : names) message_queue::remove(name.c_str());
}

int main(int argc, char **argv) {
  for (int i = 0; i < 2; i++) {
    names[i] = "shmd-bench-" + std::to_string(getpid()) + "-" + std::to_string(i);
    message_queue::remove(names[i].c_str()); // of a process that was killed
  }
  return measure(argc, argv, {open_queues, send, take, done, close_queues});
}
