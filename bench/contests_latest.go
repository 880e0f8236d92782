package main

import "fmt"

// latestReads: a reader beside a writer at full speed.
func latestReads(size int) *contest {
	name := fmt.Sprintf("latest, read beside a writer, %s", sizeName(size))
	n := &contest{name: name, channels: fmt.Sprintf("[channel.value]\nkind = \"latest\"\nslots = 8\nslot_size = %d\n", size)}
	p := params{size: size, busy: true, channel: "value"}.with(1000, 20000)
	n.entries = []entry{
		c("C copy from the other CPU", "fetch", p),
		alongside("shmd", "latest-read", p, job{"latest-write", 1, 1}),
		c("C twin", "latest", p),
		c("C seqlock", "seqlock", p),
		c("C copy", "copy", p.with(100, 2000)),
	}
	n.rows = []rowSpec{
		ratio(name, "ns", "p50", "shmd", "C copy from the other CPU", "", "<= 2"),
		ratio(name, "ns", "p50", "shmd", "C copy", "C copy within one CPU", "<= 2"),
		ratio(name, "ns", "p50", "shmd", "C twin", "C twin of shmd's algorithm", "<= 2"),
		ratio(name, "ns", "p50", "shmd", "C seqlock", "C seqlock beside a writer", "<= 2"),
	}
	return n
}

// latestWrites: what readers cost the writer.
func latestWrites() *contest {
	n := &contest{name: "latest, 64 readers at 1 kHz beside the writer, 1 KiB", channels: "[channel.value]\nkind = \"latest\"\nslots = 8\nslot_size = 1024\n"}
	p := params{size: 1024, busy: true, channel: "value"}.with(10000, 2000000)
	n.entries = []entry{
		alongside("shmd alone", "latest-put", p),
		alongside("shmd", "latest-put", p, job{"latest-poll", 64, 1}),
	}
	n.rows = []rowSpec{ratio(n.name+", CPU time a put", "ns", "cpu_ns", "shmd", "shmd alone", "shmd, no readers", "<= 1.2")}
	return n
}
