package main

import "fmt"

func topicTOML(name string, slots, size int, more string) string {
	return fmt.Sprintf("[channel.%s]\nkind = \"topic\"\nslots = %d\nslot_size = %d\n%s", name, slots, size, more)
}

// topicWay: one publisher and one subscriber.
func topicWay() *contest {
	n := &contest{name: "topic 1:1, 64 B", channels: topicTOML("news", 1024, 64, "publishers = 1\n")}
	p := params{size: 64, busy: true, channel: "news", ring: "news"}
	n.entries = []entry{
		c("C ring", "ring", p.with(50000, 10000000)),
		pair("shmd", "topic-receive", "topic-send", p.with(50000, 10000000)),
	}
	n.rows = []rowSpec{ratio(n.name+", one at a time", "M/s", "rate", "shmd", "C ring", "", ">= 0.45")}
	for _, batch := range []int{16, 64} {
		p.batch = batch
		ring, ours := fmt.Sprint("C ring, batches of ", batch), fmt.Sprint("shmd, batches of ", batch)
		n.entries = append(n.entries,
			c(ring, "ring", p.with(100000, 30000000)),
			pair(ours, "topic-batch-receive", "topic-batch-send", p.with(100000, 30000000)))
		n.rows = append(n.rows, ratio(fmt.Sprintf("%s, batches of %d, PublishBatch and ReceiveBatch", n.name, batch), "M/s", "rate", ours, ring, "", ">= 0.9"))
	}
	return n
}

// topicCost: what more subscribers cost the publisher. It never waits for them, so its CPU time is that of publishing.
func topicCost() *contest {
	n := &contest{name: "topic, 4 subscribers, 64 B", channels: topicTOML("news", 1024, 64, "publishers = 1\noverflow = \"drop-oldest\"\n")}
	p := params{size: 64, busy: true, channel: "news"}.with(50000, 10000000)
	n.entries = []entry{
		alongside("shmd, 1 subscriber", "topic-send", p, job{"topic-follow", 1, 1}),
		alongside("shmd, 4 subscribers", "topic-send", p, job{"topic-follow", 4, 1}),
	}
	n.rows = []rowSpec{ratio(n.name+", CPU time a message of the publisher", "ns", "cpu_ns", "shmd, 4 subscribers", "shmd, 1 subscriber", "", "<= 1.3")}
	return n
}
