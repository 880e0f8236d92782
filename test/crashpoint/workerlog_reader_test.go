package crashpoint

import (
	"fmt"
	"hash/maphash"
	"slices"
	"testing"

	"github.com/shmd/shmd/pkg/protocol"
)

// readEntry lets a reader go on, and returns the value of the record that it got, which must be whole.
func (x *tracee) readEntry() (uint64, error) {
	result, _ := x.finish()
	v := get(x.mem, wordRecord+1)
	want := entryFor(v)
	body := want.Text + string(want.Attrs)
	body = body[:min(len(body), textRoom)]
	switch {
	case result == resultError:
		return 0, fmt.Errorf("it failed: %s", x.mem[8*wordText:8*wordText+min(textRoom, int(get(x.mem, wordRecord+4)))])
	case result != resultOK:
		return 0, fmt.Errorf("result %d", result)
	case get(x.mem, wordRecord+2) != uint64(want.Level) || get(x.mem, wordRecord+4) != uint64(len(want.Text)) || get(x.mem, wordRecord+5) != uint64(len(want.Attrs)) ||
		string(x.mem[8*wordText:8*wordText+len(body)]) != body:
		return v, fmt.Errorf("torn: record %d, value %d, is %.100q", get(x.mem, wordRecord), v, x.mem[8*wordText:8*wordText+len(body)])
	}
	return v, nil
}

// readStates are logs of small records (a reader makes garbage of them, which nobody collects): few, and more than fit.
func readStates() (all []*estate) {
	for _, n := range []int{3, 300} {
		var values []uint64
		for k := range n {
			values = append(values, sized(60+k%9, k%90))
		}
		all = append(all, newEntries(fmt.Sprintf("after %d records", n), values))
	}
	return all
}

// entryLaps are records that fill the ring more than once.
func entryLaps() (values []uint64) {
	for n := range 80 {
		values = append(values, sized(300-n, n))
	}
	return values
}

// TestInstanceLogReaderParked stops a reader at every instruction, has the instance log nothing, one record, or laps, and lets the reader go on: it gets a record as a whole.
func TestInstanceLogReaderParked(t *testing.T) {
	f, mem := memfd(t)
	x := newTracee(t, f, mem)
	count := newTally(t)
	defer count.report("log of an instance, reader parked")
	log := entryMemory(mem)
	overtaken := 0
	buffer := entryBuffer(mem)
	for _, s := range readStates() {
		for _, writes := range [][]uint64{nil, {300}, entryLaps()} {
			copy(log, s.image)
			x.begin(opNext, victim, 0)
			set(x.mem, wordNoRuntime, 1)
			x.everyPoint(func(i int) {
				copied := slices.Clone(buffer)
				w := openEntries(log).Resume(2)
				for _, v := range writes {
					w.Write(entryFor(v))
				}
				v, err := x.readEntry()
				if err == nil && v != s.values[0] {
					overtaken++
					if !slices.Contains(s.values, v) && !slices.Contains(writes, v) {
						err = fmt.Errorf("it read %d", v)
					}
				}
				count.point(err, "%s, read parked at %d, %d writes", s, i, len(writes))
				copy(log, s.image)
				copy(buffer, copied)
			})
			x.kill() // a reader makes garbage, which nobody collects
			x.start()
		}
	}
	if overtaken == 0 {
		t.Error("the reader was never overtaken: the test does not see what it is for")
	}
}

// TestInstanceLogPairs parks a reader at instructions of its own, kills the instance at every instruction of a record (those that leave the same memory count as one), has the
// next instance log nothing, one record, or laps, and lets the reader go on.
func TestInstanceLogPairs(t *testing.T) {
	t.Parallel() // it has memory, tracees and a processor of its own
	f, mem := memfd(t)
	a, b := newTracee(t, f, mem), newTracee(t, f, mem)
	count := newTally(t)
	defer count.report("log of an instance, pairs")
	covered, overtaken := 0, 0
	defer func() { t.Logf("log of an instance, pairs: these stand for %d pairs of instructions", covered) }()
	pick := newSample()
	log, buffer := entryMemory(mem), entryBuffer(mem)
	for k, s := range readStates() {
		var images [][]byte
		var points []int
		seen := map[uint64]int{}
		copy(log, s.image)
		b.begin([]uint64{opEnter, opOwn}[k%2], victim, sent)
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
			for _, writes := range [][]uint64{nil, {300}, entryLaps()} {
				if pick.skips(3, 1) {
					continue
				}
				copy(log, s.image)
				a.begin(opNext, second, 0)
				set(mem, wordNoRuntime, 1)
				a.somePoints(pick, 2, 1, func(i int) {
					covered += points[j]
					copied := slices.Clone(buffer)
					copy(log, image)
					if writes != nil {
						w := openEntries(log).Resume(2)
						for _, v := range writes {
							w.Write(entryFor(v))
						}
					}
					v, err := a.readEntry()
					if err == nil && !slices.Contains(s.values, v) && v != sent && !slices.Contains(writes, v) {
						err = fmt.Errorf("it read %d", v)
					} else if v != s.values[0] {
						overtaken++
					}
					if err == nil {
						_, err = restOfEntries(openEntries(log).Oldest())
					}
					count.point(err, "%s, read parked at %d, log killed at image %d, %d writes behind it", s, i, j, len(writes))
					copy(log, s.image)
					copy(buffer, copied)
				})
				a.kill()
				a.start()
			}
		}
	}
	if overtaken == 0 {
		t.Error("the reader was never overtaken: the test does not see what it is for")
	}
}

// TestLogOwnerEnters has somebody want the log of an instance while its owner stands at every instruction: an owner that was not inside by then, or
// did not see it, would write beside the other. It goes the other way instead, which ends with nobody wanting.
func TestLogOwnerEnters(t *testing.T) {
	f, mem := memfd(t)
	x := newTracee(t, f, mem)
	count, image := newTally(t), make([]byte, len(entryRoom(mem)))
	defer count.report("log of an instance, owner and others")
	log := entryRoom(mem)
	inside, wanted := writerWords(log[protocol.GroupSize(entryGroup):])
	kept, went := 0, 0
	for _, s := range entryStates() {
		copy(log, s.image)
		x.begin(opOwn, victim, sent)
		done := false
		x.everyPoint(func(i int) {
			copy(image, log)
			*wanted = 1
			in := *inside != 0
			there, err := s.seen(entryMemory(mem), sent)
			done = done || there
			x.finish()
			switch {
			case *wanted == 0: // it saw it, and took the lock
				kept++
			case !in && !done:
				err = fmt.Errorf("the owner was not inside, and wrote although the log was wanted")
			default:
				went++
			}
			if *inside != 0 {
				err = fmt.Errorf("the owner is still inside")
			}
			if there, e := s.seen(entryMemory(mem), sent); err == nil && (e != nil || !there) {
				err = fmt.Errorf("the record is there: %v, %w", there, e)
			}
			count.point(err, "%s, wanted at %d", s, i)
			copy(log, image)
		})
	}
	if kept == 0 || went == 0 {
		t.Errorf("the owner kept out %d times and went on %d times", kept, went)
	}
}
