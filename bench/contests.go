package main

import (
	"context"
	"fmt"
	"time"
)

// contests returns all of them, in the order of the table.
func contests() []*contest {
	var all []*contest
	for _, size := range []int{8, 64} {
		all = append(all, spinning(size))
	}
	all = append(all, busy(), asleep(false), asleep(true))
	for _, size := range []int{64, 8} {
		all = append(all, oneWay(size))
	}
	all = append(all, topicWay(), topicCost())
	for _, size := range []int{64 << 10, 1 << 20} {
		all = append(all, written(size))
	}
	all = append(all, untouched(), many())
	for _, size := range []int{64, 4 << 10, 64 << 10} {
		all = append(all, latestReads(size))
	}
	return append(all, latestWrites(), idle(), memory())
}

// c is a candidate of the C probe.
func c(key, measure string, p params) entry {
	return entry{key: key, p: p, run: func(ctx context.Context, l *lab, p params) (result, error) {
		return l.program(ctx, "probe", measure, p)
	}}
}

// pair is a candidate of two ends of this program.
func pair(key, first, second string, p params) entry {
	return entry{key: key, p: p, run: func(ctx context.Context, l *lab, p params) (result, error) {
		return l.pair(ctx, p, first, second, false)
	}}
}

// ratio compares a number of two candidates.
func ratio(measure, unit, metric, of, against, reference, target string) rowSpec {
	if reference == "" {
		reference = against
	}
	scale := 1.0
	if unit == "µs" {
		scale = 1e-3
	}
	if unit == "M/s" {
		scale = 1e-6
	}
	take := func(key string) func(map[string]result) float64 {
		return func(r map[string]result) float64 { return r[key][metric] * scale }
	}
	return rowSpec{measure: measure, unit: unit, reference: reference, needs: []string{of, against}, value: take(of), against: take(against), target: target}
}

// with returns p with other numbers of messages.
func (p params) with(warm, count int) params {
	p.warm, p.count = warm, count
	return p
}

