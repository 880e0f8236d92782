package crashpoint

import (
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"testing"

	"github.com/shmd/shmd/pkg/protocol"
)

// What publishes without a loan, several messages at a time, and what reads several.

const (
	batch      = 3  // sent, sent+1, sent+2
	batchSlots = 16 // a quarter is what a run has at most
)

// batchBuffer is where what is published lies before.
var batchBuffer [batch][64]byte

func operateTopicBatch(b []byte, op uint64) uint64 {
	p := *told.p // on the stack, which frozen takes along
	v := get(b, wordValue)
	if op == opPublish {
		fill(batchBuffer[0][:], v)
		return result(p.TryPublish(batchBuffer[0][:length(v)]))
	}
	var msgs [batch][]byte
	for i := range msgs {
		v := v + uint64(i)
		fill(batchBuffer[i][:], v)
		msgs[i] = batchBuffer[i][:length(v)]
	}
	n, err := p.TryPublishBatch(msgs[:])
	set(b, wordRecord, uint64(n))
	return result(err)
}

const runMost = 4

var heardInto []byte // the control words

// hearRun is given each message of a run: it copies them, and how many.
func hearRun(p []byte) error {
	n := get(heardInto, wordRecord+1)
	if n >= runMost {
		return errTorn
	}
	set(heardInto, wordRecord+2+int(n), uint64(copy(heardInto[8*wordText+64*n:][:64], p)))
	set(heardInto, wordRecord+1, n+1)
	return nil
}

func operateTopicRun(b []byte) uint64 {
	heardInto = b
	s := *told.s
	set(b, wordRecord, 0)
	if _, err := s.Next(); err != nil {
		return topicResult(err)
	}
	n, err := s.Run(runMost, hearRun)
	set(b, wordRecord, uint64(n))
	s.Flush()
	return topicResult(err)
}

func topicResult(err error) uint64 {
	switch {
	case err == protocol.ErrEvicted:
		return resultLost
	case err == protocol.ErrLapped:
		return resultOvertaken
	}
	return result(err)
}

// heardRun returns the messages of a run that count. Which were read, and did not count, may be torn.
func (x *tracee) heardRun() (values []uint64, err error) {
	for i := range get(x.mem, wordRecord) {
		n := get(x.mem, wordRecord+2+int(i))
		p := x.mem[8*wordText+64*i:][:min(n, 64)]
		v, whole := message(p)
		if !whole {
			return values, fmt.Errorf("torn: message %d of the run is %x", i, p)
		}
		values = append(values, v)
	}
	return values, nil
}

// TestTopicBatchKill kills who publishes a message without a loan, or several at a time, at every instruction: they come in order, and none after one
// that does not.
func TestTopicBatchKill(t *testing.T) {
	t.Parallel() // it has memory, a tracee and a processor of its own
	f, mem := memfd(t)
	x := newTracee(t, f, mem)
	count, scratch := newTally(t), anonymous()
	defer count.report("topic, batches, kill")
	for n, start := range topicStarts() {
		if n > 0 && !torture() {
			continue
		}
		for _, s := range slices.Concat(topicStates(start), topicStatesOf(batchSlots, start)) {
			for _, op := range []uint64{opPublish, opBatch} {
				if op == opPublish && s.slots == batchSlots {
					continue
				}
				copy(mem[queueAt:], s.image)
				x.begin(op, victim, sent)
				all := []uint64{sent, sent + 1, sent + 2}
				if op == opPublish {
					all = all[:1]
				}
				last, seen := uint64(0), 0
				judge := func() error {
					copy(scratch, mem)
					now, err := s.judgeTwo(scratch, len(all), victim)
					if err == nil && (len(now) < seen || !slices.Equal(now, all[:len(now)])) {
						err = fmt.Errorf("%d were seen, and now %d", seen, now)
					}
					seen = len(now)
					return err
				}
				for i, more := 0, true; more; i++ {
					var err error
					if h := maphash.Bytes(seed, mem[queueAt:queueAt+queueRoom]); i == 0 || h != last {
						last = h
						err = judge()
					}
					count.point(err, "%s, %s killed at %d", s, opNames[op], i)
					more = x.step()
				}
				r, _ := x.finish()
				err := judge()
				n := int(get(mem, wordRecord))
				if op == opPublish && r == resultOK {
					n = 1
				}
				if err == nil && (n != seen || (r == resultOK) != (n > 0) || r != resultOK && (r != resultFull || s.drop)) {
					err = fmt.Errorf("result %d, %d published, %d seen", r, n, seen)
				}
				count.point(err, "%s, after %s", s, opNames[op])
			}
		}
	}
}

