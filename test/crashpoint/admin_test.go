package crashpoint

import (
	"errors"
	"fmt"
	"hash/maphash"
	"testing"
	"time"

	"github.com/shmd/shmd/pkg/protocol"
)

// What an operator does to a queue: Purge and Trim, killed at every instruction. Reject is among the operations of TestKill.

// rejected is the reason that opReject gives, and reasonBits are where it lies in a state word.
const (
	rejected   = protocol.DeadReasonDelimiter
	reasonBits = protocol.Word(1<<protocol.SlotPassedBits-1) << protocol.SlotPassedShift
)

// A queue that can be trimmed has slots of two pages at least; it lies behind the memory that the other tests compare.
const trimRoom = 16 * 4096

func trimmed(b []byte) []byte { return b[memorySize : memorySize+trimRoom : memorySize+trimRoom] }

func openTrimmed(b []byte) *protocol.Queue {
	q, err := protocol.OpenQueue(trimmed(b))
	if err != nil {
		return nil
	}
	return q
}

var tracedQueue *protocol.Queue // that a tracee trims

// punch is a hole of which one byte a page is enough to see it.
func punch(b []byte) (int64, error) {
	for i := 0; i < len(b); i += 2048 {
		b[i] = 0xff
	}
	return int64(len(b)), nil
}

// trimState is a queue of two slots that can be trimmed.
type trimState struct {
	start uint64
	image []byte
	want  []uint64
}

// trimScene makes one through which laps went, with messages in it, of which held are leased to a peer.
func trimScene(start uint64, messages, held int) *trimState {
	s := &trimState{start: start, image: make([]byte, trimRoom)}
	q := must(protocol.FormatQueue(s.image, protocol.Header{Name: "queue", Region: "crashpoint", Generation: 1, Created: time.Unix(1, 0)},
		protocol.QueueOptions{Slots: 2, SlotSize: 3 * 4096, Sparse: true, Start: start}))
	for n := range uint64(3) {
		check(sendLarge(q, n))
		must(receiveLarge(q))
	}
	for n := range uint64(messages) {
		check(sendLarge(q, 100+n))
		s.want = append(s.want, 100+n)
	}
	for range held {
		must(q.TryReceive(peer))
		s.want = append(s.want[1:], s.want[0]) // comes back in the end
	}
	return s
}

// sendLarge writes a message that reaches into every page of its slot.
func sendLarge(q *protocol.Queue, v uint64) error {
	l, err := q.TryLoan(other)
	if err != nil {
		return err
	}
	b := q.LoanBytes(l)
	for i := 0; i+8 <= len(b); i += 8 {
		set(b[i:], 0, v^uint64(i)*0x9e3779b97f4a7c15)
	}
	return q.Commit(l, len(b))
}

func receiveLarge(q *protocol.Queue) (uint64, error) {
	l, err := q.TryReceive(other)
	if err != nil {
		return 0, err
	}
	b := q.LeaseBytes(l)
	v := get(b, 0)
	for i := 0; i+8 <= len(b); i += 8 {
		if get(b[i:], 0) != v^uint64(i)*0x9e3779b97f4a7c15 {
			return v, fmt.Errorf("message %d is torn at %d", v, i)
		}
	}
	return v, q.Ack(l)
}

// judge looks at memory after the death of id: every message is there and whole, and after a lap, in which a position that was given up may be
// missing, both slots are of use. It spoils mem.
func (s *trimState) judge(mem []byte, id uint16) error {
	q := openTrimmed(mem)
	if q == nil {
		return errors.New("the header is damaged")
	}
	for _, who := range []uint16{id, peer} {
		dead := func(o uint16) bool { return o == who }
		q.Repair(dead)
		if again := q.Repair(dead); again != (protocol.Repaired{}) || q.Holds(dead) {
			return fmt.Errorf("a second repair after the death of %d found %+v", who, again)
		}
		if err := sound(trimmed(mem), dead); err != nil {
			return err
		}
	}
	got := map[uint64]int{}
	for {
		v, err := receiveLarge(q)
		if err == protocol.ErrEmpty {
			break
		}
		if err != nil {
			return err
		}
		got[v]++
	}
	for _, v := range s.want {
		if got[v] != 1 {
			return fmt.Errorf("message %d came %d times", v, got[v])
		}
	}
	if len(got) != len(s.want) {
		return fmt.Errorf("%v came, want %v", got, s.want)
	}
	for lap := range 4 {
		n := uint64(0)
		for ; n < 3 && sendLarge(q, n) == nil; n++ {
		}
		if n > 2 || n < 2 && lap > 1 {
			return fmt.Errorf("lap %d: %d messages fit into two slots", lap, n)
		}
		for k := range n {
			if v, err := receiveLarge(q); err != nil || v != k {
				return fmt.Errorf("lap %d: message %d came as number %d, %v", lap, v, k, err)
			}
		}
	}
	return nil
}

