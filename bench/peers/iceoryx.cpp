// iceoryx: a publisher and a subscriber a direction. The publisher waits for a subscriber whose queue is full. A process that does not sleep asks its
// subscriber again and again; one that does waits in a WaitSet.
#include "peer.h"
#include <iceoryx_posh/popo/untyped_publisher.hpp>
#include <iceoryx_posh/popo/untyped_subscriber.hpp>
#include <iceoryx_posh/popo/wait_set.hpp>
#include <iceoryx_posh/runtime/posh_runtime.hpp>
#include <memory>
#include <string>

using namespace iox::popo;

static std::unique_ptr<UntypedPublisher> out;
static std::unique_ptr<UntypedSubscriber> in;
static std::unique_ptr<WaitSet<>> waiting;
static const void *held;
static int sleeping;

static size_t bytes;

static void open_ports(const struct args *a, int first) {
  bytes = a->size, sleeping = a->sleep;
  std::string run = std::to_string(first ? getpid() : getppid());
  iox::runtime::PoshRuntime::initRuntime(iox::RuntimeName_t(iox::cxx::TruncateToCapacity, "bench-" + run + (first ? "-a" : "-b")));
  auto id = [&](int to) {
    return iox::capro::ServiceDescription{"bench", iox::capro::IdString_t(iox::cxx::TruncateToCapacity, run), to ? "a" : "b"};
  };
  PublisherOptions o;
  o.subscriberTooSlowPolicy = ConsumerTooSlowPolicy::WAIT_FOR_CONSUMER;
  SubscriberOptions s;
  s.queueCapacity = a->size < 65536 ? 256 : messages(a) < 64 ? messages(a) : 64;
  s.queueFullPolicy = QueueFullPolicy::BLOCK_PRODUCER;
  out = std::make_unique<UntypedPublisher>(id(!first), o);
  in = std::make_unique<UntypedSubscriber>(id(first), s);
  if (sleeping) {
    waiting = std::make_unique<WaitSet<>>();
    waiting->attachState(*in, SubscriberState::HAS_DATA).or_else([](auto) { fail("iceoryx: the WaitSet takes no subscriber"); });
  }
  while (in->getSubscriptionState() != iox::SubscribeState::SUBSCRIBED || !out->hasSubscribers()) usleep(1000);
}

static void send(const void *p, size_t n) {
  out->loan(n).and_then([&](void *chunk) { put(chunk, p, n), out->publish(chunk); }).or_else([](auto) { fail("iceoryx: no chunk"); });
}

static const void *take(size_t *n) {
  for (;;) {
    if (sleeping) waiting->wait();
    held = nullptr;
    in->take().and_then([&](const void *p) { held = p; });
    if (held) break;
    if (!sleeping) spin_hint();
  }
  *n = bytes;
  return held;
}

static void done() { in->release(held); }

static void close_ports() {
  waiting.reset();
  in.reset();
  out.reset();
}

int main(int argc, char **argv) { return measure(argc, argv, {open_ports, send, take, done, close_ports}); }
