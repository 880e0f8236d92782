package crashpoint

import (
	"fmt"
	"hash/maphash"
	"slices"
	"testing"

	"github.com/shmd/shmd/pkg/protocol"
)

// TestLogPairs parks a reader at every instruction, kills the writer at every instruction of its own (those that leave the same memory count as one), has the next
// writer write nothing, one record, or laps, and lets the reader go on: it gets a record as a whole, and a reader that comes later gets all that are kept. There is no
// other pair: a log has one writer, and readers write nothing.
func TestLogPairs(t *testing.T) {
	t.Parallel() // it has memory, tracees and a processor of its own
	f, mem := memfd(t)
	a, b := newTracee(t, f, mem), newTracee(t, f, mem)
	count := newTally(t)
	defer count.report("log, pairs")
	covered, overtaken := 0, 0
	defer func() { t.Logf("log, pairs: these stand for %d pairs of instructions", covered) }()
	pick := newSample()
	log := logMemory(mem)
	laps := []uint64{300, 301, sized(protocol.MaxLogText, 4), sized(protocol.MaxLogText, 5), sized(protocol.MaxLogText, 6), 302, sized(protocol.MaxLogText, 7), 303}
	for _, s := range logStates() {
		if len(s.values) == 0 || textLength(s.values[0]) > 64 {
			continue
		}
		var images [][]byte
		var points []int
		seen := map[uint64]int{}
		copy(log, s.image)
		b.begin(opWrite, victim, sent)
		for more := true; more; more = b.step() {
			h := maphash.Bytes(seed, log)
			n, ok := seen[h]
			if !ok {
				n = len(images)
				seen[h] = n
				images, points = append(images, slices.Clone(log)), append(points, 0)
			}
			points[n]++
		}
		b.finish()
		for j, image := range images {
			for k, writes := range [][]uint64{nil, laps[:1], laps} {
				if pick.skips(16, 1) {
					continue
				}
				copy(log, s.image)
				a.begin(opRead, second, 0)
				set(mem, wordNoRuntime, 1)
				a.somePoints(pick, 2, 1, func(i int) {
					covered += points[j]
					copy(log, image)
					var err error
					if k > 0 {
						l := must(protocol.OpenLog(log))
						err = l.Resume()
						for _, v := range writes {
							l.Write(recordOf(v))
						}
					}
					r, e := a.readRecord()
					if err == nil {
						err = e
					}
					if v := uint64(r.Pid); err == nil && !slices.Contains(s.values, v) && v != sent && !slices.Contains(writes, v) {
						err = fmt.Errorf("it read %d", v)
					} else if v != s.values[0] {
						overtaken++
					}
					if err == nil {
						_, err = (&reader{c: openLog(mem).Oldest()}).rest()
					}
					count.point(err, "%s, read parked at %d, write killed at image %d, %d writes behind it", s, i, j, len(writes))
					copy(log, s.image)
				})
				a.kill() // a reader makes garbage, which nobody collects
				a.start()
			}
		}
	}
	if overtaken == 0 {
		t.Error("the reader was never overtaken: the test does not see what it is for")
	}
}