// TestTrimKill kills who trims at every instruction.
func TestTrimKill(t *testing.T) {
	f, mem := memfd(t)
	x := newTracee(t, f, mem)
	count, scratch := newTally(t), anonymous()
	defer count.report("trim, kill")
	mine := func() (seen bool) { return openTrimmed(mem).Holds(func(o uint16) bool { return o == victim }) }
	held := 0
	for _, start := range starts(2)[:2] {
		for _, k := range []struct{ messages, held int }{{0, 0}, {1, 0}, {2, 0}, {2, 1}, {1, 1}} {
			s := trimScene(start, k.messages, k.held)
			copy(trimmed(mem), s.image)
			x.begin(opTrim, victim, 0)
			var last uint64
			for i, more := 0, true; more; i++ {
				var err error
				if h := maphash.Bytes(seed, trimmed(mem)); i == 0 || h != last {
					last = h
					if mine() {
						held++
					}
					copy(trimmed(scratch), trimmed(mem))
					err = s.judge(scratch, victim)
				}
				count.point(err, "trim of two slots from %#x with %d messages, %d leased, killed at %d", start, k.messages, k.held, i)
				more = x.step()
			}
			r, n := x.finish()
			copy(trimmed(scratch), trimmed(mem))
			err := s.judge(scratch, victim)
			if free := 2 - k.messages; err == nil && (r != resultOK || n != uint64(free)*3*4096) {
				err = fmt.Errorf("result %d, %d bytes of %d slots", r, n, free)
			}
			count.point(err, "trim of two slots from %#x with %d messages, %d leased", start, k.messages, k.held)
		}
	}
	if held == 0 {
		t.Error("at no point the victim had a slot: the test does not see what it is for")
	}
}

// TestPurgeKill kills who purges at every instruction: a message that is there comes once or was dropped, those that were dropped stay so, and at most
// the one at hand counts a delivery.
func TestPurgeKill(t *testing.T) {
	f, mem := memfd(t)
	x := newTracee(t, f, mem)
	count, scratch := newTally(t), anonymous()
	defer count.report("purge, kill")
	for g, all := range geometries() {
		if quick() && g != 0 {
			continue
		}
		for _, s := range all {
			if len(s.dead) > 0 {
				continue
			}
			copy(mem[queueAt:], s.image)
			x.begin(opPurge, victim, 0)
			before, last := newVerdict(), uint64(0)
			look := func() error {
				copy(scratch, mem)
				v, err := s.judge(scratch, victim, false)
				if err != nil {
					return err
				}
				again := 0
				for m, d := range s.want {
					n := v.got[m] + v.dead[m]
					if n > 1 || last != 0 && n > before.got[m]+before.dead[m] {
						return fmt.Errorf("message %d came %d times", m, n)
					}
					if n == 1 && (v.dead[m] == 1 || v.deliveries[m] != d) {
						again++
					}
				}
				if again > 1 {
					return fmt.Errorf("%d messages were delivered once more", again)
				}
				if s.held() == 1 && v.got[s.value] != 1 {
					return fmt.Errorf("message %d of a peer came %d times", s.value, v.got[s.value])
				}
				before = v
				return nil
			}
			for i, more := 0, true; more; i++ {
				var err error
				if h := maphash.Bytes(seed, mem[queueAt:]); i == 0 || h != last {
					err = look()
					last = h
				}
				count.point(err, "%s, purge killed at %d", s, i)
				more = x.step()
			}
			r, n := x.finish()
			err := look()
			for m := range s.want {
				if err == nil && before.got[m]+before.dead[m] != 0 {
					err = fmt.Errorf("message %d is there after the purge", m)
				}
			}
			if err == nil && (r != resultOK || n != uint64(len(s.want))) {
				err = fmt.Errorf("result %d, %d messages of %d", r, n, len(s.want))
			}
			count.point(err, "%s, after the purge", s)
		}
	}
}
