package main

import (
	"regexp"
	"strings"
)

// A limit is why measures miss their target, where that is known. Docs/speed.md says it at length.
type limit struct {
	measure, reference *regexp.Regexp
	section            string // of docs/speed.md
	why                string
}

// limits are looked through in this order, the first that fits counts.
var limits = []limit{
	is(`asleep.*p99`, ``, "The tail of what sleeps", "one message in a hundred meets the monitor thread of Go's scheduler or the host; bare Go's do too"),
	is(`asleep, one CPU`, ``, "Asleep on one CPU", "bare Go takes 1.09 to 1.17 times C; the rest is a way through cold code"),
	is(`latest, read`, `other CPU|twin`, "A value beside its writer", "8 ns of Go and of the way through the library, on a machine whose clock has steps of 10"),
	is(`latest, read`, `within one CPU`, "A value beside its writer", "each read finds a new version, whose lines come from the other CPU; the C seqlock takes as long"),
	is(`topic 1:1, 64 B, batches`, ``, "Another processor", "how many lines of memory are on their way to the publisher at once"),
	is(`queue 1:1, 8 B, one at a time`, ``, "Batches of small messages", "each message has a line of its own, and eight of the C ring share one"),
	is(`queue 1:1, 64 B, batches of \d+, (SendRun|Producer)`, ``, "Another processor", "how many lines of memory are on their way to the producer at once; the C ring writes no others"),
	is(`queue 1:1, 8 B, batches of \d+, (SendRun|Producer)`, ``, "Batches of small messages", "the C ring moves 16 messages in 20 ns; here a batch is a slot, with its state, a lease and an ack"),
	is(`1:1, \d+ B, batches of \d+, Queue.LoanBatch`, ``, "Batches of small messages", "a call and a copy for each message"),
	is(`1:1, \d+ B, batches`, ``, "Batches of small messages", "calls that any goroutine may make have a lock and checks; SendRun and ReceiveRun, for one, have neither"),
	is(`1:64`, ``, "Many ends", "a message that comes while the consumer at work is busy wakes another"),
	is(`4:4`, `producers = 1`, "Many ends", "six compare-and-swaps a message, where a queue of one producer and one consumer has none"),
	is(`spinning|adaptive, busy`, ``, "Spinning", "a trip moves more lines than the one of the probe, which shows where a line takes little time; and how the looks of the two ends fall differs from run to run"),
	is(`slowest size beside`, ``, "Large payloads", "the ends of a row of medians, rounds of which differ by up to 22 %: 0.90 to 0.97 in seven sets of runs before"),
	is(`1 MiB`, ``, "Large payloads", "what else the host does with the caches; rounds of one run differ by a third"),
}

func is(measure, reference, section, why string) limit {
	return limit{regexp.MustCompile(measure), regexp.MustCompile(reference), section, why}
}

// missed are the rows that do not meet their target, each with its limit; that of one of which none is known is empty.
func (d *document) missed() (out []missed) {
	for _, r := range d.Rows {
		if r.Met {
			continue
		}
		m := missed{row: r}
		for _, l := range limits {
			if l.measure.MatchString(r.Measure) && l.reference.MatchString(r.Reference) {
				m.Why, m.Section = l.why, l.section
				break
			}
		}
		out = append(out, m)
	}
	return out
}

type missed struct {
	row
	Why, Section string
}

// Anchor is the section's place in docs/speed.md.
func (m missed) Anchor() string { return strings.ReplaceAll(strings.ToLower(m.Section), " ", "-") }