// size names a size in bytes.
func sizeName(n int) string {
	switch {
	case n >= 1<<20 && n%(1<<20) == 0:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 1<<10 && n%(1<<10) == 0:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d B", n)
}

// oneToOne is added to a queue that has one producer and one consumer.
const oneToOne = "producers = 1\nconsumers = 1\n"

const callTOML = "[channel.calls]\nkind = \"call\"\nslots = 64\nslot_size = 64\n"

func queueTOML(name string, slots, size int, more string) string {
	return fmt.Sprintf("[channel.%s]\nkind = \"queue\"\nslots = %d\nslot_size = %d\n%s", name, slots, size, more)
}

// spinning: round trip, both ends spinning.
func spinning(size int) *contest {
	p := params{size: size}.with(5000, 50000)
	name := fmt.Sprintf("round trip, spinning, %d B", size)
	n := &contest{name: name, channels: queueTOML("there", 1024, 64, oneToOne) + queueTOML("back", 1024, 64, oneToOne) + callTOML}
	call := p
	call.channel = "calls"
	n.entries = []entry{
		c("C line", "line", p),
		pair("shmd queues", "lane-trip-server", "lane-trip-client", p),
		pair("shmd call", "call-trip-server", "call-trip-client", call),
		c("C twin", "call", p),
	}
	n.rows = []rowSpec{
		ratio(name+", call", "ns", "p50", "shmd call", "C line", "C cache line", "<= 1.3"),
		ratio(name+", pair of queues", "ns", "p50", "shmd queues", "C line", "C cache line", "<= 1.3"),
		ratio(name+", call", "ns", "p50", "shmd call", "C twin", "C twin of shmd's algorithm", "<= 2"),
	}
	for _, peer := range peers {
		if peer.spins {
			n.entries = append(n.entries, peer.trip(p.with(500, 10000)))
			target := "<= 1"
			if peer.name == "iceoryx" {
				target = "<= 0.15"
			}
			n.rows = append(n.rows,
				ratio(name+", call", "ns", "p50", "shmd call", peer.name, peer.name+" polling", target),
				ratio(name+", pair of queues", "ns", "p50", "shmd queues", peer.name, peer.name+" polling", target))
		}
	}
	return n
}

// busy: round trip, both ends waiting as the library waits, and busy.
func busy() *contest {
	n := &contest{name: "round trip, adaptive, busy", channels: queueTOML("there", 1024, 64, oneToOne) + queueTOML("back", 1024, 64, oneToOne) + callTOML}
	for _, size := range []int{8, 64} {
		p := params{size: size, busy: true}.with(5000, 50000)
		calls := p
		calls.channel = "calls"
		line, queues, call := fmt.Sprint("C line ", size), fmt.Sprint("shmd queues ", size), fmt.Sprint("shmd call ", size)
		n.entries = append(n.entries, c(line, "line", p), pair(queues, "lane-trip-server", "lane-trip-client", p), pair(call, "call-trip-server", "call-trip-client", calls))
		n.rows = append(n.rows,
			ratio(fmt.Sprintf("%s, %d B, call", n.name, size), "ns", "p50", call, line, "C cache line", "<= 1.5"),
			ratio(fmt.Sprintf("%s, %d B, pair of queues", n.name, size), "ns", "p50", queues, line, "C cache line", "<= 1.5"))
	}
	return n
}

// asleep: round trip, each message sent a while after the last, so that both ends sleep in the kernel.
func asleep(one bool) *contest {
	p := params{size: 64, sleep: true, pace: 1200 * time.Microsecond, one: one}.with(20, 400)
	n := &contest{name: "round trip, asleep, two CPUs", channels: queueTOML("there", 1024, 64, oneToOne) + queueTOML("back", 1024, 64, oneToOne) + callTOML}
	limit := "<= 0.9"
	if one {
		n.name, n.apart, n.where, limit = "round trip, asleep, one CPU", true, "one CPU", "<= 1.15"
	}
	call := p
	call.channel = "calls"
	n.entries = []entry{
		c("C futex", "futex", p),
		c("C twin of shmd's algorithm", "call-asleep", p),
		pair("shmd queues", "lane-trip-server", "lane-trip-client", p),
		pair("shmd call", "call-trip-server", "call-trip-client", call),
		pair("Go futex, no shmd", "futex-trip-server", "futex-trip-client", p),
		pair("Go futex, no shmd, naps", "futex-nap-trip-server", "futex-nap-trip-client", p),
		pair("Go twin of shmd's algorithm", "twin-trip-server", "twin-trip-client", p),
		pair("Go twin of a pair of queues", "twin-pair-trip-server", "twin-pair-trip-client", p),
	}
	if one {
		n.entries = append(n.entries, pair("Go twin of a pair of queues, yields", "twin-pair-yield-trip-server", "twin-pair-yield-trip-client", p))
		n.rows = append(n.rows, ratio(n.name+", pair of queues, p50", "µs", "p50", "shmd queues", "Go twin of a pair of queues, yields", "", "<= 1.15"))
	}
	for _, ours := range []string{"shmd call", "shmd queues"} {
		what := n.name + ", call"
		if ours == "shmd queues" {
			what = n.name + ", pair of queues"
		}
		n.rows = append(n.rows,
			ratio(what+", p50", "µs", "p50", ours, "C futex", "", limit),
			ratio(what+", p99", "µs", "p99", ours, "C futex", "", "<= 1.3"),
			ratio(what+", p50", "µs", "p50", ours, "Go futex, no shmd", "", "<= 1"),
			ratio(what+", p50", "µs", "p50", ours, "Go futex, no shmd, naps", "", "<= 1.15"),
			ratio(what+", p99", "µs", "p99", ours, "Go futex, no shmd, naps", "", "<= 1.3"),
			rowSpec{
				measure: what + ", kernel sleeps of the server's threads a message", unit: "sleeps", reference: "messages", needs: []string{ours}, target: ">= 0.98",
				value: func(r map[string]result) float64 { return r[ours]["sleeps_server"] }, against: func(map[string]result) float64 { return 1 },
			},
			rowSpec{ // on one CPU the answer is often there before the client would sleep
				measure: what + ", kernel sleeps of the client's threads a message", unit: "sleeps", reference: "messages", needs: []string{ours}, target: "<= 1.5",
				value: func(r map[string]result) float64 { return r[ours]["sleeps_client"] }, against: func(map[string]result) float64 { return 1 },
			})
	}
	for _, language := range []string{"C", "Go"} {
		n.rows = append(n.rows, ratio(n.name+", call, p50", "µs", "p50", "shmd call", language+" twin of shmd's algorithm", "", "<= 1.15"))
	}
	n.rows = append(n.rows, ratio(n.name+", pair of queues, p50", "µs", "p50", "shmd queues", "Go twin of a pair of queues", "", "<= 1.15"))
	for _, peer := range peers {
		if peer.sleeps {
			n.entries = append(n.entries, peer.trip(p))
			n.rows = append(n.rows,
				ratio(n.name+", call, p50", "µs", "p50", "shmd call", peer.name, "", "<= 1"),
				ratio(n.name+", pair of queues, p50", "µs", "p50", "shmd queues", peer.name, "", "<= 1"))
		}
	}
	return n
}

// oneWay: a queue with one producer and one consumer, small messages.
func oneWay(size int) *contest {
	name := fmt.Sprintf("queue 1:1, %d B", size)
	n := &contest{name: name, channels: queueTOML("there", 1024, 64, oneToOne)}
	p := params{size: size, busy: true, ring: "there"}
	n.entries = []entry{
		c("C ring", "ring", p.with(50000, 10000000)),
		pair("shmd", "lane-receive", "lane-send", p.with(50000, 10000000)),
	}
	n.rows = []rowSpec{ratio(name+", one at a time", "M/s", "rate", "shmd", "C ring", "", ">= 0.35")}
	target := ">= 0.8"
	if size == 8 {
		target = ">= 0.5"
	}
	for _, batch := range []int{16, 64} {
		// Slots that hold just a batch, and as many as make 128 KiB.
		slot, slots := batch*size+8, 2
		for slots*2*slot <= 160<<10 {
			slots *= 2
		}
		p := params{size: size, busy: true, batch: batch, channel: fmt.Sprint("batch", batch)}
		p.ring = p.channel
		n.channels += queueTOML(p.channel, slots, slot, oneToOne)
		ring, ours := fmt.Sprint("C ring, batches of ", batch), fmt.Sprint("shmd, batches of ", batch)
		n.entries = append(n.entries,
			c(ring, "ring", p.with(100000, 30000000)),
			pair(ours, "lane-receive-runs", "lane-send-runs", p.with(100000, 30000000)))
		n.rows = append(n.rows, ratio(fmt.Sprintf("%s, batches of %d, SendRun and ReceiveRun", name, batch), "M/s", "rate", ours, ring, "", target))
		rows := fmt.Sprintf("%s, batches of %d, ", name, batch)
		for _, way := range []struct{ by, send, receive string }{ // messages of any size
			{"Producer.SendBatch and ReceiveRun", "lane-send-batches", "lane-receive-runs"},
			{"Queue.SendBatch and ReceiveRun", "queue-batch-copy", "lane-receive-runs"},
			{"Queue.SendBatch and ReceiveBatch", "queue-batch-copy", "queue-batch-receive"},
			{"Queue.LoanBatch and ReceiveBatch", "queue-batch-send", "queue-batch-receive"},
		} {
			key := fmt.Sprintf("shmd, %d by %s", batch, way.by)
			n.entries = append(n.entries, pair(key, way.receive, way.send, p.with(50000, 5000000)))
			n.rows = append(n.rows, ratio(rows+way.by, "M/s", "rate", key, ring, "", target))
			n.rows = append(n.rows, ratio(rows+way.by, "M/s", "rate", key, "shmd", "shmd, one at a time", ">= 1"))
		}
	}
	for _, peer := range peers {
		if peer.flows {
			n.entries = append(n.entries, peer.way(p.with(5000, peer.rate/5)))
			n.rows = append(n.rows, ratio(name+", one at a time", "M/s", "rate", "shmd", peer.name, "", ">= 1"))
		}
	}
	return n
}

// footprint of the rings of large messages, in bytes: what the cache likes best.
const footprint = 4 << 20

// written: large payloads, written and read in place.
func written(size int) *contest {
	n := &contest{name: "queue 1:1, " + sizeName(size) + " written and read", channels: queueTOML("there", footprint/size, size, oneToOne)}
	p := params{size: size, busy: true, footprint: footprint}.with(2*footprint/size, 4<<30/size)
	n.entries = []entry{
		c("C loan", "loan", p),
		pair("shmd", "lane-take", "lane-lend", p),
	}
	n.rows = []rowSpec{ratio(n.name, "M/s", "rate", "shmd", "C loan", "", ">= 0.95")}
	for _, peer := range peers {
		if peer.large {
			n.entries = append(n.entries, peer.way(p.with(2*footprint/size, 1<<30/size)))
			n.rows = append(n.rows, ratio(n.name, "M/s", "rate", "shmd", peer.name, "", ">= 1"))
		}
	}
	return n
}

// untouched: large payloads, handed over as they are.
func untouched() *contest {
	n := &contest{name: "queue 1:1, untouched"}
	sizes := []int{64 << 10, 1 << 20, 16 << 20}
	var keys []string
	for _, size := range sizes {
		key := "shmd " + sizeName(size)
		keys = append(keys, key)
		channel := fmt.Sprintf("m%d", size>>10)
		n.channels += queueTOML(channel, 64, size, "sparse = true\n"+oneToOne)
		p := params{size: size, busy: true, untouched: true, channel: channel}.with(10000, 2000000)
		n.entries = append(n.entries, pair(key, "lane-take", "lane-lend", p))
	}
	n.entries = append(n.entries, c("C loan", "loan", params{size: 64 << 10, untouched: true, footprint: 64 * 64 << 10}.with(10000, 2000000)))
	for _, key := range keys {
		n.rows = append(n.rows, rowSpec{
			measure: n.name + ", " + key[len("shmd "):], unit: "M/s", reference: "10 M/s", needs: []string{key}, target: ">= 1", near: true,
			value: func(r map[string]result) float64 { return r[key]["rate"] / 1e6 }, against: func(map[string]result) float64 { return 10 },
		})
	}
	n.rows = append(n.rows, rowSpec{
		measure: n.name + ", slowest size beside the fastest", unit: "M/s", reference: "shmd, fastest size", needs: keys, target: ">= 0.9",
		value: func(r map[string]result) float64 {
			return min(r[keys[0]]["rate"], r[keys[1]]["rate"], r[keys[2]]["rate"]) / 1e6
		},
		against: func(r map[string]result) float64 {
			return max(r[keys[0]]["rate"], r[keys[1]]["rate"], r[keys[2]]["rate"]) / 1e6
		},
	})
	return n
}