// TestTopicBatchParked stops such a publisher at every instruction, beside a subscriber that reads what there is, and afterwards the rest, and beside another
// publisher, of a topic for several.
func TestTopicBatchParked(t *testing.T) {
	t.Parallel() // it has memory, a tracee and a processor of its own
	f, mem := memfd(t)
	x := newTracee(t, f, mem)
	count := newTally(t)
	defer count.report("topic, batches, parked")
	ahead := 0
	for n, s := range slices.Concat(topicStates(0), topicStatesOf(batchSlots, 0)) {
		if s.loan {
			continue
		}
		for _, op := range []uint64{opPublish, opBatch} {
			if op == opPublish && (s.slots == batchSlots || n%2 == 1 && !torture()) {
				continue
			}
			copy(mem[queueAt:], s.image)
			x.begin(op, victim, sent)
			x.everyPoint(func(i int) {
				count.point(func() error {
					c := openTopic(mem)
					r := must(c.Subscribe(other, protocol.FromOldest))
					got, err := readAll(r)
					r.Flush()
					if slices.Contains(got, sent) {
						ahead++
					}
					beside := false
					if !s.single && err == nil {
						p := must(c.Publisher(other))
						l, e := p.TryLoan()
						if beside = e == nil; beside {
							fill(p.LoanBytes(l), 20000)
							err = p.Commit(l, length(20000))
						}
					}
					result, _ := x.finish()
					published := int(get(mem, wordRecord))
					if op == opPublish && result == resultOK {
						published = 1
					}
					var rest []uint64
					for err == nil {
						var more []uint64
						if more, err = readAll(r); len(more) == 0 {
							break
						}
						rest = append(rest, more...)
						r.Flush()
					}
					var gap *protocol.LostError
					if errors.As(err, &gap) && s.drop { // three and one message into a ring of four, while it read nothing
						return nil
					}
					if err != nil {
						return err
					}
					got = append(got, rest...)
					others := slices.DeleteFunc(slices.Clone(got), func(v uint64) bool { return v == 20000 })
					want := slices.Clone(s.values)
					for k := range published {
						want = append(want, sent+uint64(k))
					}
					if len(others) > len(want) || len(others) < published || !slices.Equal(others, want[len(want)-len(others):]) || (len(got)-len(others) == 1) != beside {
						return fmt.Errorf("result %d, %d published; got %d, want the end of %d, and beside it %v", result, published, got, want, beside)
					}
					return nil
				}(), "%s, %s parked at %d", s, opNames[op], i)
			})
		}
	}
	if ahead == 0 {
		t.Error("no message was read before its publisher had ended: the test does not see what it is for")
	}
}

// TestTopicRunParked stops a subscriber that reads a run at every instruction, lets publishers go on, after it was evicted or not, and lets it go on: what counts is
// whole, and in order.
func TestTopicRunParked(t *testing.T) {
	t.Parallel() // it has memory, a tracee and a processor of its own
	f, mem := memfd(t)
	x := newTracee(t, f, mem)
	count := newTally(t)
	defer count.report("topic, run parked")
	evicted, lapped := 0, 0
	for _, s := range topicStates(topicStarts()[0]) {
		if s.loan {
			continue
		}
		for _, evict := range []bool{true, false} {
			copy(mem[queueAt:], s.image)
			x.begin(opRun, second, 0)
			set(mem, wordNoRuntime, 1)
			x.everyPoint(func(i int) {
				count.point(func() error {
					c := openTopic(mem)
					if evict {
						for row := range 4 {
							c.Evict(row)
						}
					}
					c.Admit(other)
					p := must(c.Publisher(other))
					var wrote []uint64
					for n := range uint64(2 * topicSlots) {
						l, err := p.TryLoan()
						if err != nil {
							break
						}
						fill(p.LoanBytes(l), 20000+n)
						check(p.Commit(l, length(20000+n)))
						wrote = append(wrote, 20000+n)
					}
					r, _ := x.finish()
					values, err := x.heardRun()
					if err != nil {
						return err
					}
					all := slices.Concat(s.values, wrote)
					for k, v := range values {
						if at := slices.Index(all, v); at < 0 || k > 0 && all[at-1] != values[k-1] {
							return fmt.Errorf("it read %d", values)
						}
					}
					switch {
					case r == resultLost && evict:
						evicted++
					case r == resultOvertaken && s.drop:
						lapped++
					case r != resultOK && (r != resultEmpty || len(values) > 0):
						return fmt.Errorf("result %d", r)
					}
					return nil
				}(), "%s, run parked at %d, evicted: %v", s, i, evict)
			})
		}
	}
	if evicted == 0 || lapped == 0 {
		t.Errorf("it found %d times that it was evicted and %d times that it was lapped: the test does not see what it is for", evicted, lapped)
	}
}
