package crashpoint

import (
	"bytes"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"testing"

	"github.com/shmd/shmd/pkg/protocol"
)

// latestImages runs an operation on what lies in memory and returns all that the memory looked like.
func (x *tracee) latestImages(op, for_ uint64, owner uint16, value uint64) (images [][]byte) {
	seen := map[uint64]bool{}
	x.beginFor(op, owner, value, for_)
	for more := true; more; more = x.step() {
		if h := maphash.Bytes(seed, x.mem[latestAt:latestAt+latestRoom]); !seen[h] {
			seen[h] = true
			images = append(images, slices.Clone(x.mem[latestAt:latestAt+latestRoom]))
		}
	}
	x.finish()
	return images
}

// TestLatestParked stops the victim at every instruction, lets others put values, and then lets it go on: nobody waits for it, and it reads no
// torn value and overwrites none.
func TestLatestParked(t *testing.T) {
	f, mem := memfd(t)
	x := newTracee(t, f, mem)
	count := newTally(t)
	defer count.report("latest, parked")
	for g, start := range latestStarts(2) {
		for _, s := range latestStates(start) {
			for op := uint64(opPut); op < opMend; op++ {
				if len(s.drafts) > 1 && op != opGet && op != opView {
					continue // a third writer holds the last slot: full, as it says
				}
				for _, puts := range []int{1, latestSlots, 2, 3 * latestSlots} {
					if !torture() && (puts == 2 || puts > latestSlots || g > 0 && puts == 1) {
						continue
					}
					x.beginLatest(s, op, victim, sent)
					x.everyPoint(func(i int) {
						count.point(s.parked(x, op, puts), "%s, %s parked at %d beside %d puts", s, opNames[op], i, puts)
					})
				}
			}
		}
	}
}

// parked does what peers do beside a parked operation, lets that go on, and checks all that was seen.
func (s *vstate) parked(x *tracee, op uint64, puts int) error {
	l := openLatest(x.mem)
	is, before, err := holding(l)
	if err != nil {
		return err
	}
	if err := s.expected(op, is, before); err != nil {
		return err
	}
	v := before
	values := map[uint64]uint64{before: is} // by version
	finish := func() error {
		for n := range uint64(puts) {
			v = following(v, 1)
			got, err := putValue(l, other, 20000+n)
			if got != v || err != nil {
				return fmt.Errorf("a put beside it made version %#x, %w; want %#x", got, err, v)
			}
			values[v] = 20000 + n
			if is, at, err := holding(l); is != 20000+n || at != v || err != nil {
				return fmt.Errorf("value %d, version %#x, %w; want %d, version %#x", is, at, err, 20000+n, v)
			}
		}
		// A reader that holds the newest value while the operation goes on: what View accepts has not changed under it.
		calls := 0
		var first []byte
		changed := false
		_, err := l.View(func(p []byte) error {
			if calls++; calls == 1 {
				first = bytes.Clone(p)
				x.finish()
				changed = !bytes.Equal(first, p)
			}
			return nil
		})
		if err == nil && calls == 1 && changed {
			return errors.New("torn: a value changed under its reader")
		}
		return err
	}
	if err := finish(); err != nil {
		return err
	}
	r, version, value := get(x.mem, wordResult), get(x.mem, wordVersion), get(x.mem, wordValue)
	switch op {
	case opPut, opSet:
		published := following(v, 1) // after the others
		if is == sent {
			published = before
		}
		switch {
		case op == opSet && is != sent:
			if r != resultStale || version != v {
				return fmt.Errorf("result %d, version %#x, of a compare-and-set that was overtaken", r, version)
			}
		case r != resultOK || version != published:
			return fmt.Errorf("result %d, version %#x; want version %#x", r, version, published)
		case is != sent:
			v, values[published] = published, sent
		}
	case opGet, opView:
		from := max(s.version, 1)
		_, known := values[version]
		switch {
		case r == resultEmpty && s.version == 0:
		case r != resultOK || !known || values[version] != value || version < from && v >= from:
			return fmt.Errorf("result %d, value %d, version %#x; versions are %v", r, value, version, values)
		}
	default:
		if r != resultOK {
			return fmt.Errorf("result %d", r)
		}
	}
	if is, at, err := holding(l); is != values[v] || at != v || err != nil {
		return fmt.Errorf("in the end value %d, version %#x, %w; want %d, version %#x", is, at, err, values[v], v)
	}
	_, _, err = s.judge(x.mem, 0)
	return err
}

// TestLatestPairs parks A at every instruction, kills B at every instruction (those that leave the same memory count as one), lets a third put a
// value, repairs B's death, and lets A go on under the eyes of a reader that holds the value from before.
func TestLatestPairs(t *testing.T) {
	f, mem := memfd(t)
	a, b := newTracee(t, f, mem), newTracee(t, f, mem)
	count := newTally(t)
	defer count.report("latest, pairs")
	for _, start := range latestStarts(1) {
		for k, s := range latestStates(start) {
			if !torture() && k != 2 && k != 3 || quick() && k != 3 {
				continue
			}
			ops := []uint64{opPut, opGet}
			if torture() {
				ops = []uint64{opPut, opSet, opGet, opView, opDraft}
			}
			for _, opA := range ops {
				for _, opB := range []uint64{opPut, opDraft} {
					a.beginLatest(s, opA, second, sent)
					var z frozen
					known := map[uint64][][]byte{} // what B does depends on the memory alone
					a.everyPoint(func(i int) {
						a.freeze(&z)
						h := maphash.Bytes(seed, mem[latestAt:latestAt+latestRoom])
						if known[h] == nil {
							known[h] = b.latestImages(opB, s.version, victim, sent+1)
							copy(mem[:controlSize], z.mem)
						}
						again := false
						for j, image := range known[h] {
							for _, more := range []int{0, 1} {
								if again {
									a.thaw(&z)
								}
								again = true
								copy(mem[latestAt:], image)
								count.point(s.paired(a, opA, more), "%s, %s parked at %d, %s killed at image %d, %d puts behind it", s, opNames[opA], i, opNames[opB], j, more)
							}
						}
					})
				}
			}
		}
	}
}

// paired lets a third put some values beside a parked operation and one that died, repairs the death, and lets the parked one go on.
func (s *vstate) paired(a *tracee, opA uint64, puts int) error {
	l := openLatest(a.mem)
	var err error
	calls, changed := 0, false
	_, e := l.View(func(p []byte) error {
		if calls++; calls > 1 {
			return nil
		}
		first := bytes.Clone(p)
		for n := range uint64(puts) {
			_, e := putValue(l, other, 30000+n)
			if errors.Is(e, protocol.ErrFull) && l.Stat().Held >= l.Slots()-1 {
				break // all slots but that of the value: peers that write have one or two, and the parked and the dead one the others
			}
			if e != nil {
				err = fmt.Errorf("a put beside them: %w", e)
			}
		}
		if e := mended(l, victim); e != nil {
			err = e
		}
		a.finish()
		changed = !bytes.Equal(first, p)
		return nil
	})
	switch {
	case errors.Is(e, protocol.ErrEmpty):
		if e := mended(l, victim); e != nil {
			return e
		}
		a.finish()
	case e != nil:
		return e
	case calls == 1 && changed:
		return errors.New("torn: a value changed under its reader")
	}
	if err != nil {
		return err
	}
	if r := get(a.mem, wordResult); r != resultOK && (r != resultStale || opA != opSet) && (r != resultEmpty || s.version != 0) {
		return fmt.Errorf("the parked process got result %d", r)
	}
	_, _, err = s.judge(a.mem, 0)
	return err
}
